"""The answer "this replica on that node", or "it waits: place 3, about 4 minutes". Pure: no port, no clock, no I/O.

Order of attempts for one request:

    1. the tightest node of the flavor's best pool that holds no other replica of this generation (then further pools)
    2. the same, sharing a node with a replica of its own
    3. a pool that may still grow: the pod is created there and the cluster autoscaler brings the node
    4. idle Spaces, least recently used first: named in `Waiting.put_to_sleep`; the place is theirs until they are gone
    5. the fair queue

Nobody overtakes: a request whose flavor already has someone waiting joins the queue behind them. The first of the
queue has one node held for it, so a stream of small requests cannot keep a four-GPU request waiting for ever.

`Placer` is the long-lived form: one Space's change costs work on one node and at most one try per flavor. `place` is the
one-shot form over a `Capacity`, for tables and for tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from control_plane.domain.capacity import Capacity, Node, NodePool
from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.scheduler.answers import Placement, PlacementRequest, Waiting
from control_plane.scheduler.capacity_index import CapacityIndex, Claim, Need
from control_plane.scheduler.fair_queue import FairQueue
from control_plane.scheduler.idle_replicas import IdleReplicas
from control_plane.scheduler.waiting_time import ReleaseRates, in_words

# How many idle replicas one request looks at before it joins the queue: bounds the work of one decision.
MAX_IDLE_LOOKED_AT = 64
_NOWHERE: frozenset[str] = frozenset()


class Placer:
    """Decides places and remembers who waits. Not thread-safe; one per scheduler, rebuilt from facts at start.

    Feed it: `set_pools`, `update_node`, `remove_node` from the runtime's capacity; `restore` for replicas that run already;
    `mark_idle` / `mark_busy` from the autoscaler. Ask it: `ask`; tell it when a replica is gone: `release`.
    `now` is any monotonic seconds value.
    """

    def __init__(self, pools: Iterable[NodePool] = ()) -> None:
        self.index = CapacityIndex()
        self.queue = FairQueue()
        self._requests: dict[ReplicaId, PlacementRequest] = {}
        self._rates = ReleaseRates()
        self._idle = IdleReplicas()
        self._leaving: dict[ReplicaId, ReplicaId] = {}  # idle replica told to go → the one it makes room for
        self._replicas_of: dict[SpaceId, set[ReplicaId]] = {}
        self._asked_for_room: set[ReplicaId] = set()  # waiting replicas for which Spaces are going to sleep already
        self._held: dict[ReplicaId, str] = {}
        self._sharing: dict[str, tuple[str, ...]] = {}
        self._served_by: dict[str, tuple[str, ...]] = {}
        self.set_pools(pools)

    # -- facts coming in

    def set_pools(self, pools: Iterable[NodePool]) -> None:
        """Take the pools of a new configuration file; what runs and who waits stays."""
        pools = tuple(pools)
        self.index.set_pools(pools)
        self._served_by = {pool.name: pool.flavors for pool in pools}
        flavors = {flavor for pool in pools for flavor in pool.flavors}
        self._sharing = {
            flavor: tuple(sorted({other for pool in pools if flavor in pool.flavors for other in pool.flavors})) for flavor in flavors
        }

    def update_node(self, node: Node, now: float) -> tuple[Placement, ...]:
        """A node appeared or changed. Gives the waiting replicas that got a place by it."""
        self.index.update_node(node)
        holder = self.index.holder(node.name)
        if holder is not None and not node.is_schedulable:
            self._held.pop(holder, None)
            self._asked_for_room.discard(holder)
            self.index.unhold(node.name)
        return self.serve(node.pool, now) if self.queue and node.is_schedulable else ()

    def remove_node(self, name: str) -> tuple[Claim, ...]:
        """A node is lost. Gives the places that went with it; ask again for the replicas that replace them."""
        for replica_id, node in list(self._held.items()):
            if node == name:
                del self._held[replica_id]
                self._asked_for_room.discard(replica_id)
        lost = self.index.remove_node(name)
        for claim in lost:
            self._forget(claim)
        return lost

    def restore(self, request: PlacementRequest, node: str, pool: str) -> None:
        """A replica that runs already (scheduler restart, or bound by the cluster). Counts even where it does not fit."""
        self._leave_queue(request.replica_id, served=False)
        if self.index.claim_of(request.replica_id) is not None:
            self.index.moved(request.replica_id, node)
            return
        self._claim(request, node, pool)

    def bound(self, replica_id: ReplicaId, node: str) -> None:
        """Where the cluster really put it."""
        claim = self.index.claim_of(replica_id)
        if claim is None or claim.node == node:
            return
        self._idle.drop(claim)
        self.index.moved(replica_id, node)
        moved = self.index.claim_of(replica_id)
        if moved is not None:
            self._idle.add(moved)

    def mark_idle(self, space_id: SpaceId, last_used_at: float) -> None:
        """Its replicas may be put to sleep for others; those unused for longest go first."""
        self.mark_busy(space_id)
        self._idle.begin(space_id, last_used_at)
        for replica_id in self._replicas_of.get(space_id, ()):
            claim = self.index.claim_of(replica_id)
            if claim is not None:
                self._idle.add(claim)

    def mark_busy(self, space_id: SpaceId) -> None:
        if space_id not in self._idle:
            return
        for replica_id in self._replicas_of.get(space_id, ()):
            claim = self.index.claim_of(replica_id)
            if claim is not None:
                self._idle.drop(claim)
            asker = self._leaving.pop(replica_id, None)
            if asker is not None:  # it is in use again: the one that waited for its room may look for other room
                self._asked_for_room.discard(asker)
        self._idle.end(space_id)

    # -- decisions

    def ask(self, request: PlacementRequest, now: float) -> Placement | Waiting:
        """Decide for one replica. Asking again gives the same place, or the present position."""
        claim = self.index.claim_of(request.replica_id)
        if claim is not None:
            return Placement(request.replica_id, claim.node, claim.pool)
        flavor, need = request.flavor.name, Need.of(request.flavor)
        if not self.index.pools_for(flavor):
            return Waiting(request.replica_id, Reason.UNSUPPORTED_HERE, f"No node pool of this platform serves the hardware '{flavor}'.")
        if self.queue.first(flavor) in (None, request.replica_id):
            placed = self._try(request, need)
            if placed is not None:
                self._leave_queue(request.replica_id, served=True)
                return placed
        self.enqueue(request)
        sleepers = () if request.replica_id in self._asked_for_room else self._room_by_sleep(request, need)
        if sleepers:
            self._asked_for_room.add(request.replica_id)
        self._hold_for_head(flavor)
        return self._waiting(request, need, sleepers)

    def own_room(self, request: PlacementRequest) -> tuple[ReplicaId, ...]:
        """Older replicas of the same Space on one node whose leaving makes it fit; the node is held for it meanwhile.

        () unless it is the first of its queue: before that others are served and the older version goes on serving.
        """
        need, index = Need.of(request.flavor), self.index
        if self.queue.first(request.flavor.name) != request.replica_id or request.replica_id in self._asked_for_room:
            return ()
        served = index.pools_for(request.flavor.name)
        by_node: dict[str, list[Claim]] = {}
        for replica_id in self._replicas_of.get(request.space_id, ()):
            claim = index.claim_of(replica_id)
            if claim is not None and claim.node and claim.generation < request.generation and claim.pool in served:
                by_node.setdefault(claim.node, []).append(claim)
        for node, claims in sorted(by_node.items()):
            free = index.free_on(node)
            if free is None or not index.could_hold(node, need) or index.holder(node) not in (None, request.replica_id):
                continue
            if _covers(free, claims, need):
                self._hold(request.replica_id, node)
                return tuple(sorted(claim.replica_id for claim in claims))
        return ()

    def enqueue(self, request: PlacementRequest) -> None:
        """Join the queue without a decision: for several requests at once, so that their order of arrival does not matter."""
        if self.index.claim_of(request.replica_id) is None and self.index.pools_for(request.flavor.name):
            self._requests[request.replica_id] = request
            cost = float(max(request.flavor.gpu_count, 1))
            self.queue.push(request.replica_id, request.flavor.name, request.owner, cost=cost, priority=request.priority)

    def release(self, replica_id: ReplicaId, now: float) -> tuple[Placement, ...]:
        """The replica is gone, or wants no place any more. Gives the waiting replicas that got one by it."""
        if self._leave_queue(replica_id, served=False):
            return ()
        claim = self.index.release(replica_id)
        if claim is None:
            return ()
        self._forget(claim)
        self._rates.note(claim.pool, now)
        return self.serve(claim.pool, now) if self.queue else ()

    def waiting(self, replica_id: ReplicaId) -> Waiting | None:
        """The present words for a replica that waits; None when it does not."""
        request = self._requests.get(replica_id)
        return self._waiting(request, Need.of(request.flavor), ()) if request else None

    def queued(self, pool: str) -> int:
        """How many wait for hardware that this pool could give."""
        return self.queue.count(self._served_by.get(pool, ()))

    # -- inside

    def _try(self, request: PlacementRequest, need: Need) -> Placement | None:
        index = self.index
        pools = index.pools_for(request.flavor.name)
        held = self._held.get(request.replica_id)
        if held is not None and index.fits(held, need):
            index.unhold(held)
            del self._held[request.replica_id]
            return self._claim(request, held, index.pool_of(held))
        taken = index.nodes_of(request.space_id, request.generation)
        for avoid in (taken, _NOWHERE) if taken else (_NOWHERE,):
            for pool in pools:
                node = index.best_fit(pool, need, avoid)
                if node is not None:
                    return self._claim(request, node, pool)
        for pool in pools:
            if index.room_to_grow(pool):
                return self._claim(request, "", pool)
        return None

    def _claim(self, request: PlacementRequest, node: str, pool: str) -> Placement:
        claim = Claim(request.replica_id, request.space_id, request.generation, Need.of(request.flavor), node, pool, int(request.priority))
        self.index.claim(claim)
        self._replicas_of.setdefault(request.space_id, set()).add(request.replica_id)
        return Placement(request.replica_id, node, pool)

    def serve(self, pool: str, now: float) -> tuple[Placement, ...]:
        """Place waiting replicas, fairly, until no flavor's first one fits. One try per flavor and per place given."""
        got: list[Placement] = []
        blocked: set[str] = set()
        flavors = self._served_by.get(pool, ())
        progress = True
        while progress:
            progress = False
            for flavor, replica_id in self.queue.heads([f for f in flavors if f not in blocked]):
                request = self._requests[replica_id]
                placed = self._try(request, Need.of(request.flavor))
                if placed is None:
                    blocked.add(flavor)
                    self._hold_for_head(flavor)
                    continue
                self._leave_queue(replica_id, served=True)
                got.append(placed)
                progress = True
                break
        return tuple(got)

    def _leave_queue(self, replica_id: ReplicaId, *, served: bool) -> bool:
        if not self.queue.remove(replica_id, served=served):
            return False
        del self._requests[replica_id]
        self._asked_for_room.discard(replica_id)
        held = self._held.pop(replica_id, None)
        if held is not None:
            self.index.unhold(held)
        return True

    def _hold(self, replica_id: ReplicaId, node: str) -> None:
        held = self._held.pop(replica_id, None)
        if held is not None:
            self.index.unhold(held)
        self.index.hold_node(node, replica_id)
        self._held[replica_id] = node

    def _hold_for_head(self, flavor: str) -> None:
        """Hold a node for the first of all who share hardware with this flavor, once nobody else has one held."""
        heads = self.queue.heads(self._sharing[flavor])
        if not heads:
            return
        _, first = heads[0]
        if first in self._held:
            return
        for _, other in heads[1:]:
            if other in self._asked_for_room:
                continue
            held = self._held.pop(other, None)
            if held is not None:
                self.index.unhold(held)
        request = self._requests[first]
        need = Need.of(request.flavor)
        for pool in self.index.pools_for(request.flavor.name):
            node = self.index.hold(pool, need, first)
            if node is not None:
                self._held[first] = node
                return

    def _room_by_sleep(self, request: PlacementRequest, need: Need) -> tuple[SpaceId, ...]:
        """Idle Spaces whose leaving makes one node fit, oldest use first; () when sleep alone cannot help."""
        index = self.index
        looked_at = 0
        for pool in index.pools_for(request.flavor.name):
            freed: dict[str, list[Claim]] = {}
            for _, replica_id in self._idle.in_pool(pool):
                looked_at += 1
                if looked_at > MAX_IDLE_LOOKED_AT:
                    return ()
                claim = index.claim_of(replica_id)
                if claim is None or replica_id in self._leaving or claim.priority > request.priority or claim.space_id == request.space_id:
                    continue
                if not index.could_hold(claim.node, need) or index.holder(claim.node) not in (None, request.replica_id):
                    continue
                leaving = freed.setdefault(claim.node, [])
                leaving.append(claim)
                free = index.free_on(claim.node)
                if free is None:
                    continue
                if _covers(free, leaving, need):
                    self._leaving.update((c.replica_id, request.replica_id) for c in leaving)
                    self._hold(request.replica_id, claim.node)
                    return tuple(dict.fromkeys(c.space_id for c in leaving))
        return ()

    def _waiting(self, request: PlacementRequest, need: Need, sleepers: tuple[SpaceId, ...]) -> Waiting:
        flavor = request.flavor.name
        position = self.queue.position(request.replica_id, self._sharing[flavor])
        if not self.index.can_ever_fit(flavor, need):
            words = f"No machine for the hardware '{flavor}' yet; it starts when one joins. Place {position} of the queue."
            return Waiting(request.replica_id, Reason.NO_CAPACITY, words, position, None, sleepers)
        eta_s = self._rates.wait_s(self.index.pools_for(flavor), position)
        about = f", about {in_words(eta_s)}" if eta_s is not None else ""
        if sleepers:
            words = f"An idle Space makes room for it on '{flavor}'."
        else:
            words = f"All machines for the hardware '{flavor}' are in use. Place {position} in the queue{about}."
        return Waiting(request.replica_id, Reason.NO_CAPACITY, words, position, eta_s, sleepers)

    def _forget(self, claim: Claim) -> None:
        self._idle.drop(claim)
        self._leaving.pop(claim.replica_id, None)
        replicas = self._replicas_of.get(claim.space_id)
        if replicas is not None:
            replicas.discard(claim.replica_id)
            if not replicas:
                del self._replicas_of[claim.space_id]
                self._idle.end(claim.space_id)


