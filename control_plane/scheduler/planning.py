"""What to do next for one Space: a pure function from facts to actions. No awaits, no clock, no database.

    plan(facts, now) -> Plan(actions)

The order of the actions is the order of execution. Each pass makes one safe step; the next pass sees its effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from control_plane.domain.builds import ArtifactKind
from control_plane.domain.ids import ReplicaId
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaObservation, ReplicaState
from control_plane.domain.spaces import Deployment, DesiredState, Replica, Space

MAX_RESTARTS = 5  # failures of a served generation within the window before it counts as broken
RESTART_WINDOW = timedelta(minutes=10)
WRONG_PORT_AFTER = timedelta(seconds=12)  # an app that listens elsewhere this long will not come to its port
LOST_AFTER = timedelta(seconds=2)  # a replica unseen this long after its start was asked for is gone


@dataclass(frozen=True, slots=True)
class Probe:
    """The last look of the router's own probe at a replica."""

    ok: bool
    status: int | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything known of one Space when a pass begins. `failures` are those of the target generation, newest first."""

    space: Space
    newest: Deployment | None
    live: Deployment | None
    replicas: tuple[Replica, ...]
    observations: Mapping[ReplicaId, ReplicaObservation] = field(default_factory=dict)
    probes: Mapping[ReplicaId, Probe] = field(default_factory=dict)
    failures: tuple[Replica, ...] = ()
    drain: timedelta = timedelta(seconds=60)
    start_timeout: timedelta = timedelta(seconds=1800)


@dataclass(frozen=True, slots=True)
class Mark:
    """Write a replica's new state."""

    replica: Replica
    state: ReplicaState
    reason: Reason | None = None
    message: str = ""
    log_tail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wait:
    """A PENDING replica that the runtime has accepted is not up yet, and this is why: no node yet, its image is being pulled."""

    replica: Replica
    reason: Reason | None
    message: str


@dataclass(frozen=True, slots=True)
class Start:
    """A new replica of this deployment; `restarts` says how many failed before it."""

    deployment: Deployment
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class Apply:
    """Ask the runtime (again) to run a PENDING replica: safe to repeat."""

    replica: Replica
    deployment: Deployment


@dataclass(frozen=True, slots=True)
class Stop:
    replica: Replica
    reason: Reason
    grace_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Promote:
    """Route this generation from now on."""

    deployment: Deployment


@dataclass(frozen=True, slots=True)
class FailDeployment:
    deployment: Deployment
    reason: Reason
    message: str
    log_tail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Forget:
    """The Space is deleted and nothing of it runs: remove the rest."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Nothing to do before this time."""

    at: datetime


Action = Mark | Wait | Start | Apply | Stop | Promote | FailDeployment | Forget | Retry


@dataclass(frozen=True, slots=True)
class Plan:
    actions: tuple[Action, ...] = ()


def plan(facts: Facts, now: datetime) -> Plan:
    """The next step. Worked from what is observed: first record what happened, then move towards what is wanted."""
    marks = _recorded(facts, now)
    if marks:
        return Plan(tuple(marks))  # facts change; the next pass decides on the new ones
    space = facts.space
    if space.desired is DesiredState.DELETED:
        return Plan(_stop_all(facts, Reason.PAUSED_BY_OWNER) or (Forget(),))
    if space.suspended:
        return Plan(_stop_all(facts, Reason.OWNER_SUSPENDED))
    if space.desired is DesiredState.PAUSED:
        return Plan(_stop_all(facts, Reason.PAUSED_BY_OWNER))
    target = target_of(facts.newest, facts.live)
    if target is None:
        return Plan(_stop_all(facts, Reason.REPLACED))
    if target.artifact.kind is ArtifactKind.SITE:
        stops = _stop_all(facts, Reason.REPLACED)
        return Plan((*((Promote(target),) if _is_to_promote(space, target) else ()), *stops))
    if space.asleep:
        return Plan(_stop_all(facts, Reason.IDLE))
    return Plan((*_towards(facts, target, now), *_drained(facts, target, now)))


