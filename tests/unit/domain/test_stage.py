"""The stage of a Space, world by world."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from control_plane.domain.builds import Artifact, ArtifactKind, BuildStatus, LaunchPlan
from control_plane.domain.ids import BuildId, ReplicaId, Sha, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaState
from control_plane.domain.spaces import Build, Deployment, DesiredState, Replica, Sdk, Space, SpaceConfig
from control_plane.domain.stage import Stage, derive_stage

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ID = SpaceId("a" * 24)
CONFIG = SpaceConfig(sdk=Sdk.GRADIO)
EMPTY = Space(id=ID, subdomain="a-b", sdk=Sdk.GRADIO, config=CONFIG)
BUILD = Build(BuildId("b" * 24), ID, Sha("1" * 40), BuildStatus.QUEUED, NOW)


def deployment(generation: int, kind: ArtifactKind = ArtifactKind.BUNDLE, **more: object) -> Deployment:
    base = Deployment(ID, generation, BUILD.id, Sha(str(generation) * 40), Artifact(kind, "x/y"), LaunchPlan(), "cpu-basic", NOW, CONFIG)
    return replace(base, **more)  # type: ignore[arg-type]


def ready(generation: int, state: ReplicaState = ReplicaState.READY) -> Replica:
    return Replica(ReplicaId("r"), ID, generation, state, NOW)


ONE, TWO = deployment(1), deployment(2)
LIVE = replace(EMPTY, generation=1, live_generation=1, has_app_file=True)
NEXT = replace(EMPTY, generation=2, live_generation=1, has_app_file=True)
RUNNING_BUILD, FAILED_BUILD = (
    replace(BUILD, status=BuildStatus.RUNNING),
    replace(BUILD, status=BuildStatus.FAILED, reason=Reason.BUILD_TIMEOUT),
)


@pytest.mark.parametrize(
    ("stage", "reason", "space", "build", "newest", "live", "replicas"),
    [
        (Stage.NO_APP_FILE, Reason.NO_APP_FILE, EMPTY, None, None, None, ()),
        (Stage.CONFIG_ERROR, Reason.CONFIG_ERROR, replace(EMPTY, config_error="line 2: sdk"), None, None, None, ()),
        (Stage.BUILDING, Reason.BUILD_QUEUED, EMPTY, BUILD, None, None, ()),
        (Stage.BUILDING, None, EMPTY, RUNNING_BUILD, None, None, ()),
        (Stage.BUILD_ERROR, Reason.BUILD_TIMEOUT, EMPTY, FAILED_BUILD, None, None, ()),
        (Stage.BUILD_ERROR, Reason.BUILD_CANCELLED, EMPTY, replace(BUILD, status=BuildStatus.CANCELLED), None, None, ()),
        (Stage.APP_STARTING, Reason.STARTING, replace(EMPTY, generation=1), None, ONE, None, ()),
        (Stage.RUNNING, None, LIVE, None, ONE, ONE, (ready(1),)),
        (Stage.RUNNING_BUILDING, None, LIVE, RUNNING_BUILD, ONE, ONE, (ready(1),)),
        (Stage.RUNNING_APP_STARTING, Reason.STARTING, NEXT, None, TWO, ONE, (ready(1),)),
        (Stage.RUNNING, Reason.APP_EXITED, NEXT, None, replace(TWO, failed_reason=Reason.APP_EXITED), ONE, (ready(1),)),
        (Stage.RUNNING, Reason.BUILD_TIMEOUT, LIVE, FAILED_BUILD, ONE, ONE, (ready(1),)),
        (
            Stage.RUNTIME_ERROR,
            Reason.APP_EXITED,
            replace(LIVE, live_generation=0),
            None,
            replace(ONE, failed_reason=Reason.APP_EXITED),
            None,
            (),
        ),
        (Stage.SLEEPING, Reason.IDLE, replace(LIVE, asleep=True), None, ONE, ONE, ()),
        (Stage.APP_STARTING, Reason.STARTING, LIVE, None, ONE, ONE, (ready(1, ReplicaState.STARTING),)),
        (Stage.PAUSED, Reason.PAUSED_BY_OWNER, replace(LIVE, desired=DesiredState.PAUSED), None, ONE, ONE, ()),
        (Stage.PAUSED, Reason.OWNER_SUSPENDED, replace(LIVE, suspended=True), None, ONE, ONE, ()),
        (Stage.DELETING, None, replace(LIVE, desired=DesiredState.DELETED), RUNNING_BUILD, ONE, ONE, (ready(1),)),
        (Stage.RUNNING, None, LIVE, None, deployment(1, ArtifactKind.SITE), deployment(1, ArtifactKind.SITE), ()),
    ],
)
def test_stage(
    stage: Stage, reason: Reason | None, space: Space, build: Build | None, newest: Deployment | None, live: Deployment | None,
    replicas: tuple[Replica, ...],
) -> None:  # fmt: skip
    view = derive_stage(space, build, newest, live, replicas)
    assert (view.stage, view.reason) == (stage, reason)
    assert view.message or reason is None
    assert bool(view.revision) == (stage.serves or (stage is Stage.DELETING and bool(replicas)))


def test_a_draining_replica_of_an_older_generation_does_not_count_as_serving() -> None:
    view = derive_stage(replace(NEXT, live_generation=2), None, TWO, TWO, (ready(1, ReplicaState.DRAINING),))
    assert view.stage is Stage.APP_STARTING
