"""A runtime over an API server double, and how tests wait for what its watches tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from control_plane.domain.capacity import NodePool
from control_plane.domain.ids import SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaObservation, ReplicaState
from control_plane.ports.log_store import LogLine
from control_plane.runtimes.kubernetes.manifests import ClusterOptions
from control_plane.runtimes.kubernetes.pull_secrets import PullLogin
from control_plane.runtimes.kubernetes.runtime import KubernetesRuntime
from tests.fakes.api_server import ApiServer, api_server
from tests.unit.runtimes_kubernetes.specs import REPLICA, SPACE

POOLS = (
    NodePool("cpu", ("cpu-basic", "cpu-upgrade"), node_selector={"pool": "cpu"}, overcommit=2.0),
    NodePool("a10g-x4", ("a10g-largex4",), node_selector={"pool": "gpu"}, tolerations=({"key": "gpu", "operator": "Exists"},)),
)


@dataclass
class MemoryLog:
    lines: dict[str, list[str]] = field(default_factory=dict)

    async def take(self, space_id: str, replica_id: str, lines: Sequence[LogLine]) -> None:
        self.lines.setdefault(space_id, []).extend(line.text for line in lines)


@dataclass
class World:
    server: ApiServer
    runtime: KubernetesRuntime
    log: MemoryLog

    async def one(self, replica: str = REPLICA, space: str = SPACE) -> ReplicaObservation | None:
        return next((o for o in await self.runtime.observe(SpaceId(space)) if o.replica_id == replica), None)

    async def until(self, good: Callable[[], Awaitable[object]], what: str = "") -> None:
        """Wait for the watch: no fixed sleep, only turns of the loop, until the fact is there."""
        try:
            async with asyncio.timeout(60):
                while not await good():
                    await asyncio.sleep(0.005)
        except TimeoutError:
            pytest.fail(f"never became true: {what or good}")

    async def until_state(self, state: ReplicaState, reason: Reason | None = None, replica: str = REPLICA) -> ReplicaObservation:
        async def reached() -> bool:
            seen = await self.one(replica)
            return seen is not None and seen.state is state and (reason is None or seen.reason is reason)

        await self.until(reached, f"{state} {reason}, but it is {await self.one(replica)}")
        seen = await self.one(replica)
        assert seen is not None
        return seen


@asynccontextmanager
async def world(options: ClusterOptions | None = None, pull_login: PullLogin | None = None) -> AsyncIterator[World]:
    async with api_server() as server:
        await server.node("node-1", labels={"pool": "cpu"})
        log = MemoryLog()
        runtime = KubernetesRuntime(
            server.api(), lambda: POOLS, options or ClusterOptions(), log=log.take, first_wait_s=0.01, pull_login=pull_login
        )
        await runtime.start()
        try:
            yield World(server, runtime, log)
        finally:
            await runtime.close()


async def is_true(value: object) -> bool:
    return bool(value)
