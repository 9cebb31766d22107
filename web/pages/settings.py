"""Settings of a Space and of other repositories: every button is one POST, one change, one redirect."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response

from control_plane.domain.errors import Rejected, VitrineError
from control_plane.domain.spaces import RepoType
from control_plane.http.error_map import status_of
from web.page import Pages, Visit, error_view, page_route
from web.pages.account import signed_in

Change = Callable[[Visit, str, str], Awaitable[str]]


def settings_router(pages: Pages) -> APIRouter:
    router = APIRouter(route_class=page_route(pages), include_in_schema=False)
    backend = pages.backend
    base = "/spaces/{owner:seg}/{name:seg}/settings"

    async def show(visit: Visit, owner: str, name: str, error: VitrineError | None = None) -> Response:
        view = await backend.settings(visit.actor, owner, name)
        space = await backend.space(visit.actor, owner, name)
        status = status_of(error, anonymous=False) if error else 200
        return pages.page(visit, "settings.html", status=status, space=space, view=view, error=error_view(error) if error else None)

    @router.get(base)
    async def settings(request: Request, owner: str, name: str) -> Response:
        return await show(signed_in(await pages.visit(request)), owner, name)

    async def hardware(visit: Visit, owner: str, name: str) -> str:
        await backend.set_hardware(visit.actor, owner, name, visit.text("flavor"))
        return "settings?done=hardware#hardware"

    async def sleep(visit: Visit, owner: str, name: str) -> str:
        text = visit.text("seconds")
        if not text.removeprefix("-").isdigit() or len(text) > 9:
            raise Rejected("the sleep time is a number of seconds, or -1 for never")
        seconds = int(text)
        await backend.set_sleep(visit.actor, owner, name, None if seconds < 0 else seconds)
        return "settings?done=sleep#sleep"

    async def replicas(visit: Visit, owner: str, name: str) -> str:
        text = visit.text("replicas")
        if not (text.isascii() and text.isdigit() and len(text) < 4):
            raise Rejected("the number of replicas is a whole number")
        await backend.set_replicas(visit.actor, owner, name, int(text))
        return "settings?done=replicas#replicas"

    async def storage(visit: Visit, owner: str, name: str) -> str:
        await backend.request_storage(visit.actor, owner, name, visit.text("tier"))
        return "settings?done=storage#storage"

    async def storage_remove(visit: Visit, owner: str, name: str) -> str:
        if visit.text("confirm").lower() != f"{owner}/{name}".lower():
            raise Rejected(f"Nothing was deleted: type {owner}/{name} to confirm.")
        await backend.delete_storage(visit.actor, owner, name)
        return "settings?done=storage-removed#storage"

    async def volume(visit: Visit, owner: str, name: str) -> str:
        asked = (visit.text(key) for key in ("type", "source", "mount_path", "revision", "path"))
        await backend.add_volume(visit.actor, owner, name, *asked)
        return "settings?done=volume#volumes"

    async def volume_remove(visit: Visit, owner: str, name: str) -> str:
        await backend.remove_volume(visit.actor, owner, name, visit.text("mount_path"))
        return "settings?done=volume-removed#volumes"

    async def put(visit: Visit, owner: str, name: str, *, secret: bool) -> str:
        value = visit.form.get("value")
        kind = "secret" if secret else "variable"
        await backend.put_setting(
            visit.actor,
            owner,
            name,
            visit.text("key"),
            value if isinstance(value, str) else "",
            visit.text("description")[:500],
            secret=secret,
        )
        return f"settings?done={kind}#{kind}s"

    async def variable(visit: Visit, owner: str, name: str) -> str:
        return await put(visit, owner, name, secret=False)

    async def secret(visit: Visit, owner: str, name: str) -> str:
        return await put(visit, owner, name, secret=True)

    async def variable_remove(visit: Visit, owner: str, name: str) -> str:
        await backend.remove_setting(visit.actor, owner, name, visit.text("key"), secret=False)
        return "settings?done=removed#variables"

    async def secret_remove(visit: Visit, owner: str, name: str) -> str:
        await backend.remove_setting(visit.actor, owner, name, visit.text("key"), secret=True)
        return "settings?done=removed#secrets"

    async def pause(visit: Visit, owner: str, name: str) -> str:
        await backend.pause(visit.actor, owner, name)
        return "?done=paused"

    async def restart(visit: Visit, owner: str, name: str) -> str:
        await backend.restart(visit.actor, owner, name, factory=False)
        return "?done=restarted"

    async def rebuild(visit: Visit, owner: str, name: str) -> str:
        await backend.restart(visit.actor, owner, name, factory=True)
        return "?done=rebuild"

    async def deploy(visit: Visit, owner: str, name: str) -> str:
        await backend.deploy_revision(visit.actor, owner, name, visit.text("revision"))
        return "?done=deploy"

    async def cancel_build(visit: Visit, owner: str, name: str) -> str:
        await backend.cancel_build(visit.actor, owner, name, visit.text("build"))
        return "?done=cancelled"

    changes: dict[str, Change] = {
        "hardware": hardware, "sleep": sleep, "replicas": replicas,
        "storage": storage, "storage-remove": storage_remove, "volume": volume, "volume-remove": volume_remove,
        "variable": variable, "secret": secret, "variable-remove": variable_remove,
        "secret-remove": secret_remove, "pause": pause, "restart": restart, "rebuild": rebuild, "deploy": deploy,
        "cancel-build": cancel_build,
    }  # fmt: skip
    for address, change in changes.items():
        _add_change(router, pages, f"{base}/{address}", change, show)
    for kind in RepoType:
        _add_ownership(router, pages, kind, show)

    @router.get("/datasets/{owner:seg}/{name:seg}/settings")
    async def dataset_settings(request: Request, owner: str, name: str) -> Response:
        visit = signed_in(await pages.visit(request))
        return pages.page(visit, "repo_settings.html", repo=await backend.repo(visit.actor, RepoType.DATASET, owner, name))

    return router


def model_settings_router(pages: Pages) -> APIRouter:
    router = APIRouter(route_class=page_route(pages), include_in_schema=False)

    @router.get("/{owner:seg}/{name:seg}/settings")
    async def model_settings(request: Request, owner: str, name: str) -> Response:
        visit = signed_in(await pages.visit(request))
        return pages.page(visit, "repo_settings.html", repo=await pages.backend.repo(visit.actor, RepoType.MODEL, owner, name))

    return router


Show = Callable[[Visit, str, str, VitrineError | None], Awaitable[Response]]


def _add_change(router: APIRouter, pages: Pages, address: str, change: Change, show: Show) -> None:
    async def post(request: Request, owner: str, name: str) -> Response:
        visit = signed_in(await pages.submitted(request))
        try:
            where = await change(visit, owner, name)
        except Rejected as error:
            # The right to see the settings is checked first: what is hidden stays hidden.
            return await show(visit, owner, name, error)
        return pages.go(f"/spaces/{owner}/{name}" + (where if where.startswith("?") else f"/{where}"))

    router.add_api_route(address, post, methods=["POST"])


def _add_ownership(router: APIRouter, pages: Pages, kind: RepoType, show: Show) -> None:
    backend = pages.backend
    base = f"/{kind.url_prefix}{{owner:seg}}/{{name:seg}}/settings"

    async def failed(visit: Visit, owner: str, name: str, error: VitrineError) -> Response:
        if kind is RepoType.SPACE:
            return await show(visit, owner, name, error)
        repo = await backend.repo(visit.actor, kind, owner, name)
        return pages.page(visit, "repo_settings.html", status=status_of(error, anonymous=False), repo=repo, error=error_view(error))

    async def visibility(request: Request, owner: str, name: str) -> Response:
        visit = signed_in(await pages.submitted(request))
        try:
            await backend.set_visibility(visit.actor, kind, owner, name, visit.text("visibility"))
        except Rejected as error:
            return await failed(visit, owner, name, error)
        return pages.go(f"/{kind.url_prefix}{owner}/{name}/settings", "visibility")

    async def rename(request: Request, owner: str, name: str) -> Response:
        visit = signed_in(await pages.submitted(request))
        try:
            address = await backend.rename(visit.actor, kind, owner, name, visit.text("to_owner"), visit.text("to_name"))
        except Rejected as error:
            return await failed(visit, owner, name, error)
        return pages.go(address, "renamed")

    async def delete(request: Request, owner: str, name: str) -> Response:
        visit = signed_in(await pages.submitted(request))
        try:
            if visit.text("confirm").lower() != f"{owner}/{name}".lower():
                raise Rejected(f"Nothing was deleted: type {owner}/{name} to confirm.")
            await backend.remove_repo(visit.actor, kind, owner, name)
        except Rejected as error:
            return await failed(visit, owner, name, error)
        return pages.go(f"/{owner}", "deleted")

    for address, handler in (("visibility", visibility), ("rename", rename), ("delete", delete)):
        router.add_api_route(f"{base}/{address}", handler, methods=["POST"])
