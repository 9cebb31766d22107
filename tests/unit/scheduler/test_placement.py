"""Worlds as tables: who gets which node, who waits, and who makes room."""

from __future__ import annotations

from dataclasses import replace

import pytest

from control_plane.domain.capacity import Capacity, Node, NodePool
from control_plane.domain.hardware import FlavorCatalog
from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.scheduler.answers import Placement, PlacementRequest, Waiting
from control_plane.scheduler.capacity_index import GIB, CapacityIndex, Claim, Need
from control_plane.scheduler.fair_queue import PriorityClass
from control_plane.scheduler.placement import Placer, place

CATALOG = FlavorCatalog()

CPU = NodePool("cpu", ("cpu-basic", "cpu-upgrade"))
A10G1 = NodePool("a10g", ("a10g-small", "a10g-large"))
A10G4 = NodePool("a10g-x4", ("a10g-largex4", "a10g-largex2", "a10g-large", "a10g-small"))
POOLS = (CPU, A10G1, A10G4)


def ask(
    number: int, flavor: str = "cpu-basic", *, space: int | None = None, owner: str = "ann", priority: PriorityClass = PriorityClass.NORMAL
) -> PlacementRequest:
    found = CATALOG.find(flavor)
    assert found is not None
    return PlacementRequest(ReplicaId(f"r{number}"), SpaceId(f"s{number if space is None else space}"), 1, found, owner, priority)


def node(name: str, pool: str = "cpu", vcpu: float = 8, memory: int = 64, gpus: int = 0, **more: object) -> Node:
    return replace(Node(name, pool, vcpu, memory * GIB, gpus), **more)  # type: ignore[arg-type]


def placer(*nodes: Node, pools: tuple[NodePool, ...] = POOLS) -> Placer:
    made = Placer(pools)
    for one in nodes:
        made.update_node(one, 0.0)
    return made


def where(answer: Placement | Waiting) -> str:
    assert isinstance(answer, Placement), answer
    return answer.node


def waits(answer: Placement | Waiting) -> Waiting:
    assert isinstance(answer, Waiting), answer
    return answer


@pytest.mark.parametrize(
    ("nodes", "flavor", "expected"),
    [
        pytest.param((node("a", vcpu=8), node("b", vcpu=4)), "cpu-basic", "b", id="tightest node first"),
        pytest.param((node("a", vcpu=8), node("b", vcpu=4, is_schedulable=False)), "cpu-basic", "a", id="cordoned node takes nothing"),
        pytest.param((node("a", vcpu=8), node("b", vcpu=4, memory=8)), "cpu-basic", "a", id="memory counts too"),
        pytest.param((node("a", vcpu=8), node("b", vcpu=4, used_vcpu=3)), "cpu-basic", "a", id="foreign pods count"),
        pytest.param(
            (
                node("whole", "a10g-x4", 48, 192, 4),
                node("broken", "a10g-x4", 48, 192, 4, used_gpus=3, used_vcpu=12, used_memory_bytes=46 * GIB),
            ),
            "a10g-small",
            "broken",
            id="a small request leaves the whole node alone",
        ),
        pytest.param(
            (node("x4", "a10g-x4", 48, 192, 4), node("x1", "a10g", 4, 16, 1)),
            "a10g-small",
            "x1",
            id="the pool that ranks the flavor highest",
        ),
        pytest.param(
            (node("x4", "a10g-x4", 48, 192, 4), node("x1", "a10g", 4, 16, 1, used_gpus=1)),
            "a10g-small",
            "x4",
            id="fall-back pool",
        ),
        pytest.param(
            (node("x4", "a10g-x4", 48, 192, 4, used_gpus=1), node("y4", "a10g-x4", 48, 192, 4)),
            "a10g-largex4",
            "y4",
            id="four GPUs need a whole node",
        ),
    ],
)
def test_best_place(nodes: tuple[Node, ...], flavor: str, expected: str) -> None:
    (answer,) = place((ask(1, flavor),), Capacity(POOLS, nodes))
    assert where(answer) == expected


def test_replicas_of_one_space_spread_and_share_only_when_they_must() -> None:
    world = placer(node("a", vcpu=8), node("b", vcpu=16))
    spots = [where(world.ask(ask(n, space=0), 0.0)) for n in (1, 2, 3)]
    assert set(spots[:2]) == {"a", "b"}
    assert spots[2] in {"a", "b"}


