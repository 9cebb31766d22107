"""One row per world: what is true, and what the plan does about it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from control_plane.domain.builds import Artifact, ArtifactKind, LaunchPlan
from control_plane.domain.ids import BuildId, ReplicaId, Sha, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaObservation, ReplicaState
from control_plane.domain.routes import Endpoint, EndpointKind
from control_plane.domain.spaces import Deployment, DesiredState, Replica, Sdk, Space, SpaceConfig
from control_plane.scheduler.planning import (
    MAX_RESTARTS,
    Apply,
    Facts,
    FailDeployment,
    Forget,
    Mark,
    Probe,
    Promote,
    Retry,
    Start,
    Stop,
    plan,
)  # fmt: skip

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SPACE = SpaceId("a" * 24)
CONFIG = SpaceConfig(sdk=Sdk.GRADIO, startup_timeout_s=100)
DOOR = Endpoint(EndpointKind.DOOR, "/x.sock")


def deployment(generation: int, **changes: object) -> Deployment:
    base = Deployment(
        space_id=SPACE, generation=generation, build_id=BuildId("b" * 24), revision=Sha(str(generation) * 40),
        artifact=Artifact(ArtifactKind.BUNDLE, f"{SPACE}/x"), launch=LaunchPlan(("python", "app.py")), hardware="cpu-basic",
        created_at=NOW - timedelta(seconds=10), config=CONFIG,
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def replica(name: str, generation: int, state: ReplicaState, **changes: object) -> Replica:
    base = Replica(ReplicaId(name), SPACE, generation, state, NOW - timedelta(seconds=10), started_at=NOW - timedelta(seconds=9))
    return replace(base, **changes)  # type: ignore[arg-type]


def seen(one: Replica, state: ReplicaState = ReplicaState.STARTING, **changes: object) -> ReplicaObservation:
    return replace(ReplicaObservation(one.id, SPACE, one.generation, state, DOOR), **changes)  # type: ignore[arg-type]


def world(*, space: dict[str, object] | None = None, newest: Deployment | None = None, live: Deployment | None = None,
          replicas: tuple[Replica, ...] = (), **facts: object) -> Facts:  # fmt: skip
    base = Space(
        id=SPACE, subdomain="a-b", sdk=Sdk.GRADIO, config=CONFIG, generation=newest.generation if newest else 0,
        live_generation=live.generation if live else 0,
    )  # fmt: skip
    observations = facts.pop("observations", {r.id: seen(r) for r in replicas if r.state is not ReplicaState.PENDING})
    return Facts(space=replace(base, **(space or {})), newest=newest, live=live, replicas=replicas, observations=observations, **facts)  # type: ignore[arg-type]


def kinds(facts: Facts) -> list[type]:
    return [type(action) for action in plan(facts, NOW).actions]


def test_nothing_built_yet_means_nothing_to_do() -> None:
    assert plan(world(), NOW).actions == ()


def test_a_first_deployment_is_started_then_applied() -> None:
    one = deployment(1)
    assert plan(world(newest=one), NOW).actions == (Start(one),)
    waiting = replica("r1", 1, ReplicaState.PENDING)
    assert plan(world(newest=one, replicas=(waiting,)), NOW).actions == (Apply(waiting, one),)


def test_an_observed_pending_replica_becomes_starting() -> None:
    waiting = replica("r1", 1, ReplicaState.PENDING)
    facts = world(newest=deployment(1), replicas=(waiting,), observations={waiting.id: seen(waiting)})
    assert plan(facts, NOW).actions == (Mark(waiting, ReplicaState.STARTING, Reason.STARTING),)


def test_the_probe_makes_it_ready_and_ready_makes_it_live() -> None:
    starting = replica("r1", 1, ReplicaState.STARTING)
    facts = world(newest=deployment(1), replicas=(starting,), probes={starting.id: Probe(True, 200)})
    assert plan(facts, NOW).actions == (Mark(starting, ReplicaState.READY),)
    ready = replace(starting, state=ReplicaState.READY)
    assert plan(world(newest=deployment(1), replicas=(ready,)), NOW).actions == (Promote(deployment(1)),)


def test_while_a_new_generation_starts_the_old_one_is_left_alone() -> None:
    old, new = replica("r1", 1, ReplicaState.READY), replica("r2", 2, ReplicaState.STARTING)
    facts = world(newest=deployment(2), live=deployment(1, live_at=NOW), replicas=(old, new))
    assert plan(facts, NOW).actions == ()


def test_after_the_switch_the_old_one_drains_and_then_stops() -> None:
    old, new = replica("r1", 1, ReplicaState.READY), replica("r2", 2, ReplicaState.READY)
    both = world(newest=deployment(2, live_at=NOW), live=deployment(2, live_at=NOW), replicas=(old, new))
    assert plan(both, NOW).actions == (Mark(old, ReplicaState.DRAINING, Reason.REPLACED),)
    draining = replace(old, state=ReplicaState.DRAINING, drain_until=NOW + timedelta(seconds=5))
    assert plan(replace(both, replicas=(draining, new)), NOW).actions == (Retry(NOW + timedelta(seconds=5)),)
    done = replace(draining, drain_until=NOW)
    assert plan(replace(both, replicas=(done, new)), NOW).actions == (Stop(done, Reason.REPLACED),)


def test_a_new_generation_that_never_served_fails_at_its_first_exit_and_the_old_one_stays() -> None:
    old = replica("r1", 1, ReplicaState.READY)
    dead = replica("r2", 2, ReplicaState.FAILED, reason=Reason.APP_EXITED, message="exit 1", stopped_at=NOW)
    facts = world(newest=deployment(2), live=deployment(1, live_at=NOW), replicas=(old,), failures=(dead,))
    assert plan(facts, NOW).actions == (FailDeployment(deployment(2), Reason.APP_EXITED, "exit 1"),)
    failed = deployment(2, failed_reason=Reason.APP_EXITED)
    after = world(newest=failed, live=deployment(1, live_at=NOW), replicas=(old,))
    assert plan(after, NOW).actions == ()


def test_a_generation_that_served_is_started_again_with_growing_pauses_and_fails_in_the_end() -> None:
    one = deployment(1, live_at=NOW - timedelta(hours=1))
    exits = [
        replica(f"r{i}", 1, ReplicaState.FAILED, reason=Reason.APP_EXITED, stopped_at=NOW - timedelta(seconds=i))
        for i in range(MAX_RESTARTS)
    ]
    first = world(newest=one, live=one, failures=(exits[0],))
    assert plan(first, NOW).actions == (Retry(NOW + timedelta(seconds=0.5)),)
    assert plan(first, NOW + timedelta(seconds=1)).actions == (Start(one, restarts=1),)
    third = world(newest=one, live=one, failures=tuple(exits[:3]))
    assert plan(third, NOW).actions == (Retry(NOW + timedelta(seconds=8)),)
    assert kinds(world(newest=one, live=one, failures=tuple(exits))) == [FailDeployment]


@pytest.mark.parametrize("reason", [Reason.NODE_LOST, Reason.PREEMPTED])
def test_what_is_not_the_apps_fault_is_not_counted_against_it(reason: Reason) -> None:
    lost = replica("r1", 1, ReplicaState.FAILED, reason=reason, stopped_at=NOW)
    assert plan(world(newest=deployment(1), failures=(lost,)), NOW).actions == (Start(deployment(1), restarts=1),)


def test_a_platform_fault_is_retried_with_a_pause() -> None:
    ours = replica("r1", 1, ReplicaState.FAILED, reason=Reason.PLATFORM_ERROR, stopped_at=NOW)
    assert plan(world(newest=deployment(1), failures=(ours,)), NOW).actions == (Retry(NOW + timedelta(seconds=1)),)


def test_a_replica_that_vanished_is_recorded_as_lost() -> None:
    ready = replica("r1", 1, ReplicaState.READY)
    facts = world(newest=deployment(1), live=deployment(1), replicas=(ready,), observations={})
    assert plan(facts, NOW).actions == (Mark(ready, ReplicaState.FAILED, Reason.NODE_LOST, "it was not there any more"),)


def test_wrong_port_never_listened_and_unhealthy_have_words_of_their_own() -> None:
    late = replica("r1", 1, ReplicaState.STARTING, started_at=NOW - timedelta(seconds=101))
    one = deployment(1)

    def reason(**facts: object) -> Reason | None:
        (action,) = plan(world(newest=one, replicas=(late,), **facts), NOW).actions
        assert isinstance(action, Mark)
        return action.reason

    assert reason() is Reason.APP_NEVER_LISTENED
    assert reason(probes={late.id: Probe(False, 503)}) is Reason.APP_UNHEALTHY
    assert reason(observations={late.id: seen(late, listening_ports=(8000,))}) is Reason.APP_WRONG_PORT
    soon = replace(late, started_at=NOW - timedelta(seconds=1))
    early = world(newest=one, replicas=(soon,), observations={soon.id: seen(soon, listening_ports=(8000,))})
    assert plan(early, NOW).actions == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"desired": DesiredState.PAUSED}, Reason.PAUSED_BY_OWNER),
        ({"suspended": True}, Reason.OWNER_SUSPENDED),
        ({"asleep": True}, Reason.IDLE),
    ],
)
def test_paused_suspended_and_asleep_stop_everything(change: dict[str, object], reason: Reason) -> None:
    ready = replica("r1", 1, ReplicaState.READY)
    facts = world(space=change, newest=deployment(1), live=deployment(1), replicas=(ready,))
    assert plan(facts, NOW).actions == (Stop(ready, reason),)
    assert plan(replace(facts, replicas=()), NOW).actions == ()


def test_a_deleted_space_is_forgotten_only_when_nothing_runs() -> None:
    ready = replica("r1", 1, ReplicaState.READY)
    facts = world(space={"desired": DesiredState.DELETED}, newest=deployment(1), live=deployment(1), replicas=(ready,))
    assert kinds(facts) == [Stop]
    assert kinds(replace(facts, replicas=())) == [Forget]


def test_a_static_site_is_routed_without_any_replica() -> None:
    site = deployment(1, artifact=Artifact(ArtifactKind.SITE, f"{SPACE}/x"))
    assert plan(world(newest=site), NOW).actions == (Promote(site),)
    served = replace(site, live_at=NOW)
    assert plan(world(newest=served, live=served), NOW).actions == ()


def test_a_switch_that_was_not_told_is_told() -> None:
    """The scheduler died between moving the route and saying so: whoever follows the push still hears the end."""
    one, ready = deployment(1), replica("r1", 1, ReplicaState.READY)
    assert Promote(one) in plan(world(newest=one, live=one, replicas=(ready,)), NOW).actions
    served = replace(one, live_at=NOW)
    assert plan(world(newest=served, live=served, replicas=(ready,)), NOW).actions == ()


@pytest.mark.parametrize("state", [ReplicaState.STARTING, ReplicaState.READY])
def test_what_was_taken_away_and_waits_anew_is_lost(state: ReplicaState) -> None:
    """A pod was evicted and its successor has no node yet."""
    one = replica("r1", 1, state)
    facts = world(newest=deployment(1), live=deployment(1), replicas=(one,), observations={one.id: seen(one, ReplicaState.PENDING)})
    (mark,) = plan(facts, NOW).actions
    assert isinstance(mark, Mark)
    assert (mark.state, mark.reason) == (ReplicaState.FAILED, Reason.NODE_LOST)


def test_what_moved_while_nobody_looked_is_found_at_its_new_address() -> None:
    one, served = replica("r1", 1, ReplicaState.READY, endpoint=DOOR), deployment(1, live_at=NOW)
    there = seen(one, ReplicaState.READY, endpoint=Endpoint(EndpointKind.TCP, "10.42.0.9:7860"))
    facts = world(newest=served, live=served, replicas=(one,), observations={one.id: there})
    assert plan(facts, NOW).actions == (Mark(one, ReplicaState.READY),)
    assert plan(replace(facts, observations={one.id: seen(one, ReplicaState.READY)}), NOW).actions == ()


def test_replicas_are_brought_up_and_down_to_the_wanted_number() -> None:
    one = deployment(1, live_at=NOW)
    ready = replica("r1", 1, ReplicaState.READY)
    assert kinds(world(space={"replicas": 3}, newest=one, live=one, replicas=(ready,))) == [Start, Start]
    more = tuple(replica(f"r{i}", 1, ReplicaState.READY) for i in range(3))
    assert kinds(world(newest=one, live=one, replicas=more)) == [Stop, Stop]
    waiting = tuple(replica(f"w{i}", 1, ReplicaState.PENDING) for i in range(2))
    found = plan(world(newest=one, live=one, replicas=(ready, *waiting)), NOW).actions
    assert {a.replica.id for a in found if isinstance(a, Stop)} == {"w0", "w1"}, "those that wait leave before the one that serves"
    assert Apply not in map(type, found), "nothing is started to be stopped"


def test_the_plan_of_a_settled_world_is_empty_and_every_plan_is_repeatable() -> None:
    one = deployment(1, live_at=NOW)
    settled = world(newest=one, live=one, replicas=(replica("r1", 1, ReplicaState.READY),))
    assert plan(settled, NOW).actions == ()
    assert plan(settled, NOW) == plan(settled, NOW + timedelta(days=400))
