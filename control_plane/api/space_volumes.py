"""Repositories that a Space mounts, as the Hub's clients set and read them; and the door at which a pod fetches them.

The list is one value: `PUT` replaces it, `DELETE` empties it, both answer with the runtime. A change restarts the Space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, StreamingResponse

from control_plane.accounts.mounting import granted, may_mount, shown
from control_plane.api import views
from control_plane.api.deps import Hub, ok
from control_plane.domain.accounts import Action, Actor
from control_plane.domain.errors import NotFound, Rejected
from control_plane.domain.ids import ReplicaId, RepoId, Sha
from control_plane.domain.repo_volumes import MAX_VOLUMES, parse_orders
from control_plane.domain.spaces import RepoVolume, Sdk, Space
from control_plane.git.volume_links import VolumeLinks
from control_plane.ports.space_actions import RuntimeView

_LIST = 10 * MAX_VOLUMES  # longer ones are not even looked at


class VolumeBody(BaseModel):
    """`readOnly` is taken and not heeded: repositories are always mounted read-only."""

    model_config = ConfigDict(extra="ignore")

    type: str = Field(max_length=40)
    source: str = Field(max_length=400)
    mountPath: str = Field(max_length=400)
    revision: str | None = Field(default=None, max_length=400)
    readOnly: bool | None = None
    path: str | None = Field(default=None, max_length=2000)


class VolumesBody(BaseModel):
    volumes: list[VolumeBody] = Field(max_length=_LIST)


async def ordered(hub: Hub, actor: Actor, bodies: Sequence[VolumeBody] | None, *, is_static: bool = False) -> tuple[RepoVolume, ...]:
    """What a body asks for, with the caller's right to each repository checked."""
    orders = parse_orders([body.model_dump() for body in bodies or ()])
    if orders and is_static:
        raise Rejected("a static Space runs nothing, so nothing can be mounted in it")
    return await granted(hub.services.uow, hub.services.git, actor, orders)


async def runtime_json(hub: Hub, actor: Actor, space: Space, view: RuntimeView) -> dict[str, Any]:
    """The runtime object for this caller: names of repositories that they may not see are hidden."""
    told: list[dict[str, object]] = []
    if view.volumes:
        async with hub.services.uow.read() as uow:
            told = [one.wire() for one in await shown(uow, actor, view.volumes)]
    return views.runtime_json(view, hub.app_url(space.subdomain).partition("//")[2], hub.services.catalog, told)


def router(hub: Hub) -> APIRouter:
    api = APIRouter(tags=["Spaces"])
    services = hub.services
    base = "/api/spaces/{ns:seg}/{name:seg}"
    links = VolumeLinks(services.signing_key)

    async def runtime_of(actor: Actor, space: Space) -> JSONResponse:
        return ok(await runtime_json(hub, actor, space, await services.actions.runtime_view(space)))

    @api.put(base + "/volumes")
    async def put_volumes(request: Request, ns: str, name: str, body: VolumesBody) -> JSONResponse:
        actor, _, space = await hub.space(request, ns, name, Action.WRITE)
        volumes = await ordered(hub, actor, body.volumes, is_static=space.sdk is Sdk.STATIC)
        return await runtime_of(actor, await services.actions.set_volumes(actor, space, volumes))

    @api.delete(base + "/volumes")
    async def delete_volumes(request: Request, ns: str, name: str) -> JSONResponse:
        actor, repo, space = await hub.space(request, ns, name, Action.WRITE)
        if not space.volumes:
            raise Rejected(f"{repo.full_name} has no volumes")
        return await runtime_of(actor, await services.actions.set_volumes(actor, space, ()))

    @api.get("/api/volumes/{replica}/{number:int}", include_in_schema=False)
    async def content(request: Request, replica: str, number: int) -> StreamingResponse:
        """One volume of one replica as a tar stream, for the machine that runs it. The right is asked again each time."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        links.check(replica[:64], number, token)
        gone = NotFound("this replica does not run any more, or may not have this volume now")
        async with services.uow.read() as uow:
            known = await uow.deployments.replica(ReplicaId(replica))
            deployment = await uow.deployments.get(known.space_id, known.generation) if known and not known.state.is_terminal else None
            repo = await uow.repos.get(RepoId(deployment.space_id)) if deployment else None
            if deployment is None or repo is None or number >= len(deployment.volumes):
                raise gone
            volume = deployment.volumes[number]
            if not volume.oid or not await may_mount(uow, repo, volume):
                raise gone
        stream = services.repo_trees.tar(volume.repo_id, Sha(volume.commit), volume.path)
        return StreamingResponse(stream, media_type="application/x-tar", headers={"Cache-Control": "no-store"})

    return api