def test_asking_again_gives_the_same_place() -> None:
    world = placer(node("a"))
    assert world.ask(ask(1), 0.0) == world.ask(ask(1), 1.0)
    assert world.index.free_on("a") == Need(6000, 48 * GIB, 0)


def test_unknown_flavor_is_not_a_wait_for_capacity() -> None:
    answer = waits(placer(node("a")).ask(ask(1, "a100x8"), 0.0))
    assert answer.reason is Reason.UNSUPPORTED_HERE
    assert "a100x8" in answer.message


def test_position_and_estimate() -> None:
    world = placer(node("a", vcpu=2, memory=16))
    where(world.ask(ask(1), 0.0))
    assert [waits(world.ask(ask(n, owner="bob"), 0.0)).position for n in (2, 3)] == [1, 2]
    world.release(ReplicaId("r1"), 10.0)
    world.release(ReplicaId("r2"), 70.0)
    (four,) = [waits(world.ask(ask(4, owner="bob"), 71.0))]
    assert four.position == 1
    assert four.eta_s == 60.0
    assert "about 60 s" in four.message


def test_fair_between_owners() -> None:
    """Ann asked for five before Bob's first: Bob is second, not sixth."""
    world = placer(node("a", vcpu=2, memory=16))
    where(world.ask(ask(0, owner="zoe"), 0.0))
    for n in range(1, 6):
        world.ask(ask(n, owner="ann"), 0.0)
    assert waits(world.ask(ask(9, owner="bob"), 0.0)).position == 2
    served: list[str] = []
    leaving = "r0"
    while got := world.release(ReplicaId(leaving), 1.0):
        leaving = got[0].replica_id
        served.append(leaving)
    assert served == ["r1", "r9", "r2", "r3", "r4", "r5"]


def test_priority_is_a_bounded_head_start() -> None:
    world = placer(node("a", vcpu=2, memory=16))
    where(world.ask(ask(0), 0.0))
    world.ask(ask(1, owner="low", priority=PriorityClass.LOW), 0.0)
    assert waits(world.ask(ask(2, owner="high", priority=PriorityClass.HIGH), 0.0)).position == 1
    for n in range(3, 203):
        world.ask(ask(n, owner="high", priority=PriorityClass.HIGH), 0.0)
    low = world.waiting(ReplicaId("r1"))
    assert low is not None and low.position is not None
    assert low.position <= 66


def test_idle_spaces_make_room_least_recently_used_first() -> None:
    world = placer(node("a", vcpu=4, memory=32))
    where(world.ask(ask(1), 0.0))
    where(world.ask(ask(2), 0.0))
    world.mark_idle(SpaceId("s1"), 200.0)
    world.mark_idle(SpaceId("s2"), 100.0)
    first = waits(world.ask(ask(3), 300.0))
    assert first.put_to_sleep == ("s2",)
    assert waits(world.ask(ask(3), 301.0)).put_to_sleep == (), "named once"
    assert waits(world.ask(ask(4), 301.0)).put_to_sleep == ("s1",) or world.waiting(ReplicaId("r4")) is not None
    assert [p.replica_id for p in world.release(ReplicaId("r2"), 302.0)] == ["r3"]


def test_a_space_in_use_again_is_not_taken() -> None:
    world = placer(node("a", vcpu=2, memory=16))
    where(world.ask(ask(1), 0.0))
    world.mark_idle(SpaceId("s1"), 0.0)
    assert waits(world.ask(ask(2), 1.0)).put_to_sleep == ("s1",)
    world.mark_busy(SpaceId("s1"))
    assert waits(world.ask(ask(2), 2.0)).put_to_sleep == ()
    world.mark_idle(SpaceId("s1"), 3.0)
    assert waits(world.ask(ask(2), 4.0)).put_to_sleep == ("s1",)


def test_a_higher_class_is_not_put_to_sleep_for_a_lower() -> None:
    world = placer(node("a", vcpu=2, memory=16))
    where(world.ask(ask(1, priority=PriorityClass.HIGH), 0.0))
    world.mark_idle(SpaceId("s1"), 0.0)
    assert waits(world.ask(ask(2), 1.0)).put_to_sleep == ()


