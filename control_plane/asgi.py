"""The API process: Hub API, web pages, git and LFS, the internal doors, health; and the file server of static Spaces.

The one control-plane file that imports `web`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.responses import JSONResponse, PlainTextResponse

from control_plane.accounts import maintenance, people, sign_in, tokens
from control_plane.accounts.audit import record
from control_plane.api import bare_names
from control_plane.api.app_cache import AppCacheKeeper
from control_plane.api.builds_door import BuildsDoor, builds_door
from control_plane.api.garbage import collect_forever
from control_plane.api.hub import hub_router
from control_plane.api.maintenance import maintenance_gate
from control_plane.api.push_door import PushDoor
from control_plane.api.site_uploads import SiteUploads
from control_plane.api.webhook_delivery import Deliveries
from control_plane.background import ended
from control_plane.bootstrap import PROXY_SOCKET, Services, floor_warning
from control_plane.community.notices import SpaceNotices
from control_plane.domain.accounts import PLATFORM, Account, TokenRole
from control_plane.domain.builds import Artifact, ArtifactKind
from control_plane.domain.errors import Rejected, VitrineError
from control_plane.domain.repo_query import RepoQuery
from control_plane.domain.spaces import RepoType
from control_plane.git.gitbin import GitBinary
from control_plane.git.policy import PushLimits
from control_plane.git.receive import ReceiveLimits
from control_plane.git.smart_http import GitDeps, git_router
from control_plane.http import context, error_map
from control_plane.http.route_index import install_index, join
from control_plane.settings import LOCAL_TOKEN_FILE
from control_plane.spaces.configure import open_secret
from control_plane.spaces.push import accept_push
from control_plane.spaces.repair import rebuild_lost
from control_plane.telemetry.requests import RequestMeter
from web.page import Pages

if TYPE_CHECKING:
    from control_plane.api.single_sign_on import Provider
    from control_plane.ports.git_import import GitImport
    from control_plane.settings import Settings
    from web.services.pictures import Pictures

log = logging.getLogger("vitrine.api")

LOCAL_TOKEN = "ready.json of this machine"  # its value is in DIR/ready.json while the platform runs
ADMIN = "admin"
_LAST_WEBHOOKS_S = 3.0  # what was fired before a stop may still arrive


def build_app(services: Services) -> FastAPI:
    """The whole HTTP surface of the API process."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        cache = AppCacheKeeper(services.uow, services.signals, services.app_downloads)
        work = (
            _repair_heads(services),
            _repair_artifacts(services),
            _look_after_storage(services),
            services.upkeep().forever(),
            collect_forever(services),
            cache.run(),
            SpaceNotices(services.uow, services.clock, services.signals).run(),
        )
        tasks = [asyncio.create_task(one) for one in work]
        tasks += [asyncio.create_task(one) for one in _pictures_work(services, app.state.web_backend.d.pictures)]
        yield
        await ended(*tasks)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WEBHOOKS_S):
                await deliveries.drain()
        await app.state.web_backend.close()

    app = FastAPI(
        title="Vitrine", version="0.1.0", lifespan=lifespan, docs_url=None, redoc_url=None,
        description="The Hub API of a self-hosted home for demos.",
    )  # fmt: skip
    _health(app, services)
    join(
        app,
        builds_door(
            BuildsDoor(
                uow=services.uow, clock=services.clock, signals=services.signals, git=services.git, logs=services.logs,
                open_secret=lambda setting: open_secret(services.spaces, setting), worker_secret=services.internal_secret,
                meter=services.spaces.meter_build,
                admit=services.admit, sites=_site_uploads(services), registry_sign=services.registry_sign,
                registry=services.settings.registry, cache=services.app_downloads,
            )
        )
    )  # fmt: skip
    deliveries = Deliveries(services)
    _git(app, services, deliveries)
    pages = _pages(app, services, deliveries)
    _hub(app, services, deliveries, pages)
    error_map.install(app, html=_web(app, pages))
    join(app, bare_names.file_router(services))
    install_index(app, maintenance_gate(services.uow))
    app.add_middleware(RequestMeter, metrics=services.metrics)
    context.install_context(app)
    return app


