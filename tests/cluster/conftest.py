"""A namespace of its own on the cluster that KUBECONFIG names, an image in VITRINE_REGISTRY, and both gone afterwards."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import pytest

from control_plane.domain.builds import Artifact, ArtifactKind, LaunchPlan
from control_plane.domain.capacity import NodePool
from control_plane.domain.hardware import Flavor
from control_plane.domain.ids import ReplicaId, Sha, SpaceId, new_id
from control_plane.domain.replicas import ReplicaObservation, ReplicaSpec, ReplicaState
from control_plane.ports.log_store import LogLine
from control_plane.runtimes.kubernetes.api import KubeApi
from control_plane.runtimes.kubernetes.forward import connect as connect_to_pod
from control_plane.runtimes.kubernetes.manifests import ClusterOptions
from control_plane.runtimes.kubernetes.runtime import KubernetesRuntime
from tests.cluster.demo_image import push

TINY = Flavor("tiny", "Tiny", vcpu=0.1, memory_gb=0.125, disk_gb=1, price_per_hour=0)

# Serves; ends with status 3 when somebody sends "x". Connections without a word are the kubelet's probes.
APP = """
import os, socket, sys
print("ready", flush=True)
server = socket.create_server(("0.0.0.0", int(os.environ.get("PORT", "7860"))))
while True:
    peer, _ = server.accept()
    peer.settimeout(2)
    try:
        word = peer.recv(1)
    except OSError:
        word = b""
    if word == b"x":
        print("last words", flush=True)
        sys.exit(3)
    if word:
        peer.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\nConnection: close\\r\\n\\r\\nhello")
    peer.close()
"""


@dataclass
class Cluster:
    """What a test needs: the connection, the namespace, the image, and the pool whose nodes may be used."""

    api: KubeApi
    namespace: str
    image: str
    pool: NodePool
    gpu_pool: NodePool | None
    lines: dict[str, list[str]] = field(default_factory=dict)

    def runtime(self, *only: NodePool) -> KubernetesRuntime:
        """Over all pools, or these: a node counts for the first pool that it matches."""

        async def take(space_id: str, replica_id: str, lines: object) -> None:
            assert isinstance(lines, list)
            self.lines.setdefault(space_id, []).extend(line.text for line in lines if isinstance(line, LogLine))

        pools = only or ((self.pool, self.gpu_pool) if self.gpu_pool else (self.pool,))
        options = ClusterOptions(namespace=self.namespace, platform_namespace=self.namespace)
        return KubernetesRuntime(connect(), lambda: pools, options, log=take)

    def spec(self, *, space: str = "", generation: int = 1, code: str = APP, flavor: Flavor = TINY, pool: str = "") -> ReplicaSpec:
        return ReplicaSpec(
            ReplicaId(new_id()), SpaceId(space or new_id()), "alice/demo", generation, Sha("0" * 40),
            Artifact(ArtifactKind.IMAGE, self.image), LaunchPlan(("/usr/local/bin/python", "-I", "-c", code)), flavor,
            env={"PORT": "7860"}, start_timeout_s=120, pool=pool or self.pool.name,
        )  # fmt: skip

    def say(self, pod: str, word: bytes) -> bytes:
        """Send bytes to the app through the API's port-forward; no route to pods is needed."""
        sock, close = connect_to_pod(self.api, self.namespace, pod, 7860)
        sock.settimeout(10)
        try:
            sock.sendall(word)
            return bytes(sock.recv(4096))
        except OSError:
            return b""
        finally:
            sock.close()
            close()


def connect() -> KubeApi:
    return KubeApi.connect(kubeconfig=os.environ["KUBECONFIG"])


async def until(good: Callable[[], Awaitable[object]], what: str, seconds: float = 180) -> None:
    """Poll twice a second: a real cluster has its own pace."""
    end = time.monotonic() + seconds
    while not await good():
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds:.0f} s: {what}")
        await asyncio.sleep(0.5)


async def until_state(runtime: KubernetesRuntime, spec: ReplicaSpec, state: ReplicaState) -> ReplicaObservation:
    seen: list[ReplicaObservation] = []

    async def reached() -> bool:
        seen[:] = [o for o in await runtime.observe(spec.space_id) if o.replica_id == spec.replica_id]
        return bool(seen) and seen[0].state is state

    await until(reached, f"{state}; last seen {seen}")
    return seen[0]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if not os.environ.get("KUBECONFIG") or not os.environ.get("VITRINE_REGISTRY"):
        pytest.skip("set KUBECONFIG and VITRINE_REGISTRY (make test-cluster)")
    api = connect()
    nodes = api.get("/api/v1/nodes")["items"]
    labelled = {n["metadata"].get("labels", {}).get("vitrine.dev/pool") for n in nodes}
    pool = NodePool("cpu", ("tiny",), node_selector={"vitrine.dev/pool": "cpu"} if "cpu" in labelled else {})
    gpus = next((n for n in nodes if int(n["status"]["allocatable"].get("nvidia.com/gpu", "0"))), None)
    gpu_pool = None
    if gpus is not None:
        labels = gpus["metadata"].get("labels", {})  # a node made by hand may lack the usual one
        selector = {key: labels[key] for key in ("kubernetes.io/hostname",) if key in labels} or labels
        gpu_pool = NodePool("gpu", ("tiny-gpu",), node_selector=selector, tolerations=({"operator": "Exists"},))
    made = Cluster(api, f"vitrine-test-{secrets.token_hex(4)}", push(os.environ["VITRINE_REGISTRY"]), pool, gpu_pool)
    try:
        yield made
    finally:
        api.delete(f"/api/v1/namespaces/{made.namespace}")
        api.close()


@pytest.fixture
async def runtime(cluster: Cluster) -> AsyncIterator[KubernetesRuntime]:
    made = cluster.runtime()
    await made.start()
    yield made
    await clear(made)
    await made.close()


async def clear(runtime: KubernetesRuntime) -> None:
    """Stop everything and wait until the pods are gone: the next test must not hear of them."""
    ids = [seen.replica_id for seen in await runtime.observe_all()]
    for replica_id in ids:
        await runtime.stop(replica_id, grace_s=1)

    async def gone() -> bool:
        return not any(runtime.cache.pods_of(replica_id) for replica_id in ids)

    await until(gone, "the pods of this test are gone")
