"""Gallery, repository lists, profiles: what strangers see first."""

from __future__ import annotations

from dataclasses import replace

from fastapi import APIRouter, Request, Response
from starlette.datastructures import QueryParams

from control_plane.domain.spaces import RepoType
from web import security
from web.page import Pages, page_route
from web.views import GalleryQuery

SORTS = ("trending", "created", "likes", "updated")
SDKS = ("gradio", "streamlit", "docker", "static")


def gallery_query(params: QueryParams) -> GalleryQuery:
    """The state of the gallery from its address. Whatever is not understood is left out."""
    return GalleryQuery(
        q=params.get("q", "").strip()[:200],
        sdk=tuple(s for s in SDKS if s in params.getlist("sdk")),
        hardware=tuple(h[:60] for h in params.getlist("hardware")[:20] if h),
        tag=tuple(t[:60] for t in params.getlist("tag")[:10] if t),
        owner=params.get("owner", "")[:96],
        running=params.get("running") == "1",
        sort=params.get("sort", "") if params.get("sort") in SORTS else "trending",
        page=page_number(params),
    )


def page_number(params: QueryParams) -> int:
    text = params.get("page", "1")
    return min(max(int(text), 1), 10_000) if text.isascii() and text.isdigit() and len(text) < 6 else 1


def state(query: GalleryQuery) -> dict[str, object]:
    """The same as address parameters, defaults left out."""
    return {
        "q": query.q, "sdk": query.sdk, "hardware": query.hardware, "tag": query.tag, "owner": query.owner,
        "running": "1" if query.running else "", "sort": "" if query.sort == "trending" else query.sort,
    }  # fmt: skip


def toggled(chosen: tuple[str, ...], key: str) -> tuple[str, ...]:
    return tuple(k for k in chosen if k != key) if key in chosen else (*chosen, key)


def gallery_router(pages: Pages) -> APIRouter:
    router = APIRouter(route_class=page_route(pages), include_in_schema=False)
    backend = pages.backend

    @router.get("/")
    @router.get("/spaces")
    async def gallery(request: Request) -> Response:
        visit = await pages.visit(request)
        query = gallery_query(request.query_params)
        found = await backend.gallery(visit.actor, query)
        described = state(query)
        return pages.page(
            visit, "gallery.html", gallery=found, gallery_query=query, state=described, toggled=toggled, find_text=query.q,
            is_filtered=bool(query.q or query.sdk or query.hardware or query.tag or query.owner or query.running),
        )  # fmt: skip

    async def repo_list(request: Request, kind: RepoType) -> Response:
        visit = await pages.visit(request)
        q, page = request.query_params.get("q", "").strip()[:200], page_number(request.query_params)
        sort = request.query_params.get("sort", "")
        sort = sort if sort in SORTS else "trending"
        rows, has_next = await backend.repo_list(visit.actor, kind, q, sort, page)
        return pages.page(visit, "repo_list.html", kind=kind.value, rows=rows, has_next=has_next, q=q, sort=sort, page=page)

    @router.get("/-/thumbnails/{space_id:seg}/{name:seg}")
    async def thumbnail(request: Request, space_id: str, name: str) -> Response:
        visit = await pages.visit(request)
        body = await backend.thumbnail(visit.actor, space_id)
        headers = {**security.RAW_HEADERS, "Cache-Control": "public, max-age=86400"}
        return Response(body, media_type="image/webp", headers=headers)

    @router.get("/models")
    async def models(request: Request) -> Response:
        return await repo_list(request, RepoType.MODEL)

    @router.get("/datasets")
    async def datasets(request: Request) -> Response:
        return await repo_list(request, RepoType.DATASET)

    return router


def profile_router(pages: Pages) -> APIRouter:
    """`/NS`: included last, because one free segment matches what nobody else took."""
    router = APIRouter(route_class=page_route(pages), include_in_schema=False)

    @router.get("/{owner:seg}")
    async def profile(request: Request, owner: str) -> Response:
        visit = await pages.visit(request)
        found = await pages.backend.profile(visit.actor, owner)
        found = replace(found, collections=await pages.backend.collections_of(visit.actor, found.name))
        return pages.page(visit, "profile.html", profile=found)

    return router
