"""What only a real API server, kubelet and network can say."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from control_plane.domain.builds import Artifact, ArtifactKind
from control_plane.domain.errors import Broken, StaleGeneration
from control_plane.domain.hardware import DEFAULT_FLAVORS, Accelerator
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaState
from control_plane.runtimes.kubernetes import manifests
from control_plane.runtimes.kubernetes.api import Absent
from control_plane.runtimes.kubernetes.lease import LeaderLease
from control_plane.runtimes.kubernetes.manifests import ClusterOptions
from control_plane.runtimes.kubernetes.runtime import KubernetesRuntime
from control_plane.scheduler.pools import default_hardware
from tests.cluster.conftest import APP, TINY, Cluster, connect, until, until_state

pytestmark = pytest.mark.cluster


async def test_a_replica_serves_and_its_log_outlives_it(cluster: Cluster, runtime: KubernetesRuntime) -> None:
    spec = cluster.spec()
    await runtime.apply(spec)
    ready = await until_state(runtime, spec, ReplicaState.READY)
    assert ready.endpoint is not None
    (pod,) = runtime.cache.pods_of(spec.replica_id)
    answer = await asyncio.to_thread(cluster.say, pod["metadata"]["name"], b"GET / HTTP/1.1\r\n\r\n")
    assert answer.endswith(b"hello")
    await until(lambda: _has(cluster, spec.space_id, "ready"), "its log arrives")
    await runtime.stop(spec.replica_id, grace_s=1)
    assert "ready" in cluster.lines[spec.space_id]


async def _has(cluster: Cluster, space: str, text: str) -> bool:
    return text in cluster.lines.get(space, [])


async def test_two_generations_and_the_fence_across_schedulers(cluster: Cluster, runtime: KubernetesRuntime) -> None:
    old = cluster.spec(generation=1)
    new = cluster.spec(space=old.space_id, generation=2)
    for spec in (old, new):
        await runtime.apply(spec)
        await until_state(runtime, spec, ReplicaState.READY)
    other = cluster.runtime()
    await other.start()
    try:
        assert len(await other.observe(old.space_id)) == 2
        with pytest.raises(StaleGeneration):
            await other.apply(cluster.spec(space=old.space_id, generation=1))
    finally:
        await other.close()


async def test_an_image_that_is_not_there(cluster: Cluster, runtime: KubernetesRuntime) -> None:
    missing = cluster.image.partition("@")[0] + "@sha256:" + "0" * 64
    spec = replace(cluster.spec(), artifact=Artifact(ArtifactKind.IMAGE, missing))
    await runtime.apply(spec)
    seen = await until_state(runtime, spec, ReplicaState.FAILED)
    assert seen.reason is Reason.IMAGE_PULL_FAILED


async def test_out_of_memory(cluster: Cluster, runtime: KubernetesRuntime) -> None:
    spec = cluster.spec(code="x = b'x' * (1 << 30); print(len(x)); import time; time.sleep(600)")
    await runtime.apply(spec)
    seen = await until_state(runtime, spec, ReplicaState.FAILED)
    assert seen.reason is Reason.APP_OUT_OF_MEMORY


async def test_what_no_node_can_hold_waits_with_a_reason(cluster: Cluster, runtime: KubernetesRuntime) -> None:
    spec = cluster.spec(flavor=replace(TINY, vcpu=100_000))
    await runtime.apply(spec)

    async def said() -> bool:
        (seen,) = await runtime.observe(spec.space_id)
        return seen.state is ReplicaState.PENDING and seen.reason is Reason.NO_CAPACITY

    await until(said, "NO_CAPACITY")


@pytest.mark.parametrize("flavor", [f.name for f in DEFAULT_FLAVORS])
def test_the_api_server_accepts_every_flavors_objects(cluster: Cluster, flavor: str) -> None:
    """Server-side dry run: schema, defaults and admission, without a pod."""
    pool = next(p for p in default_hardware().pools if flavor in p.flavors)
    found = next(f for f in DEFAULT_FLAVORS if f.name == flavor)
    options = ClusterOptions(namespace=cluster.namespace, storage_gib=1, cluster_ranges=("10.42.0.0/16", "fd42::/48"))
    spec = cluster.spec(flavor=found, pool=pool.name)
    api = connect()
    try:
        _ensure(cluster)
        for kind, plural, item in (
            ("networking.k8s.io/v1", "networkpolicies", manifests.network_policy(spec.space_id, 7860, cluster.namespace, options)),
            ("v1", "services", manifests.service(spec, cluster.namespace)),
            ("v1", "secrets", manifests.secret(spec, cluster.namespace)),
            ("v1", "persistentvolumeclaims", manifests.volume_claim(spec.space_id, cluster.namespace, options)),
            ("apps/v1", "deployments", manifests.deployment(spec, pool, cluster.namespace, options)),
        ):
            root = "/api/v1" if kind == "v1" else f"/apis/{kind}"
            api.apply(f"{root}/namespaces/{cluster.namespace}/{plural}/{item['metadata']['name']}", item, dry_run=True)
    finally:
        api.close()


def _ensure(cluster: Cluster) -> None:
    cluster.api.apply(f"/api/v1/namespaces/{cluster.namespace}", manifests.namespace(cluster.namespace))


def test_the_namespace_refuses_what_is_not_restricted(cluster: Cluster) -> None:
    _ensure(cluster)
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bad", "namespace": cluster.namespace},
        "spec": {"hostNetwork": True, "containers": [{"name": "a", "image": cluster.image, "securityContext": {"privileged": True}}]},
    }  # fmt: skip
    with pytest.raises(Broken, match="PodSecurity"):
        cluster.api.create(f"/api/v1/namespaces/{cluster.namespace}/pods", pod)


async def test_an_app_reaches_nothing_inside(cluster: Cluster, runtime: KubernetesRuntime) -> None:
    """The API server, the metadata address, the node, another Space: none of it. Skipped where the network plugin ignores policies."""
    neighbour = cluster.spec()
    await runtime.apply(neighbour)
    ready = await until_state(runtime, neighbour, ReplicaState.READY)
    assert ready.endpoint is not None
    (node,) = [n for n in cluster.api.get("/api/v1/nodes")["items"] if n["metadata"]["name"] == ready.node]
    inside = [a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"]
    address, _, port = ready.endpoint.address.rpartition(":")
    targets = [("169.254.169.254", 80), (address.strip("[]"), int(port)), *((ip, 10250) for ip in inside)]
    if await _reaches_in_spite_of_default_deny(cluster, address.strip("[]"), int(port)):
        pytest.skip("this cluster's network plugin does not enforce NetworkPolicy")
    service = cluster.api.get("/api/v1/namespaces/default/services/kubernetes")["spec"]["clusterIP"]
    code = (
        "import os, socket\n"
        f"for host, port in {[*targets, (service, 443)]!r}:\n"
        "    try:\n        socket.create_connection((host, port), 4).close(); print('REACHED', host, port, flush=True)\n"
        "    except OSError as error: print('closed', host, port, flush=True)\n"
        "print('token' if os.path.exists('/var/run/secrets/kubernetes.io') else 'no token', flush=True)\n"
        "print('done', flush=True)\n" + APP
    )
    spec = cluster.spec(code=code)
    await runtime.apply(spec)
    await until(lambda: _has(cluster, spec.space_id, "done"), "the app has tried")
    said = cluster.lines[spec.space_id]
    assert [line for line in said if line.startswith("REACHED")] == []
    assert "no token" in said


async def _reaches_in_spite_of_default_deny(cluster: Cluster, host: str, port: int) -> bool:
    """A pod of no Space, for which only `default-deny` counts: what it reaches, this cluster's network lets everybody reach."""
    pods = f"/api/v1/namespaces/{cluster.namespace}/pods"
    code = f"import socket; socket.create_connection(({host!r}, {port}), 5).close()"
    container = {
        "name": "a", "image": cluster.image, "command": ["/usr/local/bin/python", "-c", code],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }  # fmt: skip
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "control", "namespace": cluster.namespace},
        "spec": {
            "restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container],
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        },
    }  # fmt: skip
    cluster.api.create(pods, pod)
    try:

        async def ended() -> bool:
            return cluster.api.get(f"{pods}/control")["status"].get("phase") in ("Succeeded", "Failed")

        await until(ended, "the control has tried")
        return bool(cluster.api.get(f"{pods}/control")["status"]["phase"] == "Succeeded")
    finally:
        cluster.api.delete(f"{pods}/control", grace_s=0)


