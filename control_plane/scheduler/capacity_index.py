"""What is free where, kept up to date one fact at a time. Pure: no port, no clock, no I/O.

Amounts are whole numbers (CPU in thousandths of a core, memory in bytes, GPUs by count) so that ten thousand additions
and subtractions leave no drift. A node's free amount is

    allocatable × the pool's overcommit − what the runtime reported as used − our claims the report does not contain yet

The last term is what makes two decisions within one watch delay safe: a claim counts from the moment it is decided,
and stops counting by itself when the report lists the replica (`Node.replicas`). Giving a claim back never frees what
the runtime still reports as used: a pod that takes a minute to stop holds its place for that minute.

Every operation touches one node and one Space; finding a place reads sorted rows of one pool. Nothing here walks over
all Spaces.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from control_plane.domain.capacity import Capacity, Node, NodePool
from control_plane.domain.hardware import Flavor
from control_plane.domain.ids import ReplicaId, SpaceId

GIB = 1 << 30
_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Need:
    """The size of one replica: thousandths of a core, bytes, GPUs."""

    milli_cpu: int
    memory_bytes: int
    gpus: int = 0

    @classmethod
    def of(cls, flavor: Flavor) -> Need:
        return cls(round(flavor.vcpu * 1000), round(flavor.memory_gb * GIB), flavor.gpu_count)


@dataclass(frozen=True, slots=True)
class Claim:
    """A decided place. `node` is "" while a cluster autoscaler still has to bring the node of `pool`."""

    replica_id: ReplicaId
    space_id: SpaceId
    generation: int
    need: Need
    node: str
    pool: str
    priority: int = 1


@dataclass(slots=True)
class _NodeState:
    report: Node
    capacity: Need
    used: Need
    claims: dict[ReplicaId, Claim] = field(default_factory=dict)
    free: Need = Need(0, 0, 0)
    row: tuple[int, int, str] | None = None  # its entry in the pool's rows; None = takes nothing now
    held_for: ReplicaId | None = None

    def recount(self) -> None:
        counted = self.report.replicas
        milli, memory, gpus = self.used.milli_cpu, self.used.memory_bytes, self.used.gpus
        for replica_id, claim in self.claims.items():
            if replica_id not in counted:
                milli += claim.need.milli_cpu
                memory += claim.need.memory_bytes
                gpus += claim.need.gpus
        self.free = Need(self.capacity.milli_cpu - milli, self.capacity.memory_bytes - memory, self.capacity.gpus - gpus)

    def fits(self, need: Need) -> bool:
        free = self.free
        return need.gpus <= free.gpus and need.milli_cpu <= free.milli_cpu and need.memory_bytes <= free.memory_bytes

    def could_fit(self, need: Need) -> bool:
        """Whether an empty node of this size would take it."""
        size = self.capacity
        return need.gpus <= size.gpus and need.milli_cpu <= size.milli_cpu and need.memory_bytes <= size.memory_bytes


@dataclass(slots=True)
class _PoolState:
    """`rows[g]` holds the open nodes with exactly `g` free GPUs, sorted by free CPU, then free memory, then name."""

    pool: NodePool
    nodes: dict[str, _NodeState] = field(default_factory=dict)
    rows: list[list[tuple[int, int, str]]] = field(default_factory=lambda: [[]])
    growing: dict[ReplicaId, Claim] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PoolUse:
    """Live figures of one pool for the hardware picker. GPU units for GPU pools, nodes' CPU units otherwise."""

    pool: str
    nodes: int
    gpus: int
    used_gpus: int
    vcpu: float
    used_vcpu: float
    memory_bytes: int
    used_memory_bytes: int
    growing: int


