"""Server-sent events of a Space: its logs, its runtime changes, its live figures.

The log line format is exact: clients see only lines that begin with `data: {`. Comments keep the connection open.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

from fastapi import APIRouter, Request
from starlette.responses import StreamingResponse

from control_plane.accounts import policy
from control_plane.accounts.sign_in import renewed
from control_plane.api import views
from control_plane.api.deps import Hub
from control_plane.api.space_volumes import runtime_json
from control_plane.domain.accounts import Action, Actor
from control_plane.domain.errors import NotSignedIn, Rejected
from control_plane.domain.hardware import Flavor
from control_plane.domain.ids import RepoId, SpaceId
from control_plane.domain.replicas import ReplicaUsage
from control_plane.domain.spaces import Space
from control_plane.http.addresses import caller_address
from control_plane.http.live import LiveHub, changed
from control_plane.ports.log_store import LogLine

_SAMPLE_S = 1.0
_KEEP_ALIVE_S = 20.0  # clients give up after a minute without a byte
_LOOK_EVERY = 15  # signs of life after which a stream looks at its rows and rights without having been told to
_PAGE = 2000
_MAX_STREAMS_PER_CALLER = 50
_KEEP_ALIVE = b": keep-alive\n\n"
_HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no", "Content-Type": "text/event-stream; charset=utf-8"}


Steps = Callable[[asyncio.Event], AsyncIterator[bytes | float | None]]


def log_event(line: LogLine) -> bytes:
    body = json.dumps({"data": line.text + "\n", "timestamp": views.when(line.at)}, ensure_ascii=False, separators=(",", ":"))
    return f"data: {body}\n\n".encode()


def json_event(body: object) -> bytes:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


class _Meter:
    """How many streams each caller holds open in this process."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}

    def check(self, caller: str) -> None:
        if self._open.get(caller, 0) >= _MAX_STREAMS_PER_CALLER:
            raise Rejected(f"{_MAX_STREAMS_PER_CALLER} streams are open already from here; close some", code="TooManyStreams")

    def enter(self, caller: str) -> None:
        """Called when the body begins, so that a response that was never sent is never counted."""
        self._open[caller] = self._open.get(caller, 0) + 1

    def leave(self, caller: str) -> None:
        self._open[caller] -= 1
        if not self._open[caller]:
            del self._open[caller]


