"""The internal door for build workers: events, log lines, the source and secret values of one running build.

Guarded by the worker secret; the proxy never forwards `/internal/…`, so only our own processes and hosts reach it.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, StreamingResponse

from control_plane.api import preload
from control_plane.api.deps import json_object
from control_plane.api.site_uploads import SiteUploads
from control_plane.builds.record import Admit, BuildMeter, record_event
from control_plane.domain.builds import BuildEvent, BuildStatus
from control_plane.domain.errors import Forbidden, NotFound, Rejected
from control_plane.domain.ids import BuildId, RepoId
from control_plane.domain.repo_query import RepoQuery
from control_plane.domain.sensitive import Sensitive
from control_plane.domain.spaces import Build, RepoType, Setting
from control_plane.net.registry import Sign
from control_plane.ports.clock import Clock
from control_plane.ports.git import GitStore
from control_plane.ports.log_store import LogLine, LogStore
from control_plane.ports.signals import Signals
from control_plane.ports.stores import UnitOfWorkFactory

_MAX_LINES = 5000  # of one request
_MAX_BODY = 64 << 20
_SHARING = 12  # Spaces of an owner whose layers a new image may share; each is a part of the token


@dataclass(frozen=True)
class BuildsDoor:
    """What the door needs."""

    uow: UnitOfWorkFactory
    clock: Clock
    signals: Signals
    git: GitStore
    logs: LogStore
    open_secret: Callable[[Setting], Sensitive]
    worker_secret: str
    meter: BuildMeter
    admit: Admit | None = None
    sites: SiteUploads | None = None  # where builders on other hosts bring static Spaces' trees
    cache: preload.Cache | None = None  # of models, for `preload_from_hub`
    registry: str = ""  # host:port[/prefix]
    registry_sign: Sign | None = None  # where the registry takes this platform's tokens


def builds_door(deps: BuildsDoor) -> APIRouter:
    router = APIRouter(prefix="/internal/builds", include_in_schema=False)

    def guard(request: Request) -> None:
        sent = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(sent.encode(), deps.worker_secret.encode()):
            raise Forbidden("this door is for build workers")

    async def running(build_id: str) -> Build:
        async with deps.uow.read() as uow:
            build = await uow.builds.get(BuildId(build_id))
        if build is None or build.status is not BuildStatus.RUNNING:
            raise NotFound("there is no such running build")
        return build

    @router.post("/{build_id}/events")
    async def events(build_id: str, request: Request) -> JSONResponse:
        guard(request)
        event = BuildEvent.from_payload(await json_object(request, most=_MAX_BODY))
        if event.build_id != build_id:
            raise Rejected("the event belongs to another build")
        verdict = await record_event(deps.uow, deps.clock, deps.signals, event, meter=deps.meter, admit=deps.admit)
        return JSONResponse({"verdict": verdict.value})

    @router.post("/{build_id}/log")
    async def log(build_id: str, request: Request) -> JSONResponse:
        guard(request)
        body = await json_object(request, most=_MAX_BODY)
        build = await running(build_id)
        if body.get("attempt") != build.attempt:
            raise NotFound("that attempt is over")
        lines = body.get("lines")
        if not isinstance(lines, list) or len(lines) > _MAX_LINES:
            raise Rejected(f"'lines' is a list of at most {_MAX_LINES} pairs")
        await deps.logs.append(f"build/{build.id}", [_line(item) for item in lines])
        await deps.signals.notify("builds", build.id)
        return JSONResponse({"ok": True})

    @router.get("/{build_id}/source")
    async def source(build_id: str, request: Request) -> StreamingResponse:
        guard(request)
        build = await running(build_id)
        return StreamingResponse(deps.git.archive(RepoId(build.space_id), build.revision), media_type="application/x-tar")

    @router.get("/{build_id}/secrets")
    async def secrets(build_id: str, request: Request) -> JSONResponse:
        guard(request)
        build = await running(build_id)
        async with deps.uow.read() as uow:
            settings = await uow.spaces.settings(build.space_id)
        values = {s.key: deps.open_secret(s).reveal() for s in settings if s.is_secret}
        return JSONResponse(values, headers={"Cache-Control": "no-store"})

    @router.get("/{build_id}/preload")
    async def preloaded(build_id: str, request: Request) -> StreamingResponse:
        """The files of `preload_from_hub`; what could not be found is told in the build's log."""
        guard(request)
        build = await running(build_id)
        async with deps.uow.read() as uow:
            space = await uow.spaces.get(build.space_id)
        if deps.cache is None or space is None:
            raise NotFound("there is no cache of models here")
        found = await preload.prepare(deps.uow, deps.git, deps.cache, space.config.preload_from_hub)
        if found.missing:
            now = deps.clock.now()
            await deps.logs.append(f"build/{build.id}", [LogLine(now, f"warning: preload_from_hub: {words}") for words in found.missing])
        return StreamingResponse(preload.tar(deps.cache.hub, found.files), media_type="application/x-tar")

    @router.get("/{build_id}/registry")
    async def registry(build_id: str, request: Request) -> JSONResponse:
        """A token to push this Space's image with; {} where builders have a name and password, or need none.

        It also reads the owner's other Spaces, so that the registry can share their layers instead of taking them once more.
        """
        guard(request)
        build = await running(build_id)
        if deps.registry_sign is None:
            return JSONResponse({})
        async with deps.uow.read() as uow:
            repo = await uow.repos.get(RepoId(build.space_id))
            assert repo is not None
            others = await uow.repos.list(RepoQuery(RepoType.SPACE, owner=repo.owner_name, see_all=True), sort="updated", limit=_SHARING)
        prefix = deps.registry.partition("/")[2].strip("/")
        named = [f"repository:{prefix}/{one.id}".replace(":/", ":") for one in (*others, repo)]
        rights = {**dict.fromkeys(named, ("pull",)), named[-1]: ("pull", "push")}
        return JSONResponse({"token": deps.registry_sign(rights)}, headers={"Cache-Control": "no-store"})

    @router.get("/{build_id}/site")
    async def has_site(build_id: str, request: Request) -> JSONResponse:
        guard(request)
        build = await running(build_id)
        return JSONResponse({"has": deps.sites is None or deps.sites.has(build.space_id, build.id)})

    @router.put("/{build_id}/site")
    async def take_site(build_id: str, request: Request) -> JSONResponse:
        guard(request)
        build = await running(build_id)
        if deps.sites is not None:
            await deps.sites.take(build.space_id, build.id, request.stream())
        return JSONResponse({"ok": True})

    return router


def _line(item: object) -> LogLine:
    if not isinstance(item, list) or len(item) != 2 or not all(isinstance(part, str) for part in item):
        raise Rejected("a log line is [time, text]")
    try:
        at = datetime.fromisoformat(item[0])
    except ValueError as error:
        raise Rejected(f"'{item[0][:40]}' is not an ISO 8601 time") from error
    return LogLine(at if at.tzinfo else at.replace(tzinfo=UTC), item[1])