def test_small_requests_cannot_starve_a_four_gpu_request() -> None:
    world = placer(node("a", "a10g-x4", 48, 192, 4), node("b", "a10g-x4", 48, 192, 4))
    for n in range(8):
        where(world.ask(ask(n, "a10g-small"), 0.0))
    assert waits(world.ask(ask(100, "a10g-largex4", owner="bob"), 0.0)).position == 1
    running, number, rounds = {f"r{n}": None for n in range(8)}, 200, 0
    while world.index.claim_of(ReplicaId("r100")) is None:
        rounds += 1
        oldest = next(iter(running))
        del running[oldest]
        for got in world.release(ReplicaId(oldest), float(rounds)):
            if got.replica_id != "r100":
                running[got.replica_id] = None
        number += 1
        answer = world.ask(ask(number, "a10g-small"), float(rounds))  # somebody always wants the GPU that came free
        if isinstance(answer, Placement):
            running[answer.replica_id] = None
        assert rounds < 30
    assert rounds <= 16, "two generations of the fleet at most"


def test_a_pool_that_may_grow_gets_the_replica_without_a_node() -> None:
    pool = replace(CPU, max_nodes=2)
    world = placer(node("a", vcpu=2, memory=16), pools=(pool,))
    where(world.ask(ask(1), 0.0))
    assert world.ask(ask(2), 0.0) == Placement(ReplicaId("r2"), "", "cpu")
    waits(world.ask(ask(3), 0.0))
    got = world.update_node(node("b", vcpu=4, memory=32), 1.0)
    assert [p.replica_id for p in got] == ["r3"]
    world.bound(ReplicaId("r2"), "b")
    assert world.index.free_on("b") == Need(0, 0, 0)


def test_lost_node_gives_back_what_stood_on_it() -> None:
    world = placer(node("a", vcpu=4, memory=32), node("b", vcpu=8))
    assert where(world.ask(ask(1), 0.0)) == "a"
    assert [c.replica_id for c in world.remove_node("a")] == ["r1"]
    assert where(world.ask(ask(2, space=1), 0.0)) == "b"
    assert world.remove_node("a") == ()


def test_uncordon_serves_the_queue() -> None:
    world = placer(node("a", is_schedulable=False))
    waits(world.ask(ask(1), 0.0))
    assert [p.node for p in world.update_node(node("a"), 1.0)] == ["a"]


def test_reported_pods_are_not_counted_twice_and_stopping_ones_hold_their_place() -> None:
    index = CapacityIndex((CPU,))
    index.update_node(node("a", vcpu=4, memory=32))
    rid = ReplicaId("r1")
    index.claim(Claim(rid, SpaceId("s1"), 1, Need(2000, 16 * GIB), "a", "cpu"))
    assert index.free_on("a") == Need(2000, 16 * GIB)
    index.update_node(node("a", vcpu=4, memory=32, used_vcpu=2, used_memory_bytes=16 * GIB, replicas=frozenset({rid})))
    assert index.free_on("a") == Need(2000, 16 * GIB)
    index.release(rid)
    assert index.free_on("a") == Need(2000, 16 * GIB), "its pod is still there"
    index.update_node(node("a", vcpu=4, memory=32))
    assert index.free_on("a") == Need(4000, 32 * GIB)


def test_no_double_claim() -> None:
    index = CapacityIndex((CPU,))
    index.update_node(node("a"))
    claim = Claim(ReplicaId("r1"), SpaceId("s1"), 1, Need(2000, GIB), "a", "cpu")
    index.claim(claim)
    with pytest.raises(ValueError, match="already"):
        index.claim(claim)


def test_new_pool_file_reorders_without_losing_claims() -> None:
    world = placer(node("a", vcpu=4, memory=32))
    where(world.ask(ask(1), 0.0))
    world.set_pools((replace(CPU, overcommit=2.0), A10G1))
    assert world.index.free_on("a") == Need(6000, 48 * GIB)
    assert world.index.pools_for("a10g-small") == ("a10g",)


def test_nothing_large_enough_says_so() -> None:
    answer = waits(placer(node("a", vcpu=1, memory=1)).ask(ask(1), 0.0))
    assert answer.reason is Reason.NO_CAPACITY
    assert "No machine for the hardware" in answer.message
    assert answer.position == 1


def test_place_is_fair_whatever_the_order_of_arguments() -> None:
    requests = [ask(n, owner="ann") for n in range(4)] + [ask(9, owner="bob")]
    answers = place(requests, Capacity(POOLS, (node("a", vcpu=4, memory=32),)))
    assert [type(a).__name__ for a in answers] == ["Placement", "Waiting", "Waiting", "Waiting", "Placement"]