def target_of(newest: Deployment | None, live: Deployment | None) -> Deployment | None:
    """The newest deployment that is not known to be broken: else the one that served last."""
    return next((d for d in (newest, live) if d is not None and d.failed_reason is None), None)


def _recorded(facts: Facts, now: datetime) -> list[Action]:
    actions: list[Action] = []
    for replica in facts.replicas:
        seen = facts.observations.get(replica.id)
        deployment = _deployment_of(facts, replica)
        if seen is None:
            asked = replica.started_at or replica.created_at
            if replica.state is not ReplicaState.PENDING and now - asked > LOST_AFTER:
                actions.append(Mark(replica, ReplicaState.FAILED, Reason.NODE_LOST, "it was not there any more"))
            continue
        if seen.state is ReplicaState.FAILED:
            reason = seen.reason or Reason.APP_EXITED
            actions.append(Mark(replica, ReplicaState.FAILED, reason, seen.message, seen.log_tail))
        elif seen.state is ReplicaState.STOPPED:
            actions.append(Mark(replica, ReplicaState.STOPPED, seen.reason, seen.message))
        elif replica.state is ReplicaState.PENDING and seen.state is ReplicaState.PENDING:
            continue  # accepted; its time begins when its process runs
        elif seen.state is ReplicaState.PENDING:
            actions.append(Mark(replica, ReplicaState.FAILED, Reason.NODE_LOST, Reason.NODE_LOST.words))  # what ran was taken away
        elif replica.state is ReplicaState.READY and seen.state is ReplicaState.READY and seen.endpoint != replica.endpoint:
            actions.append(Mark(replica, ReplicaState.READY))  # it was moved while no scheduler looked, and answers elsewhere
        elif replica.state is ReplicaState.PENDING:
            actions.append(Mark(replica, ReplicaState.STARTING, Reason.STARTING))
        elif replica.state is ReplicaState.STARTING:
            probe = facts.probes.get(replica.id)
            if seen.state is ReplicaState.READY or (probe and probe.ok):
                actions.append(Mark(replica, ReplicaState.READY))
            elif late := _too_late(facts, replica, seen, probe, deployment, now):
                actions.append(late)
    return actions


def _too_late(
    facts: Facts, replica: Replica, seen: ReplicaObservation, probe: Probe | None, deployment: Deployment | None, now: datetime
) -> Mark | None:
    waited = now - (replica.started_at or replica.created_at)
    port = deployment.launch.port if deployment else 7860
    others = [p for p in seen.listening_ports if p != port]
    if waited > WRONG_PORT_AFTER and others and port not in seen.listening_ports:
        words = f"the app listens on {', '.join(map(str, others))}, not on {port}; bind 0.0.0.0:{port}"
        return Mark(replica, ReplicaState.FAILED, Reason.APP_WRONG_PORT, words, seen.log_tail)
    limit = timedelta(seconds=deployment.config.startup_timeout_s) if deployment else facts.start_timeout
    if waited > limit:
        if probe and probe.status is not None:
            words = f"the app answers {probe.status}; any answer below 500 counts as healthy"
            return Mark(replica, ReplicaState.FAILED, Reason.APP_UNHEALTHY, words, seen.log_tail)
        words = f"nothing listened on port {port} within {limit.total_seconds():.0f} s"
        return Mark(replica, ReplicaState.FAILED, Reason.APP_NEVER_LISTENED, words, seen.log_tail)
    return None


def _deployment_of(facts: Facts, replica: Replica) -> Deployment | None:
    for deployment in (facts.newest, facts.live):
        if deployment and deployment.generation == replica.generation:
            return deployment
    return None


