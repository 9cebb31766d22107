"""One proxy process: listen, follow the route feed, report activity, and leave without losing a request.

listen ─► ready ─► serve … ─► stop asked: stop accepting ─► finish exchanges ─► sockets get 1001 after `drain_s` ─► end
                                                             (renewed: uploads and downloads go on, up to `finish_s`) ─┘
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace

from control_plane.background import ended
from control_plane.domain.errors import Rejected
from control_plane.domain.routes import Endpoint, EndpointKind
from control_plane.pauses import shorten_pauses
from control_plane.ports.signals import RouteFeed
from control_plane.proxy import hangups
from control_plane.proxy.access_log import AccessLog
from control_plane.proxy.activator import Activator
from control_plane.proxy.activity import Activity
from control_plane.proxy.client import ClientConnection
from control_plane.proxy.connection import TUNNEL
from control_plane.proxy.core import Core, ProxyConfig
from control_plane.proxy.door import Door
from control_plane.proxy.guard import Authorize, Guard
from control_plane.proxy.pool import Pools
from control_plane.proxy.revocation import Revocation
from control_plane.proxy.table import Table
from control_plane.proxy.tls import Certificates

__all__ = ["Proxy", "ProxyConfig", "serve_proxy"]

_log = logging.getLogger("vitrine.proxy")
_TICK_S = 0.5
_SAVE_S = 1.0
_FEED_RETRY_S = 0.5
_ROUTES_WAIT_S = 15.0  # a proxy alone is ready too: it answers for the platform, and says that it knows no Space yet


class Proxy:
    """The parts of one process, started and stopped together. Tests drive it directly; `serve_proxy` adds signals."""

    def __init__(self, config: ProxyConfig, feed: RouteFeed, authorize: Authorize) -> None:
        loop = asyncio.get_running_loop()
        self.config = config
        self._feed = feed
        self._knows = asyncio.Event()
        pools = Pools(config.connect_timeout_s)
        activity = Activity()
        table = Table(
            pools,
            activity,
            file=config.table_file,
            embed_origin=config.public_url.rstrip("/"),
            space_rate=config.space_rate,
            space_burst=config.space_burst,
        )
        activator = Activator(feed.wake, per_space=config.wake_per_space, total=config.wake_total)
        if config.api_socket:
            api = Endpoint(EndpointKind.UNIX, config.api_socket)
        else:
            api = Endpoint(EndpointKind.TCP, config.api_address)
        self.core = Core(
            config,
            pools=pools,
            activity=activity,
            table=table,
            guard=Guard(authorize),
            activator=activator,
            platform=pools.acquire(api),
            log=AccessLog(config.access_log, config.access_log_sample),
            clock=loop.time,
        )
        self._revocation = Revocation(self.core, recheck_s=config.recheck_s)
        table.on_change = self._route_changed
        self._server: asyncio.Server | None = None
        self._doors: list[Door] = []
        self._certificates: Certificates | None = None
        self._admin: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.port = 0

    def _route_changed(self, host: str) -> None:
        self.core.forget_resolved()
        entry = self.core.table.get(host)
        self.core.activator.changed(host, entry)
        self.core.followers.changed(host, entry)
        self._revocation.route_changed(host)

    async def start(self) -> None:
        """Listen and serve. Raises OSError when the address is taken."""
        config = self.config
        loop = asyncio.get_running_loop()
        self.core.table.load()
        sock = _socket(config, config.port, config.listen_fd)
        self.port = sock.getsockname()[1]
        if config.tls:
            self._certificates = Certificates(config.tls)
        if self._certificates is not None or config.proxy_protocol:
            self._doors.append(Door(self.core, sock, self._certificates, proxied=config.proxy_protocol))
        else:
            self._server = await loop.create_server(lambda: ClientConnection(self.core), sock=sock, backlog=config.backlog)
        if self._certificates is not None and (config.redirect_port or config.redirect_fd is not None):
            second = _socket(config, config.redirect_port, config.redirect_fd)
            self._doors.append(Door(self.core, second, self._certificates, proxied=config.proxy_protocol))
        if config.admin_socket:
            self._admin = await asyncio.start_unix_server(self._serve_admin, config.admin_socket)
        self._tasks = [
            loop.create_task(self._kept_up(work))
            for work in (self._tick, self._follow, self._report, self._save, self._hear, self._revocation.run)
        ]

    async def routes_known(self, seconds: float) -> bool:
        """Wait until every Space's route is known, from the last run's table or the stream; False when that takes longer."""
        if not self.core.table.loaded:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._knows.wait()
        return self.core.table.loaded

    def reload(self) -> None:
        """Read certificates again now, and go on in an access log of the same name."""
        if self._certificates is not None:
            self._certificates.reload()
        self.core.log.reopen()

    async def stop(self, drain_s: float | None = None, *, hurry: asyncio.Event | None = None) -> None:
        """Stop accepting, let exchanges finish, close sockets with 1001 after `drain_s` (default: the configured one).

        With `hurry` a successor serves already, and nobody waits for this process: uploads, answers and streams in use go on
        after `drain_s`, for `finish_s` at most or until `hurry` is set.
        """
        core = self.core
        loop = asyncio.get_running_loop()
        core.draining = True
        core.forget_resolved()
        allowed = self.config.drain_s if drain_s is None else drain_s
        began = loop.time()
        limit = began + allowed
        core.goodbye_at = loop.time() + allowed / 2
        if self._server is not None:
            self._server.close()
        for door in self._doors:
            door.close()
        for connection in tuple(core.connections):
            connection.check(loop.time())
        while (core.connections or any(door.greeted for door in self._doors)) and loop.time() < limit:
            await asyncio.sleep(0.05)
        for connection in tuple(core.connections):
            if connection.phase == TUNNEL:
                connection.close_tunnel(1001)
            elif isinstance(connection, ClientConnection):
                connection.turn_away()
        if hurry is not None:
            for connection in tuple(core.connections):
                if isinstance(connection, ClientConnection) and connection.is_sign_of_life:
                    connection.transport.abort()
            while core.connections and not hurry.is_set() and loop.time() < began + self.config.finish_s:
                await asyncio.sleep(0.1)
        for _turn in range(20):
            if not core.connections:
                break
            await asyncio.sleep(0.01)
        for connection in tuple(core.connections):
            connection.transport.abort()
        await ended(*self._tasks)
        core.pools.close()
        if self._admin is not None:
            self._admin.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                await self._feed.report(core.activity.reports())
        core.table.save()
        core.log.close()
        await asyncio.sleep(0)

    async def _kept_up(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` for ever. An error that nobody foresaw is logged and costs a moment: not the clock, nor the routes."""
        while True:
            try:
                await work()
            except Exception:
                _log.exception("proxy_work_failed work=%s", work.__qualname__)
            await asyncio.sleep(_FEED_RETRY_S)

    async def _follow(self) -> None:
        """Apply the route stream for ever; a broken one is opened again, and the last table serves meanwhile."""
        while True:
            with contextlib.suppress(OSError, Rejected, ValueError):
                async for update in self._feed.updates():
                    if not self.core.table.apply(update):
                        break  # a gap: a new stream begins with a table
                    if self.core.table.loaded:
                        self._knows.set()
            await asyncio.sleep(_FEED_RETRY_S)

    async def _hear(self) -> None:
        """Learn for ever of rights that changed; while the bus is down a timer asks instead."""
        while True:
            with contextlib.suppress(OSError):
                await self._revocation.listen(self._feed.subscribe("access"))
            await asyncio.sleep(_FEED_RETRY_S)

    async def _tick(self) -> None:
        core = self.core
        turn = 0
        while True:
            await asyncio.sleep(_TICK_S)
            turn += 1
            now = core.tick()
            for connection in tuple(core.connections):
                if now >= connection.deadline or core.draining:
                    connection.check(now)
            for gone in hangups.left(core.connections):
                gone.transport.abort()
            core.pools.sweep(now, self.config.drain_s)
            core.log.flush()
            if turn % 10 == 0:
                core.clients.sweep(now)
                core.forget_heads()
                core.activator.tick(core.table.get)
                if self._certificates is not None:
                    self._certificates.reload()

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(self.config.report_every_s)
            reports = self.core.activity.reports()
            if reports:
                with contextlib.suppress(OSError):
                    await self._feed.report(reports)

    async def _save(self) -> None:
        while True:
            await asyncio.sleep(_SAVE_S)
            self.core.table.save()

    async def _serve_admin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """GET /metrics, /healthz and /readyz over the admin socket; one request per connection."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            async with asyncio.timeout(5):
                line = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)
                path = line[1] if len(line) > 1 else b""
                status, kind, body = b"200 OK", b"application/json", b'{"status":"ok"}'
                if path == b"/metrics":
                    kind, body = b"text/plain; version=0.0.4; charset=utf-8", self.core.metrics().encode()
                elif path == b"/readyz":
                    loaded = self.core.table.loaded
                    status = b"200 OK" if loaded else b"503 Service Unavailable"
                    body = json.dumps({"routes": loaded, "count": len(self.core.table), "version": self.core.table.version}).encode()
                elif path != b"/healthz":
                    status, body = b"404 Not Found", b"{}"
                writer.write(
                    b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
                    % (status, kind, len(body), body)
                )
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _socket(config: ProxyConfig, port: int, fd: int | None) -> socket.socket:
    """The inherited socket when there is one, else one of our own."""
    sock = socket.socket(fileno=fd) if fd is not None else _listen(config, port)
    sock.setblocking(False)
    return sock


def _listen(config: ProxyConfig, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in config.host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if config.reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((config.host, port))
        sock.listen(config.backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _descriptors(wanted: int) -> int:
    """Raise the limit to what this user may have, to `wanted` where it may raise its own. Gives the limit, 0 when there is none."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 0 if limit == resource.RLIM_INFINITY else limit


