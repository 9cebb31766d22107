"""When a node counts as silent: not because the API server was."""

from __future__ import annotations

from control_plane.runtimes.kubernetes.heartbeats import SILENT_S, Heartbeats


class World:
    def __init__(self, *nodes: str) -> None:
        self.time, self.turned = 100.0, list[str]()
        self.beats = Heartbeats(self.turned.append, lambda: self.time)
        self.beats.replace([self._lease(node) for node in nodes])

    def _lease(self, node: str) -> dict[str, object]:
        return {"metadata": {"name": node}, "spec": {"renewTime": f"at {self.time}"}}

    def beat(self, *nodes: str, seconds: float = 10.0) -> None:
        self.time += seconds
        for node in nodes:
            self.beats.upsert(self._lease(node))


def test_a_node_that_stops_renewing_is_silent_within_three_beats_and_heard_again_at_once() -> None:
    world = World("a", "b")
    world.beat("a", "b")
    for _ in range(2):
        world.beat("a")
    assert not world.beats.is_silent("b")
    world.beat("a")
    assert world.beats.is_silent("b")
    assert not world.beats.is_silent("a")
    assert SILENT_S <= 30.0
    world.beat("b", seconds=1)
    assert not world.beats.is_silent("b")
    assert world.turned == ["b", "b"]


def test_of_two_nodes_the_lost_one_is_known_in_time_and_not_at_the_next_beat() -> None:
    world = World("a", "b")
    world.beat("a", "b")
    world.beat("a", seconds=11)
    world.beat("a", seconds=9.9)
    assert not world.beats.is_silent("b")
    for _ in range(2):
        world.time += 1
        world.beats.look()
    assert world.beats.is_silent("b"), "22.9 s after its last beat, with the other one's next beat eight seconds away"
    assert world.turned == ["b"]


def test_time_alone_loses_nobody_while_the_watch_is_silent() -> None:
    world = World("a", "b")
    world.beat("a", "b")
    world.beat("a", seconds=10)
    for _ in range(60):
        world.time += 1
        world.beats.look()
        if world.time - 120 > 11.5:
            break
    assert not world.beats.is_silent("b"), "nobody is heard: it may be the watch"
    world.time += 60
    world.beats.look()
    assert world.turned == []


def test_a_silent_server_loses_no_node() -> None:
    world = World("a", "b", "c")
    world.beat("a", seconds=60)  # the first to be heard after an outage
    assert not world.beats.is_silent("b")
    world.beat("b", seconds=5)
    world.beat("c", seconds=4)
    assert world.turned == []


def test_a_new_list_begins_again() -> None:
    world = World("a", "b")
    for _ in range(3):
        world.beat("a")
    assert world.beats.is_silent("b")
    world.beats.replace([{"metadata": {"name": "b"}, "spec": {"renewTime": "old"}}])
    assert not world.beats.is_silent("b")


def test_the_same_lease_told_twice_is_no_sign_of_life() -> None:
    world = World("a", "b")
    lease = {"metadata": {"name": "b"}, "spec": {"renewTime": "at 100.0"}}
    for _ in range(3):
        world.beat("a")
        world.beats.upsert(lease)
    assert world.beats.is_silent("b")


def test_a_node_alone_is_judged_by_the_cluster() -> None:
    world = World("a")
    world.beat("a", seconds=300)
    assert not world.beats.is_silent("a")
