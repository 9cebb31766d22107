"""What only a real API server, kubelet and network can say."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from control_plane.domain.builds import Artifact, ArtifactKind
from control_plane.domain.errors import Broken, StaleGeneration
from control_plane.domain.hardware import DEFAULT_FLAVORS, Accelerator
from control_plane.domain.ids import ReplicaId, SpaceId, new_id
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import HUB_HOST, Fetch, Mount, ReplicaState
from control_plane.domain.sensitive import Sensitive
from control_plane.runtimes.kubernetes import manifests, names
from control_plane.runtimes.kubernetes.api import Absent
from control_plane.runtimes.kubernetes.lease import LeaderLease
from control_plane.runtimes.kubernetes.manifests import ClusterOptions
from control_plane.runtimes.kubernetes.objects import OURS
from control_plane.runtimes.kubernetes.runtime import KubernetesRuntime
from control_plane.scheduler.pools import default_hardware
from tests.cluster import prerequisites
from tests.cluster.conftest import APP, TINY, Cluster, clear, connect, until, until_state

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]


async def test_a_replica_serves_and_its_log_outlives_it(cluster: Cluster, runtime: KubernetesRuntime) -> None:
    spec = cluster.spec()
    await runtime.apply(spec)
    ready = await until_state(runtime, spec, ReplicaState.READY)
    assert ready.endpoint is not None
    (pod,) = runtime.cache.pods_of(spec.replica_id)
    answer = await cluster.say(pod["metadata"]["name"], b"GET / HTTP/1.1\r\n\r\n")
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


# Some engines write their rules a moment after the pod runs: what is open at first is tried again.
_TRIES = """
import socket, time
def is_open(host, port):
    try:
        socket.create_connection((host, port), 4).close()
        return True
    except OSError:
        return False
def still_open(targets):
    for _ in range(8):
        targets = [target for target in targets if is_open(*target)]
        if not targets:
            break
        time.sleep(1.5)
    return targets
