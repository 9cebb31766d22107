"""Who may run now, and where: the `Placer` fed with the runtime's capacity and asked once per start.

    start wanted ─▶ ask ─▶ Placement: the runtime is told pool and node
                      └──▶ Waiting: place in the queue and estimate go beside the stage; idle Spaces make room first

A place is the replica's from the moment it is given until `release`; a release or a new node gives waiting replicas
theirs, and `granted(space_id)` brings their Spaces back to the reconciler.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from control_plane.domain.capacity import Capacity, Node, NodePool
from control_plane.domain.hardware import Flavor
from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.domain.spaces import Replica
from control_plane.scheduler.answers import Placement, PlacementRequest, Waiting
from control_plane.scheduler.capacity_index import Need
from control_plane.scheduler.fair_queue import PriorityClass
from control_plane.scheduler.placement import Placer

_FRESH_S = 0.5  # claims cover what the runtime has not reported yet, so an answer this old decides as well as a new one


class Admission:
    """One per scheduler. `capacity` is the runtime's; `granted` is called for a Space that waited and may start now."""

    def __init__(
        self,
        capacity: Callable[[], Awaitable[Capacity]],
        granted: Callable[[SpaceId], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capacity, self._granted, self._monotonic = capacity, granted, monotonic
        self._placer = Placer()
        self._pools: tuple[NodePool, ...] = ()
        self._nodes: dict[str, Node] = {}
        self._space_of: dict[ReplicaId, SpaceId] = {}
        self._idle: dict[SpaceId, float] = {}
        self._read_at = -1e9

    @property
    def has_waiting(self) -> bool:
        return len(self._placer.queue) > 0

    async def refresh(self) -> None:
        """Take over what changed in the cluster since the last look. Raises Unavailable when the runtime does not answer."""
        capacity = await self._capacity()
        self._read_at = now = self._monotonic()
        fresh = {node.name: node for node in capacity.nodes}
        for name in self._nodes.keys() - fresh.keys():
            self._placer.remove_node(name)
        if capacity.pools != self._pools:
            self._pools = capacity.pools
            self._placer.set_pools(capacity.pools)
            self._nodes.clear()
        for name, node in fresh.items():
            if self._nodes.get(name) != node:
                self._grant(self._placer.update_node(node, now))
        self._nodes = fresh

    async def ask(self, replica: Replica, flavor: Flavor, owner: str, *, is_urgent: bool = False) -> Placement | Waiting | None:
        """A place, or why not yet; None when no pool knows the flavor (the runtime says what that means here).

        `is_urgent`: it replaces a replica that people were using, such as one on a lost node.
        """
        if self._monotonic() - self._read_at > _FRESH_S:
            await self.refresh()
        request = self._request(replica, flavor, owner, PriorityClass.HIGH if is_urgent else PriorityClass.NORMAL)
        if not self._placer.index.pools_for(flavor.name):
            return None
        self._space_of[replica.id] = replica.space_id
        return self._placer.ask(request, self._monotonic())

    def make_own_room(self, replica: Replica, flavor: Flavor, owner: str) -> tuple[ReplicaId, ...]:
        """Older replicas of the same Space that have to leave first, because nobody else ever will; () when that does not help."""
        return self._placer.own_room(self._request(replica, flavor, owner, PriorityClass.NORMAL))

    def rejoin(self, waited: Iterable[tuple[Replica, Flavor, str, bool]]) -> None:
        """Who waited when an earlier scheduler ended, as (replica, flavor, owner, is urgent), those that came first in front: each has
        its place in the queue again before anybody asks, and what is free goes to the first of them."""
        for replica, flavor, owner, is_urgent in waited:
            self._space_of[replica.id] = replica.space_id
            self._placer.enqueue(self._request(replica, flavor, owner, PriorityClass.HIGH if is_urgent else PriorityClass.NORMAL))
        for pool in self._placer.index.pool_names():
            self._grant(self._placer.serve(pool, self._monotonic()))

    def running(self, replica: Replica, flavor: Flavor, owner: str) -> None:
        """A replica that runs already: found after a restart of the scheduler, or bound elsewhere by the cluster."""
        if self._placer.index.claim_of(replica.id) is not None:
            self._placer.bound(replica.id, replica.node)
        elif replica.node in self._nodes:
            self._space_of[replica.id] = replica.space_id
            request = self._request(replica, flavor, owner, PriorityClass.NORMAL)
            self._placer.restore(request, replica.node, self._nodes[replica.node].pool)
            if (at := self._idle.get(replica.space_id)) is not None:
                self._placer.mark_idle(replica.space_id, at)

    def knows(self, replica: Replica) -> bool:
        claim = self._placer.index.claim_of(replica.id)
        return claim is not None and claim.node == replica.node

    def release(self, replica_id: ReplicaId) -> None:
        """It needs its place (or its place in the queue) no more."""
        self._space_of.pop(replica_id, None)
        self._grant(self._placer.release(replica_id, self._monotonic()))

    def mark_idle(self, space_id: SpaceId, last_used_at: float) -> None:
        """It may be put to sleep for others; those unused for longest go first."""
        if self._idle.get(space_id) != last_used_at:
            self._idle[space_id] = last_used_at
            self._placer.mark_idle(space_id, last_used_at)

    def mark_busy(self, space_id: SpaceId) -> None:
        if self._idle.pop(space_id, None) is not None:
            self._placer.mark_busy(space_id)

    def _grant(self, placements: tuple[Placement, ...]) -> None:
        for placement in placements:
            if (space_id := self._space_of.get(placement.replica_id)) is not None:
                self._granted(space_id)

    def _request(self, replica: Replica, flavor: Flavor, owner: str, priority: PriorityClass) -> PlacementRequest:
        return PlacementRequest(replica.id, replica.space_id, replica.generation, self._shrunk(flavor), owner, priority)

    def _shrunk(self, flavor: Flavor) -> Flavor:
        """On a single machine a flavor larger than it gets the whole of it."""
        shrinking = {pool.name for pool in self._pools if pool.shrinks and flavor.name in pool.flavors}
        if not shrinking:
            return flavor
        sizes = [node for node in self._nodes.values() if node.pool in shrinking]
        if not sizes:
            return flavor
        largest = max(sizes, key=lambda node: (node.vcpu, node.memory_bytes))
        if Need.of(flavor).memory_bytes <= largest.memory_bytes and flavor.vcpu <= largest.vcpu:
            return flavor
        return replace(flavor, vcpu=min(flavor.vcpu, largest.vcpu), memory_gb=min(flavor.memory_gb, largest.memory_bytes / (1 << 30)))