async def serve_proxy(config: ProxyConfig, feed: RouteFeed, authorize: Authorize, *, ready: Callable[[int], None] | None = None) -> None:
    """Run one proxy until SIGTERM or SIGINT; `ready(port)` is called once it listens and knows the routes, or has waited for
    them in vain for a moment. Meant for a uvloop loop.

    SIGUSR1 says that a successor has the listener: this one ends when its last exchange does, see `Proxy.stop`. SIGHUP of a
    service reloads certificates and reopens the access log; one that a terminal started ends with it.
    """
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop_now() -> None:
        stop.set()
        hurry.set()

    config = replace(config, descriptors=_descriptors(2 * config.max_connections))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop_now)
    loop.add_signal_handler(signal.SIGUSR1, stop.set)
    proxy = Proxy(config, feed, authorize)
    await proxy.start()
    if not os.isatty(0):
        loop.add_signal_handler(signal.SIGHUP, proxy.reload)
    shorten_pauses()

    async def tell() -> None:
        await proxy.routes_known(_ROUTES_WAIT_S)
        if ready is not None:
            ready(proxy.port)

    telling = loop.create_task(tell())
    try:
        await stop.wait()
    finally:
        telling.cancel()
        await proxy.stop(hurry=None if hurry.is_set() else hurry)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            loop.remove_signal_handler(number)
