"""The embedded bus: one Unix socket in the data dir, JSON lines, served by the scheduler.

It carries hints (lossy by contract: see ports.signals) and the route stream (snapshot first, then ordered changes).
Redis takes its place in production (`bus.redis_bus`). Local users other than ours are kept out by the socket's mode.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from control_plane.background import ended
from control_plane.domain.errors import Rejected
from control_plane.domain.ids import SpaceId
from control_plane.domain.routes import ActivityReport, Route, RouteChange, RouteTable

_LIMIT = 64 << 20  # one line; a snapshot of 100,000 routes is about 50 MB
_BACKLOG = 10_000  # hints queued for one slow listener before the oldest are dropped
_RECONNECT_S = 0.2


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


class BusServer:
    """Fan-out of hints and the home of the route table. Also the scheduler's own `RouteStore`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._server: asyncio.Server | None = None
        self._writers: dict[asyncio.StreamWriter, set[str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._requests: asyncio.Queue[SpaceId | ActivityReport] = asyncio.Queue(_BACKLOG)
        self._local: set[tuple[frozenset[str], asyncio.Queue[tuple[str, str]]]] = set()
        self._epoch = secrets.token_hex(6)
        self._version = 0
        self._routes: dict[str, Route] = {}
        self._complete = False

    async def start(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path.unlink(missing_ok=True)
        old = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._client, path=str(self._path), limit=_LIMIT)
        finally:
            os.umask(old)

    async def close(self) -> None:
        if self._server:
            self._server.close()
        for writer in list(self._writers):
            writer.close()
        await ended(*self._tasks)
        self._path.unlink(missing_ok=True)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers[writer] = set()
        try:
            while line := await reader.readline():
                self._take(json.loads(line), writer)
        except (ConnectionError, ValueError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass
        finally:
            self._writers.pop(writer, None)
            self._tasks.discard(task)
            writer.close()

    def _take(self, message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        match message.get("op"):
            case "subscribe":
                self._writers[writer] |= set(message["topics"])
                if "routes" in message["topics"]:
                    self._send(writer, self._table_message())
            case "notify":
                self.spread(str(message["topic"]), str(message["key"]))
            case "wake":
                self._offer(SpaceId(str(message["space_id"])))
            case "report":
                for body in message["reports"]:
                    with contextlib.suppress(TypeError):
                        self._offer(ActivityReport(**body))

    def _offer(self, item: SpaceId | ActivityReport) -> None:
        if self._requests.full():
            self._requests.get_nowait()
        self._requests.put_nowait(item)

    def _send(self, writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
        if writer.is_closing() or writer.transport.get_write_buffer_size() > _LIMIT:
            writer.close()  # a listener that does not read reconnects and gets a snapshot
            return
        writer.write(_line(message))

    def spread(self, topic: str, key: str) -> None:
        for writer, topics in list(self._writers.items()):
            if topic in topics:
                self._send(writer, {"op": "hint", "topic": topic, "key": key})
        for wanted, queue in list(self._local):
            if topic in wanted:
                if queue.full():
                    queue.get_nowait()
                queue.put_nowait((topic, key))

    # ports.signals.Signals, for the scheduler itself
    async def notify(self, topic: str, key: str) -> None:
        self.spread(topic, key)

    async def subscribe(self, *topics: str) -> AsyncIterator[tuple[str, str]]:
        queue: asyncio.Queue[tuple[str, str]] = asyncio.Queue(_BACKLOG)
        entry = (frozenset(topics), queue)
        self._local.add(entry)
        try:
            while True:
                yield await queue.get()
        finally:
            self._local.discard(entry)

    # ports.signals.RouteStore
    async def publish(self, route: Route) -> None:
        if self._routes.get(route.host) == route:
            return
        self._routes[route.host] = route
        self._change(route.host, route)

    async def withdraw(self, host: str) -> None:
        if self._routes.pop(host, None) is not None:
            self._change(host, None)

    async def complete(self) -> None:
        self._complete = True
        message = self._table_message()
        for writer, topics in list(self._writers.items()):
            if "routes" in topics:
                self._send(writer, message)

    def _table_message(self) -> dict[str, Any]:
        routes = {host: route.to_payload() for host, route in self._routes.items()}
        return {"op": "table", "epoch": self._epoch, "version": self._version, "complete": self._complete, "routes": routes}

    def _change(self, host: str, route: Route | None) -> None:
        self._version += 1
        body = route.to_payload() if route else None
        message = {"op": "change", "epoch": self._epoch, "version": self._version, "host": host, "route": body}
        for writer, topics in list(self._writers.items()):
            if "routes" in topics:
                self._send(writer, message)

    async def table(self) -> RouteTable:
        return RouteTable(self._epoch, self._version, dict(self._routes), self._complete)

    async def requests(self) -> AsyncIterator[SpaceId | ActivityReport]:
        while True:
            yield await self._requests.get()


class BusClient:
    """`Signals` and `RouteFeed` for the other processes. Reconnects for ever; sending while disconnected drops the hint."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: asyncio.StreamWriter | None = None
        self._lock = asyncio.Lock()

    async def _send(self, message: dict[str, Any]) -> None:
        async with self._lock:
            for _ in range(2):
                try:
                    if self._writer is None or self._writer.is_closing():
                        _, self._writer = await asyncio.open_unix_connection(str(self._path))
                    self._writer.write(_line(message))
                    await self._writer.drain()
                    return
                except OSError:
                    self._writer = None

    async def notify(self, topic: str, key: str) -> None:
        await self._send({"op": "notify", "topic": topic, "key": key})

    async def wake(self, space_id: SpaceId) -> None:
        await self._send({"op": "wake", "space_id": space_id})

    async def report(self, reports: tuple[ActivityReport, ...]) -> None:
        await self._send({"op": "report", "reports": [asdict(r) for r in reports]})

    async def _lines(self, *topics: str) -> AsyncIterator[dict[str, Any] | None]:
        """Messages of these topics; None after each (re)connect."""
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(str(self._path), limit=_LIMIT)
            except OSError:
                await asyncio.sleep(_RECONNECT_S)
                continue
            try:
                writer.write(_line({"op": "subscribe", "topics": list(topics)}))
                await writer.drain()
                yield None
                while line := await reader.readline():
                    yield json.loads(line)
            except (OSError, ValueError, asyncio.LimitOverrunError):
                pass
            finally:
                writer.close()
            await asyncio.sleep(_RECONNECT_S)

    async def subscribe(self, *topics: str) -> AsyncIterator[tuple[str, str]]:
        async for message in self._lines(*topics):
            if message is None:
                for topic in topics:
                    yield topic, "*"
            elif message.get("op") == "hint":
                yield str(message["topic"]), str(message["key"])

    async def updates(self) -> AsyncIterator[RouteTable | RouteChange]:
        async for message in self._lines("routes"):
            if message is None:
                continue
            if message["op"] == "table":
                routes: dict[str, Route] = {}
                for host, body in message["routes"].items():
                    with contextlib.suppress(Rejected):
                        routes[host] = Route.from_payload(body)
                yield RouteTable(message["epoch"], message["version"], routes, bool(message.get("complete", True)))
            elif message["op"] == "change":
                body = message["route"]
                try:
                    route = Route.from_payload(body) if body else None
                except Rejected:
                    continue  # one bad record never costs another host its route
                yield RouteChange(message["epoch"], message["version"], message["host"], route)

    async def close(self) -> None:
        if self._writer:
            self._writer.close()
            self._writer = None
