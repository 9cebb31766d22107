"""The runtime contract on the Kubernetes adapter: every test of `test_runtime`, with an API server double for a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from control_plane.domain.builds import Artifact, ArtifactKind, LaunchPlan
from control_plane.domain.capacity import NodePool
from control_plane.domain.ids import ReplicaId, Sha, SpaceId, new_id
from control_plane.domain.replicas import ReplicaSpec
from control_plane.runtimes.kubernetes.manifests import ClusterOptions
from control_plane.runtimes.kubernetes.runtime import KubernetesRuntime
from tests.contract import test_runtime as suite
from tests.fakes.api_server import ApiServer, api_server

POOL = NodePool("cpu", ("small",), node_selector={"pool": "cpu"})
IMAGE = "registry.example/demo@sha256:" + "0f" * 32


class _Settled(KubernetesRuntime):
    """The suite looks right after `apply`; a cluster needs a moment. Here that moment is waited for."""

    server: ApiServer

    async def apply(self, spec: ReplicaSpec) -> None:
        await super().apply(spec)
        pod = self.server.pod_of(spec.replica_id)
        if "nodeName" not in pod["spec"]:
            await self.server.say(pod["metadata"]["name"], "2026-01-01T00:00:01Z ready")
            await self.server.run_pod(pod, "node-1")
            usage = {"cpu": "10m", "memory": "32Mi"}
            metrics = {"metadata": {"name": pod["metadata"]["name"]}, "containers": [{"name": "app", "usage": usage}]}
            self.server.metrics = [*(self.server.metrics or []), metrics]
            self._usage_at = -1e9
        await until(lambda: any(p["status"].get("podIP") for p in self.cache.pods_of(spec.replica_id)))
        await until(lambda: bool(self._followers.tail(spec.replica_id)))


async def until(good: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not good():
            await asyncio.sleep(0.005)


class KubernetesHarness(suite.Harness):
    def __init__(self, server: ApiServer) -> None:
        self.server = server

        async def drop(space_id: str, replica_id: str, lines: object) -> None:
            return None

        self.runtime = self.settled = _Settled(server.api(), lambda: (POOL,), ClusterOptions(), log=drop, first_wait_s=0.01)
        self.settled.server = server

    def spec(self, *, space: str = "", generation: int = 1) -> ReplicaSpec:
        artifact = Artifact(ArtifactKind.IMAGE, IMAGE)
        space_id = SpaceId(space or new_id())
        launch = LaunchPlan(("python", "app.py"))
        return ReplicaSpec(ReplicaId(new_id()), space_id, "alice/demo", generation, Sha("0" * 40), artifact, launch, suite.SMALL)

    async def make_it_exit(self, spec: ReplicaSpec) -> None:
        pod = self.server.pod_of(spec.replica_id)
        await self.server.say(pod["metadata"]["name"], "2026-01-01T00:00:02Z last words")
        await until(lambda: self.settled._followers.tail(spec.replica_id)[-1:] == ("last words",))
        await self.server.set_status(pod, containerStatuses=[{"name": "app", "state": {"terminated": {"exitCode": 3, "reason": "Error"}}}])


@pytest.fixture
async def harness() -> AsyncIterator[KubernetesHarness]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(api_server())
        await server.node("node-1", labels={"pool": "cpu"})
        made = KubernetesHarness(server)
        await made.runtime.start()
        stack.push_async_callback(made.close)
        yield made


globals().update({name: test for name, test in vars(suite).items() if name.startswith("test_")})
