"""Notifications over the API: what the caller is told about, and marking it as read."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from control_plane.accounts import policy
from control_plane.api import views
from control_plane.api.deps import Hub, ok
from control_plane.community import discussions, notices
from control_plane.domain.accounts import Action, Actor
from control_plane.domain.errors import Rejected
from control_plane.domain.notices import Notice
from control_plane.http.addresses import base_url
from control_plane.http.pagination import flag
from control_plane.ports.stores import UnitOfWork

_PAGE = 50


class MarkBody(BaseModel):
    """`discussionIds`: the `id` of notifications; those about a discussion have the discussion's own."""

    discussionIds: list[str] = Field(default=[], max_length=500)
    read: bool = True


def router(hub: Hub) -> APIRouter:
    api = APIRouter(tags=["notifications"])
    services = hub.services

    async def shown(uow: UnitOfWork, actor: Actor, notice: Notice, base: str) -> dict[str, Any] | None:
        repo = await uow.repos.get(notice.repo_id)
        if repo is None or not policy.allowed(actor, Action.VIEW, repo):
            return None
        body: dict[str, Any] = {
            "id": notice.topic,
            "type": "repo",
            "kind": notice.kind.value,
            "read": notice.read_at is not None,
            "updatedAt": views.when(notice.at),
            "count": notice.count,
            "message": notice.words,
            "author": {"name": notice.actor} if notice.actor else None,
            "repo": {"type": repo.type.value, "name": repo.full_name},
        }
        if notice.number and (found := await discussions.find(uow, repo.id, notice.number)) is not None:
            body["discussion"] = {
                "id": notice.topic, "num": found.num, "title": found.title, "status": found.status, "isPullRequest": found.is_pull,
                "url": f"{base}/{repo.type.url_prefix}{repo.full_name}/discussions/{found.num}",
            }  # fmt: skip
        return body

    @api.get("/api/notifications")
    async def listing(request: Request) -> JSONResponse:
        """Newest first, 50 a page (`p`, from 0). `readStatus=unread` leaves out what was read."""
        actor, user = await hub.user(request)
        status, page = request.query_params.get("readStatus", "all"), request.query_params.get("p", "0")
        if status not in ("all", "unread"):
            raise Rejected(f"readStatus: '{status[:40]}' is not one of all, unread")
        start = int(page) * _PAGE if page.isascii() and page.isdigit() and len(page) < 6 else 0
        async with services.uow.read() as uow:
            found = await uow.notices.of_account(user.id, unread_only=status == "unread", limit=_PAGE, offset=start)
            rows = [await shown(uow, actor, notice, base_url(request)) for notice in found]
            unread, every = await uow.notices.count(user.id, unread_only=True), await uow.notices.count(user.id)
        count = {"view": unread if status == "unread" else every, "unread": unread, "all": every}
        return ok({"notifications": [row for row in rows if row], "count": count, "start": start})

    @api.post("/api/discussions/mark-as-read")
    async def mark(request: Request, body: MarkBody) -> JSONResponse:
        """Marks the named notifications, or all of them with `?applyToAll=true`, as read (or unread)."""
        _, user = await hub.user(request, write=True)
        everything = flag(request, "applyToAll")
        if not everything and not body.discussionIds:
            raise Rejected("discussionIds: name at least one notification, or ask with applyToAll=true")
        async with services.uow.write() as uow:
            at = services.clock.now() if body.read else None
            changed = await uow.notices.mark(user.id, at, None if everything else body.discussionIds)
            uow.after_commit(lambda: services.signals.notify(notices.TOPIC, user.id))
        return ok({"changed": changed})

    return api