def _hub(app: FastAPI, services: Services, deliveries: Deliveries, pages: Pages) -> None:
    from control_plane.api.admin import admin_router
    from control_plane.api.images import images_router
    from control_plane.api.single_sign_on import sso_router
    from web.router import consent_pages

    join(app, admin_router(services))
    join(app, images_router(services))
    if (provider := sign_in_provider(services.settings)) is not None:
        join(app, sso_router(services, provider))
    join(app, hub_router(services, consent_pages(pages), deliveries))


def _pages(app: FastAPI, services: Services, deliveries: Deliveries) -> Pages:
    from control_plane.api import admin_quotas, app_access
    from web.router import web_pages
    from web.services.deps import WebDeps
    from web.services_backend import ServicesBackend

    async def pool_facts() -> tuple[dict[str, Any], ...]:
        ask = getattr(services, "capacity", None)
        async with services.uow.read() as uow:
            replicas = await uow.deployments.open_replicas()
        hardware = services.pools()
        return tuple(admin_quotas.pool_rows(hardware.pools, hardware.catalog.flavors, await ask() if ask else None, replicas))

    settings = services.settings
    public = urlsplit(services.public_url)
    port = f":{public.port}" if public.port else ""
    deps = WebDeps(
        uow=services.uow,
        clock=services.clock,
        git=services.git,
        lfs=services.lfs,
        logs=services.logs,
        signals=services.signals,
        actions=services.actions,
        throttle=services.throttle,
        catalog=lambda: services.catalog,
        app_url=settings.app_url,
        public_url=services.public_url,
        frame_source=f"{public.scheme}://*.{settings.apps_domain}{port}",
        sign_up_open=settings.registration,
        org_creation=settings.org_creation,
        single_sign_on=settings.oidc_name if settings.oidc_issuer else "",
        banner=lambda: floor_warning(settings),
        pool_facts=pool_facts,
        tiers=services.spaces.tiers,
        pictures=_pictures(services),
        imports=_imports(services),
        moved=deliveries.content,
        discussed=deliveries.discussion,
        app_proof=lambda actor, space_id: app_access.issue(services.signing_key, services.clock, actor, space_id),
    )
    app.state.web_backend = ServicesBackend(deps)
    return web_pages(app.state.web_backend, services.clock, secure=settings.is_https)


def _imports(services: Services) -> GitImport:
    from control_plane.git.remote import ImportLimits, RemoteRepos

    settings = services.settings
    allow = [entry.strip() for entry in settings.import_allow.split(",") if entry.strip()]
    limits = ImportLimits(max_bytes=settings.max_push_bytes, push=PushLimits(file_bytes=settings.max_file_bytes))
    git = GitBinary(settings.data_dir / "repos" / ".no-hooks")
    return RemoteRepos(git, services.git, services.lfs, allow=allow, ca_bundle=settings.ca_bundle, limits=limits)


def sign_in_provider(settings: Settings) -> Provider | None:
    """The OpenID Connect provider of the settings; Rejected when they do not make one."""
    if not settings.oidc_issuer:
        return None
    from control_plane.accounts.single_sign_on import GroupRules, parse_groups
    from control_plane.api.single_sign_on import Provider

    rules = GroupRules(parse_groups(settings.oidc_groups), settings.oidc_admin_group)
    issuer = settings.oidc_issuer.rstrip("/")
    return Provider(issuer, settings.oidc_client_id, settings.oidc_client_secret, rules, settings.ca_bundle)


def _pictures(services: Services) -> Pictures | None:
    from web.services.pictures import Pictures

    return Pictures(services.settings.data_dir / "thumbnails", services.signals) if services.settings.thumbnails else None


