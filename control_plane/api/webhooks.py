"""The caller's webhooks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from control_plane.accounts.audit import record
from control_plane.api import webhook_delivery as hooks
from control_plane.api.deps import Hub, ok
from control_plane.api.webhook_delivery import Webhook
from control_plane.domain.accounts import Account, Actor
from control_plane.domain.errors import NotFound
from control_plane.domain.ids import new_id
from control_plane.ports.stores import UnitOfWork


class WatchedBody(BaseModel):
    type: str = Field(max_length=20)
    name: str = Field(max_length=200)


class WebhookBody(BaseModel):
    watched: list[WatchedBody] | None = Field(default=None, max_length=100)
    url: str | None = Field(default=None, max_length=2000)
    domains: list[str] | None = Field(default=None, max_length=10)
    secret: str | None = Field(default=None, max_length=1000)
    job: dict[str, Any] | None = None


def shown(hook: Webhook) -> dict[str, Any]:
    """A secret is never shown again; that there is one is."""
    return {
        "id": hook.id,
        "url": hook.url,
        "watched": [{"type": t, "name": n} for t, n in hook.watched],
        "domains": list(hook.domains),
        "disabled": hook.disabled,
        "secret": "••••" if hook.secret else None,
        "job": None,
    }


def router(hub: Hub) -> APIRouter:
    api = APIRouter(tags=["webhooks"])
    services = hub.services
    base = "/api/settings/webhooks"

    async def note(uow: UnitOfWork, actor: Actor, action: str, hook: Webhook, **facts: object) -> None:
        await record(uow, actor, action, f"webhook:{hook.id}", facts, services.clock.now())

    async def own(uow: UnitOfWork, user: Account, hook_id: str) -> Webhook:
        found = next((h for h in await hooks.of_user(uow, user) if h.id == hook_id), None)
        if found is None:
            raise NotFound("you have no webhook with this id")
        return found

    @api.get(base)
    async def listing(request: Request) -> JSONResponse:
        _, user = await hub.user(request)
        async with services.uow.read() as uow:
            return ok([shown(h) for h in await hooks.of_user(uow, user)])

    @api.post(base)
    async def create(request: Request, body: WebhookBody) -> JSONResponse:
        actor, user = await hub.user(request, write=True)
        url, watched, domains = hooks.checked(body.url or "", [(w.type, w.name) for w in body.watched or ()], body.domains)
        hook_id = new_id()
        hook = Webhook(hook_id, user.id, url, watched, domains, hub.deliveries.seal(hook_id, body.secret))
        async with services.uow.write() as uow:
            await hooks.check_room(uow, user)
            await hooks.save(uow, hook)
            await note(uow, actor, "webhook.add", hook, url=url, domains=domains)
        return ok({"webhook": shown(hook)})

    @api.get(base + "/{hook_id:seg}")
    async def get(request: Request, hook_id: str) -> JSONResponse:
        _, user = await hub.user(request)
        async with services.uow.read() as uow:
            return ok({"webhook": shown(await own(uow, user, hook_id))})

    @api.post(base + "/{hook_id:seg}")
    async def update(request: Request, hook_id: str, body: WebhookBody) -> JSONResponse:
        actor, user = await hub.user(request, write=True)
        async with services.uow.write() as uow:
            old = await own(uow, user, hook_id)
            pairs = [(w.type, w.name) for w in body.watched] if body.watched else list(old.watched)
            url, watched, domains = hooks.checked(body.url or old.url, pairs, body.domains or list(old.domains))
            secret = hub.deliveries.seal(hook_id, body.secret) if body.secret else old.secret
            changed = replace(old, url=url, watched=watched, domains=domains, secret=secret)
            await hooks.save(uow, changed)
            facts = {"before": {"url": old.url, "domains": old.domains}, "after": {"url": url, "domains": domains}}
            await note(uow, actor, "webhook.update", changed, **facts, new_secret=bool(body.secret))
        return ok({"webhook": shown(changed)})

    @api.delete(base + "/{hook_id:seg}")
    async def delete(request: Request, hook_id: str) -> JSONResponse:
        actor, user = await hub.user(request, write=True)
        async with services.uow.write() as uow:
            doomed = await own(uow, user, hook_id)
            await uow.documents.remove(hooks.KIND, doomed.id)
            await note(uow, actor, "webhook.remove", doomed, url=doomed.url)
        return ok({})

    @api.post(base + "/{hook_id:seg}/enable")
    async def enable(request: Request, hook_id: str) -> JSONResponse:
        return await _switch(request, hook_id, disabled=False)

    @api.post(base + "/{hook_id:seg}/disable")
    async def disable(request: Request, hook_id: str) -> JSONResponse:
        return await _switch(request, hook_id, disabled=True)

    async def _switch(request: Request, hook_id: str, *, disabled: bool) -> JSONResponse:
        actor, user = await hub.user(request, write=True)
        async with services.uow.write() as uow:
            old = await own(uow, user, hook_id)
            changed = replace(old, disabled=disabled)
            await hooks.save(uow, changed)
            await note(uow, actor, "webhook.disable" if disabled else "webhook.enable", changed, before=old.disabled, after=disabled)
        return ok({"webhook": shown(changed)})

    return api
