"""The placer alone, up to 2,000 nodes and 20,000 Spaces, reports that lag: nothing is placed or promised twice, nobody is forgotten.

The whole scheduler with its quotas: `test_scheduler_simulation`.
"""

from __future__ import annotations

import pytest

from control_plane.scheduler.capacity_index import overrun
from tests.simulation.cluster_sim import Simulation


@pytest.mark.parametrize(
    ("seed", "events", "node_count", "spaces"), [(1, 12_000, 60, 3_000), (2, 6_000, 12, 400), (3, 8_000, 2_000, 20_000)]
)
def test_no_double_placement_and_no_overrun(seed: int, events: int, node_count: int, spaces: int) -> None:
    world = Simulation(seed, node_count, spaces)
    for _ in range(spaces // 3):
        world._arrive()
    for _ in range(events):
        world.step()
    assert world.faults.double_placements == 0
    assert world.faults.overruns == 0
    assert world.faults.lost_replies == 0
    assert overrun(world.placer.index, world.nodes) == ()
    assert set(world.waiting) == set(world.placer.queue)
    assert {c.replica_id for c in world.placer.index.claims()} == set(world.running)
    assert world.placed > events * 0.2
    assert world.waited > 100, "the world is full enough to make some wait"


def test_same_seed_same_story() -> None:
    stories = []
    for _ in range(2):
        world = Simulation(7, 24, 300)
        for _ in range(3_000):
            world.step()
        stories.append((world.placed, world.waited, sorted(world.running), sorted(world.waiting)))
    assert stories[0] == stories[1]


def test_everybody_is_served_once_the_others_have_left() -> None:
    world = Simulation(11, 22, 300)
    for _ in range(4_000):
        world.step()
    for node in list(world.nodes):
        world.nodes[node] = world.nodes[node].__class__(
            node, world.nodes[node].pool, world.nodes[node].vcpu, world.nodes[node].memory_bytes, world.nodes[node].gpus
        )
    while world.down:
        world._return_node()
    for _ in range(100_000):
        if not world.waiting and not world.running:
            break
        for node in list(world.nodes):
            world._report(node)
        for replica_id in list(world.running):
            if replica_id in world.running:
                world._leave(replica_id)
    assert not world.waiting