def _is_to_promote(space: Space, target: Deployment) -> bool:
    """It is not the served one yet, or a scheduler died between serving it and saying so."""
    return space.live_generation != target.generation or target.live_at is None


def _towards(facts: Facts, target: Deployment, now: datetime) -> tuple[Action, ...]:
    mine = [r for r in facts.replicas if r.generation == target.generation]
    ready = [r for r in mine if r.state.may_serve]
    missing = facts.space.replicas - len([r for r in mine if r.state is not ReplicaState.DRAINING])
    surplus = sorted(mine, key=lambda r: (r.state.may_serve, r.state is not ReplicaState.PENDING, r.created_at))[: max(0, -missing)]
    actions: list[Action] = [_bring_up(facts, r, target) for r in mine if r.state is ReplicaState.PENDING and r not in surplus]
    if ready and _is_to_promote(facts.space, target):
        actions.append(Promote(target))
    actions += [Stop(r, Reason.REPLACED, 5.0) for r in surplus]
    if missing > 0:
        verdict = _after_failures(facts, target, now)
        if verdict is None:
            actions += [Start(target, restarts=len(facts.failures))] * missing
        elif isinstance(verdict, Retry) or not ready:
            actions.append(verdict)
    return tuple(actions)


def _bring_up(facts: Facts, replica: Replica, target: Deployment) -> Action:
    seen = facts.observations.get(replica.id)
    return Apply(replica, target) if seen is None else Wait(replica, seen.reason, seen.message)


def _after_failures(facts: Facts, target: Deployment, now: datetime) -> FailDeployment | Retry | None:
    """None: start at once. A generation that never served fails at its first own failure; one that served is retried."""
    counted = [r for r in facts.failures if r.reason not in (Reason.NODE_LOST, Reason.PREEMPTED, Reason.PLATFORM_ERROR)]
    recent = [r for r in counted if r.stopped_at and now - r.stopped_at < RESTART_WINDOW]
    if not recent:
        return _platform_back_off(facts, now)
    last = recent[0]
    never_served = target.live_at is None
    if never_served or (last.reason and not last.reason.is_retryable) or len(recent) >= MAX_RESTARTS:
        return FailDeployment(target, last.reason or Reason.APP_EXITED, last.message)
    pause = timedelta(seconds=min(60.0, 0.5 * 4 ** (len(recent) - 1)))
    due = (last.stopped_at or now) + pause
    return Retry(due) if now < due else None


def _platform_back_off(facts: Facts, now: datetime) -> Retry | None:
    """Our own faults are retried for ever, but not in a tight loop."""
    ours = [r for r in facts.failures if r.reason is Reason.PLATFORM_ERROR and r.stopped_at and now - r.stopped_at < RESTART_WINDOW]
    if not ours:
        return None
    due = (ours[0].stopped_at or now) + timedelta(seconds=min(30.0, 1.0 * 2 ** (len(ours) - 1)))
    return Retry(due) if now < due else None


def _drained(facts: Facts, target: Deployment, now: datetime) -> tuple[Action, ...]:
    """Older replicas drain once the target is routed, and stop when their time is over."""
    actions: list[Action] = []
    for replica in facts.replicas:
        if replica.generation == target.generation:
            continue
        if replica.state is ReplicaState.DRAINING:
            if replica.drain_until is None or now >= replica.drain_until:
                actions.append(Stop(replica, Reason.REPLACED))
            else:
                actions.append(Retry(replica.drain_until))
        elif replica.state is ReplicaState.READY and facts.space.live_generation == target.generation:
            actions.append(Mark(replica, ReplicaState.DRAINING, Reason.REPLACED))
        elif replica.state is not ReplicaState.READY or replica.generation > target.generation:
            actions.append(Stop(replica, Reason.REPLACED, 1.0))
    return tuple(actions)


def _stop_all(facts: Facts, reason: Reason) -> tuple[Action, ...]:
    return tuple(Stop(r, reason) for r in facts.replicas)
