"""The API process: where it listens, what it tells when it is ready, and how it leaves.

    vitrine up              Unix socket of the API, Unix socket of the file server; nothing on the network
    vitrine serve api       the same two, unless another API of this data dir has them
    … --host H --port P     and one TCP address for both (also the address of VITRINE_API_URL)

Over TCP the file server is chosen by `X-Vitrine-Site`, whose value the scheduler signed: who reaches the port cannot ask for a
tree that no route names.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from control_plane.api.sites import SiteServer
from control_plane.asgi import build_app, first_start
from control_plane.bootstrap import API_SOCKET, STATIC_SOCKET, Services, build_services
from control_plane.domain.ids import SpaceId
from control_plane.net.listen import Address, listen_tcp, listen_unix
from control_plane.pauses import shorten_pauses
from control_plane.settings import LOCAL_TOKEN_FILE, Settings

_SITE_HEADER = b"x-vitrine-site"
_UP_GRACE_S = 5  # a person at a terminal waits


async def run_api(settings: Settings, ready: Callable[[dict[str, Any]], None], *, listen: Address | None, supervised: bool) -> None:
    """Serve until cancelled, then finish what was begun. Raises Rejected when the address cannot be had."""
    services = build_services(settings)
    sockets: list[socket.socket] = []
    try:
        tcp = [listen_tcp(listen)] if listen else []
        sockets += tcp
        await services.database.migrate()
        facts = await first_start(services, token_file=None if supervised else settings.data_dir / LOCAL_TOKEN_FILE)
        if not supervised:
            write_ready_file(settings, facts)
        options: dict[str, Any] = {
            "http": "httptools", "loop": "none", "log_config": None, "access_log": False, "proxy_headers": False, "server_header": False,
            "timeout_keep_alive": 75, "timeout_graceful_shutdown": _UP_GRACE_S if supervised else settings.drain_s, "ws": "none",
        }  # fmt: skip
        own, files = listen_unix(settings.run_dir / API_SOCKET), listen_unix(settings.run_dir / STATIC_SOCKET)
        sockets += [s for s in (own, files) if s]
        app: ASGIApp = build_app(services)
        if tcp:
            app = _WithSites(app, _site_server(services, services.signing_key))
        api = _Server(uvicorn.Config(app, **options))
        servers = [(api, tcp + ([own] if own else []))]
        if files:
            servers.append((_Server(uvicorn.Config(_site_server(services, None), lifespan="off", **options)), [files]))
        if tcp:
            facts["listen"] = "{}:{}".format(*tcp[0].getsockname()[:2])
        await _serve(servers, lambda: ready(facts))
    finally:
        for sock in sockets:
            sock.close()
        await services.bus.close()
        await services.database.close()


def write_ready_file(settings: Settings, facts: Mapping[str, Any]) -> None:
    """What local tools need (`vitrine admin` beside the data dir), private. It outlives the process: several APIs share the dir."""
    path = settings.data_dir / "ready.json"
    body = {
        "url": settings.resolved_public_url, "apps_domain": settings.apps_domain, "pid": os.getpid(), "admin_token": facts["admin_token"],
    }  # fmt: skip
    fresh = path.with_name(f".ready.{os.getpid()}.json")
    with open(fresh, "w", opener=lambda p, flags: os.open(p, flags, 0o600)) as file:
        json.dump(body, file)
    os.replace(fresh, path)


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: this process has one place that hears SIGTERM."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


async def _serve(servers: list[tuple[_Server, list[socket.socket]]], ready: Callable[[], None]) -> None:
    tasks = [asyncio.create_task(server.serve(sockets)) for server, sockets in servers]
    try:
        while not all(server.started for server, _ in servers):
            if done := [t for t in tasks if t.done()]:
                await done[0]
            await asyncio.sleep(0.01)
        ready()
        shorten_pauses()
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:  # told to stop, or one of them has ended: the requests of both are finished first
        for server, _ in servers:
            server.should_exit = True
        await asyncio.gather(*tasks)


class _WithSites:
    """Requests that name a site go to the file server, all others to the platform."""

    def __init__(self, app: ASGIApp, sites: ASGIApp) -> None:
        self._app, self._sites = app, sites

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_site = scope["type"] == "http" and any(name == _SITE_HEADER for name, _ in scope["headers"])
        await (self._sites if is_site else self._app)(scope, receive, send)


def _site_server(services: Services, key: bytes | None) -> ASGIApp:
    async def page_of(space_id: str) -> tuple[str, Mapping[str, str]]:
        async with services.uow.read() as uow:
            space = await uow.spaces.get(SpaceId(space_id))
            settings = await uow.spaces.settings(SpaceId(space_id)) if space else ()
        return (space.config.app_file if space else "index.html", {s.key: s.value for s in settings if not s.is_secret})

    return SiteServer(Path(services.settings.data_dir, "sites"), page_of, key)
