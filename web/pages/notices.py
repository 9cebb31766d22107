"""Notifications: the list, marking, and the stream of the bell."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request, Response

from web.page import Pages, page_route
from web.pages.account import signed_in
from web.pages.streams import ALIVE, event_bytes, primed


def notices_router(pages: Pages) -> APIRouter:
    router = APIRouter(route_class=page_route(pages), include_in_schema=False)
    backend = pages.backend

    @router.get("/notifications")
    async def listing(request: Request) -> Response:
        visit = signed_in(await pages.visit(request))
        show, page = request.query_params.get("show", ""), request.query_params.get("page", "1")
        number = max(1, int(page)) if page.isascii() and page.isdigit() and len(page) < 5 else 1
        view = await backend.notices(visit.actor, show == "unread", number)
        return pages.page(visit, "notices.html", view=view, show="unread" if show == "unread" else "")

    @router.post("/notifications/open")
    async def open_one(request: Request) -> Response:
        visit = signed_in(await pages.submitted(request))
        return pages.go(await backend.open_notice(visit.actor, visit.text("topic")[:100]))

    @router.post("/notifications/mark")
    async def mark(request: Request) -> Response:
        visit = signed_in(await pages.submitted(request))
        topic = visit.text("topic")[:100]
        await backend.mark_notices(visit.actor, [topic] if topic else None, visit.text("read") == "1")
        return pages.go("/notifications" + ("?show=unread" if visit.text("show") == "unread" else ""))

    @router.get("/-/notifications/events")
    async def events(request: Request) -> Response:
        visit = signed_in(await pages.visit(request))

        async def stream() -> AsyncIterator[bytes]:
            async for unread in backend.follow_notices(visit.actor):
                label = visit.t("Notifications, {n} unread", n=unread or 0)
                yield ALIVE if unread is None else event_bytes("unread", {"n": unread, "label": label})

        return await primed(stream())

    return router