class CapacityIndex:
    """Nodes, claims, and the rows that answer "where does this fit best" without a walk over the cluster."""

    def __init__(self, pools: Iterable[NodePool] = ()) -> None:
        self._pools: dict[str, _PoolState] = {}
        self._order: dict[str, tuple[str, ...]] = {}
        self._node_pool: dict[str, str] = {}
        self._claims: dict[ReplicaId, Claim] = {}
        self._spread: dict[tuple[SpaceId, int], dict[str, int]] = {}
        self.set_pools(pools)

    @classmethod
    def of(cls, capacity: Capacity) -> CapacityIndex:
        index = cls(capacity.pools)
        for node in capacity.nodes:
            index.update_node(node)
        return index

    # -- facts coming in

    def set_pools(self, pools: Iterable[NodePool]) -> None:
        """Take a new pool file. Nodes and claims stay; nodes of a pool that is gone are forgotten until reported again."""
        fresh = {pool.name: pool for pool in pools}
        for name in [name for name in self._pools if name not in fresh]:
            for node in list(self._pools[name].nodes):
                self.remove_node(node)
            del self._pools[name]
        old = self._pools
        self._pools = {name: old.get(name) or _PoolState(pool) for name, pool in fresh.items()}
        for name, pool in fresh.items():
            state = self._pools[name]
            if state.pool != pool:
                state.pool = pool
                for report in [n.report for n in state.nodes.values()]:
                    self.update_node(report)
        ranked: dict[str, list[tuple[int, bool, int, str]]] = {}
        for place, pool in enumerate(fresh.values()):
            for rank, flavor in enumerate(pool.flavors):
                ranked.setdefault(flavor, []).append((rank, pool.is_spot, place, pool.name))
        self._order = {flavor: tuple(name for *_, name in sorted(rows)) for flavor, rows in ranked.items()}

    def update_node(self, node: Node) -> None:
        """A node appeared or changed. Claims on it stay; a node that changed pools is taken out of the old one first."""
        if self._node_pool.get(node.name, node.pool) != node.pool:
            self.remove_node(node.name)
        pool = self._pools.get(node.pool)
        if pool is None:
            return
        factor = pool.pool.overcommit
        capacity = Need(round(node.vcpu * 1000 * factor), int(node.memory_bytes * factor), node.gpus)
        used = Need(round(node.used_vcpu * 1000), node.used_memory_bytes, node.used_gpus)
        state = pool.nodes.get(node.name)
        if state is None:
            state = pool.nodes[node.name] = _NodeState(node, capacity, used)
            self._node_pool[node.name] = node.pool
        else:
            state.report, state.capacity, state.used = node, capacity, used
        self._refile(pool, state)

    def remove_node(self, name: str) -> tuple[Claim, ...]:
        """The node is gone for good. Gives back (and drops) the claims that stood on it, so their replicas can move."""
        pool_name = self._node_pool.pop(name, None)
        if pool_name is None:
            return ()
        pool = self._pools[pool_name]
        state = pool.nodes.pop(name)
        self._unfile(pool, state)
        lost = tuple(state.claims.values())
        for claim in lost:
            del self._claims[claim.replica_id]
            self._forget_spread(claim)
        return lost

    def claim(self, claim: Claim) -> None:
        """Count a place as taken. Raises ValueError when the replica has a place already or the node is unknown."""
        if claim.replica_id in self._claims:
            raise ValueError(f"replica {claim.replica_id} has a place already")
        pool = self._pools[claim.pool]
        if not claim.node:
            pool.growing[claim.replica_id] = claim
            self._claims[claim.replica_id] = claim
            return
        state = pool.nodes.get(claim.node)
        if state is None:
            raise ValueError(f"no node {claim.node} in pool {claim.pool}")
        state.claims[claim.replica_id] = claim
        self._claims[claim.replica_id] = claim
        spread = self._spread.setdefault((claim.space_id, claim.generation), {})
        spread[claim.node] = spread.get(claim.node, 0) + 1
        if claim.replica_id not in state.report.replicas:
            free, need = state.free, claim.need
            self._unfile(pool, state)
            state.free = Need(free.milli_cpu - need.milli_cpu, free.memory_bytes - need.memory_bytes, free.gpus - need.gpus)
            self._file(pool, state)

    def release(self, replica_id: ReplicaId) -> Claim | None:
        """The replica needs its place no more. None when it had none."""
        claim = self._claims.pop(replica_id, None)
        if claim is None:
            return None
        pool = self._pools.get(claim.pool)
        if pool is None:
            return claim
        if not claim.node:
            pool.growing.pop(replica_id, None)
            return claim
        self._forget_spread(claim)
        state = pool.nodes[claim.node]
        del state.claims[replica_id]
        if replica_id not in state.report.replicas:
            free, need = state.free, claim.need
            self._unfile(pool, state)
            state.free = Need(free.milli_cpu + need.milli_cpu, free.memory_bytes + need.memory_bytes, free.gpus + need.gpus)
            self._file(pool, state)
        return claim

    def moved(self, replica_id: ReplicaId, node: str) -> None:
        """The cluster bound the replica to another node than the one we named (or brought the node we waited for)."""
        claim = self._claims.get(replica_id)
        if claim is None or claim.node == node or node not in self._node_pool:
            return
        self.release(replica_id)
        self.claim(Claim(replica_id, claim.space_id, claim.generation, claim.need, node, self._node_pool[node], claim.priority))

    # -- questions

    def pools_for(self, flavor: str) -> tuple[str, ...]:
        """Pools that serve the flavor, best first: the pool that ranks it highest, on-demand before spot, file order."""
        return self._order.get(flavor, ())

    def pool(self, name: str) -> NodePool:
        return self._pools[name].pool

    def pool_of(self, node: str) -> str:
        return self._node_pool[node]

    def pool_names(self) -> tuple[str, ...]:
        return tuple(self._pools)

    def claim_of(self, replica_id: ReplicaId) -> Claim | None:
        return self._claims.get(replica_id)

    def nodes_of(self, space_id: SpaceId, generation: int) -> Collection[str]:
        """Nodes that hold a replica of this generation of the Space."""
        return self._spread.get((space_id, generation), {}).keys() or _NONE

    def best_fit(self, pool_name: str, need: Need, avoid: Collection[str] = _NONE) -> str | None:
        """The tightest open node: fewest free GPUs that suffice, then least free CPU, then least free memory.

        Small GPU requests therefore fill broken nodes and leave whole ones for the ×4 and ×8 flavors.
        """
        pool = self._pools[pool_name]
        low = (need.milli_cpu, need.memory_bytes, "")
        for free_gpus in range(need.gpus, len(pool.rows)):
            row = pool.rows[free_gpus]
            for at in range(bisect_left(row, low), len(row)):
                _, memory, name = row[at]
                if memory >= need.memory_bytes and name not in avoid:
                    return name
        return None

    def fits(self, node: str, need: Need) -> bool:
        pool_name = self._node_pool.get(node)
        if pool_name is None:
            return False
        state = self._pools[pool_name].nodes[node]
        return state.report.is_schedulable and state.fits(need)

    def can_ever_fit(self, flavor: str, need: Need) -> bool:
        """Whether an empty node of some pool of the flavor, or one that may still be added, is large enough."""
        return any(
            self._may_grow(self._pools[name]) or any(node.could_fit(need) for node in self._pools[name].nodes.values())
            for name in self.pools_for(flavor)
        )

    def room_to_grow(self, pool_name: str) -> bool:
        """Whether a cluster autoscaler may add a node. Each replica that waits for one counts as a whole node."""
        return self._may_grow(self._pools[pool_name])

    def free_on(self, node: str) -> Need | None:
        pool_name = self._node_pool.get(node)
        return None if pool_name is None else self._pools[pool_name].nodes[node].free

    def claims(self) -> Iterator[Claim]:
        return iter(self._claims.values())

    def could_hold(self, node: str, need: Need) -> bool:
        """Whether the node may take new replicas at all, and would be large enough when empty."""
        pool_name = self._node_pool.get(node)
        if pool_name is None:
            return False
        state = self._pools[pool_name].nodes[node]
        return state.report.is_schedulable and state.could_fit(need)

    def use(self) -> tuple[PoolUse, ...]:
        """Figures per pool; walks over the nodes, so call it for a page, not for a decision."""
        return tuple(self._use_of(pool) for pool in self._pools.values())

    # -- holding a node for the head of the queue

    def hold(self, pool_name: str, need: Need, replica_id: ReplicaId) -> str | None:
        """Keep the node that is nearest to fitting for one waiting replica; others may not fill it up again.

        Gives the node's name, or None when no open node of the pool is large enough.
        """
        pool = self._pools[pool_name]
        open_nodes = (
            state for state in pool.nodes.values() if state.held_for is None and state.report.is_schedulable and state.could_fit(need)
        )
        best = max(open_nodes, key=lambda s: (s.free.gpus, s.free.milli_cpu, s.free.memory_bytes, s.report.name), default=None)
        if best is None:
            return None
        self.hold_node(best.report.name, replica_id)
        return best.report.name

    def hold_node(self, node: str, replica_id: ReplicaId) -> None:
        """Keep this very node, because room is being made on it for that replica."""
        pool = self._pools[self._node_pool[node]]
        state = pool.nodes[node]
        self._unfile(pool, state)
        state.held_for = replica_id

    def holder(self, node: str) -> ReplicaId | None:
        pool_name = self._node_pool.get(node)
        return None if pool_name is None else self._pools[pool_name].nodes[node].held_for

    def unhold(self, node: str) -> None:
        pool_name = self._node_pool.get(node)
        if pool_name is None:
            return
        pool = self._pools[pool_name]
        state = pool.nodes[node]
        state.held_for = None
        self._unfile(pool, state)
        self._file(pool, state)

    # -- inside

    def _may_grow(self, pool: _PoolState) -> bool:
        limit = pool.pool.max_nodes
        return limit is not None and len(pool.nodes) + len(pool.growing) < limit

    def _forget_spread(self, claim: Claim) -> None:
        key = (claim.space_id, claim.generation)
        spread = self._spread[key]
        if spread[claim.node] == 1:
            del spread[claim.node]
            if not spread:
                del self._spread[key]
        else:
            spread[claim.node] -= 1

    def _refile(self, pool: _PoolState, state: _NodeState) -> None:
        self._unfile(pool, state)
        state.recount()
        self._file(pool, state)

    def _unfile(self, pool: _PoolState, state: _NodeState) -> None:
        if state.row is not None:
            row = pool.rows[state.free.gpus]
            del row[bisect_left(row, state.row)]
            state.row = None

    def _file(self, pool: _PoolState, state: _NodeState) -> None:
        free = state.free
        if state.held_for is not None or not state.report.is_schedulable:
            return
        if free.gpus < 0 or free.milli_cpu <= 0 or free.memory_bytes <= 0:
            return
        while len(pool.rows) <= free.gpus:
            pool.rows.append([])
        state.row = (free.milli_cpu, free.memory_bytes, state.report.name)
        insort(pool.rows[free.gpus], state.row)

    def _use_of(self, pool: _PoolState) -> PoolUse:
        states = pool.nodes.values()
        return PoolUse(
            pool=pool.pool.name,
            nodes=len(pool.nodes),
            gpus=sum(s.capacity.gpus for s in states),
            used_gpus=sum(s.capacity.gpus - s.free.gpus for s in states),
            vcpu=sum(s.capacity.milli_cpu for s in states) / 1000,
            used_vcpu=sum(s.capacity.milli_cpu - s.free.milli_cpu for s in states) / 1000,
            memory_bytes=sum(s.capacity.memory_bytes for s in states),
            used_memory_bytes=sum(s.capacity.memory_bytes - s.free.memory_bytes for s in states),
            growing=len(pool.growing),
        )


def overrun(index: CapacityIndex, nodes: Mapping[str, Node]) -> tuple[str, ...]:
    """Names of nodes where more is promised than there is; empty unless the runtime itself went over."""
    return tuple(name for name in nodes if (free := index.free_on(name)) and min(free.milli_cpu, free.memory_bytes, free.gpus) < 0)