def place(requests: Sequence[PlacementRequest], capacity: Capacity, *, now: float = 0.0) -> tuple[Placement | Waiting, ...]:
    """Decide for several replicas at once over a snapshot. The answers come in the order of `requests`.

    Who goes first is the fair queue's business, not the order of the arguments: all requests join, then the queue is served.
    """
    placer = Placer(capacity.pools)
    for node in capacity.nodes:
        placer.index.update_node(node)
    return place_all(placer, requests, now)


def place_all(placer: Placer, requests: Sequence[PlacementRequest], now: float) -> tuple[Placement | Waiting, ...]:
    """Let all join the queue first, then serve it; afterwards ask for each one's answer."""
    for request in requests:
        placer.enqueue(request)
    for pool in placer.index.pool_names():
        placer.serve(pool, now)
    return tuple(placer.ask(request, now) for request in requests)


def _covers(free: Need, leaving: Sequence[Claim], need: Need) -> bool:
    """Whether what is free and what these give back is enough."""
    return (
        free.gpus + sum(c.need.gpus for c in leaving) >= need.gpus
        and free.milli_cpu + sum(c.need.milli_cpu for c in leaving) >= need.milli_cpu
        and free.memory_bytes + sum(c.need.memory_bytes for c in leaving) >= need.memory_bytes
    )