def _pictures_work(services: Services, pictures: Pictures | None) -> list[Coroutine[Any, Any, None]]:
    """Every API process shows pictures; those take them that can contain a browser: the floor of apps, and a Chromium under /usr."""
    from control_plane.runtimes.process.camera import SandboxedBrowser, find_browser
    from web.services.thumbnails import Thumbnails

    if pictures is None:
        return []
    settings, browser = services.settings, find_browser()
    if browser is None:
        return [pictures.follow()]
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "", "localhost") else settings.host
    chains = [Path(pair.partition(":")[0].strip()).expanduser() for pair in settings.tls_certificates.split(",") if pair.strip()]
    camera = SandboxedBrowser(browser, settings.thumbnails_proxy or f"{host}:{settings.port}", chains)
    taker = Thumbnails(pictures, camera, services.uow, services.clock, services.signals, services.actions, settings.app_url)
    return [pictures.follow(), taker.run()]


def _web(app: FastAPI, pages: Pages) -> Any:
    from web.router import error_page, mount_static, web_router

    mount_static(app)
    join(app, web_router(pages))
    return error_page(pages)


def _git(app: FastAPI, services: Services, deliveries: Deliveries) -> None:
    from control_plane.git.lfs_http import LfsDeps, lfs_router
    from control_plane.git.xet_http import XetDeps, xet_router

    settings = services.settings
    git = GitBinary(settings.data_dir / "repos" / ".no-hooks")
    door = PushDoor(
        services.spaces,
        git,
        services.lfs,
        PushLimits(file_bytes=settings.max_file_bytes),
        services.storage,
        moved=deliveries.content,
        warning=lambda: floor_warning(settings),
    )
    deps = GitDeps(
        git=git, repo_dir=services.git.path, hooks_dir=settings.data_dir / "hooks", authorize=door.authorize, check_push=door.check_push,
        pushed=door.pushed, limits=ReceiveLimits(body_bytes=settings.max_push_bytes),
    )  # fmt: skip
    join(app, git_router(deps))

    rights = (door.authorize, door.still_allowed)
    join(app, lfs_router(LfsDeps(services.lfs, *rights, services.signing_key, services.uow, services.storage)))
    join(app, xet_router(XetDeps(settings.data_dir / "xet", services.lfs, services.signing_key, *rights, services.storage)))


def _health(app: FastAPI, services: Services) -> None:
    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> JSONResponse:
        found: dict[str, str] = {}
        try:
            await services.database.ping()
            found["database"] = "ok"
        except VitrineError as error:
            found["database"] = error.message
        ready = all(v == "ok" for v in found.values())
        return JSONResponse({"ready": ready, "dependencies": found}, 200 if ready else 503)

    from control_plane.api.admin_quotas import pool_rows
    from control_plane.telemetry.metrics import Sources, render

    async def pools() -> tuple[dict[str, Any], ...]:
        hardware = services.pools()
        async with services.uow.read() as uow:
            replicas = await uow.deployments.open_replicas()
        return tuple(pool_rows(hardware.pools, hardware.catalog.flavors, await services.capacity(), replicas))

    async def in_maintenance() -> bool:
        async with services.uow.read() as uow:
            return await maintenance.current(uow) is not None

    sources = Sources(
        services.uow, services.clock, services.metrics, pools, services.queued_messages, in_maintenance, services.scheduler_metrics,
        services.settings.run_dir / PROXY_SOCKET,
    )  # fmt: skip

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(await render(sources), media_type="text/plain; version=0.0.4")


async def _repair_heads(services: Services) -> None:
    """Pushes whose ref moved but whose row did not: we died in between. The same use case serves both."""
    try:
        for kind in RepoType:
            offset = 0
            while True:
                async with services.uow.read() as uow:
                    repos = await uow.repos.list(RepoQuery(kind, see_all=True), sort="created", limit=500, offset=offset)
                for repo in repos:
                    with contextlib.suppress(VitrineError):
                        head = await services.git.resolve(repo.id, "main")
                        if head != repo.head:
                            log.warning("head.repaired", extra={"repo_id": repo.id, "head": head})
                            await accept_push(services.spaces, repo.id, None, "refs/heads/main", repo.head, head)
                if len(repos) < 500:
                    break
                offset += 500
    except Exception:
        log.exception("head.repair_failed")


