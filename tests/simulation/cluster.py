"""The runtime of the simulation: nodes with pods on them, both of which come and go as they like, and a port that fails at times."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

from control_plane.domain.capacity import Capacity, Node, NodePool
from control_plane.domain.errors import NoCapacity, StaleGeneration, Unavailable
from control_plane.domain.hardware import Flavor
from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaObservation, ReplicaSpec, ReplicaState, ReplicaUsage
from control_plane.domain.routes import Endpoint, EndpointKind
from control_plane.scheduler.capacity_index import GIB

_DOWN_S = 3.0  # no node is away for less: until then nobody calls it lost


@dataclass(slots=True)
class Pod:
    """What really runs. `was_lost`: its node went, so the scheduler put another in its place; it may come back with the node."""

    replica_id: ReplicaId
    space_id: SpaceId
    generation: int
    flavor: Flavor
    node: str
    seen: ReplicaObservation
    next: ReplicaObservation  # what will be seen once it is up, or has failed
    is_stopping: bool = False
    was_lost: bool = False

    @property
    def is_up(self) -> bool:
        return not self.seen.state.is_terminal


@dataclass(slots=True)
class Truth:
    """What must not happen, counted where it would happen."""

    double_placements: int = 0
    node_overruns: int = 0
    served_twice: int = 0
    started: int = 0
    crashed: int = 0
    lost_nodes: int = 0
    failed_calls: int = 0
    first: str = ""

    def blame(self, what: str) -> None:
        self.first = self.first or what


@dataclass
class SimulatedCluster:
    """`ports.runtime.Runtime`. `wanted(space_id)`: how many replicas its owner wants; `changed(space_id)`: what runs is another."""

    dice: random.Random
    pools: tuple[NodePool, ...]
    nodes: dict[str, Node]
    wanted: Callable[[SpaceId], int]
    changed: Callable[[SpaceId], None]
    truth: Truth = field(default_factory=Truth)
    failing_share: float = 0.0
    crash_share: float = 0.0

    def __post_init__(self) -> None:
        self.pods: dict[ReplicaId, Pod] = {}
        self.of_space: dict[SpaceId, dict[ReplicaId, Pod]] = {}
        self.on: dict[str, dict[ReplicaId, Pod]] = {name: {} for name in self.nodes}
        self.down: dict[str, tuple[Node, dict[ReplicaId, Pod], float]] = {}
        self._newest: dict[SpaceId, int] = {}
        self._hints: asyncio.Queue[SpaceId] = asyncio.Queue()

    def _may_fail(self) -> None:
        if self.failing_share and self.dice.random() < self.failing_share:
            self.truth.failed_calls += 1
            raise Unavailable("the cluster does not answer")

    # -- the port

    async def start(self) -> None: ...

    async def apply(self, spec: ReplicaSpec) -> None:
        self._may_fail()
        known = self.pods.get(spec.replica_id)
        if known is not None and known.is_up:
            if known.node != spec.node:
                self.truth.double_placements += 1
                self.truth.blame(f"{spec.replica_id} on {known.node} and {spec.node}")
            return
        if known is not None:
            self._gone(known)
        if spec.fence < self._newest.get(spec.space_id, 0):
            raise StaleGeneration("an older one")
        if spec.node not in self.nodes:
            raise NoCapacity("that node is gone")
        self._newest[spec.space_id] = spec.fence
        endpoint = Endpoint(EndpointKind.TCP, f"{spec.replica_id}:1", spec.replica_id)
        seen = ReplicaObservation(
            spec.replica_id, spec.space_id, spec.generation, ReplicaState.STARTING, None, Reason.STARTING, node=spec.node
        )
        crashes = self.dice.random() < self.crash_share
        result = replace(seen, state=ReplicaState.FAILED, reason=Reason.APP_EXITED) if crashes else replace(
            seen, state=ReplicaState.READY, endpoint=endpoint, reason=None
        )  # fmt: skip
        pod = Pod(spec.replica_id, spec.space_id, spec.generation, spec.flavor, spec.node, seen, result)
        self.pods[spec.replica_id] = self.on[spec.node][spec.replica_id] = pod
        self.of_space.setdefault(spec.space_id, {})[spec.replica_id] = pod
        self.truth.started += 1
        self._check_node(spec.node)
        self._check_space(pod)
        self.changed(spec.space_id)
        self._soon(pod)
        self._may_fail()  # done, and its answer is lost

    async def observe(self, space_id: SpaceId) -> tuple[ReplicaObservation, ...]:
        self._may_fail()
        return tuple(pod.seen for pod in self.of_space.get(space_id, {}).values())

    async def observe_all(self) -> tuple[ReplicaObservation, ...]:
        return tuple(pod.seen for pod in self.pods.values())

    async def stop(self, replica_id: ReplicaId, *, grace_s: float = 5.0) -> None:
        self._may_fail()
        if (pod := self.pods.get(replica_id)) is None:
            return
        pod.is_stopping = True
        try:
            if pod.is_up:
                await asyncio.sleep(self.dice.uniform(0.0, min(grace_s, 1.0)))
        finally:  # whoever asked may be gone by then: the machine ends it all the same
            self._gone(pod)

    async def remove_space(self, space_id: SpaceId, space_name: str) -> None: ...

    async def capacity(self) -> Capacity:
        self._may_fail()
        return Capacity(self.pools, tuple(self._report(name) for name in self.nodes))

    async def usage(self, replica_id: ReplicaId) -> ReplicaUsage | None:
        return None

    async def changes(self) -> AsyncIterator[SpaceId]:
        while True:
            yield await self._hints.get()

    async def close(self) -> None: ...

    # -- the world

    def _report(self, name: str) -> Node:
        there = [pod for pod in self.on[name].values() if pod.is_up]
        return replace(
            self.nodes[name],
            used_vcpu=sum(pod.flavor.vcpu for pod in there),
            used_memory_bytes=int(sum(pod.flavor.memory_gb for pod in there) * GIB),
            used_gpus=sum(pod.flavor.gpu_count for pod in there),
            replicas=frozenset(pod.replica_id for pod in there),
        )

    def _soon(self, pod: Pod) -> None:
        asyncio.get_running_loop().call_later(self.dice.uniform(0.2, 2.0), self._become, pod, pod.next)

    def _become(self, pod: Pod, seen: ReplicaObservation) -> None:
        if self.pods.get(pod.replica_id) is not pod or pod.is_stopping or not pod.is_up:
            return
        pod.seen = seen
        self.truth.crashed += seen.state is ReplicaState.FAILED
        self.changed(pod.space_id)
        self.hint(pod.space_id)

    def crash(self) -> None:
        """Some running pod ends by itself."""
        name = self.dice.choice(list(self.on))
        if pods := [pod for pod in self.on[name].values() if pod.seen.state is ReplicaState.READY]:
            pod = self.dice.choice(pods)
            self._become(pod, replace(pod.seen, state=ReplicaState.FAILED, reason=Reason.APP_EXITED, endpoint=None))

    def _gone(self, pod: Pod) -> None:
        if self.pods.get(pod.replica_id) is pod:
            del self.pods[pod.replica_id], self.of_space[pod.space_id][pod.replica_id]
            self.on[pod.node].pop(pod.replica_id, None)
            self.changed(pod.space_id)
            self.hint(pod.space_id)

    def hint(self, space_id: SpaceId) -> None:
        if not self.failing_share or self.dice.random() > 0.1:  # one in ten is lost while the cluster has its bad days
            self._hints.put_nowait(space_id)

    def lose_node(self) -> None:
        name = self.dice.choice(list(self.nodes))
        if len(self.down) >= len(self.on) // 8:
            return
        self.truth.lost_nodes += 1
        self.down[name] = self.nodes.pop(name), self.on.pop(name), asyncio.get_running_loop().time()
        for pod in self.down[name][1].values():
            pod.was_lost = True
            del self.pods[pod.replica_id], self.of_space[pod.space_id][pod.replica_id]
            self.changed(pod.space_id)
            self.hint(pod.space_id)

    def return_node(self, *, now: bool = False) -> None:
        """With all that ran on it."""
        if not self.down:
            return
        name = next(iter(self.down))
        node, pods, at = self.down[name]
        if not now and asyncio.get_running_loop().time() - at < _DOWN_S:
            return
        del self.down[name]
        self.nodes[name], self.on[name] = node, pods
        for pod in list(self.on[name].values()):
            if pod.replica_id in self.pods:  # asked for anew meanwhile: the cluster keeps one pod of a name, and ends this one
                del self.on[name][pod.replica_id]
                continue
            pod.is_stopping = False
            if pod.seen.state is ReplicaState.STARTING:
                self._soon(pod)
            self.pods[pod.replica_id] = self.of_space[pod.space_id][pod.replica_id] = pod
            self.changed(pod.space_id)
            self.hint(pod.space_id)

    def cordon(self, name: str, schedulable: bool) -> None:
        self.nodes[name] = replace(self.nodes[name], is_schedulable=schedulable)

    # -- what must not happen

    def _check_node(self, name: str) -> None:
        node = self._report(name)
        if node.used_vcpu > node.vcpu or node.used_memory_bytes > node.memory_bytes or node.used_gpus > node.gpus:
            self.truth.node_overruns += 1
            self.truth.blame(f"{name} carries {node.used_vcpu} of {node.vcpu} cores, {node.used_gpus} of {node.gpus} GPUs")

    def _check_space(self, new: Pod) -> None:
        """Beside what is on its way out or was given up with its node, no more of one version than its owner wants."""
        same = [
            pod
            for pod in self.of_space[new.space_id].values()
            if pod.generation == new.generation and pod.is_up and not pod.is_stopping and not pod.was_lost
        ]
        if len(same) > self.wanted(new.space_id):
            self.truth.double_placements += 1
            self.truth.blame(f"{new.space_id} version {new.generation} runs {len(same)} times")
