"""Durations and traces of pushes, starts and wakes, taken from the history of Spaces as it is written.

The events of a Space are the one story that the page, the push output and this follower tell. A trace is made when its
last event is there, from rows alone: it is whole although git, builder, scheduler and proxy are different processes, and
although any of them may have been restarted in between.

    (first byte) ─ push.received ─ push.checked ─ build.queued ─ build.started ─ build.phase … ─ build.succeeded
      ─ deploy.created ─ replica.pending ─ replica.starting ─ replica.ready ─ route.live (the first answer)
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from control_plane.domain.errors import VitrineError
from control_plane.domain.ids import RepoId, SpaceId
from control_plane.domain.spaces import SpaceEvent
from control_plane.ports.stores import UnitOfWorkFactory
from control_plane.telemetry.metrics import SchedulerMetrics

log = logging.getLogger("vitrine.telemetry")
_EVERY_S = 1.0
_PAGE = 500
_LAST_WORDS = ("route.live", "build.failed", "build.cancelled", "deploy.failed")


@dataclass(frozen=True, slots=True)
class Span:
    """One step. `parent` is the name of the span around it, "" for the root. Times are aware UTC."""

    name: str
    start: datetime
    end: datetime
    parent: str = ""
    attributes: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    failed: str = ""  # why, "" = fine


@dataclass(frozen=True, slots=True)
class Trace:
    """`trace_id`: 32 hex digits made from the build's id, so that logs that name the build lead to the trace."""

    trace_id: str
    spans: tuple[Span, ...]


def trace_id_of(build_id: str) -> str:
    return hashlib.sha256(f"vitrine trace {build_id}".encode()).hexdigest()[:32]


def push_trace(space_name: str, events: Sequence[SpaceEvent]) -> Trace | None:
    """The trace that ends with the last event of `events` (of one Space, oldest first); None when that ends no push."""
    last = events[-1]
    build_id = _build_of(events)
    if last.kind not in _LAST_WORDS or not build_id:
        return None
    queued = next(i for i, e in enumerate(events) if e.kind == "build.queued" and e.facts.get("build_id") == build_id)
    received = next((i for i in range(queued, -1, -1) if events[i].kind == "push.received"), queued)
    if last.kind == "route.live" and any(e.kind == "route.live" for e in events[queued:-1]):
        return None  # a later start of what was live already
    mine = [e for e in events[received:] if e.facts.get("build_id") in (None, build_id)]
    ids = {"vitrine.space_id": str(last.space_id), "vitrine.space": space_name, "vitrine.build_id": build_id}
    facts = {"vitrine.revision": str(events[queued].facts.get("revision", "")), **ids}
    if (generation := last.facts.get("generation")) is not None:
        facts["vitrine.deployment"] = f"{last.space_id}/{generation}"
    failed = "" if last.kind == "route.live" else str(last.facts.get("message") or last.facts.get("reason") or last.kind)
    began = _began(mine[0])
    spans = [Span("git push", began, last.at, attributes=facts, failed=failed)]
    if began < mine[0].at:
        spans.append(Span("receive", began, mine[0].at, "git push", ids))
    spans += _steps(mine, ids, failed)
    return Trace(trace_id_of(build_id), tuple(spans))


def _began(received: SpaceEvent) -> datetime:
    """When the first byte of a push came: before git unpacked and checked it, which the event's own time is after."""
    said = received.facts.get("began_at")
    return min(datetime.fromisoformat(said), received.at) if isinstance(said, str) else received.at


def _build_of(events: Sequence[SpaceEvent]) -> str:
    """The build whose story the last event ends."""
    named = events[-1].facts.get("build_id")
    if named:
        return str(named)
    return next((str(e.facts["build_id"]) for e in reversed(events) if e.kind == "build.succeeded"), "")


_STEPS = (
    ("check", "push.received", ("push.checked",)),
    ("wait for a builder", "build.queued", ("build.started",)),
    ("build", "build.started", ("build.succeeded", "build.failed", "build.cancelled")),
    ("place", "replica.pending", ("replica.starting",)),
    ("start", "replica.starting", ("replica.ready", "replica.failed")),
    ("first answer", "replica.ready", ("route.live",)),
)