async def _repair_artifacts(services: Services) -> None:
    """After a restore: a backup holds repositories, and what was built from them is built again."""
    data_dir = services.settings.data_dir

    def is_here(artifact: Artifact) -> bool:
        if artifact.kind is ArtifactKind.SITE:
            return (data_dir / "sites" / artifact.ref).is_dir()
        if artifact.kind is ArtifactKind.BUNDLE:
            return (data_dir / "bundles" / artifact.ref).is_dir() and (data_dir / "envs" / artifact.env_key).is_dir()
        return True  # in a registry

    try:
        if queued := await rebuild_lost(services.spaces, is_here):
            log.warning("artifacts.rebuilt", extra={"spaces": len(queued)})
    except Exception:
        log.exception("artifacts.repair_failed")


def _site_uploads(services: Services) -> SiteUploads:
    from builder.errors import BuildFailed
    from builder.source import unpack

    limit = services.settings.build_disk_bytes

    def checked(chunks: Iterator[bytes], into: Path) -> None:
        try:
            unpack(chunks, into, max_bytes=limit)
        except BuildFailed as error:
            raise Rejected(error.message) from error

    return SiteUploads(services.settings.data_dir / "sites", checked, max_bytes=limit)


async def _look_after_storage(services: Services) -> None:
    """Ends reservations that nobody settled: an upload that never came, a process that died."""
    while True:
        try:
            await services.storage.settle_overdue()
        except Exception:
            log.exception("storage.settle_failed")
        await asyncio.sleep(60)


async def first_start(services: Services, *, token_file: Path | None = None) -> dict[str, Any]:
    """The built-in admin, this machine's token for local tools, and until somebody signed in, a one-time link.

    `token_file` holds the token between starts; default: in the run dir, removed when `vitrine up` ends.
    """
    facts: dict[str, Any] = {}
    async with services.uow.write() as uow:
        admin = await uow.accounts.by_name(ADMIN)
        if admin is None:
            admin = await people.add_user(uow, services.clock, ADMIN, is_admin=True, reserved=False)
            await record(uow, PLATFORM, "user.add", f"user:{ADMIN}", {"admin": True, "by": "first start"}, services.clock.now())
        facts["admin_token"] = await _local_token(services, uow, admin, token_file or services.settings.run_dir / LOCAL_TOKEN_FILE)
        if admin.password_hash is None and not await uow.tokens.sessions_of(admin.id):
            secret = await sign_in.create_sign_in_link(uow, services.clock, admin)
            facts["sign_in_link"] = f"{services.public_url}/sign-in/once?token={secret}"
    return facts


async def _local_token(services: Services, uow: Any, admin: Account, path: Path) -> str:
    """The token of local tools. An API that starts again finds the one in use, so that nobody who holds it is cut off."""
    now = services.clock.now()
    kept = path.read_text() if path.exists() else ""
    in_use = await uow.tokens.by_hash(tokens.hash_text(kept)) if tokens.is_well_formed(kept) else None
    if in_use is not None and in_use.user_id == admin.id and in_use.revoked_at is None:
        return kept
    for old in await uow.tokens.of_user(admin.id):
        if old.name == LOCAL_TOKEN and old.revoked_at is None:
            await uow.tokens.save(replace(old, revoked_at=now))
    made, text = await tokens.create_token(uow, services.clock, admin, LOCAL_TOKEN, TokenRole.WRITE)
    facts = {"id": made.id, "role": made.role.value, "name": LOCAL_TOKEN}
    await record(uow, PLATFORM, "token.add", f"user:{admin.name}", facts, now)
    fresh = path.with_suffix(".new")
    with open(fresh, "w", opener=lambda p, flags: os.open(p, flags, 0o600)) as file:
        file.write(text)
    os.replace(fresh, path)
    return text
