"""Gated models and datasets: who asked for access, who is let in. Asking is one call too, for people without a browser."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from control_plane.accounts import gates, policy
from control_plane.api import views
from control_plane.api.deps import Hub, json_object, ok
from control_plane.community import notices
from control_plane.domain.accounts import Account, Action
from control_plane.domain.errors import Rejected
from control_plane.domain.gates import AccessRequest, Gate, RequestStatus
from control_plane.domain.spaces import RepoType
from control_plane.http.pagination import next_link, page_bounds

_FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")


class HandleBody(BaseModel):
    user: str | None = Field(default=None, max_length=96)
    requestId: str | None = Field(default=None, max_length=64)
    status: str = Field(max_length=40)
    rejectionReason: str | None = Field(default=None, max_length=2000)


class GrantBody(BaseModel):
    user: str = Field(max_length=96)


def router(hub: Hub) -> APIRouter:
    api = APIRouter(tags=["access requests"])
    services = hub.services
    base = "/api/{kind:kind}/{ns:seg}/{name:seg}/user-access-request"

    @api.get(base + "/{status:seg}")
    async def listing(request: Request, kind: str, ns: str, name: str, status: str) -> JSONResponse:
        _, repo = await hub.repo(request, kind, ns, name, Action.WRITE)
        wanted = _status(status)
        if repo.gate is Gate.OPEN:
            raise Rejected(f"{repo.type.value} {repo.full_name} is not gated, so nobody asks for access to it")
        limit, offset = page_bounds(request, default=100)
        async with services.uow.read() as uow:
            found = await uow.gates.of_repo(repo.id, wanted, limit=limit + 1, offset=offset)
            people = {f.user_id: await uow.accounts.get(f.user_id) for f in found[:limit]}
        rows = [request_json(f, people[f.user_id]) for f in found[:limit]]
        return ok(rows, next_link(request, offset + limit if len(found) > limit else None))

    @api.post(base + "/handle")
    async def handle(request: Request, kind: str, ns: str, name: str, body: HandleBody) -> JSONResponse:
        actor, repo = await hub.repo(request, kind, ns, name, Action.WRITE)
        if (body.user is None) == (body.requestId is None):
            raise Rejected("name the request by one of user and requestId")
        async with services.uow.write() as uow:
            decided = await gates.decide(
                uow, services.clock, actor, repo, _status(body.status),
                user=body.user or "", request_id=body.requestId or "", reason=body.rejectionReason or "",
            )  # fmt: skip
            if decided.status is not RequestStatus.PENDING:
                accepted, now = decided.status is RequestStatus.ACCEPTED, services.clock.now()
                await notices.of_decided(uow, services.signals, repo, decided.user_id, accepted=accepted, reason=decided.reason, at=now)
        return ok({"requestId": decided.id, "status": decided.status.value})

    @api.post(base + "/grant")
    async def grant(request: Request, kind: str, ns: str, name: str, body: GrantBody) -> JSONResponse:
        actor, repo = await hub.repo(request, kind, ns, name, Action.WRITE)
        async with services.uow.write() as uow:
            granted = await gates.grant(uow, services.clock, actor, repo, body.user)
        return ok({"requestId": granted.id, "status": granted.status.value})

    def add_ask(prefix: str, kind: RepoType) -> None:
        async def ask(request: Request, ns: str, name: str) -> JSONResponse:
            actor, repo = await hub.repo(request, kind.plural, ns, name, Action.READ_CODE)
            fields = await _fields(request)
            async with services.uow.write() as uow:
                made, is_new = await gates.ask(uow, services.clock, actor, repo, fields)
                if is_new and made.status is RequestStatus.PENDING:
                    await notices.of_asked(uow, services.signals, repo, policy.require_user(actor), made.at)
            return ok({"requestId": made.id, "status": made.status.value})

        api.add_api_route(f"{prefix}/{{ns:seg}}/{{name:seg}}/ask-access", ask, methods=["POST"], operation_id=f"{kind.plural}_ask_access")

    add_ask("/datasets", RepoType.DATASET)
    add_ask("", RepoType.MODEL)
    return api


def request_json(request: AccessRequest, user: Account | None) -> dict[str, Any]:
    body: dict[str, Any] = {"requestId": request.id, "id": request.id, "status": request.status.value, "timestamp": views.when(request.at)}
    if user is not None:
        body["user"] = {"user": user.name, "fullname": user.fullname or user.name, "type": "user"}
        # Whoever asks agrees to be known to the authors; whoever was let in unasked did not.
        if user.email and not request.is_granted:
            body["user"]["email"] = user.email
    if request.fields:
        body["fields"] = dict(request.fields)
    if request.reason:
        body["rejectionReason"] = request.reason
    return body


def _status(text: str) -> RequestStatus:
    if text not in set(RequestStatus):
        raise Rejected(f"status: '{text[:40]}' is not one of {', '.join(RequestStatus)}")
    return RequestStatus(text)


async def _fields(request: Request) -> dict[str, object]:
    """What the person filled in, as JSON or as a form."""
    if request.headers.get("content-type", "").startswith(_FORM_TYPES):
        form = await request.form(max_files=0, max_fields=30, max_part_size=1 << 16)
        return {key: value for key, value in form.items() if isinstance(value, str)}
    return await json_object(request, most=1 << 16)
