"""A `Runtime` without processes: keeps what the port promises, proven by tests/contract/test_runtime.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

from control_plane.domain.capacity import Capacity, Node, NodePool
from control_plane.domain.errors import StaleGeneration, VitrineError
from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaObservation, ReplicaSpec, ReplicaState, ReplicaUsage
from control_plane.domain.routes import Endpoint, EndpointKind


class MemoryRuntime:
    """`fail_next(error)` makes the next call raise; `exit()`, `serve()` and `become()` play the app's part."""

    def __init__(self, capacity: Capacity | None = None) -> None:
        self.specs: dict[ReplicaId, ReplicaSpec] = {}
        self.applied: list[ReplicaSpec] = []
        self.stopped: list[ReplicaId] = []
        self._seen: dict[ReplicaId, ReplicaObservation] = {}
        self._generations: dict[SpaceId, int] = {}
        self._capacity = capacity or Capacity((NodePool("local", ("cpu-basic",)),), (Node("local", "local", 2, 8 << 30),))
        self._failures: list[VitrineError] = []
        self._subscribers: set[asyncio.Queue[SpaceId | None]] = set()

    def fail_next(self, error: VitrineError) -> None:
        self._failures.append(error)

    def exit(self, replica_id: ReplicaId, code: int = 1, *, reason: Reason = Reason.APP_EXITED, tail: tuple[str, ...] = ()) -> None:
        self.become(replica_id, ReplicaState.FAILED, reason=reason, exit_code=code, endpoint=None, log_tail=tail, message=reason.words)

    def serve(self, replica_id: ReplicaId, *ports: int) -> None:
        self.become(replica_id, self._seen[replica_id].state, listening_ports=ports)

    def become(self, replica_id: ReplicaId, state: ReplicaState, **changes: object) -> None:
        self._seen[replica_id] = replace(self._seen[replica_id], state=state, **changes)  # type: ignore[arg-type]
        for queue in self._subscribers:
            queue.put_nowait(self._seen[replica_id].space_id)

    def _maybe_fail(self) -> None:
        if self._failures:
            raise self._failures.pop(0)

    async def start(self) -> None:
        self._maybe_fail()

    async def apply(self, spec: ReplicaSpec) -> None:
        self._maybe_fail()
        known = self._seen.get(spec.replica_id)
        if known is not None and not known.state.is_terminal:
            return
        newest = self._generations.get(spec.space_id, 0)
        if spec.fence < newest:
            raise StaleGeneration(f"generation {spec.fence} is older than {newest}")
        self._generations[spec.space_id] = spec.fence
        self.specs[spec.replica_id] = spec
        self.applied.append(spec)
        endpoint = Endpoint(EndpointKind.DOOR, f"/memory/{spec.replica_id}", spec.replica_id)
        self._seen[spec.replica_id] = ReplicaObservation(
            spec.replica_id, spec.space_id, spec.generation, ReplicaState.STARTING, endpoint, started_at=datetime.now(UTC), node="local"
        )

    async def observe(self, space_id: SpaceId) -> tuple[ReplicaObservation, ...]:
        self._maybe_fail()
        return tuple(seen for seen in self._seen.values() if seen.space_id == space_id)

    async def observe_all(self) -> tuple[ReplicaObservation, ...]:
        self._maybe_fail()
        return tuple(self._seen.values())

    async def stop(self, replica_id: ReplicaId, *, grace_s: float = 5.0) -> None:
        self._maybe_fail()
        if self._seen.pop(replica_id, None) is not None:
            self.specs.pop(replica_id, None)
            self.stopped.append(replica_id)

    async def remove_space(self, space_id: SpaceId, space_name: str) -> None:
        """Nothing of a Space outlives its replicas here."""

    async def capacity(self) -> Capacity:
        self._maybe_fail()
        specs = [self.specs[seen.replica_id] for seen in self._seen.values() if seen.state.holds_capacity]
        vcpu, memory = sum(spec.flavor.vcpu for spec in specs), int(sum(spec.flavor.memory_gb for spec in specs) * (1 << 30))
        first, *rest = self._capacity.nodes
        return replace(
            self._capacity,
            nodes=(replace(first, used_vcpu=vcpu, used_memory_bytes=memory, replicas=frozenset(s.replica_id for s in specs)), *rest),
        )

    async def usage(self, replica_id: ReplicaId) -> ReplicaUsage | None:
        self._maybe_fail()
        spec = self.specs.get(replica_id)
        if spec is None or self._seen[replica_id].state.is_terminal:
            return None
        return ReplicaUsage(replica_id, 0.1, 1 << 20, int(spec.flavor.memory_gb * (1 << 30)))

    async def changes(self) -> AsyncIterator[SpaceId]:
        queue: asyncio.Queue[SpaceId | None] = asyncio.Queue()
        self._subscribers.add(queue)
        try:
            while (space_id := await queue.get()) is not None:
                yield space_id
        finally:
            self._subscribers.discard(queue)

    async def close(self) -> None:
        self._seen.clear()
        self.specs.clear()
        for queue in self._subscribers:
            queue.put_nowait(None)
