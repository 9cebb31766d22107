"""The public word for what a Space is doing. Derived from facts, never stored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from control_plane.domain.builds import ArtifactKind, BuildStatus
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaState
from control_plane.domain.spaces import Build, Deployment, DesiredState, Replica, Sdk, Space


class Stage(StrEnum):
    NO_APP_FILE = "NO_APP_FILE"
    CONFIG_ERROR = "CONFIG_ERROR"
    BUILDING = "BUILDING"
    BUILD_ERROR = "BUILD_ERROR"
    APP_STARTING = "APP_STARTING"
    RUNNING = "RUNNING"
    RUNNING_BUILDING = "RUNNING_BUILDING"
    RUNNING_APP_STARTING = "RUNNING_APP_STARTING"
    RUNTIME_ERROR = "RUNTIME_ERROR"
    STOPPED = "STOPPED"
    SLEEPING = "SLEEPING"
    PAUSED = "PAUSED"
    DELETING = "DELETING"

    @property
    def is_transitional(self) -> bool:
        return self in _TRANSITIONAL

    @property
    def serves(self) -> bool:
        return self in (Stage.RUNNING, Stage.RUNNING_BUILDING, Stage.RUNNING_APP_STARTING)

    @property
    def is_error(self) -> bool:
        return self in (Stage.CONFIG_ERROR, Stage.BUILD_ERROR, Stage.RUNTIME_ERROR)


_TRANSITIONAL = frozenset({Stage.BUILDING, Stage.APP_STARTING, Stage.RUNNING_BUILDING, Stage.RUNNING_APP_STARTING, Stage.DELETING})


@dataclass(frozen=True, slots=True)
class StageView:
    """A stage with the reason beside it and the words for the owner. `revision` is the commit being served ("" = none)."""

    stage: Stage
    reason: Reason | None = None
    message: str = ""
    revision: str = ""
    position: int | None = None  # in the queue for hardware, 1 = next
    eta_s: float | None = None


def derive_stage(
    space: Space,
    latest_build: Build | None,
    newest: Deployment | None,
    live: Deployment | None,
    replicas: tuple[Replica, ...],
) -> StageView:
    """The stage of one Space. `newest` is the Deployment of `space.generation`, `live` the one of `live_generation`."""
    is_site = live is not None and live.artifact.kind is ArtifactKind.SITE  # files: nothing runs, nothing sleeps
    serving = is_site or any(r.state.may_serve and r.generation == space.live_generation for r in replicas)
    revision = live.revision if live and serving else ""

    def view(stage: Stage, reason: Reason | None = None, message: str = "") -> StageView:
        return StageView(stage, reason, message or (reason.words if reason else ""), revision)

    def starting(stage: Stage, generation: int | None) -> StageView:
        waiting = next((r for r in replicas if r.reason and generation in (None, r.generation)), None)
        if waiting is None:
            return view(stage, Reason.STARTING)
        found = view(stage, waiting.reason, waiting.message)
        return replace(found, position=waiting.queue_position, eta_s=waiting.eta_s)

    if space.desired is DesiredState.DELETED:
        return view(Stage.DELETING)
    if space.suspended:
        return view(Stage.PAUSED, Reason.OWNER_SUSPENDED)
    if space.desired is DesiredState.PAUSED:
        return view(Stage.PAUSED, Reason.PAUSED_BY_OWNER)
    if latest_build and not latest_build.status.is_terminal:
        stage = Stage.RUNNING_BUILDING if serving else Stage.BUILDING
        queued = latest_build.status is BuildStatus.QUEUED
        return view(stage, latest_build.reason or (Reason.BUILD_QUEUED if queued else None), latest_build.message)
    if space.config_error and not serving:
        return view(Stage.CONFIG_ERROR, Reason.CONFIG_ERROR, space.config_error)
    if newest is not None and newest.generation != space.live_generation and newest.failed_reason is None and not space.asleep:
        stage = Stage.RUNNING_APP_STARTING if serving else Stage.APP_STARTING
        return starting(stage, newest.generation)
    if serving:
        if latest_build and latest_build.status is BuildStatus.FAILED:
            return view(Stage.RUNNING, latest_build.reason, latest_build.message)
        if newest and newest.failed_reason:
            return view(Stage.RUNNING, newest.failed_reason, newest.failed_message)
        return view(Stage.RUNNING)
    if space.asleep and (live or newest):
        return view(Stage.SLEEPING, space.sleep_reason or Reason.IDLE, space.sleep_message)
    if newest is None:
        if latest_build and latest_build.status is BuildStatus.FAILED:
            return view(Stage.BUILD_ERROR, latest_build.reason or Reason.BUILD_FAILED, latest_build.message)
        if latest_build and latest_build.status is BuildStatus.CANCELLED:
            return view(Stage.BUILD_ERROR, Reason.BUILD_CANCELLED)
        if space.sdk is Sdk.STATIC and space.has_app_file:
            return view(Stage.RUNNING)
        return view(Stage.NO_APP_FILE, Reason.NO_APP_FILE)
    if newest.failed_reason is not None:
        return view(Stage.RUNTIME_ERROR, newest.failed_reason, newest.failed_message)
    if any(r.state in (ReplicaState.PENDING, ReplicaState.STARTING) for r in replicas):
        return starting(Stage.APP_STARTING, None)
    return view(Stage.APP_STARTING, Reason.STARTING)
