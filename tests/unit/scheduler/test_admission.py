"""The placer as the scheduler uses it: fed with a runtime's capacity, asked once per start."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from control_plane.domain.capacity import Capacity, Node, NodePool
from control_plane.domain.hardware import Flavor, FlavorCatalog
from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.domain.replicas import ReplicaState
from control_plane.domain.spaces import Replica
from control_plane.scheduler.admission import Admission
from control_plane.scheduler.answers import Placement, Waiting

GIB = 1 << 30
NOW = datetime(2026, 8, 1, tzinfo=UTC)
BASIC = Flavor("cpu-basic", "CPU basic", vcpu=2, memory_gb=4, disk_gb=1, price_per_hour=0)


class World:
    """A runtime's capacity that a test changes, and the Spaces that were told to come back."""

    def __init__(self, *nodes: Node, pool: NodePool | None = None) -> None:
        self.pool = pool or NodePool("cpu", ("cpu-basic", "huge"))
        self.nodes = list(nodes)
        self.granted: list[SpaceId] = []
        self.time = 0.0
        self.admission = Admission(self.capacity, self.granted.append, lambda: self.time)

    async def capacity(self) -> Capacity:
        return Capacity((self.pool,), tuple(self.nodes))

    async def ask(
        self, number: int, flavor: Flavor = BASIC, *, space: int | None = None, generation: int = 1
    ) -> Placement | Waiting | None:
        self.time += 1
        return await self.admission.ask(replica(number, space=space, generation=generation), flavor, "ann")


def replica(number: int, *, space: int | None = None, generation: int = 1) -> Replica:
    space_id = SpaceId(f"s{number if space is None else space}")
    return Replica(ReplicaId(f"r{number}"), space_id, generation, ReplicaState.PENDING, NOW)


def node(name: str = "n", vcpu: float = 4, **more: object) -> Node:
    return replace(Node(name, "cpu", vcpu, 64 * GIB), **more)  # type: ignore[arg-type]


async def test_a_full_pool_says_the_place_in_the_queue_and_a_release_brings_the_space_back() -> None:
    world = World(node())
    assert [isinstance(await world.ask(n), Placement) for n in (1, 2)] == [True, True]
    third, fourth = await world.ask(3), await world.ask(4)
    assert isinstance(third, Waiting)
    assert isinstance(fourth, Waiting)
    assert (third.position, fourth.position) == (1, 2)
    assert "Place 1 in the queue" in third.message
    world.admission.release(ReplicaId("r1"))
    assert world.granted == ["s3"]
    assert isinstance(await world.ask(3), Placement)


async def test_what_the_runtime_reports_is_not_counted_twice() -> None:
    world = World(node())
    await world.ask(1)
    world.nodes = [node(used_vcpu=2, replicas=frozenset({ReplicaId("r1")}))]
    assert isinstance(await world.ask(2), Placement)
    assert isinstance(await world.ask(3), Waiting)


async def test_a_new_node_brings_a_waiting_space_back_and_a_drained_one_gives_nothing() -> None:
    world = World(node(vcpu=2))
    await world.ask(1)
    assert isinstance(await world.ask(2), Waiting)
    world.nodes.append(node("m", 2, is_schedulable=False))
    await world.admission.refresh()
    assert world.granted == []
    world.nodes[1] = node("m", 2)
    await world.admission.refresh()
    assert world.granted == ["s2"]


async def test_an_idle_space_makes_room_and_a_busy_one_does_not() -> None:
    world = World(node())
    for number in (1, 2):
        await world.ask(number)
    world.admission.mark_idle(SpaceId("s2"), 5.0)
    world.admission.mark_idle(SpaceId("s1"), 9.0)
    world.admission.mark_busy(SpaceId("s1"))
    answer = await world.ask(3)
    assert isinstance(answer, Waiting)
    assert answer.put_to_sleep == ("s2",)
    again = await world.ask(4)
    assert isinstance(again, Waiting)
    assert again.put_to_sleep == ()


async def test_hardware_full_of_its_own_older_version_is_given_back_first() -> None:
    world = World(node(vcpu=2))
    assert isinstance(await world.ask(1, space=7), Placement)
    assert isinstance(await world.ask(2, space=7, generation=2), Waiting)
    newer = replica(2, space=7, generation=2)
    assert world.admission.make_own_room(newer, BASIC, "ann") == ("r1",)
    world.admission.release(ReplicaId("r1"))
    assert world.granted == ["s7"]
    assert isinstance(await world.ask(2, space=7, generation=2), Placement)


async def test_behind_others_the_older_version_goes_on_serving() -> None:
    world = World(node(vcpu=2))
    await world.ask(1, space=7)
    assert isinstance(await world.ask(3), Waiting)
    assert isinstance(await world.ask(2, space=7, generation=2), Waiting)
    assert world.admission.make_own_room(replica(2, space=7, generation=2), BASIC, "ann") == ()


async def test_after_a_restart_of_the_scheduler_running_replicas_may_make_room() -> None:
    world = World(node(vcpu=2, used_vcpu=2, replicas=frozenset({ReplicaId("r1")})))
    await world.admission.refresh()
    running = replace(replica(1), state=ReplicaState.READY, node="n")
    assert not world.admission.knows(running)
    world.admission.running(running, BASIC, "ann")
    assert world.admission.knows(running)
    world.admission.mark_idle(SpaceId("s1"), 1.0)
    answer = await world.ask(2)
    assert isinstance(answer, Waiting)
    assert answer.put_to_sleep == ("s1",)


@pytest.mark.parametrize(("shrinks", "expected"), [(True, Placement), (False, Waiting)])
async def test_on_a_single_machine_a_flavor_larger_than_it_gets_all_of_it(shrinks: bool, expected: type) -> None:
    world = World(node(), pool=NodePool("local", ("huge",), max_nodes=1, shrinks=shrinks))
    world.nodes = [replace(world.nodes[0], pool="local")]
    huge = replace(BASIC, name="huge", vcpu=64, memory_gb=512)
    assert isinstance(await world.ask(1, huge), expected)


async def test_a_flavor_that_no_pool_knows_is_the_runtimes_to_judge() -> None:
    world = World(node())
    strange = FlavorCatalog().find("t4-small")
    assert strange is not None
    assert await world.ask(1, strange) is None


async def test_a_new_pool_file_moves_who_waits() -> None:
    world = World(node(vcpu=2))
    await world.ask(1)
    assert isinstance(await world.ask(2), Waiting)
    world.pool = replace(world.pool, overcommit=2.0)
    await world.admission.refresh()
    assert world.granted == ["s2"]


async def test_a_pool_that_names_another_node_forgets_the_one_before() -> None:
    world = World(node("old"))
    assert isinstance(await world.ask(1), Placement)
    world.pool = replace(world.pool, node_selector={"now": "new"})
    world.nodes = [node("new", vcpu=2)]
    placed = [await world.ask(n) for n in (2, 3)]
    assert isinstance(placed[0], Placement)
    assert placed[0].node == "new"
    assert isinstance(placed[1], Waiting), "nothing is placed on a node that serves no pool any more"