def router(hub: Hub) -> APIRouter:
    api = APIRouter(tags=["Spaces"])
    services = hub.services
    meter = _Meter()
    live = LiveHub(services.signals, services.uow)
    base = "/api/spaces/{ns:seg}/{name:seg}"

    async def still_allowed(actor: Actor, repo_id: RepoId, action: Action) -> bool:
        """Asked again whenever a stream wakes: a revoked token, a sign-out or a lost membership ends it at once."""
        try:
            fresh = await renewed(services.uow, services.clock, actor)
        except NotSignedIn:
            return False
        async with services.uow.read() as uow:
            repo = await uow.repos.get(repo_id)
        return repo is not None and policy.allowed(fresh, action, repo)

    def respond(request: Request, actor: Actor, space: Space, action: Action, events: Steps, build_id: str = "") -> StreamingResponse:
        """`events` yields bytes to send; None when it waits to be woken; or seconds that it sleeps. It gets the event that wakes it."""
        caller = actor.user.id if actor.user else caller_address(request)
        meter.check(caller)
        keys = (space.id, build_id, actor.user.id if actor.user else "", actor.token.id if actor.token else "")

        async def body() -> AsyncIterator[bytes]:
            clock = services.clock
            spoke = clock.monotonic()
            meter.enter(caller)
            try:
                async with live.listener(*filter(None, keys)) as woken:
                    async for item in events(woken):
                        if isinstance(item, bytes):
                            spoke = clock.monotonic()
                            yield item
                            continue
                        if item is not None:
                            await asyncio.sleep(item)
                        else:
                            quiet = 0
                            while not await changed(woken, max(0.0, _KEEP_ALIVE_S - (clock.monotonic() - spoke))):
                                spoke = clock.monotonic()
                                yield _KEEP_ALIVE
                                quiet += 1
                                if quiet == _LOOK_EVERY:
                                    break
                        if not await still_allowed(actor, RepoId(space.id), action):
                            return
            finally:
                meter.leave(caller)

        return StreamingResponse(body(), headers=_HEADERS)

    async def follow(
        woken: asyncio.Event, stream: str, tail: int | None, ended: Callable[[], Awaitable[bool]]
    ) -> AsyncIterator[bytes | None]:
        """Every line from the first (or the last `tail`), then new ones, until `ended` says that no more will come."""
        reader = services.logs.reader(stream, after=max(0, await services.logs.count(stream) - tail) if tail is not None else 0)
        with services.logs.growing(stream, woken):
            while True:
                over = await ended()  # asked before reading, so that lines written before the end are not lost
                while lines := await reader.read(_PAGE):
                    yield b"".join(map(log_event, lines))
                if over:
                    return
                yield None

    @api.get(base + "/logs/{which:seg}")
    async def logs(request: Request, ns: str, name: str, which: str) -> StreamingResponse:
        actor, _, space = await hub.space(request, ns, name, Action.WRITE)
        if which not in ("build", "run"):
            raise Rejected("logs are 'build' or 'run'")
        tail = _tail(request.query_params.get("tail"))
        if which == "run":
            stream = f"run/{space.id}"
            return respond(request, actor, space, Action.WRITE, lambda woken: follow(woken, stream, tail, lambda: nothing_runs(space.id)))
        async with services.uow.read() as uow:
            build = await uow.builds.latest(space.id)
        if build is None:
            return StreamingResponse(_nothing(), headers=_HEADERS)
        build_id = build.id

        async def build_is_over() -> bool:
            async with services.uow.read() as uow:
                now = await uow.builds.get(build_id)
            return now is None or now.status.is_terminal

        lines = f"build/{build_id}"
        return respond(request, actor, space, Action.WRITE, lambda woken: follow(woken, lines, tail, build_is_over), build_id)

    async def nothing_runs(space_id: SpaceId) -> bool:
        """Whether no app lives and none is on its way, so that the run log has ended."""
        async with services.uow.read() as uow:
            if await uow.deployments.replicas(space_id):
                return False
            space = await uow.spaces.get(space_id)
        if space is None:
            return True
        view = await services.actions.runtime_view(space)
        return not (view.stage.is_transitional or view.stage.serves)

    @api.get(base + "/events")
    async def events(request: Request, ns: str, name: str) -> StreamingResponse:
        """The runtime object at once, and again whenever it changes."""
        actor, _, space = await hub.space(request, ns, name, Action.VIEW)

        async def changes(_: asyncio.Event) -> AsyncIterator[bytes | None]:
            last: object = None
            while True:
                async with services.uow.read() as uow:
                    fresh = await uow.spaces.get(space.id)
                if fresh is None:
                    return
                view = await services.actions.runtime_view(fresh)
                shown = await runtime_json(hub, actor, fresh, view)
                if shown != last:
                    last = shown
                    yield json_event(shown)
                yield None

        return respond(request, actor, space, Action.VIEW, changes)

    @api.get(base + "/metrics")
    async def metrics(request: Request, ns: str, name: str) -> StreamingResponse:
        """Live use of each replica, about once a second; ends when nothing runs."""
        actor, _, space = await hub.space(request, ns, name, Action.WRITE)
        flavor = services.catalog.find(space.hardware)

        async def figures(_: asyncio.Event) -> AsyncIterator[bytes | float]:
            before: dict[str, tuple[float, ReplicaUsage]] = {}
            while True:
                for usage in await services.actions.usage(space.id):
                    now = services.clock.monotonic()
                    yield json_event(_figures(usage, flavor, before.get(usage.replica_id), now))
                    before[usage.replica_id] = (now, usage)
                if await nothing_runs(space.id):
                    return
                yield _SAMPLE_S

        return respond(request, actor, space, Action.WRITE, figures)

    return api


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


def _tail(text: str | None) -> int | None:
    if text is None or text == "":
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise Rejected(f"tail: '{text[:40]}' is not a number of lines")
    return int(text)


def _figures(usage: ReplicaUsage, flavor: Flavor | None, before: tuple[float, ReplicaUsage] | None, now: float) -> dict[str, object]:
    def rate(current: int, past: int) -> float:
        return round(max(0, current - past) / max(0.001, now - before[0]), 1) if before else 0.0

    return {
        "cpu_usage_pct": round(100 * usage.cpu_cores / (flavor.vcpu if flavor else 1.0), 1),
        "cpu_millicores": round(usage.cpu_cores * 1000),
        "memory_used_bytes": usage.memory_bytes,
        "memory_total_bytes": usage.memory_limit_bytes,
        "rx_bps": rate(usage.rx_bytes, before[1].rx_bytes) if before else 0.0,
        "tx_bps": rate(usage.tx_bytes, before[1].tx_bytes) if before else 0.0,
        "gpus": {},
        "replica": usage.replica_id,
    }
