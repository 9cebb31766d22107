"""One push, phase by phase, from the rows that the platform keeps. Pure: the same rows always give the same story."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from datetime import datetime

from control_plane.domain.builds import BuildPhase, BuildStatus
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaState
from control_plane.domain.spaces import Build, Deployment, Replica
from control_plane.domain.timeline import Timeline, TimelineStep

PHASES: dict[BuildPhase, str] = {
    BuildPhase.FETCH: "fetching the files",
    BuildPhase.PLAN: "reading what it needs",
    BuildPhase.RESOLVE: "choosing the versions",
    BuildPhase.INSTALL: "installing packages",
    BuildPhase.IMAGE: "making the image",
    BuildPhase.PUBLISH: "storing the result",
}
CAUSES = {"restart": "Restart", "hardware": "Hardware change", "settings": "Settings change", "rollback": "Going back"}


def usual_seconds(builds: Sequence[Build], deployments: Sequence[Deployment]) -> float | None:
    """Push to live, the median of this Space's pushes that went live; None without history."""
    made = {b.id: b.created_at for b in builds}
    spans = [(d.live_at - made[d.build_id]).total_seconds() for d in deployments if d.cause == "push" and d.live_at and d.build_id in made]
    return statistics.median(spans) if spans else None


def timeline(
    build: Build | None, deployments: Sequence[Deployment], replicas: Sequence[Replica], *, now: datetime, usual_s: float | None,
    serving: str = "", position: int | None = None, static: bool = False,
) -> Timeline | None:  # fmt: skip
    """The newest push or change on its way, or how the last one went. `deployments` newest first."""
    newest = deployments[0] if deployments else None
    mine = next((d for d in deployments if build and d.build_id == build.id and d.cause == "push"), None)
    if newest is not None and newest.cause != "push" and (build is None or build.status.is_terminal):
        steps = [TimelineStep(CAUSES.get(newest.cause, "Change"), "done", f"generation {newest.generation}", 0.0)]
        steps += _launch(newest, replicas, now, static)
        return _story(
            newest.revision, CAUSES.get(newest.cause, ""), "", newest.created_at, steps, now, None, serving, "", newest.live_at,
            newest.failed_reason is not None,
        )  # fmt: skip
    if build is None:
        return None
    steps = [TimelineStep("Received", "done"), TimelineStep("Checked", "done"), *_build_steps(build, position, now)]
    failed = build.status in (BuildStatus.FAILED, BuildStatus.CANCELLED, BuildStatus.SUPERSEDED)
    if mine is not None:
        steps += _launch(mine, replicas, now, static)
    else:
        steps += [TimelineStep(key, "todo") for key in (("Live",) if static else ("Placing", "Starting", "Live"))]
    return _story(
        build.revision, build.commit_title, build.author, build.created_at, steps, now, usual_s, serving,
        "" if build.status.is_terminal else build.id, mine.live_at if mine else None,
        failed or (mine is not None and mine.failed_reason is not None), build.progress,
    )  # fmt: skip


def _story(
    revision: str, title: str, author: str, at: datetime, steps: list[TimelineStep], now: datetime, usual_s: float | None, serving: str,
    build_id: str, live_at: datetime | None, failed: bool, progress: float | None = None,
) -> Timeline:  # fmt: skip
    done = sum(s.state == "done" for s in steps) / len(steps)
    fraction = done + (progress or 0.0) / len(steps)
    if usual_s:
        fraction = max(fraction, min((now - at).total_seconds() / usual_s, 0.95))
    took = (live_at - at).total_seconds() if live_at else None
    return Timeline(
        revision, title, author, at, tuple(steps), min(fraction, 0.99), usual_s, took, serving, build_id, live_at is not None or failed
    )


def _build_steps(build: Build, position: int | None, now: datetime) -> list[TimelineStep]:
    waited = ((build.started_at or build.finished_at or now) - build.created_at).total_seconds()
    if build.status is BuildStatus.QUEUED:
        why = build.reason or Reason.BUILD_QUEUED
        words = f"place {position} in line" if position else why.words
        return [TimelineStep("Queued", "now", words, waited, build.created_at, why.value), TimelineStep("Building", "todo")]
    queued = TimelineStep("Queued", "done", "a build slot was free" if waited < 1 else "", waited)
    spent = ((build.finished_at or now) - (build.started_at or build.created_at)).total_seconds()
    if build.status is BuildStatus.RUNNING:
        return [queued, TimelineStep("Building", "now", _build_words(build), spent, build.started_at)]
    if build.status is BuildStatus.SUCCEEDED:
        return [queued, TimelineStep("Building", "done", "", spent)]
    words = build.message or (build.reason.words if build.reason else build.status.value)
    return [queued, TimelineStep("Building", "failed", words, spent, reason=build.reason.value if build.reason else "")]


def _build_words(build: Build) -> str:
    if build.message:
        return build.message
    words = PHASES.get(build.phase, "") if build.phase else ""
    return f"{words} {build.progress:.0%}" if words and build.progress is not None else words


def _launch(deployment: Deployment, replicas: Sequence[Replica], now: datetime, static: bool) -> list[TimelineStep]:
    """From an artifact to an answer."""
    if static:
        state = "done" if deployment.live_at else "now"
        return [TimelineStep("Live", state, "", None)]
    own = [r for r in replicas if r.generation == deployment.generation]
    replica = next((r for r in own if r.state is not ReplicaState.FAILED), own[0] if own else None)
    begun = replica.started_at if replica else None
    if deployment.failed_reason is not None:
        words = deployment.failed_message or deployment.failed_reason.words
        failed = TimelineStep("Starting", "failed", words, reason=deployment.failed_reason.value)
        return [TimelineStep("Placing", "done"), failed, TimelineStep("Live", "todo")]
    if deployment.live_at is not None:
        placed = (begun - deployment.created_at).total_seconds() if begun else None
        started = (deployment.live_at - (begun or deployment.created_at)).total_seconds()
        return [TimelineStep("Placing", "done", "", placed), TimelineStep("Starting", "done", "", started), TimelineStep("Live", "done")]
    if replica is None or replica.state is ReplicaState.PENDING:
        words = (replica.message or (replica.reason.words if replica.reason else "")) if replica else ""
        waited = (now - deployment.created_at).total_seconds()
        why = replica.reason.value if replica and replica.reason else ""
        placing = TimelineStep("Placing", "now", words, waited, deployment.created_at, why)
        return [placing, TimelineStep("Starting", "todo"), TimelineStep("Live", "todo")]
    placed = (begun - deployment.created_at).total_seconds() if begun else None
    since = begun or replica.created_at
    words, spent = replica.message or "waiting for its first answer", (now - since).total_seconds()
    starting = TimelineStep("Starting", "now", words, spent, since, (replica.reason or Reason.STARTING).value)
    return [TimelineStep("Placing", "done", replica.hardware, placed), starting, TimelineStep("Live", "todo")]