def _steps(events: Sequence[SpaceEvent], ids: Mapping[str, str], failed: str) -> list[Span]:
    found = []
    for name, opens, closes in _STEPS:
        start = next((e for e in events if e.kind == opens), None)
        end = next((e for e in events if e.kind in closes and start is not None and e.id > start.id), None)
        if start is not None and end is not None:
            found.append(Span(name, start.at, end.at, "git push", ids, failed if end.kind.endswith("failed") else ""))
    phases = [e for e in events if e.kind in ("build.phase", "build.succeeded", "build.failed", "build.cancelled")]
    for phase, following in itertools.pairwise(phases):
        if phase.kind == "build.phase":
            found.append(Span(str(phase.facts.get("phase") or "build"), phase.at, following.at, "build", ids))
    return found


class HistoryFollower:
    """Reads new events once a second, fills the histograms, and gives finished traces to `export`."""

    def __init__(self, uow: UnitOfWorkFactory, metrics: SchedulerMetrics, export: Callable[[Trace], Awaitable[None]] | None) -> None:
        self._uow, self._metrics, self._export = uow, metrics, export
        self._at: dict[SpaceId, dict[str, SpaceEvent]] = {}  # the newest event of each kind

    async def run(self) -> None:
        """Until cancelled; from the newest event on."""
        seen: int | None = None
        while True:
            try:
                async with self._uow.read() as uow:
                    events = await uow.events.since(seen, _PAGE) if seen is not None else ()
                    seen = events[-1].id if events else seen if seen is not None else await uow.events.last_id()
                for event in events:
                    self.observe(event)
                    if event.kind in _LAST_WORDS and self._export is not None:
                        await self._trace(event)
            except VitrineError as error:
                log.warning("history.unread", extra={"error": error.message})
            except Exception:
                log.exception("history.failed")
            await asyncio.sleep(_EVERY_S)

    async def _trace(self, event: SpaceEvent) -> None:
        assert self._export is not None
        async with self._uow.read() as uow:
            repo = await uow.repos.get(RepoId(event.space_id))
            events = [e for e in await uow.events.of_space(event.space_id) if e.id <= event.id]
        trace = push_trace(repo.full_name if repo else str(event.space_id), events)
        if trace is not None:
            await self._export(trace)

    def observe(self, event: SpaceEvent) -> None:
        known = self._at.setdefault(event.space_id, {})
        m = self._metrics

        def since(kind: str) -> float | None:
            before = known.get(kind)
            return max(0.0, (event.at - before.at).total_seconds()) if before else None

        match event.kind:
            case "build.started" if (waited := since("build.queued")) is not None:
                m.build_wait.observe(waited)
            case "build.phase":
                self._end_phase(known, event)
            case "build.succeeded" | "build.failed" | "build.cancelled":
                self._end_phase(known, event)
                known.pop("build.phase", None)
                if (took := since("build.started")) is not None:
                    m.build.labels(event.kind.removeprefix("build.")).observe(took)
            case "replica.starting" if (placing := since("replica.pending")) is not None:
                m.start_phase.labels("placing").observe(placing)
            case "replica.ready":
                if (starting := since("replica.starting")) is not None:
                    m.start_phase.labels("starting").observe(starting)
                if (awake := since("wake")) is not None:
                    m.wake.observe(awake)
                    known.pop("wake", None)
            case "route.live" if known.pop("deploy.created by push", None) is not None and (push := known.get("push.received")) is not None:
                m.push_live.observe(max(0.0, (event.at - _began(push)).total_seconds()))
            case "replica.failed":
                m.failures.labels(str(event.facts.get("reason") or "unknown")).inc()
            case "space.deleted":
                self._at.pop(event.space_id, None)
                return
        known[event.kind] = event
        if event.kind == "deploy.created" and event.facts.get("cause") == "push":
            known["deploy.created by push"] = event

    def _end_phase(self, known: Mapping[str, SpaceEvent], event: SpaceEvent) -> None:
        before = known.get("build.phase")
        if before is not None and before.facts.get("build_id") == event.facts.get("build_id"):
            seconds = max(0.0, (event.at - before.at).total_seconds())
            self._metrics.build_phase.labels(str(before.facts.get("phase") or "other")).observe(seconds)
