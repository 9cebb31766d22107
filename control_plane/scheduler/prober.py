"""Watches STARTING replicas with the router's own probe and says the moment one answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from control_plane.background import ended
from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.domain.routes import Endpoint
from control_plane.scheduler.planning import Probe

# Pauses between probes. Most apps answer within seconds, and every pause is time that a visitor waits: 30 ms for the first
# 300 looks (a refused connection costs well below a millisecond), then slower up to twice a second.
_FIRST_S, _QUICK_LOOKS, _LAST_S, _GROWTH = 0.03, 300, 0.5, 1.1


class Prober:
    """`probe(endpoint, host)` is the proxy's probe; `changed(space_id)` is called when a result turns good."""

    def __init__(self, probe: Callable[[Endpoint, str], Awaitable[Probe]], changed: Callable[[SpaceId], None]) -> None:
        self._probe = probe
        self._changed = changed
        self._tasks: dict[ReplicaId, asyncio.Task[None]] = {}
        self.results: dict[ReplicaId, Probe] = {}

    def watch(self, replica_id: ReplicaId, space_id: SpaceId, endpoint: Endpoint, host: str) -> None:
        if replica_id not in self._tasks:
            self._tasks[replica_id] = asyncio.create_task(self._run(replica_id, space_id, endpoint, host))

    def forget(self, replica_id: ReplicaId) -> None:
        self.results.pop(replica_id, None)
        if task := self._tasks.pop(replica_id, None):
            task.cancel()

    async def _run(self, replica_id: ReplicaId, space_id: SpaceId, endpoint: Endpoint, host: str) -> None:
        pause, looks = _FIRST_S, 0
        while True:
            result = await self._probe(endpoint, host)
            self.results[replica_id] = result
            if result.ok:
                self._changed(space_id)
                return
            await asyncio.sleep(pause)
            looks += 1
            if looks > _QUICK_LOOKS:
                pause = min(_LAST_S, pause * _GROWTH)

    async def close(self) -> None:
        await ended(*self._tasks.values())
        self._tasks.clear()
