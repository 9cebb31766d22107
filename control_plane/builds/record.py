"""What workers report, turned into guarded state. Duplicate, late and foreign reports change nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import datetime

from control_plane.domain.builds import (
    MAX_ATTEMPTS,
    BuildChange,
    BuildEvent,
    BuildEventKind,
    BuildLimits,
    BuildRequest,
    BuildStatus,
    BuildTry,
    BuildVerdict,
    SourceKind,
    advance_build,
)  # fmt: skip
from control_plane.domain.errors import NotFound, QuotaExceeded
from control_plane.domain.hardware import FlavorCatalog
from control_plane.domain.ids import BuildId, SpaceId
from control_plane.domain.quotas import holds_room
from control_plane.domain.reasons import Reason
from control_plane.domain.repo_volumes import unpinned
from control_plane.domain.spaces import Build, Deployment, DesiredState, Repo, Sdk, Setting, Space
from control_plane.ports.clock import Clock
from control_plane.ports.signals import Signals
from control_plane.ports.stores import UnitOfWork, UnitOfWorkFactory

# Raises QuotaExceeded when the Space may not run now; inside the caller's write transaction.
Admit = Callable[[UnitOfWork, Space], Awaitable[None]]
BuildMeter = Callable[[UnitOfWork, Build], Awaitable[None]]

UNHEARD_AFTER_S = 5.0  # from a message to its worker's first word, when a worker takes it at once
LOST_AFTER_S = 12.0  # workers beat every 2 s; with the scan's period (REPAIR_EVERY_S) a crashed one is noticed within 15 s


def build_request(
    build: Build,
    repo: Repo,
    space: Space,
    settings: tuple[Setting, ...],
    *,
    target: SourceKind,
    limits: BuildLimits,
    catalog: FlavorCatalog,
) -> BuildRequest:
    """The message for one attempt: a pure function of rows. Secrets by name."""
    flavor = catalog.find(space.hardware)
    config = space.config
    return BuildRequest(
        build_id=build.id, space_id=space.id, space_name=repo.full_name, tenant=repo.owner_id, revision=build.revision,
        sdk=config.sdk.value, sdk_version=config.sdk_version, python_version=config.python_version, app_file=config.app_file,
        app_port=config.app_port, target=target, attempt=build.attempt, no_cache=build.no_cache,
        app_build_command=config.app_build_command, preload_from_hub=config.preload_from_hub,
        variables={s.key: s.value for s in settings if not s.is_secret},
        secret_names=tuple(s.key for s in settings if s.is_secret),
        hardware_family="gpu" if flavor and flavor.has_gpu else "cpu", limits=limits,
    )  # fmt: skip


async def record_event(
    uow_factory: UnitOfWorkFactory, clock: Clock, signals: Signals, event: BuildEvent, *, meter: BuildMeter, admit: Admit | None = None
) -> BuildVerdict:
    """Apply one report. STOP tells the worker that this attempt is over for it. NotFound for an unknown build.

    `meter` counts what an ended build used; `admit` asks the owner's quota before a Space that is not up comes up.
    """
    now = clock.now()
    async with uow_factory.write() as uow:
        build = await uow.builds.get(event.build_id)
        if build is None:
            raise NotFound(f"there is no build {event.build_id}")
        if build.attempt != event.attempt or build.status.is_terminal:
            return BuildVerdict.STOP
        if event.kind is BuildEventKind.STARTED:
            if build.status is not BuildStatus.QUEUED:
                # The same message delivered twice: only the worker that holds the build may go on.
                return BuildVerdict.GO_ON if build.worker == event.worker else BuildVerdict.STOP
            build = replace(
                build,
                status=advance_build(build.status, BuildChange.START),
                worker=event.worker,
                started_at=now,
                heartbeat_at=now,  # and the reason stays: of a second try the owner sees why there is one
            )
            await uow.builds.save(build)
            await uow.events.add(build.space_id, now, "build.started", {"build_id": build.id, "attempt": build.attempt})
        elif build.status is not BuildStatus.RUNNING or (event.worker and build.worker != event.worker):
            return BuildVerdict.STOP
        elif event.kind is BuildEventKind.HEARTBEAT:
            await uow.builds.save(replace(build, heartbeat_at=now))
            return BuildVerdict.GO_ON
        elif event.kind is BuildEventKind.PHASE:
            if event.phase is not build.phase:
                facts = {"build_id": build.id, "phase": event.phase.value if event.phase else None, "message": event.message}
                await uow.events.add(build.space_id, now, "build.phase", facts)
            await uow.builds.save(replace(build, phase=event.phase, message=event.message, progress=event.progress, heartbeat_at=now))
        elif event.kind is BuildEventKind.SUCCEEDED:
            await meter(uow, await _succeed(uow, clock, build, event, admit))
        elif event.kind is BuildEventKind.FAILED:
            reason = Reason(event.reason) if event.reason in set(Reason) else Reason.BUILD_FAILED
            if reason in (Reason.BUILD_LOST, Reason.REGISTRY_UNAVAILABLE) and build.attempt < MAX_ATTEMPTS:
                await _lose(uow, clock, build, reason)  # not the build's fault: another worker, or the same one later, tries again
            else:
                await meter(uow, await _fail(uow, clock, build, reason, event.message))

        async def told() -> None:
            await signals.notify("events", build.space_id)
            if event.kind is not BuildEventKind.PHASE:
                await signals.notify("reconcile", build.space_id)

        uow.after_commit(told)
    return BuildVerdict.GO_ON


async def _succeed(uow: UnitOfWork, clock: Clock, build: Build, event: BuildEvent, admit: Admit | None) -> Build:
    now = clock.now()
    assert event.result is not None
    ended = replace(
        build,
        status=advance_build(build.status, BuildChange.SUCCEED),
        finished_at=now,
        result=event.result,
        message="",
        progress=1.0,
        reason=None,
    )
    await uow.builds.save(ended)
    await uow.events.add(build.space_id, now, "build.succeeded", {"build_id": build.id, "seconds": _seconds(build, now)})
    space = await uow.spaces.get(build.space_id)
    if space is None or space.desired is DesiredState.DELETED:
        return ended
    generation = space.generation + 1
    await uow.deployments.add(
        Deployment(
            space_id=space.id, generation=generation, build_id=build.id, revision=build.revision, artifact=event.result.artifact,
            launch=event.result.launch, hardware=space.hardware, created_at=now, config=space.config, volumes=unpinned(space.volumes),
        )
    )  # fmt: skip
    refused = await _refusal(uow, space, admit)
    await uow.spaces.save(
        replace(
            space, generation=generation, asleep=refused is not None, sleep_reason=Reason.QUOTA if refused else None,
            sleep_message=refused.message if refused else "", last_used_at=now, updated_at=now,
        )
    )  # fmt: skip
    if refused is not None:
        await uow.events.add(space.id, now, "sleep", {"reason": Reason.QUOTA.value, "message": refused.message})
    await uow.events.add(space.id, now, "deploy.created", {"generation": generation, "cause": "push", "revision": build.revision})
    return ended


async def _refusal(uow: UnitOfWork, space: Space, admit: Admit | None) -> QuotaExceeded | None:
    """Why the Space may not come up now; it sleeps then, and a visit asks again. What is up already is never stopped by a quota."""
    if admit is None or space.sdk is Sdk.STATIC or space.desired is DesiredState.PAUSED:
        return None
    newest = await uow.deployments.get(space.id, space.generation)
    if space.live_generation > 0 and holds_room(space, newest, await uow.deployments.get(space.id, space.live_generation)):
        return None
    try:
        await admit(uow, space)
    except QuotaExceeded as error:
        return error
    return None


def _seconds(build: Build, now: datetime) -> float | None:
    return round((now - build.started_at).total_seconds(), 3) if build.started_at else None


async def _fail(uow: UnitOfWork, clock: Clock, build: Build, reason: Reason, message: str) -> Build:
    now = clock.now()
    ended = replace(build, status=advance_build(build.status, BuildChange.FAIL), reason=reason, message=message[:2000], finished_at=now)
    await uow.builds.save(ended)
    await uow.events.add(build.space_id, now, "build.failed", {"build_id": build.id, "reason": reason.value, "message": message[:2000]})
    return ended


async def repair_lost(uow_factory: UnitOfWorkFactory, clock: Clock, *, limit_s: float) -> tuple[SpaceId, ...]:
    """Builds whose worker went silent go back to the queue (at most MAX_ATTEMPTS times) or fail with a reason."""
    now, touched = clock.now(), []
    async with uow_factory.read() as uow:
        suspects = [b for b in await uow.builds.open() if b.status is BuildStatus.RUNNING and _is_lost(b, now, limit_s)]
    for suspect in suspects:
        async with uow_factory.write() as uow:
            build = await uow.builds.get(suspect.id)
            if build is None or build.status is not BuildStatus.RUNNING or not _is_lost(build, now, limit_s):
                continue
            touched.append(build.space_id)
            if build.attempt >= MAX_ATTEMPTS:
                await _fail(uow, clock, build, Reason.BUILD_LOST, f"the build machine went away {build.attempt} times")
                continue
            await _lose(uow, clock, build, Reason.BUILD_LOST)
    return tuple(touched)


async def repair_unheard(
    uow_factory: UnitOfWorkFactory, clock: Clock, waiting: Callable[[], Awaitable[AbstractSet[BuildTry]]]
) -> tuple[SpaceId, ...]:
    """Builds that were submitted a while ago, that no worker has started, and whose message is not in the queue: whoever took it died
    before its first word, or it never arrived. They count as not submitted from here on. `waiting`: those whose message is in the queue.
    """
    now, touched = clock.now(), []
    async with uow_factory.read() as uow:
        suspects = [b for b in await uow.builds.open() if b.status is BuildStatus.QUEUED and _is_unheard(b, now)]
    found = await waiting() if suspects else frozenset()
    for suspect in suspects:
        if (suspect.id, suspect.attempt) in found:
            continue
        async with uow_factory.write() as uow:
            build = await uow.builds.get(suspect.id)
            if build is None or (build.status, build.submitted_at) != (BuildStatus.QUEUED, suspect.submitted_at):
                continue
            await uow.builds.save(replace(build, submitted_at=None))
            touched.append(build.space_id)
    return tuple(touched)


def _is_unheard(build: Build, now: datetime) -> bool:
    return build.submitted_at is not None and (now - build.submitted_at).total_seconds() > UNHEARD_AFTER_S


async def _lose(uow: UnitOfWork, clock: Clock, build: Build, reason: Reason) -> None:
    """Back to the queue as the next attempt."""
    again = replace(
        build, status=advance_build(build.status, BuildChange.LOSE), attempt=build.attempt + 1, worker="", submitted_at=None,
        heartbeat_at=None, reason=reason, phase=None, progress=None,
    )  # fmt: skip
    await uow.builds.save(again)
    words = {"build_id": build.id, "attempt": again.attempt, "reason": reason.value}
    await uow.events.add(build.space_id, clock.now(), "build.queued", words)


def _is_lost(build: Build, now: datetime, limit_s: float) -> bool:
    beat = build.heartbeat_at or build.started_at or build.created_at
    too_long = build.started_at is not None and (now - build.started_at).total_seconds() > limit_s * 2
    return (now - beat).total_seconds() > LOST_AFTER_S or too_long


async def cancel_build(
    uow_factory: UnitOfWorkFactory, clock: Clock, signals: Signals, build_id: BuildId, *, by: str, address: str, meter: BuildMeter
) -> Build:
    """Cancel an open build; its worker stops at its next report (2 s at most). Terminal builds are returned as they are.

    `meter` counts what it used until now, as for one that ended by itself.
    """
    now = clock.now()
    async with uow_factory.write() as uow:
        build = await uow.builds.get(build_id)
        if build is None:
            raise NotFound(f"there is no build {build_id}")
        if build.status.is_terminal:
            return build
        build = replace(build, status=advance_build(build.status, BuildChange.CANCEL), finished_at=now, reason=Reason.BUILD_CANCELLED)
        await uow.builds.save(build)
        await meter(uow, build)
        facts: Mapping[str, object] = {"build_id": build_id, "by": by}
        await uow.events.add(build.space_id, now, "build.cancelled", facts)
        await uow.audit.append(
            at=now, actor=by, action="build.cancel", subject=f"build:{build_id}", address=address, facts={"space": build.space_id}
        )

        async def told() -> None:
            await signals.notify("events", build.space_id)
            await signals.notify("reconcile", build.space_id)

        uow.after_commit(told)
    return build
