"""Organisations: a new one, its members and their roles."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import quote

from fastapi import APIRouter, Request, Response

from control_plane.domain.errors import Forbidden, NotFound, Rejected, VitrineError
from control_plane.http.error_map import status_of
from web.page import Pages, Visit, error_view, page_route
from web.pages.account import signed_in

Change = Callable[[Visit, str], Awaitable[None]]


def orgs_router(pages: Pages) -> APIRouter:
    router = APIRouter(route_class=page_route(pages), include_in_schema=False)
    backend = pages.backend
    one = "/organizations/{name:seg}/settings"

    def form(visit: Visit, error: VitrineError | None = None) -> Response:
        status = status_of(error, anonymous=False) if error else 200
        values = {"name": visit.text("name")[:96], "fullname": visit.text("fullname")[:200]}
        return pages.page(
            visit, "org_new.html", status=status, form=values, may=backend.may_make_org(visit.actor),
            error=error_view(error) if error else None,
        )  # fmt: skip

    @router.get("/organizations/new")
    async def new(request: Request) -> Response:
        return form(signed_in(await pages.visit(request)))

    @router.post("/organizations/new")
    async def create(request: Request) -> Response:
        visit = signed_in(await pages.submitted(request))
        try:
            name = await backend.create_org(visit.actor, visit.text("name"), visit.text("fullname"))
        except (Rejected, Forbidden) as error:
            return form(visit, error)
        return pages.go(f"/organizations/{quote(name)}/settings", "org")

    async def show(visit: Visit, name: str, error: VitrineError | None = None) -> Response:
        view = await backend.org(visit.actor, name)
        status = status_of(error, anonymous=False) if error else 200
        return pages.page(visit, "org.html", status=status, view=view, error=error_view(error) if error else None)

    @router.get(one)
    async def settings(request: Request, name: str) -> Response:
        return await show(signed_in(await pages.visit(request)), name)

    async def rename(visit: Visit, name: str) -> None:
        await backend.rename_org(visit.actor, name, visit.text("fullname"))

    async def member(visit: Visit, name: str) -> None:
        await backend.set_org_member(visit.actor, name, visit.text("user"), visit.text("role"))

    async def remove(visit: Visit, name: str) -> None:
        await backend.remove_org_member(visit.actor, name, visit.text("user"))

    def add(word: str, change: Change) -> None:
        @router.post(f"{one}/{word}")
        async def changed(request: Request, name: str) -> Response:
            visit = signed_in(await pages.submitted(request))
            try:
                await change(visit, name)
            except (Rejected, NotFound) as error:
                return await show(visit, name, error)
            if visit.text("user").lower() == visit.viewer.name.lower() and word == "remove":
                return pages.go(f"/{quote(name)}", "left")
            return pages.go(f"/organizations/{quote(name)}/settings", "saved")

    for word, change in (("name", rename), ("member", member), ("remove", remove)):
        add(word, change)
    return router
