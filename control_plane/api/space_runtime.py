"""A Space's runtime and everything an owner may do to it."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from control_plane.api import views
from control_plane.api.deps import Hub, ok
from control_plane.api.repos import SettingBody
from control_plane.api.space_volumes import runtime_json
from control_plane.domain.accounts import Action, Actor
from control_plane.domain.errors import Rejected
from control_plane.domain.spaces import Sdk, Space
from control_plane.http.pagination import flag


class HardwareBody(BaseModel):
    flavor: str = Field(max_length=96)
    sleepTimeSeconds: int | None = Field(default=None, ge=-1, le=10**9)


class SleepBody(BaseModel):
    seconds: int = Field(ge=-1, le=10**9)


class ReplicasBody(BaseModel):
    replicas: int = Field(ge=0, le=1000)


class KeyBody(BaseModel):
    key: str = Field(max_length=256)


class DevModeBody(BaseModel):
    enabled: bool


class StorageBody(BaseModel):
    tier: str = Field(max_length=40)


def router(hub: Hub) -> APIRouter:
    api = APIRouter(tags=["Spaces"])
    services = hub.services
    base = "/api/spaces/{ns:seg}/{name:seg}"

    async def runtime_of(actor: Actor, space: Space) -> JSONResponse:
        return ok(await runtime_json(hub, actor, space, await services.actions.runtime_view(space)))

    @api.get("/api/spaces/hardware")
    async def hardware_list(request: Request) -> JSONResponse:
        await hub.actor(request)
        return ok([views.flavor_json(f) for f in services.catalog.flavors])

    @api.get("/api/spaces/zero-gpu/quota")
    async def zero_gpu_quota(request: Request) -> JSONResponse:
        """No shared GPUs here: nothing granted, nothing used."""
        await hub.user(request)
        return ok({"base": 0, "current": 0, "overquotaUsed": 0})

    @api.get(base + "/runtime")
    async def runtime(request: Request, ns: str, name: str) -> JSONResponse:
        actor, _, space = await hub.space(request, ns, name, Action.VIEW)
        return await runtime_of(actor, space)

    @api.post(base + "/hardware")
    async def hardware(request: Request, ns: str, name: str, body: HardwareBody) -> JSONResponse:
        actor, _, space = await hub.space(request, ns, name, Action.WRITE)
        return await runtime_of(actor, await services.actions.request_hardware(actor, space, body.flavor, body.sleepTimeSeconds))

    @api.post(base + "/sleeptime")
    async def sleep_time(request: Request, ns: str, name: str, body: SleepBody) -> JSONResponse:
        actor, _, space = await hub.space(request, ns, name, Action.WRITE)
        return await runtime_of(actor, await services.actions.set_sleep_time(actor, space, body.seconds))

    @api.post(base + "/pause")
    async def pause(request: Request, ns: str, name: str) -> JSONResponse:
        actor, _, space = await hub.space(request, ns, name, Action.WRITE)
        if space.sdk is Sdk.STATIC:
            raise Rejected("a static Space runs nothing, so it cannot be paused; make it private instead")
        return await runtime_of(actor, await services.actions.pause(actor, space))

    @api.post(base + "/restart")
    async def restart(request: Request, ns: str, name: str) -> JSONResponse:
        actor, _, space = await hub.space(request, ns, name, Action.WRITE)
        return await runtime_of(actor, await services.actions.restart(actor, space, factory=flag(request, "factory")))

    @api.post(base + "/replicas")
    async def replicas(request: Request, ns: str, name: str, body: ReplicasBody) -> JSONResponse:
        actor, _, space = await hub.space(request, ns, name, Action.WRITE)
        return await runtime_of(actor, await services.actions.set_replicas(actor, space, body.replicas))

    @api.post(base + "/dev-mode")
    async def dev_mode(request: Request, ns: str, name: str, body: DevModeBody) -> JSONResponse:
        actor, _, space = await hub.space(request, ns, name, Action.WRITE)
        if body.enabled:
            raise Rejected(
                "dev mode is not offered on this platform; push commits instead, a code-only change is live in seconds", code="NotSupported"
            )
        return await runtime_of(actor, space)

    @api.post(base + "/storage")
    async def storage(request: Request, ns: str, name: str, body: StorageBody) -> JSONResponse:
        actor, _, space = await hub.space(request, ns, name, Action.WRITE)
        return await runtime_of(actor, await services.actions.request_storage(actor, space, body.tier))

    @api.delete(base + "/storage")
    async def delete_storage(request: Request, ns: str, name: str) -> JSONResponse:
        actor, _, space = await hub.space(request, ns, name, Action.WRITE)
        return await runtime_of(actor, await services.actions.delete_storage(actor, space))

    @api.get(base + "/secrets")
    async def secrets(request: Request, ns: str, name: str) -> JSONResponse:
        """Names and descriptions only; a value never comes back."""
        _, _, space = await hub.space(request, ns, name, Action.WRITE)
        async with services.uow.read() as uow:
            rows = [s for s in await uow.spaces.settings(space.id) if s.is_secret]
        return ok({s.key: {"key": s.key, "description": s.description, "updatedAt": views.when(s.updated_at)} for s in rows})

    @api.post(base + "/secrets")
    async def put_secret(request: Request, ns: str, name: str, body: SettingBody) -> JSONResponse:
        actor, _, space = await hub.space(request, ns, name, Action.WRITE)
        await services.actions.put_secret(actor, space, body.order())
        return ok({})

    @api.delete(base + "/secrets")
    async def delete_secret(request: Request, ns: str, name: str, body: KeyBody) -> JSONResponse:
        actor, _, space = await hub.space(request, ns, name, Action.WRITE)
        await services.actions.delete_secret(actor, space, body.key)
        return ok({})

    async def variables_of(space: Space) -> JSONResponse:
        async with services.uow.read() as uow:
            rows = [s for s in await uow.spaces.settings(space.id) if not s.is_secret]
        return ok(
            {s.key: {"key": s.key, "value": s.value, "description": s.description, "updatedAt": views.when(s.updated_at)} for s in rows}
        )

    @api.get(base + "/variables")
    async def variables(request: Request, ns: str, name: str) -> JSONResponse:
        _, _, space = await hub.space(request, ns, name, Action.WRITE)
        return await variables_of(space)

    @api.post(base + "/variables")
    async def put_variable(request: Request, ns: str, name: str, body: SettingBody) -> JSONResponse:
        actor, _, space = await hub.space(request, ns, name, Action.WRITE)
        await services.actions.put_variable(actor, space, body.order())
        return await variables_of(space)

    @api.delete(base + "/variables")
    async def delete_variable(request: Request, ns: str, name: str, body: KeyBody) -> JSONResponse:
        actor, _, space = await hub.space(request, ns, name, Action.WRITE)
        await services.actions.delete_variable(actor, space, body.key)
        return await variables_of(space)

    return api
