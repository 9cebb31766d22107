"""The versions a Space can go back to, and the one call that does it. Nothing is built."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from control_plane.api import views
from control_plane.api.deps import Hub, ok
from control_plane.api.space_volumes import runtime_json
from control_plane.domain.accounts import Action
from control_plane.domain.errors import NotFound, Rejected
from control_plane.domain.spaces import Deployment, Space
from control_plane.spaces.versions import versions_of


class RollbackBody(BaseModel):
    """Which version: by its generation, or by its commit (the first digits are enough); without both the one before the current."""

    generation: int | None = Field(default=None, ge=1, le=1 << 31)
    revision: str = Field(default="", max_length=64, pattern="^([0-9a-f]{4,64})?$")


def router(hub: Hub) -> APIRouter:
    api = APIRouter(tags=["Spaces"])
    services = hub.services
    base = "/api/spaces/{ns:seg}/{name:seg}"

    async def kept(space: Space) -> tuple[Deployment, ...]:
        async with services.uow.read() as uow:
            return await versions_of(uow, space)

    @api.get(base + "/versions")
    async def versions(request: Request, ns: str, name: str) -> JSONResponse:
        """Newest first; the first one that was live is what a roll-back without a name would leave."""
        _, _, space = await hub.space(request, ns, name, Action.WRITE)
        return ok([_version(one, space) for one in await kept(space)])

    @api.post(base + "/rollback")
    async def rollback(request: Request, ns: str, name: str, body: RollbackBody) -> JSONResponse:
        actor, _, space = await hub.space(request, ns, name, Action.WRITE)
        found = _chosen(body, await kept(space), space)
        fresh = await services.actions.rollback(actor, space, found.generation)
        view = await services.actions.runtime_view(fresh)
        return ok(await runtime_json(hub, actor, fresh, view))

    return api


def _chosen(body: RollbackBody, versions: tuple[Deployment, ...], space: Space) -> Deployment:
    """Raises NotFound, or Rejected when there is nothing to go back to."""
    if body.generation is None and not body.revision:
        current = next((one for one in versions if one.generation == space.live_generation), None)
        earlier = [one for one in versions if current is None or one.artifact != current.artifact]
        if not earlier:
            raise Rejected("there is no earlier version of this Space to go back to", code="NoEarlierVersion")
        return earlier[0]
    for one in versions:
        if one.generation == body.generation or (body.revision and one.revision.startswith(body.revision)):
            return one
    have = ", ".join(f"{one.generation} ({one.revision[:7]})" for one in versions) or "none"
    raise NotFound(f"this version is not kept; there are: {have}")


def _version(one: Deployment, space: Space) -> dict[str, Any]:
    return {
        "generation": one.generation,
        "revision": one.revision,
        "createdAt": views.when(one.created_at),
        "cause": one.cause,
        "image": one.artifact.ref,
        "sizeBytes": one.artifact.size_bytes,
        "live": one.generation == space.live_generation,
    }