async def test_gpu_replicas(cluster: Cluster) -> None:
    if cluster.gpu_pool is None:
        pytest.skip("no node has the extended resource nvidia.com/gpu")
    runtime = cluster.runtime(cluster.gpu_pool)
    await runtime.start()
    spec = cluster.spec(flavor=replace(TINY, name="tiny-gpu", accelerator=Accelerator("t4", 1, 16)), pool="gpu")
    try:
        await runtime.apply(spec)

        async def bound() -> bool:
            return any(n.used_gpus >= 1 and spec.replica_id in n.replicas for n in (await runtime.capacity()).nodes)

        await until(bound, "a node with a GPU has it, and it is counted there")
        (pod,) = runtime.cache.pods_of(spec.replica_id)
        if _has_kubelet(cluster, pod["spec"]["nodeName"]):  # on a node of which only the status exists nothing can run
            await until_state(runtime, spec, ReplicaState.READY)
        await runtime.stop(spec.replica_id, grace_s=1)
    finally:
        await runtime.close()


def _has_kubelet(cluster: Cluster, node: str) -> bool:
    try:
        lease = cluster.api.get(f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}")
    except Absent:
        return False
    return datetime.now(UTC) - datetime.fromisoformat(lease["spec"]["renewTime"]) < timedelta(seconds=60)


async def test_one_leader(cluster: Cluster) -> None:
    _ensure(cluster)
    apis = [connect(), connect()]
    try:
        leases = [LeaderLease(api, namespace=cluster.namespace, identity=f"s{n}") for n, api in enumerate(apis)]
        got = await asyncio.gather(*(asyncio.to_thread(lease.attempt) for lease in leases))
        assert sum(got) == 1
        await asyncio.to_thread(leases[got.index(True)].give_up)
        assert await asyncio.to_thread(leases[got.index(False)].attempt)
    finally:
        for api in apis:
            api.close()


async def test_calls_of_a_start_and_of_doing_nothing(cluster: Cluster, runtime: KubernetesRuntime) -> None:
    before = runtime._api.calls
    await runtime.apply(cluster.spec())
    assert runtime._api.calls - before <= 8 + 2  # two: a watch or a log may begin at the same moment
    before = runtime._api.calls
    await asyncio.sleep(10)
    assert runtime._api.calls - before <= 10
