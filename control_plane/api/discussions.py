"""Discussions and pull requests over the API, including the merge."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from control_plane.accounts import policy
from control_plane.api.deps import Hub, ok
from control_plane.community import discussions
from control_plane.community.discussions import Discussion, Event
from control_plane.community.pulls import MAIN, PullRequests
from control_plane.domain.accounts import Action, Actor
from control_plane.domain.errors import Forbidden
from control_plane.domain.spaces import Repo
from control_plane.http.addresses import base_url
from control_plane.http.pagination import flag

_PAGE = 50


class OpenBody(BaseModel):
    title: str = Field(max_length=2000)
    description: str | None = Field(default="", max_length=65_536)
    pullRequest: bool = False


class CommentBody(BaseModel):
    comment: str = Field(max_length=65_536)


class TitleBody(BaseModel):
    title: str = Field(max_length=2000)


class StatusBody(BaseModel):
    status: str = Field(max_length=40)
    comment: str | None = Field(default=None, max_length=65_536)


class MergeBody(BaseModel):
    comment: str | None = Field(default=None, max_length=65_536)


class EditBody(BaseModel):
    content: str = Field(max_length=65_536)


def summary(repo: Repo, item: Discussion, base: str) -> dict[str, Any]:
    return {
        "num": item.num,
        "title": item.title,
        "status": item.status,
        "isPullRequest": item.is_pull,
        "createdAt": item.created_at,
        "author": {"name": item.author, "type": "user"},
        "repo": {"name": repo.full_name, "type": repo.type.value},
        "numComments": sum(1 for e in item.events if e.type == "comment"),
        "url": f"{base}/{repo.type.url_prefix}{repo.full_name}/discussions/{item.num}",
    }


def event_json(event: Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "type": event.type,
        "createdAt": event.created_at,
        "author": {"name": event.author, "type": "user"},
        "data": event.data,
    }


def router(hub: Hub) -> APIRouter:
    api = APIRouter(tags=["discussions"])
    services = hub.services
    desk = discussions.Desk(services.uow, services.clock, services.git, services.signals)
    pulls = PullRequests(desk, services.actions)
    base = "/api/{kind:kind}/{ns:seg}/{name:seg}/discussions"

    async def readable(request: Request, kind: str, ns: str, name: str) -> tuple[Actor, Repo]:
        return await hub.repo(request, kind, ns, name, Action.READ_CODE)

    async def speaker(request: Request, kind: str, ns: str, name: str) -> tuple[Actor, Repo]:
        actor, repo = await hub.repo(request, kind, ns, name, Action.DISCUSS)
        if repo.discussions_disabled:
            raise Forbidden("Discussions are disabled in this repository.")
        policy.require_user(actor)
        return actor, repo

    async def item(repo: Repo, num: int) -> Discussion:
        async with services.uow.read() as uow:
            return await discussions.need(uow, repo.id, num)

    async def may_change(actor: Actor, repo: Repo, author: str) -> None:
        if not (actor.user and actor.user.name == author) and not policy.allowed(actor, Action.WRITE, repo):
            raise Forbidden("only its author and people with write rights may change this")

    @api.head(base)
    async def enabled(request: Request, kind: str, ns: str, name: str) -> Response:
        _, repo = await readable(request, kind, ns, name)
        if repo.discussions_disabled:
            raise Forbidden("Discussions are disabled in this repository.")
        return Response(status_code=200)

    @api.get(base)
    async def listing(request: Request, kind: str, ns: str, name: str) -> JSONResponse:
        _, repo = await readable(request, kind, ns, name)
        params = request.query_params
        kind_of, status, author = params.get("type", "all"), params.get("status", "all"), params.get("author")
        page = params.get("p", "0")
        start = int(page) * _PAGE if page.isascii() and page.isdigit() and len(page) < 7 else 0
        async with services.uow.read() as uow:
            rows = await discussions.of_repo(uow, repo.id)
        rows = [
            r
            for r in rows
            if kind_of not in ("discussion", "pull_request") or r.is_pull == (kind_of == "pull_request")
            if status == "all" or (r.status in ("open", "draft")) == (status == "open")
            if not author or r.author.lower() == author.lower()
        ]
        here = base_url(request)
        return ok({"discussions": [summary(repo, r, here) for r in rows[start : start + _PAGE]], "count": len(rows), "start": start})

    @api.post(base)
    async def open_one(request: Request, kind: str, ns: str, name: str, body: OpenBody) -> JSONResponse:
        actor, repo = await speaker(request, kind, ns, name)
        title = discussions.checked_title(body.title)
        if body.pullRequest:
            made = await desk.open_pull(repo, actor, title, body.description or "", await hub.resolve(repo, "main"))
        else:
            made = await desk.open(repo, actor, title, body.description or "")
        await hub.deliveries.discussion(repo, made, "create")
        return ok(summary(repo, made, base_url(request)))

    @api.get(base + "/{num:int}")
    async def details(request: Request, kind: str, ns: str, name: str, num: int) -> JSONResponse:
        actor, repo = await readable(request, kind, ns, name)
        found = await item(repo, num)
        body = summary(repo, found, base_url(request)) | {"events": [event_json(e) for e in found.events]}
        if found.is_pull:
            body["changes"] = {"base": MAIN, "mergeCommitId": found.merge_commit or None}
            body["filesWithConflicts"] = (await pulls.plan(repo, found))[1] if found.status != "merged" else []
            if flag(request, "diff") and await hub.reads_files(actor, repo):
                body["diff"] = await pulls.diff(repo, found)
        return ok(body)

    @api.post(base + "/{num:int}/merge")
    async def merge(request: Request, kind: str, ns: str, name: str, num: int, body: MergeBody | None = None) -> JSONResponse:
        """Brings the changes of a pull request onto main as one commit."""
        actor, repo = await hub.repo(request, kind, ns, name, Action.WRITE)
        done = await pulls.merge(actor, policy.require_user(actor), repo, num, (body.comment if body else None) or "")
        if done.commit != done.before:
            await hub.deliveries.content(repo, MAIN, done.before, done.commit)
        await hub.deliveries.discussion(repo, done.pull, "update")
        return ok({"mergeCommitId": done.commit})

    @api.post(base + "/{num:int}/comment")
    async def comment(request: Request, kind: str, ns: str, name: str, num: int, body: CommentBody) -> JSONResponse:
        actor, repo = await speaker(request, kind, ns, name)
        found, event = await desk.comment(repo, num, actor, body.comment)
        await hub.deliveries.discussion(repo, found, "create", event)
        return ok({"newMessage": event_json(event)})

    @api.post(base + "/{num:int}/title")
    async def title(request: Request, kind: str, ns: str, name: str, num: int, body: TitleBody) -> JSONResponse:
        actor, repo = await speaker(request, kind, ns, name)
        await may_change(actor, repo, (await item(repo, num)).author)
        found, event = await desk.rename(repo, num, actor, body.title)
        await hub.deliveries.discussion(repo, found, "update")
        return ok({"newTitle": event_json(event)})

    @api.post(base + "/{num:int}/status")
    async def status(request: Request, kind: str, ns: str, name: str, num: int, body: StatusBody) -> JSONResponse:
        actor, repo = await speaker(request, kind, ns, name)
        await may_change(actor, repo, (await item(repo, num)).author)
        found, event = await desk.set_status(repo, num, actor, body.status, body.comment or "")
        await hub.deliveries.discussion(repo, found, "update")
        return ok({"newStatus": event_json(event)})

    @api.post(base + "/{num:int}/comment/{event_id:seg}/edit")
    async def edit(request: Request, kind: str, ns: str, name: str, num: int, event_id: str, body: EditBody) -> JSONResponse:
        actor, repo = await speaker(request, kind, ns, name)
        written = next((e for e in (await item(repo, num)).events if e.id == event_id), None)
        if written is not None and (actor.user is None or actor.user.name != written.author):
            raise Forbidden("only its author may edit a comment")
        return ok({"updatedComment": event_json(await desk.change_comment(repo, num, actor, event_id, body.content))})

    @api.post(base + "/{num:int}/comment/{event_id:seg}/hide")
    async def hide(request: Request, kind: str, ns: str, name: str, num: int, event_id: str) -> JSONResponse:
        actor, repo = await speaker(request, kind, ns, name)
        written = next((e for e in (await item(repo, num)).events if e.id == event_id), None)
        if written is not None:
            await may_change(actor, repo, written.author)
        return ok({"updatedComment": event_json(await desk.change_comment(repo, num, actor, event_id, None))})

    return api
