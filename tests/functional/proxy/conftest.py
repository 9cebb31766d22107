"""A real proxy on an ephemeral port, a scripted app behind it, and a raw socket in front of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
import uvloop

from control_plane.domain.ids import SpaceId
from control_plane.domain.routes import ActivityReport, Endpoint, EndpointKind, Route, RouteChange, RouteState, RouteTable
from control_plane.proxy.server import Proxy, ProxyConfig

HOST = "alice-demo.localhost"
SPACE = SpaceId("a" * 24)


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The proxy runs on uvloop, so its tests do: the two loops differ in buffering and in when errors show."""
    return {"uvloop": uvloop.new_event_loop}


class MemoryFeed:
    """A RouteFeed that tests write to."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.version = 0
        self.queue: asyncio.Queue[RouteTable | RouteChange] = asyncio.Queue()
        self.woken: list[SpaceId] = []
        self.reports: list[ActivityReport] = []
        self.hints: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.on_wake: Callable[[SpaceId], None] = lambda space_id: None

    async def updates(self) -> AsyncIterator[RouteTable | RouteChange]:
        while not self.queue.empty():
            self.queue.get_nowait()
        yield RouteTable("e1", self.version, dict(self.routes))
        while True:
            yield await self.queue.get()

    async def wake(self, space_id: SpaceId) -> None:
        self.woken.append(space_id)
        self.on_wake(space_id)

    async def report(self, reports: tuple[ActivityReport, ...]) -> None:
        self.reports.extend(reports)

    async def subscribe(self, *topics: str) -> AsyncIterator[tuple[str, str]]:
        while True:
            yield await self.hints.get()

    def put(self, route: Route) -> None:
        self.routes[route.host] = route
        self.version += 1
        self.queue.put_nowait(RouteChange("e1", self.version, route.host, route))

    def drop(self, host: str) -> None:
        del self.routes[host]
        self.version += 1
        self.queue.put_nowait(RouteChange("e1", self.version, host, None))


@dataclass(slots=True)
class Seen:
    """One request as an app saw it."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


Script = Callable[["Seen", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool]]


@dataclass
class App:
    """A plain HTTP/1.1 server that counts what reaches it. `script` answers one request and says whether to keep the connection."""

    script: Script | None = None
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    raw: bytes = b""
    port: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while await self._one(reader, writer):
                    pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        self.raw += head
        line, *lines = head[:-4].decode("latin-1").split("\r\n")
        seen = Seen(line, [(k, v.strip(" \t")) for k, _, v in (entry.partition(":") for entry in lines)])
        self.seen.append(seen)
        if self.script is not None:
            return await self.script(seen, reader, writer)
        if seen.header("expect"):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if seen.header("transfer-encoding"):
            while True:
                size = int((await reader.readline()).strip(), 16)
                seen.body += (await reader.readexactly(size + 2))[:-2]
                if size == 0:
                    break
        elif seen.header("content-length"):
            seen.body = await reader.readexactly(int(seen.header("content-length")[0]))
        body = json.dumps({"line": line, "n": len(self.seen), "size": len(seen.body)}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body))
        if not line.startswith("HEAD"):
            writer.write(body)
        await writer.drain()
        return not seen.header("connection") or "close" not in seen.header("connection")[0]

    async def stop(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def endpoint(self) -> Endpoint:
        return Endpoint(EndpointKind.TCP, f"127.0.0.1:{self.port}")


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    raw_head: bytes


@dataclass
class Wire:
    """A raw client connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(60):
            raw = await self.reader.readuntil(b"\r\n\r\n")
        line, *lines = raw[:-4].decode("latin-1").split("\r\n")
        return int(line.split(" ")[1]), {k.lower(): v.strip() for k, _, v in (entry.partition(":") for entry in lines)}, raw

    async def answer(self, *, head_only: bool = False) -> Answer:
        status, headers, raw = await self.head()
        body = b""
        async with asyncio.timeout(60):
            if head_only or status in (204, 304) or status < 200:
                pass
            elif "content-length" in headers:
                body = await self.reader.readexactly(int(headers["content-length"]))
            elif headers.get("transfer-encoding") == "chunked":
                while True:
                    size = int((await self.reader.readline()).strip(), 16)
                    body += (await self.reader.readexactly(size + 2))[:-2]
                    if size == 0:
                        break
            else:
                body = await self.reader.read()
        return Answer(status, headers, body, raw)

    async def eof(self) -> bytes:
        async with asyncio.timeout(60):
            return await self.reader.read()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@dataclass
class World:
    proxy: Proxy
    feed: MemoryFeed
    app: App
    api: App
    allowed: dict[str, set[str]]
    _wires: list[Wire] = field(default_factory=list)

    async def wire(self) -> Wire:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.proxy.port, limit=2**20)
        wire = Wire(reader, writer)
        self._wires.append(wire)
        return wire

    async def ask(self, data: bytes, *, head_only: bool = False) -> Answer:
        wire = await self.wire()
        await wire.send(data)
        return await wire.answer(head_only=head_only)

    async def get(self, path: str = "/", host: str = HOST, method: str = "GET", **headers: str) -> Answer:
        lines = "".join(f"{k.replace('_', '-')}: {v}\r\n" for k, v in headers.items())
        return await self.ask(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n".encode("latin-1"), head_only=method == "HEAD")

    def route(self, **changes: object) -> Route:
        base: dict[str, object] = {
            "host": HOST, "space_id": SPACE, "space_name": "alice/demo", "state": RouteState.READY, "revision": "f" * 40,
            "endpoints": (self.app.endpoint(),), "generation": self.feed.version + 1,
        }  # fmt: skip
        return Route(**(base | changes))  # type: ignore[arg-type]

    async def put(self, **changes: object) -> None:
        """Publish a route and wait until the proxy has it."""
        self.feed.put(self.route(**changes))
        await self.settled()

    async def settled(self) -> None:
        async with asyncio.timeout(60):
            while self.proxy.core.table.version < self.feed.version:
                await asyncio.sleep(0.001)


@pytest.fixture
def config() -> dict[str, object]:
    """Overridden by tests that need other settings."""
    return {}


@pytest.fixture
async def world(config: dict[str, object]) -> AsyncIterator[World]:
    app, api = App(), App()
    servers = []
    for one in (app, api):
        server = await asyncio.start_server(one.serve, "127.0.0.1", 0, limit=2**20)
        one.port = server.sockets[0].getsockname()[1]
        servers.append(server)
    feed = MemoryFeed()
    allowed: dict[str, set[str]] = {}

    async def authorize(host: str, kind: str, credential: str) -> bool:
        return credential in allowed.get(kind, set())

    settings: dict[str, object] = {
        "port": 0, "public_url": "http://localhost:7860", "api_address": f"127.0.0.1:{api.port}", "access_log": "",
        "connect_timeout_s": 2.0, "report_every_s": 0.02, "last_call_s": 0.0,
        "paused_patience_s": 0.05, "refused_patience_s": 2.0,
    }  # fmt: skip
    proxy = Proxy(ProxyConfig(**(settings | config)), feed, authorize)  # type: ignore[arg-type]
    await proxy.start()
    made = World(proxy, feed, app, api, allowed)
    await made.put()
    yield made
    for wire in made._wires:
        await wire.close()
    await proxy.stop(0.0)
    for server in servers:
        server.close()
    await app.stop()
    await api.stop()
