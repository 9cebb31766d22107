"""The forms of a gate: ask for access to a model or dataset; set its gate and decide who is let in."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from control_plane.domain.errors import Rejected
from control_plane.domain.spaces import RepoType
from control_plane.http.error_map import status_of
from web.page import Pages, error_view, page_route
from web.pages.account import signed_in


def gates_router(pages: Pages, kind: RepoType) -> APIRouter:
    router = APIRouter(route_class=page_route(pages), include_in_schema=False)
    backend = pages.backend
    base = f"/{kind.url_prefix}{{owner:seg}}/{{name:seg}}"

    @router.post(f"{base}/gate/ask")
    async def ask(request: Request, owner: str, name: str) -> Response:
        visit = signed_in(await pages.submitted(request))
        await backend.ask_access(visit.actor, kind, owner, name)
        return pages.go(f"/{kind.url_prefix}{owner}/{name}", "asked")

    @router.post(f"{base}/settings/gate")
    async def gate(request: Request, owner: str, name: str) -> Response:
        visit = signed_in(await pages.submitted(request))
        await backend.set_gate(visit.actor, kind, owner, name, visit.text("gate"))
        return pages.go(f"/{kind.url_prefix}{owner}/{name}/settings#gate", "saved")

    @router.post(f"{base}/settings/access")
    async def access(request: Request, owner: str, name: str) -> Response:
        visit = signed_in(await pages.submitted(request))
        try:
            await backend.decide_access(visit.actor, kind, owner, name, visit.text("request"), visit.text("status"))
        except Rejected as error:
            repo = await backend.repo(visit.actor, kind, owner, name)
            return pages.page(visit, "repo_settings.html", status=status_of(error, anonymous=False), repo=repo, error=error_view(error))
        return pages.go(f"/{kind.url_prefix}{owner}/{name}/settings#gate", "saved")

    return router
