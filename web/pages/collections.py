"""Collections: somebody's lists of Spaces, models and datasets."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from control_plane.domain.spaces import RepoType
from web.page import Pages, page_route
from web.pages.account import signed_in


def collections_router(pages: Pages) -> APIRouter:
    router = APIRouter(route_class=page_route(pages), include_in_schema=False)
    backend = pages.backend
    one = "/collections/{owner:seg}/{slug:seg}"

    @router.get(one)
    async def collection(request: Request, owner: str, slug: str) -> Response:
        visit = await pages.visit(request)
        return pages.page(visit, "collection.html", view=await backend.collection(visit.actor, owner, slug))

    @router.post(f"{one}/remove-item")
    async def remove_item(request: Request, owner: str, slug: str) -> Response:
        visit = signed_in(await pages.submitted(request))
        await backend.uncollect(visit.actor, owner, slug, visit.text("item"))
        return pages.go(f"/collections/{owner}/{slug}", "removed")

    @router.post(f"{one}/delete")
    async def delete(request: Request, owner: str, slug: str) -> Response:
        visit = signed_in(await pages.submitted(request))
        await backend.remove_collection(visit.actor, owner, slug)
        return pages.go(f"/{owner}", "deleted")

    @router.post("/spaces/{owner:seg}/{name:seg}/collect")
    async def collect(request: Request, owner: str, name: str) -> Response:
        visit = signed_in(await pages.submitted(request))
        into, title = visit.text("into"), visit.text("title")
        where = await backend.collect(visit.actor, RepoType.SPACE, owner, name, into, title)
        return pages.go(f"/collections/{where}", "collected")

    return router
