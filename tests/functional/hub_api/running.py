"""The Hub API on a real port with the embedded adapters, in a thread of its own, for real clients to talk to."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from fastapi import FastAPI

from control_plane.accounts import people, tokens
from control_plane.accounts.storage import StorageRoom
from control_plane.accounts.throttle import Throttle
from control_plane.api.hub import hub_router
from control_plane.asgi import build_app, first_start
from control_plane.bootstrap import Services, build_services
from control_plane.db.engine import Database, SystemClock, create_database
from control_plane.domain.accounts import Account, OrgRole, TokenRole
from control_plane.domain.builds import BuildLimits
from control_plane.domain.hardware import FlavorCatalog
from control_plane.domain.spaces import RepoType
from control_plane.git.hub_cache import HubCache
from control_plane.git.lfs import FileLfsStore
from control_plane.git.repo_trees import RepoTrees
from control_plane.git.store import BareGitStore
from control_plane.http import context, error_map
from control_plane.logs.files import FileLogStore
from control_plane.secrets.envelope import EnvelopeBox
from control_plane.settings import Settings
from control_plane.spaces import space_card, starter
from control_plane.spaces.actions import Actions
from control_plane.spaces.deps import SpaceDeps
from tests.fakes.consent import PlainConsent
from tests.fakes.state import STATE

T = TypeVar("T")


class LocalSignals:
    """Signals within one process."""

    def __init__(self) -> None:
        self._listeners: list[tuple[tuple[str, ...], asyncio.Queue[tuple[str, str]]]] = []

    async def notify(self, topic: str, key: str) -> None:
        for topics, queue in self._listeners:
            if topic in topics:
                queue.put_nowait((topic, key))

    async def subscribe(self, *topics: str) -> AsyncIterator[tuple[str, str]]:
        entry = (topics, asyncio.Queue[tuple[str, str]]())
        self._listeners.append(entry)
        try:
            while True:
                yield await entry[1].get()
        finally:
            self._listeners.remove(entry)


@dataclass
class PlatformServices:
    """The `Services` of the Hub API over a database and files."""

    uow: Database
    clock: Any
    git: BareGitStore
    lfs: FileLfsStore
    logs: FileLogStore
    secret_box: EnvelopeBox
    signals: LocalSignals
    actions: Actions
    spaces: SpaceDeps
    app_downloads: HubCache
    throttle: Throttle
    repo_trees: RepoTrees
    apps_domain: str = "localhost"
    public_url: str = "http://localhost:7860"
    signing_key: bytes = b"k" * 32
    internal_secret: str = "internal-secret-of-tests"
    catalog: FlavorCatalog = field(default_factory=FlavorCatalog)


def make_services(root: Path, port: int = 7860, *, clock: Any = None) -> PlatformServices:
    clock = clock or SystemClock()
    database = create_database(STATE.database_url(root), clock=clock)
    lfs = FileLfsStore(root / "lfs")
    git = BareGitStore(root / "repos", lfs)
    logs = FileLogStore(root / "logs")
    box = EnvelopeBox(b"0" * 32)
    signals = LocalSignals()
    catalog = FlavorCatalog()

    async def no_quota(*_: Any) -> None:
        return None

    async def no_usage(_: Any) -> tuple[()]:
        return ()

    deps = SpaceDeps(
        uow=database, clock=clock, git=git, logs=logs, signals=signals, secret_box=box, catalog=lambda: catalog, check_quota=no_quota,
        meter_build=no_quota,
        parse_card=lambda readme: space_card.parse(readme, flavors=catalog.names),
        card_of=lambda readme: dict(space_card.validate(readme, RepoType.MODEL).card), initial_files=starter.initial_files,
        build_limits=BuildLimits(cpu=1, memory_bytes=1 << 30, disk_bytes=1 << 30, time_s=60),
        apps_domain="localhost", app_url=lambda sub: f"http://{sub}.localhost:{port}", public_url=f"http://localhost:{port}",
    )  # fmt: skip
    storage = StorageRoom(database, clock, lambda: catalog, git.size_bytes)
    return PlatformServices(
        database,
        clock,
        git,
        lfs,
        logs,
        box,
        signals,
        Actions(deps, no_usage, storage.room),
        deps,
        HubCache(root / "hub-cache", git, lfs),
        Throttle(database, clock),
        RepoTrees(root / "volume-trees", git, lfs, max_bytes=1 << 30),
        public_url=f"http://localhost:{port}",
        catalog=catalog,
    )


def make_app(services: PlatformServices) -> FastAPI:
    app = FastAPI(title="Vitrine", docs_url=None, redoc_url=None)
    error_map.install(app)
    app.include_router(hub_router(services, PlainConsent()))
    context.install_context(app)
    return app


class Platform:
    """`url` answers until `stop`. `run(coroutine)` runs inside the server's loop."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._loop = asyncio.new_event_loop()
        # Its protocol said: asyncio sends small packets at once only where it knows that they are TCP, else each answer waits 40 ms.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(128)  # who comes before the server accepts waits, and is not refused
        self.port = self._socket.getsockname()[1]
        self.url = f"http://localhost:{self.port}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready = threading.Event()
        self.services: PlatformServices
        self.app: FastAPI

    def start(self) -> Platform:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _main(self) -> None:
        self.services = make_services(self._root, self.port)
        await self.services.uow.migrate()
        self.app = make_app(self.services)
        self.server = uvicorn.Server(uvicorn.Config(self.app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1))
        self.server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        self._loop.call_soon(self._ready.set)
        await self.server.serve(sockets=[self._socket])
        await self.services.uow.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join(20)

    def user(self, name: str, *, admin: bool = False, password: str | None = None) -> Account:
        async def make() -> Account:
            async with self.services.uow.write() as uow:
                return await people.add_user(uow, self.services.clock, name, is_admin=admin, password=password, reserved=False)

        return self.run(make())

    def org(self, name: str, members: dict[str, OrgRole]) -> Account:
        async def make() -> Account:
            async with self.services.uow.write() as uow:
                org = await people.add_org(uow, self.services.clock, name)
                for member, role in members.items():
                    await people.set_member(uow, self.services.signals, org, await people.find_account(uow, member), role)
                return org

        return self.run(make())

    def token(self, user: str, role: TokenRole = TokenRole.WRITE, **more: Any) -> str:
        async def make() -> str:
            async with self.services.uow.write() as uow:
                account = await people.find_account(uow, user)
                return (await tokens.create_token(uow, self.services.clock, account, "test", role, **more))[1]

        return self.run(make())


class WholePlatform(Platform):
    """The same with everything the API process serves: git, LFS, Xet and pages too. Nothing builds or runs."""

    admin_token: str
    built: Services
    more: dict[str, Any] = {}

    async def _main(self) -> None:
        settings = Settings(data_dir=self._root, port=self.port, **STATE.settings(), **self.more)
        services = self.built = build_services(settings)
        await services.database.migrate()
        self.admin_token = (await first_start(services))["admin_token"]
        self.app = build_app(services)
        self.server = uvicorn.Server(uvicorn.Config(self.app, log_level="warning", timeout_graceful_shutdown=1))
        self._loop.call_soon(self._ready.set)
        await self.server.serve(sockets=[self._socket])
        await services.bus.close()
        await services.database.close()
