"""Spaces and builds for operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from control_plane.accounts import people
from control_plane.accounts.metering import meter_ended_build
from control_plane.domain.errors import NotFound
from control_plane.domain.ids import BuildId, RepoId, SpaceId
from control_plane.domain.repo_query import RepoQuery
from control_plane.domain.spaces import Build, Repo, RepoType, Space
from control_plane.http.long_work import Tell, follow
from control_plane.ports.space_actions import RuntimeView
from control_plane.ports.stores import UnitOfWork

if TYPE_CHECKING:
    from control_plane.api.admin import Door

_PAGE = 500


def _when(moment: Any) -> str | None:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}" if moment else None


def _space_json(repo: Repo, space: Space, view: RuntimeView | None) -> dict[str, Any]:
    return {
        "id": repo.id,
        "name": repo.full_name,
        "visibility": repo.visibility.value,
        "sdk": space.sdk.value,
        "stage": view.stage.value if view else None,
        "reason": view.reason.value if view and view.reason else None,
        "message": view.message if view else "",
        "hardware": space.hardware,
        "current_hardware": view.current_hardware if view else None,
        "replicas": view.current_replicas if view else 0,
        "subdomain": space.subdomain,
        "suspended": space.suspended,
        "storage_bytes": repo.storage_bytes,
        "revision": repo.head,
        "last_used_at": _when(space.last_used_at),
        "created_at": _when(repo.created_at),
    }


def _build_json(build: Build, name: str) -> dict[str, Any]:
    return {
        "id": build.id,
        "space": name,
        "revision": build.revision,
        "status": build.status.value,
        "phase": build.phase.value if build.phase else None,
        "attempt": build.attempt,
        "reason": build.reason.value if build.reason else None,
        "message": build.message,
        "worker": build.worker,
        "created_at": _when(build.created_at),
        "started_at": _when(build.started_at),
        "finished_at": _when(build.finished_at),
    }


async def _find(work: UnitOfWork, ns: str, name: str) -> tuple[Repo, Space]:
    repo = await work.repos.by_name(RepoType.SPACE, ns, name)
    space = await work.spaces.get(SpaceId(repo.id)) if repo else None
    if repo is None or space is None:
        raise NotFound(f"there is no Space '{ns}/{name}'"[:250])
    return repo, space


def routes(api: APIRouter, door: Door) -> None:
    services, uow = door.services, door.services.uow

    @api.get("/spaces")
    async def list_spaces(request: Request, owner: str | None = None, limit: int = 1000, offset: int = 0) -> JSONResponse:
        await door.admin(request)
        limit, offset = max(1, min(limit, 10_000)), max(0, offset)
        async with uow.read() as work:
            account = await people.find_account(work, owner) if owner is not None else None
            query = RepoQuery(RepoType.SPACE, see_all=True, owner=account.name if account else None)
            repos = await work.repos.list(query, sort="created", limit=limit, offset=offset)
            spaces = {space.id: space for space in await work.spaces.get_many([r.id for r in repos])}
            total = await work.repos.count(RepoType.SPACE, owner_id=account.id if account else None)
        views: dict[str, RuntimeView] = {}
        found = list(spaces.values())
        for start in range(0, len(found), _PAGE):
            views |= await services.actions.runtime_views(found[start : start + _PAGE])
        rows = [_space_json(r, spaces[SpaceId(r.id)], views.get(r.id)) for r in repos if SpaceId(r.id) in spaces]
        return JSONResponse({"items": rows, "total": total})

    @api.get("/spaces/{ns:seg}/{name:seg}")
    async def show_space(request: Request, ns: str, name: str) -> dict[str, Any]:
        await door.admin(request)
        async with uow.read() as work:
            repo, space = await _find(work, ns, name)
            builds = await work.builds.of_space(space.id, limit=5)
        view = await services.actions.runtime_view(space)
        return {**_space_json(repo, space, view), "builds": [_build_json(b, repo.full_name) for b in builds]}

    @api.post("/spaces/{ns:seg}/{name:seg}/{verb}")
    async def act_on_space(
        request: Request, ns: str, name: str, verb: Literal["pause", "restart"], factory: bool = False
    ) -> dict[str, Any]:
        actor = await door.admin(request)
        async with uow.read() as work:
            repo, space = await _find(work, ns, name)
        actions = services.actions
        changed = await (actions.pause(actor, space) if verb == "pause" else actions.restart(actor, space, factory=factory))
        return _space_json(repo, changed, await actions.runtime_view(changed))

    @api.delete("/spaces/{ns:seg}/{name:seg}")
    async def remove_space(request: Request, ns: str, name: str) -> Response:
        actor = await door.admin(request)
        async with uow.read() as work:
            repo, space = await _find(work, ns, name)

        async def remove(tell: Tell) -> dict[str, Any]:
            tell("deleting files", 0, None)
            await services.actions.delete_repo(actor, repo)
            return _space_json(repo, space, None)

        return await follow(request, remove)

    @api.get("/builds")
    async def list_builds(request: Request, space: str | None = None, limit: int = 100) -> JSONResponse:
        """Open builds, oldest first; of one Space, all its builds, newest first."""
        await door.admin(request)
        async with uow.read() as work:
            if space is not None:
                ns, _, name = space.partition("/")
                repo, found_space = await _find(work, ns, name)
                found = [(b, repo.full_name) for b in await work.builds.of_space(found_space.id, limit=max(1, min(limit, 1000)))]
            else:
                found = []
                for build in await work.builds.open():
                    its_repo = await work.repos.get(RepoId(build.space_id))
                    found.append((build, its_repo.full_name if its_repo else build.space_id))
        return JSONResponse({"items": [_build_json(build, name) for build, name in found]})

    @api.post("/builds/{build_id:seg}/cancel")
    async def cancel(request: Request, build_id: str) -> dict[str, Any]:
        """Its worker stops at its next report. Cancelling what has ended changes nothing."""
        from control_plane.builds.record import cancel_build

        actor = await door.admin(request)
        build = await cancel_build(
            uow, services.clock, services.signals, BuildId(build_id), by=actor.name, address=actor.address, meter=meter_ended_build
        )
        async with uow.read() as work:
            repo = await work.repos.get(RepoId(build.space_id))
        return _build_json(build, repo.full_name if repo else build.space_id)
