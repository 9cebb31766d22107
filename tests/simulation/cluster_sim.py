"""A seeded cluster in memory: Spaces come, run, fall idle, leave; nodes are lost, return, are cordoned; reports lag.

The simulator keeps its own account of what really runs where, apart from the code under test, and checks after every
event that no replica is in two places and no node carries more than it has.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from control_plane.domain.capacity import Node, NodePool
from control_plane.domain.hardware import DEFAULT_FLAVORS, Flavor
from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.scheduler.answers import Placement, PlacementRequest, Waiting
from control_plane.scheduler.capacity_index import GIB, Need
from control_plane.scheduler.fair_queue import PriorityClass
from control_plane.scheduler.placement import Placer

# One pool per flavor; the larger sizes of a card also take the smaller ones as a fall-back. (vCPU, GiB, GPUs) per node.
SHAPES: dict[str, tuple[tuple[str, ...], float, int, int]] = {
    "cpu-basic": (("cpu-basic",), 64, 512, 0),
    "cpu-upgrade": (("cpu-upgrade", "cpu-basic"), 64, 512, 0),
    "t4-small": (("t4-small",), 4, 16, 1),
    "t4-medium": (("t4-medium", "t4-small"), 8, 32, 1),
    "a10g-small": (("a10g-small",), 4, 16, 1),
    "a10g-large": (("a10g-large", "a10g-small"), 12, 48, 1),
    "a10g-largex2": (("a10g-largex2", "a10g-large"), 24, 96, 2),
    "a10g-largex4": (("a10g-largex4", "a10g-largex2", "a10g-large", "a10g-small"), 48, 192, 4),
    "a100-large": (("a100-large",), 12, 160, 1),
    "a100x4": (("a100x4", "a100-large"), 48, 640, 4),
    "a100x8": (("a100x8", "a100x4", "a100-large"), 96, 1152, 8),
}


def pools() -> tuple[NodePool, ...]:
    return tuple(NodePool(name, flavors) for name, (flavors, *_) in SHAPES.items())


def nodes(count: int) -> list[Node]:
    names = list(SHAPES)
    made = []
    for number in range(count):
        pool = names[number % len(names)]
        _, vcpu, memory, gpus = SHAPES[pool]
        made.append(Node(f"{pool}-{number}", pool, vcpu, memory * GIB, gpus))
    return made


@dataclass(slots=True)
class _Running:
    request: PlacementRequest
    node: str
    reported: bool = False


@dataclass(slots=True)
class Faults:
    double_placements: int = 0
    overruns: int = 0
    lost_replies: int = 0


@dataclass
class Simulation:
    seed: int
    node_count: int
    space_count: int
    faults: Faults = field(default_factory=Faults)
    placed: int = 0
    waited: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.placer = Placer(pools())
        self.nodes = {n.name: n for n in nodes(self.node_count)}
        self.down: dict[str, Node] = {}
        for node in self.nodes.values():
            self.placer.update_node(node, 0.0)
        self.running: dict[ReplicaId, _Running] = {}
        self.on: dict[str, set[ReplicaId]] = {name: set() for name in self.nodes}
        self.stopping: dict[ReplicaId, _Running] = {}  # released, but the pod is still there and still reported
        self.waiting: dict[ReplicaId, PlacementRequest] = {}
        self.generation: dict[int, int] = {}
        self.now = 0.0
        self.number = 0

    # -- the world

    def _flavor(self) -> Flavor:
        weights = [60, 10, 6, 4, 6, 4, 2, 2, 3, 2, 1]
        return self.random.choices(DEFAULT_FLAVORS, weights)[0]

    def _take(self, answer: Placement) -> None:
        request = self.waiting.pop(answer.replica_id)
        if answer.replica_id in self.running:
            self.faults.double_placements += 1
        self.running[answer.replica_id] = _Running(request, answer.node)
        self.on[answer.node].add(answer.replica_id)
        self.placed += 1
        self._check(answer.node)

    def _check(self, name: str) -> None:
        node = self.nodes[name]
        there = [self.running[r].request for r in self.on[name] if r in self.running]
        there += [s.request for s in self.stopping.values() if s.node == name]
        needs = [Need.of(r.flavor) for r in there]
        if (
            sum(n.gpus for n in needs) > node.gpus
            or sum(n.milli_cpu for n in needs) > node.vcpu * 1000
            or sum(n.memory_bytes for n in needs) > node.memory_bytes
        ):
            self.faults.overruns += 1

    def _ask(self, request: PlacementRequest) -> None:
        self.waiting[request.replica_id] = request
        answer = self.placer.ask(request, self.now)
        if isinstance(answer, Placement):
            self._take(answer)
            return
        self.waited += 1
        self._sleep(answer)

    def _sleep(self, answer: Waiting) -> None:
        for space in answer.put_to_sleep:
            for replica_id in [r for r, x in self.running.items() if x.request.space_id == space]:
                self._leave(replica_id)

    def _leave(self, replica_id: ReplicaId) -> None:
        gone = self.running.pop(replica_id)
        self.on[gone.node].discard(replica_id)
        if gone.reported:
            self.stopping[replica_id] = gone
        for answer in self.placer.release(replica_id, self.now):
            self._take(answer)

    def _report(self, name: str) -> None:
        """The watch delivers what is on one node, late: stopped pods vanish here, new ones appear here."""
        node = self.nodes[name]
        for replica_id in [r for r, s in self.stopping.items() if s.node == name]:
            del self.stopping[replica_id]
        mine = self.on[name]
        for replica_id in mine:
            self.running[replica_id].reported = True
        needs = [Need.of(self.running[r].request.flavor) for r in mine]
        report = replace(
            node,
            used_vcpu=sum(n.milli_cpu for n in needs) / 1000,
            used_memory_bytes=sum(n.memory_bytes for n in needs),
            used_gpus=sum(n.gpus for n in needs),
            replicas=frozenset(mine),
        )
        for answer in self.placer.update_node(report, self.now):
            self._take(answer)

    # -- events

    def step(self) -> None:
        self.now += self.random.expovariate(10.0)
        dice = self.random.random()
        if dice < 0.42:
            self._arrive()
        elif dice < 0.72 and self.running:
            self._leave(self.random.choice(list(self.running)) if len(self.running) < 50 else self._any_running())
        elif dice < 0.80 and self.running:
            self.placer.mark_idle(self.running[self._any_running()].request.space_id, self.now)
        elif dice < 0.83 and self.running:
            self.placer.mark_busy(self.running[self._any_running()].request.space_id)
        elif dice < 0.95:
            self._report(self.random.choice(list(self.nodes)))
        elif dice < 0.96 and self.waiting:
            cancelled = next(iter(self.waiting))
            del self.waiting[cancelled]
            self.placer.release(cancelled, self.now)
        elif dice < 0.97 and self.waiting:
            self._again(self.random.choice(list(self.waiting)))
        elif dice < 0.98:
            self._cordon()
        elif dice < 0.99:
            self._lose_node()
        else:
            self._return_node()

    def _any_running(self) -> ReplicaId:
        name = self.random.choice(list(self.on))
        mine = sorted(self.on[name])
        return self.random.choice(mine) if mine else next(iter(self.running))

    def _arrive(self) -> None:
        space = self.random.randrange(self.space_count)
        self.generation[space] = self.generation.get(space, 0) + (self.random.random() < 0.3)
        self.number += 1
        priority = self.random.choices(list(PriorityClass), [1, 8, 1])[0]
        request = PlacementRequest(
            ReplicaId(f"r{self.number}"), SpaceId(f"s{space}"), self.generation[space], self._flavor(), f"org{space % 37}", priority
        )
        self._ask(request)

    def _again(self, replica_id: ReplicaId) -> None:
        answer = self.placer.ask(self.waiting[replica_id], self.now)
        if isinstance(answer, Placement):
            self._take(answer)
        else:
            self._sleep(answer)

    def _cordon(self) -> None:
        name = self.random.choice(list(self.nodes))
        self.nodes[name] = replace(self.nodes[name], is_schedulable=not self.nodes[name].is_schedulable)
        self._report(name)

    def _lose_node(self) -> None:
        if len(self.nodes) < self.node_count * 0.8:
            return
        name = self.random.choice(list(self.nodes))
        self.down[name] = replace(self.nodes.pop(name), is_schedulable=True)
        lost = self.placer.remove_node(name)
        if {c.replica_id for c in lost} != self.on[name]:
            self.faults.lost_replies += 1
        for replica_id in [r for r, s in self.stopping.items() if s.node == name]:
            del self.stopping[replica_id]
        moved = [self.running.pop(r).request for r in sorted(self.on.pop(name))]
        for request in moved:
            self.number += 1
            self._ask(replace(request, replica_id=ReplicaId(f"r{self.number}")))

    def _return_node(self) -> None:
        if not self.down:
            return
        name = next(iter(self.down))
        self.nodes[name] = self.down.pop(name)
        self.on[name] = set()
        self._report(name)
