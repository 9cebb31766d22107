"""Discussions and pull requests of a repository."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request, Response

from control_plane.domain.accounts import Actor
from control_plane.domain.errors import Rejected
from control_plane.domain.spaces import RepoType
from control_plane.http.error_map import status_of
from web import diffs
from web.page import Pages, Visit, error_view, page_route
from web.pages.account import signed_in


def community_router(pages: Pages, kind: RepoType) -> APIRouter:
    router = APIRouter(route_class=page_route(pages), include_in_schema=False)
    backend = pages.backend
    base = f"/{kind.url_prefix}{{owner:seg}}/{{name:seg}}/discussions"

    async def head(visit: Visit, owner: str, name: str) -> dict[str, Any]:
        repo = await backend.repo(visit.actor, kind, owner, name)
        return {"repo": repo, "space": await backend.space(visit.actor, owner, name) if kind is RepoType.SPACE else None}

    @router.get(base)
    async def listing(request: Request, owner: str, name: str) -> Response:
        visit = await pages.visit(request)
        context = await head(visit, owner, name)
        return pages.page(visit, "discussions.html", rows=await backend.discussions(visit.actor, kind, owner, name), **context)

    @router.get(f"{base}/new")
    async def new(request: Request, owner: str, name: str) -> Response:
        visit = signed_in(await pages.visit(request))
        return pages.page(visit, "discussion_new.html", title="", text="", **await head(visit, owner, name))

    @router.post(f"{base}/new")
    async def create(request: Request, owner: str, name: str) -> Response:
        visit = signed_in(await pages.submitted(request))
        try:
            number = await backend.open_discussion(visit.actor, kind, owner, name, visit.text("title"), visit.text("text"))
        except Rejected as error:
            context = await head(visit, owner, name)
            return pages.page(
                visit, "discussion_new.html", status=status_of(error, anonymous=False), title=visit.text("title"), text=visit.text("text"),
                error=error_view(error), **context,
            )  # fmt: skip
        return pages.go(f"/{kind.url_prefix}{owner}/{name}/discussions/{number}", "comment")

    @router.get(f"{base}/{{number:int}}")
    async def one(request: Request, owner: str, name: str, number: int) -> Response:
        visit = await pages.visit(request)
        context = await head(visit, owner, name)
        view = await backend.discussion(visit.actor, kind, owner, name, number)
        files, cut = diffs.parse(view.diff)
        return pages.page(visit, "discussion.html", view=view, files=files, cut=cut, **context)

    @router.post(f"{base}/{{number:int}}/comment")
    async def comment(request: Request, owner: str, name: str, number: int) -> Response:
        visit = signed_in(await pages.submitted(request))
        await backend.comment(visit.actor, kind, owner, name, number, visit.text("text"))
        return pages.go(f"/{kind.url_prefix}{owner}/{name}/discussions/{number}", "comment")

    @router.post(f"{base}/{{number:int}}/status")
    async def status(request: Request, owner: str, name: str, number: int) -> Response:
        visit = signed_in(await pages.submitted(request))
        await backend.set_discussion_status(visit.actor, kind, owner, name, number, visit.text("status"), visit.text("text"))
        return pages.go(f"/{kind.url_prefix}{owner}/{name}/discussions/{number}", "saved")

    def add_preview(word: str, change: Callable[[Actor, str, str, int], Awaitable[None]]) -> None:
        @router.post(f"{base}/{{number:int}}/{word}")
        async def preview(request: Request, owner: str, name: str, number: int) -> Response:
            visit = signed_in(await pages.submitted(request))
            await change(visit.actor, owner, name, number)
            return pages.go(f"/{kind.url_prefix}{owner}/{name}/discussions/{number}", word)

    if kind is RepoType.SPACE:
        add_preview("preview", backend.start_preview)
        add_preview("preview-end", backend.stop_preview)
    return router
