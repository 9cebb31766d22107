"""A Space: its App tab, live panel, logs, analytics, sharing, and making new ones."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, StreamingResponse

from control_plane.domain.errors import Forbidden, Rejected, TooLarge, VitrineError
from control_plane.domain.spaces import RepoType
from control_plane.http.error_map import status_of
from web import ansi
from web.page import Pages, Visit, error_view, page_route
from web.pages.account import signed_in
from web.pages.files import MAX_UPLOAD, clean_path
from web.pages.imports import importing
from web.pages.streams import ALIVE, event_bytes, primed, resume_point
from web.views import GalleryQuery, LogPage, SpacePage

SHOWN_LINES = 1000
TAIL_LINES = 40
WHICH = ("run", "build")


def which_log(text: str) -> str:
    if text not in WHICH:
        raise Rejected(f"there is no log '{text[:40]}'; allowed: {', '.join(WHICH)}")
    return text


async def uploaded(visit: Visit) -> dict[str, bytes]:
    """Files of the New Space form, folders kept. TooLarge and Rejected in words."""
    files: dict[str, bytes] = {}
    for upload in visit.uploads("files"):
        if not upload.filename:
            continue  # an empty field is sent as a nameless file
        body = await upload.read(MAX_UPLOAD + 1)
        if len(body) > MAX_UPLOAD:
            raise TooLarge(f"{upload.filename[:80]} is over 8 MB; push it with git and LFS")
        files[clean_path(upload.filename)] = body
    return files


def space_router(pages: Pages) -> APIRouter:
    router = APIRouter(route_class=page_route(pages), include_in_schema=False)
    backend = pages.backend
    base = "/spaces/{owner:seg}/{name:seg}"

    async def tail(visit: Visit, space: SpacePage) -> LogPage | None:
        """The last lines beside the timeline: of the build while it builds or failed, of the app otherwise."""
        if not space.can_write or space.serves or space.asleep or space.card.stage.stage in ("NO_APP_FILE", "PAUSED"):
            return None
        which = "build" if space.card.stage.stage in ("BUILDING", "BUILD_ERROR", "CONFIG_ERROR") else "run"
        log = await backend.log_page(visit.actor, space.card.owner, space.card.name, which, None, TAIL_LINES)
        return log if log.lines else None

    @router.get(base)
    async def app(request: Request, owner: str, name: str) -> Response:
        visit = await pages.visit(request)
        space = await backend.space(visit.actor, owner, name)
        return pages.page(visit, "space.html", space=space, log=await tail(visit, space))

    @router.get(f"/-{base}/panel")
    async def panel(request: Request, owner: str, name: str) -> Response:
        """What changes on the App tab, for the page's script: two fragments of HTML."""
        visit = await pages.visit(request)
        space = await backend.space(visit.actor, owner, name)
        html = pages.fragment(visit, "fragments.html", space=space, log=await tail(visit, space))
        return HTMLResponse(html, headers={"X-Serves": "1" if space.serves or space.asleep else "0"})

    @router.get(f"/-{base}/events")
    async def events(request: Request, owner: str, name: str) -> Response:
        visit = await pages.visit(request)

        async def stream() -> AsyncIterator[bytes]:
            async for event in backend.events(visit.actor, owner, name, resume_point(request)):
                yield ALIVE if event is None else event_bytes(event.kind, dict(event.data), event.id)

        return await primed(stream())

    @router.get(f"{base}/logs")
    async def logs(request: Request, owner: str, name: str) -> Response:
        visit = await pages.visit(request)
        space = await backend.space(visit.actor, owner, name)
        params = request.query_params
        default = "build" if space.card.stage.stage in ("BUILDING", "BUILD_ERROR", "RUNNING_BUILDING") else "run"
        which, build_id = which_log(params.get("which") or default), params.get("build") or None
        log = await backend.log_page(visit.actor, owner, name, which, build_id, SHOWN_LINES)
        builds = await backend.builds(visit.actor, owner, name) if which == "build" else ()
        return pages.page(visit, "logs.html", space=space, which=which, build_id=build_id, log=log, builds=builds)

    @router.get(f"/-{base}/logs/{{which}}")
    async def follow(request: Request, owner: str, name: str, which: str) -> Response:
        visit = await pages.visit(request)
        build_id = request.query_params.get("build") or None
        last = request.headers.get("last-event-id")
        after = (resume_point(request) or 0) + (1 if last else 0)

        async def stream() -> AsyncIterator[bytes]:
            async for line in backend.follow_log(visit.actor, owner, name, which_log(which), build_id, after):
                yield ALIVE if line is None else event_bytes("line", {"n": line.number, "html": str(ansi.to_html(line.text))}, line.number)
            yield event_bytes("end", {})  # a browser comes back to a stream that only breaks off

        return await primed(stream())

    @router.get(f"/-{base}/logs/{{which}}/download")
    async def download(request: Request, owner: str, name: str, which: str) -> Response:
        visit = await pages.visit(request)
        log = await backend.log_page(visit.actor, owner, name, which_log(which), request.query_params.get("build") or None, 0)

        async def body() -> AsyncIterator[bytes]:
            for line in log.lines:
                yield f"{line.at:%Y-%m-%dT%H:%M:%S}Z {ansi.to_text(line.text)}\n".encode()

        headers = {"Content-Disposition": f'attachment; filename="{which}.log"'}
        return StreamingResponse(body(), media_type="text/plain; charset=utf-8", headers=headers)

    @router.get(f"{base}/analytics")
    async def analytics(request: Request, owner: str, name: str) -> Response:
        visit = await pages.visit(request)
        space = await backend.space(visit.actor, owner, name)
        view = await backend.analytics(visit.actor, owner, name, request.query_params.get("span", "day"))
        return pages.page(visit, "analytics.html", space=space, view=view)

    @router.get(f"{base}/share")
    async def share(request: Request, owner: str, name: str) -> Response:
        visit = await pages.visit(request)
        space = await backend.space(visit.actor, owner, name)
        lists = await backend.collections_of(visit.actor, visit.viewer.name) if visit.viewer.name else ()
        return pages.page(visit, "share.html", space=space, lists=lists)

    @router.get(f"{base}/duplicate")
    async def duplicate_form(request: Request, owner: str, name: str) -> Response:
        visit = signed_in(await pages.visit(request))
        return pages.page(visit, "duplicate.html", space=await backend.space(visit.actor, owner, name))

    @router.post(f"{base}/duplicate")
    async def duplicate(request: Request, owner: str, name: str) -> Response:
        visit = signed_in(await pages.submitted(request))
        try:
            made = await backend.duplicate(visit.actor, owner, name, visit.text("owner"), visit.text("name"), visit.text("visibility"))
        except (Rejected, Forbidden) as error:
            space = await backend.space(visit.actor, owner, name)
            status = status_of(error, anonymous=False)
            return pages.page(visit, "duplicate.html", status=status, space=space, error=error_view(error))
        return pages.go(made.card.path)

    @router.post(f"{base}/like")
    async def like(request: Request, owner: str, name: str) -> Response:
        visit = signed_in(await pages.submitted(request))
        await backend.like(visit.actor, RepoType.SPACE, owner, name, visit.text("liked") == "1")
        return pages.go(f"/spaces/{owner}/{name}")

    async def new_page(visit: Visit, form: dict[str, object], error: VitrineError | None = None) -> Response:
        names = (await backend.gallery(visit.actor, GalleryQuery(page_size=1))).hardware_names
        status = status_of(error, anonymous=False) if error else 200
        return pages.page(visit, "new_space.html", status=status, form=form, hardware=names, error=error_view(error) if error else None)

    @router.get("/new-space")
    async def new_space(request: Request) -> Response:
        visit = signed_in(await pages.visit(request))
        params = request.query_params
        form = {
            "owner": params.get("owner", visit.viewer.name), "name": params.get("name", "")[:96], "sdk": params.get("sdk", "gradio"),
            "visibility": "public", "hardware": "cpu-basic", "template": False,
        }  # fmt: skip
        return await new_page(visit, form)

    @router.post("/new-space")
    async def create(request: Request) -> Response:
        visit = signed_in(await pages.submitted(request))
        form: dict[str, object] = {key: visit.text(key)[:96] for key in ("owner", "name", "sdk", "visibility", "hardware")}
        form["template"] = visit.text("template") == "1"
        form |= {"source": visit.text("source")[:600], "branch": visit.text("branch")[:200]}
        try:
            if form["source"]:
                return await importing(pages, visit, form)
            files = await uploaded(visit)
            made = await backend.create_space(
                visit.actor, str(form["owner"]), str(form["name"]), str(form["sdk"]), str(form["visibility"]), str(form["hardware"]),
                bool(form["template"]), files,
            )  # fmt: skip
        except (Rejected, Forbidden) as error:
            return await new_page(visit, form, error)
        return pages.go(made.card.path)

    return router
