"""A namespace of its own on the cluster that KUBECONFIG names, gone afterwards; a node that was seen to run a pod; an image in
VITRINE_REGISTRY."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from builder.errors import BuildFailed
from control_plane.domain.builds import Artifact, ArtifactKind, LaunchPlan
from control_plane.domain.capacity import NodePool
from control_plane.domain.errors import VitrineError
from control_plane.domain.hardware import Flavor
from control_plane.domain.ids import ReplicaId, Sha, SpaceId, new_id
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaObservation, ReplicaSpec, ReplicaState
from control_plane.ports.log_store import LogLine
from control_plane.runtimes.kubernetes.api import KubeApi
from control_plane.runtimes.kubernetes.manifests import ClusterOptions
from control_plane.runtimes.kubernetes.pod_stream import PodDoor
from control_plane.runtimes.kubernetes.runtime import KubernetesRuntime
from tests.cluster import prerequisites
from tests.cluster.demo_image import push
from tests.cluster.prerequisites import Missing

# What a cluster may take for one thing before that thing counts as never coming: images are pulled over slow lines, too.
PATIENCE_S = 300.0
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
    free_cores: float  # on the node of `pool`, beside what ran there before
    lines: dict[str, list[str]] = field(default_factory=dict)

    def runtime(self, *only: NodePool, **more: Any) -> KubernetesRuntime:
        """Over all pools, or these: a node counts for the first pool that it matches. `more`: further `ClusterOptions`."""

        async def take(space_id: str, replica_id: str, lines: object) -> None:
            assert isinstance(lines, list)
            self.lines.setdefault(space_id, []).extend(line.text for line in lines if isinstance(line, LogLine))

        pools = only or ((self.pool, self.gpu_pool) if self.gpu_pool else (self.pool,))
        login = prerequisites.registry_login()
        own = login is not None
        options = ClusterOptions(namespace=self.namespace, platform_namespace=self.namespace, own_pull_secrets=own, **more)
        return KubernetesRuntime(connect(), lambda: pools, options, log=take, pull_login=(lambda ref: login) if login else None)

    def spec(self, *, space: str = "", generation: int = 1, code: str = APP, flavor: Flavor = TINY, pool: str = "") -> ReplicaSpec:
        return ReplicaSpec(
            ReplicaId(new_id()), SpaceId(space or new_id()), "alice/demo", generation, Sha("0" * 40),
            Artifact(ArtifactKind.IMAGE, self.image), LaunchPlan(("/usr/local/bin/python", "-I", "-c", code)), flavor,
            env={"PORT": "7860"}, start_timeout_s=120, pool=pool or self.pool.name,
        )  # fmt: skip

    async def say(self, pod: str, word: bytes) -> bytes:
        """Send bytes to the app through the API's port-forward; no route to pods is needed. b"" = no answer."""
        try:
            stream = await PodDoor(self.api).open(self.namespace, pod, 7860)
        except VitrineError:
            return b""
        try:
            async with asyncio.timeout(60):
                await stream.write(word)
                return await stream.read()
        except (OSError, TimeoutError):
            return b""
        finally:
            await stream.close()


def connect() -> KubeApi:
    return KubeApi.connect(kubeconfig=os.environ["KUBECONFIG"])


async def until(good: Callable[[], Awaitable[object]], what: str, seconds: float = PATIENCE_S) -> None:
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


def pytest_configure(config: pytest.Config) -> None:
    """A kubeconfig may say that the server's certificate is not to be looked at; that is its owner's choice and no error here."""
    config.addinivalue_line("filterwarnings", "ignore::urllib3.exceptions.InsecureRequestWarning")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Ends the whole run, in words, where the cluster, the credentials or the registry do not bring what the suite needs."""
    if not os.environ.get("KUBECONFIG") or not os.environ.get("VITRINE_REGISTRY"):
        pytest.skip("set KUBECONFIG and VITRINE_REGISTRY (make test-cluster)")
    os.environ["KUBECONFIG"] = prerequisites.kubeconfig()
    try:
        api = connect()
        prerequisites.check_rights(api)
        image = push(os.environ["VITRINE_REGISTRY"], prerequisites.registry_login())
        choices, gpu = prerequisites.candidates(api), prerequisites.gpu_node(api)
    except Missing as error:
        pytest.exit(f"test-cluster: {error}", returncode=1)
    except (BuildFailed, VitrineError) as error:
        pytest.exit(f"test-cluster: {error.message}", returncode=1)
    gpu_pool = NodePool("gpu", ("tiny-gpu",), node_selector=gpu.selector, tolerations=gpu.tolerations) if gpu else None
    name = f"vitrine-test-{secrets.token_hex(4)}"
    try:
        reasons = []
        for choice in choices:
            pool = NodePool("cpu", ("tiny",), node_selector=choice.selector, tolerations=choice.tolerations)
            made = Cluster(api, name, image, pool, gpu_pool, choice.free_cores)
            with ThreadPoolExecutor(1) as own_loop:
                why_not = own_loop.submit(asyncio.run, _try_out(made)).result()
            if not why_not:
                break
            reasons.append(f"{choice.name}: {why_not}")
            if "pull" in why_not.lower():
                break  # one registry, one way to it: the other nodes would say the same
        else:
            why_not = "no node runs the suite's pods"
        if why_not:
            pytest.exit(f"test-cluster: {'. '.join(reasons)}", returncode=1)
        yield made
    finally:
        api.delete(f"/api/v1/namespaces/{name}")
        api.close()


async def _try_out(made: Cluster) -> str:
    """ "" when a pod runs on the chosen node and can be talked to; else why not."""
    runtime = made.runtime(made.pool)
    await runtime.start()
    spec = made.spec()
    try:
        await runtime.apply(spec)
        end = time.monotonic() + PATIENCE_S
        while (seen := (await runtime.observe(spec.space_id))[0]).state is not ReplicaState.READY:
            pods = runtime.cache.pods_of(spec.replica_id)
            if seen.state is ReplicaState.FAILED or time.monotonic() > end:
                why = prerequisites.why_not_running(made.api, made.namespace, pods[0]["metadata"]["name"]) if pods else "no pod was made"
                hint = ""
                if seen.reason is Reason.IMAGE_PULL_FAILED:
                    hint = " (a registry without TLS has to be allowed on each node; one with a sign-in needs VITRINE_REGISTRY_USER)"
                    why = f"cannot pull: {why}"
                return f"{why}{hint}"
            await asyncio.sleep(0.5)
        (pod,) = runtime.cache.pods_of(spec.replica_id)
        said = await made.say(pod["metadata"]["name"], b"GET / HTTP/1.1\r\n\r\n")
        return "" if said.endswith(b"hello") else "the API server's port-forward to a pod brings no answer"
    finally:
        await runtime.stop(spec.replica_id, grace_s=1)
        await runtime.close()


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