"""


async def test_an_app_reaches_nothing_inside(cluster: Cluster, runtime: KubernetesRuntime) -> None:
    """The metadata address, another Space, other nodes, the API server: none of it. Skipped where the network plugin ignores policies.

    The node it runs on is not asked: Kubernetes leaves that way open to every pod, and engines differ
    (https://kubernetes.io/docs/concepts/services-networking/network-policies/).
    """
    neighbour = cluster.spec()
    await runtime.apply(neighbour)
    ready = await until_state(runtime, neighbour, ReplicaState.READY)
    assert ready.endpoint is not None
    host, _, port = ready.endpoint.address.rpartition(":")
    next_door = (host.strip("[]"), int(port))
    if await _reaches_in_spite_of_default_deny(cluster, neighbour.space_id, next_door):
        pytest.skip("this cluster's network plugin does not enforce NetworkPolicy")
    addresses = {
        node["metadata"]["name"]: [a["address"] for a in node["status"].get("addresses") or [] if a["type"] == "InternalIP"]
        for node in cluster.api.get("/api/v1/nodes")["items"]
    }
    own = addresses.pop(ready.node or "", [])
    targets = [("169.254.169.254", 80), next_door, *((address, 10250) for found in addresses.values() for address in found)]
    slices = cluster.api.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes")
    if not {address for endpoint in slices.get("endpoints") or [] for address in endpoint["addresses"]} & set(own):
        targets.append((cluster.api.get("/api/v1/namespaces/default/services/kubernetes")["spec"]["clusterIP"], 443))
    code = (
        f"import os\n{_TRIES}\n"
        f"for target in still_open({targets!r}): print('REACHED', *target, flush=True)\n"
        "print('token' if os.path.exists('/var/run/secrets/kubernetes.io') else 'no token', flush=True)\n"
        "print('done', flush=True)\n" + APP
    )
    spec = cluster.spec(code=code)
    await runtime.apply(spec)
    await until(lambda: _has(cluster, spec.space_id, "done"), "the app has tried")
    said = cluster.lines[spec.space_id]
    assert [line for line in said if line.startswith("REACHED")] == []
    assert "no token" in said


async def _reaches_in_spite_of_default_deny(cluster: Cluster, neighbour: SpaceId, target: tuple[str, int]) -> bool:
    """A pod of no Space, for which only `default-deny` counts: what it reaches, this cluster's network lets everybody reach."""
    pods = f"/api/v1/namespaces/{cluster.namespace}/pods"
    code = f"import sys\n{_TRIES}\nsys.exit(0 if still_open([{target!r}]) else 1)"
    container = {
        "name": "a", "image": cluster.image, "command": ["/usr/local/bin/python", "-c", code],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }  # fmt: skip
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "control", "namespace": cluster.namespace},
        "spec": {
            "restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container],
            "nodeSelector": dict(cluster.pool.node_selector), "tolerations": [dict(one) for one in cluster.pool.tolerations],
            "imagePullSecrets": [{"name": names.pull_secret(neighbour)}],
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


KEEPS = """
import pathlib
file = pathlib.Path("/data/word")
print("found", file.read_text() if file.exists() else "nothing", flush=True)
file.write_text("kept")
"""


async def test_a_space_that_is_handed_over_keeps_its_data(cluster: Cluster) -> None:
    """With a namespace per owner a claim cannot follow: the Space stays with it. Without a storage class only the objects say so."""
    if cluster.api.get("/apis/apps/v1/deployments", {"labelSelector": OURS}).get("items"):
        pytest.skip("a runtime with a namespace per owner looks at the whole cluster, and another Vitrine runs apps here")
    lines: list[str] = []

    async def take(space_id: str, replica_id: str, said: object) -> None:
        assert isinstance(said, list)
        lines.extend(line.text for line in said)

    login = prerequisites.registry_login()
    options = ClusterOptions(
        namespace=cluster.namespace, per_owner_namespaces=True, platform_namespace=cluster.namespace, own_pull_secrets=login is not None
    )
    homes = {owner: options.namespace_of(f"{owner}/demo") for owner in ("ann", "bob")}
    runtime = KubernetesRuntime(connect(), lambda: (cluster.pool,), options, log=take, pull_login=(lambda ref: login) if login else None)
    mount = Mount(names.volume(secrets.token_hex(4)), "/data", read_only=False, size_bytes=1 << 20)
    first = replace(cluster.spec(code=KEEPS + APP), space_name="ann/demo", mounts=(mount,))
    second = replace(first, replica_id=ReplicaId(new_id()), space_name="bob/demo")
    other = replace(cluster.spec(), space_name="bob/other")
    await runtime.start()
    try:
        for spec in (first, second, other):
            await runtime.apply(spec)
            if prerequisites.has_storage(cluster.api) or not spec.mounts:
                await until_state(runtime, spec, ReplicaState.READY)
            if spec is first:
                await runtime.stop(spec.replica_id, grace_s=1)
        where = {item["metadata"]["name"]: item["metadata"]["namespace"] for item in runtime.cache.deployments_now()}
        assert where == {names.replica(second.replica_id): homes["ann"], names.replica(other.replica_id): homes["bob"]}
        if prerequisites.has_storage(cluster.api):
            assert [line for line in lines if line.startswith("found")] == ["found nothing", "found kept"]
        await clear(runtime)
        await runtime.remove_volume(mount.source)
        await runtime.remove_space(first.space_id, "bob/demo")
        path = f"/api/v1/namespaces/{homes['ann']}"
        left = [f"{path}/persistentvolumeclaims/{mount.source}", f"{path}/services/{names.space(first.space_id)}"]
        await until(lambda: _gone(cluster, *left), "its claim and its objects are gone")
    finally:
        await runtime.close()
        for namespace in homes.values():
            cluster.api.delete(f"/api/v1/namespaces/{namespace}")


async def _gone(cluster: Cluster, *paths: str) -> bool:
    for path in paths:
        try:
            cluster.api.get(path)
        except Absent:
            continue
        return False
    return True


# What a Hub is to a node that fetches volumes: a tar for the right word, and no for any other.
_HUB = """
import http.server, io, tarfile
class Door(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.headers["Authorization"] != "Bearer good":
            self.send_response(404)
            self.send_header("X-Error-Message", "not for you")
            self.end_headers()
            return
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name, content in (("config.json", b"plain"), ("deep/weights.bin", bytes(3 << 20))):
                info = tarfile.TarInfo(name)
                info.size, info.mode = len(content), 0o644
                tar.addfile(info, io.BytesIO(content))
                if self.path == "/one":
                    break
        self.send_response(200)
        self.end_headers()
        self.wfile.write(packed.getvalue())
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Door).serve_forever()
"""
_READS = """
import os, pathlib
model, one = pathlib.Path("/data/model"), pathlib.Path("/opt/one.txt")
print("read", (model / "config.json").read_text(), (model / "deep/weights.bin").stat().st_size, one.read_text(), flush=True)
for path in (model / "new", model / "config.json", one):
    try:
        path.open("ab").close()
        print("WRITTEN", path, flush=True)
    except OSError as error:
        print("kept out", error.errno, flush=True)
print("told" if os.environ.get("VITRINE_VOLUMES") else "told nothing", flush=True)
"""


async def test_repositories_are_fetched_before_the_app_and_read_only(cluster: Cluster, runtime: KubernetesRuntime) -> None:
    """An app gets what its pod fetched from the Hub, cannot write it and does not see the word for it; without a right nothing starts."""
    first = cluster.spec()
    await runtime.apply(first)  # its pull secret is the Hub's too
    await until_state(runtime, first, ReplicaState.READY)
    address = await _hub(cluster, first.space_id)
    made = cluster.runtime(volume_image=cluster.image, hub_address=address)
    await made.start()
    try:
        folder = Fetch(f"http://{HUB_HOST}:8080/all", Sensitive("good"), "/data/model", 4 << 20, 3)
        one = Fetch(f"http://{HUB_HOST}:8080/one", Sensitive("good"), "/opt/one.txt", 5, 1, is_file=True)
        spec = replace(cluster.spec(code=_READS + APP), fetches=(folder, one))
        await made.apply(spec)
        await until_state(made, spec, ReplicaState.READY)
        await until(lambda: _has(cluster, spec.space_id, "told nothing"), "the app has said what it was told")
        said = cluster.lines[spec.space_id]
        assert f"read plain {3 << 20} plain" in said
        tries = [line for line in said if line.startswith(("kept out", "WRITTEN"))]
        assert set(tries) == {"kept out 30"}, tries
        assert len(tries) in (3, 6), "two runtimes look here, and either follows the log"
        refused = replace(cluster.spec(), fetches=(replace(folder, token=Sensitive("bad")),))
        await made.apply(refused)
        seen = await until_state(made, refused, ReplicaState.FAILED)
        assert (seen.reason, "not for you" in seen.message) == (Reason.VOLUME_UNAVAILABLE, True)
        await clear(made)
    finally:
        await made.close()
        cluster.api.delete(f"/api/v1/namespaces/{cluster.namespace}/pods/hub", grace_s=0)


async def _hub(cluster: Cluster, neighbour: SpaceId) -> str:
    """A pod with the proxy's labels, which apps may reach; its address."""
    labels = dict(ClusterOptions().proxy_labels)
    policy = {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "hub", "namespace": cluster.namespace},
        "spec": {"podSelector": {"matchLabels": labels}, "policyTypes": ["Ingress"], "ingress": [{}]},
    }  # fmt: skip
    cluster.api.apply(f"/apis/networking.k8s.io/v1/namespaces/{cluster.namespace}/networkpolicies/hub", policy)
    pods = f"/api/v1/namespaces/{cluster.namespace}/pods"
    container = {
        "name": "a", "image": cluster.image, "command": ["/usr/local/bin/python", "-c", _HUB],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }  # fmt: skip
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "hub", "namespace": cluster.namespace, "labels": labels},
        "spec": {
            "automountServiceAccountToken": False, "containers": [container],
            "nodeSelector": dict(cluster.pool.node_selector), "tolerations": [dict(one) for one in cluster.pool.tolerations],
            "imagePullSecrets": [{"name": names.pull_secret(neighbour)}],
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        },
    }  # fmt: skip
    cluster.api.create(pods, pod)

    async def ready() -> bool:
        status = cluster.api.get(f"{pods}/hub")["status"]
        return any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or [])

    await until(ready, "the Hub of this test listens")
    return str(cluster.api.get(f"{pods}/hub")["status"]["podIP"])


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
