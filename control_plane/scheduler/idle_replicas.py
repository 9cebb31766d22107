"""Replicas of Spaces that nobody uses, those unused for longest first: who may be put to sleep for others. Pure."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.scheduler.capacity_index import Claim


class IdleReplicas:
    def __init__(self) -> None:
        self._rows: dict[str, list[tuple[float, ReplicaId]]] = {}  # by pool
        self._since: dict[SpaceId, float] = {}

    def in_pool(self, pool: str) -> Sequence[tuple[float, ReplicaId]]:
        return self._rows.get(pool, ())

    def __contains__(self, space_id: SpaceId) -> bool:
        return space_id in self._since

    def begin(self, space_id: SpaceId, last_used_at: float) -> None:
        """Its claims follow one by one."""
        self._since[space_id] = last_used_at

    def end(self, space_id: SpaceId) -> None:
        """After its claims were dropped."""
        self._since.pop(space_id, None)

    def add(self, claim: Claim) -> None:
        """A claim of an idle Space. One that has no node yet gives nobody room."""
        at = self._since.get(claim.space_id)
        if at is not None and claim.node:
            insort(self._rows.setdefault(claim.pool, []), (at, claim.replica_id))

    def drop(self, claim: Claim) -> None:
        at = self._since.get(claim.space_id)
        row = self._rows.get(claim.pool)
        if at is None or not row:
            return
        entry = (at, claim.replica_id)
        place = bisect_left(row, entry)
        if place < len(row) and row[place] == entry:
            del row[place]
