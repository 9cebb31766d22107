"""The bus over Redis, for several hosts: hints by publish/subscribe, routes as one hash plus a stream of ordered changes.

Keys: `vitrine:routes` (hash host → payload), `vitrine:routes:head` ({epoch, version, complete}), `vitrine:routes:changes` (trimmed stream),
`vitrine:requests` (list that proxies push to), `vitrine:hint:<topic>` (channels). Redis may forget everything: the scheduler
publishes the whole table again under a new epoch, and readers that see a gap read the hash anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from control_plane.domain.errors import Rejected, Unavailable
from control_plane.domain.ids import SpaceId
from control_plane.domain.routes import ActivityReport, Route, RouteChange, RouteTable

_ROUTES, _HEAD, _CHANGES, _REQUESTS = "vitrine:routes", "vitrine:routes:head", "vitrine:routes:changes", "vitrine:requests"
_HINT = "vitrine:hint:"
_KEEP = 10_000  # changes kept for readers that fell behind; older ones cost them a snapshot
_RETRY_S = 0.5
_REQUESTS_KEPT = 20_000


class RedisSignals:
    """ports.signals.Signals. A broken Redis loses hints, never raises."""

    def __init__(self, url: str) -> None:
        self._redis: Any = Redis.from_url(url, decode_responses=True, socket_connect_timeout=2.0, health_check_interval=15)

    async def notify(self, topic: str, key: str) -> None:
        with contextlib.suppress(RedisError, OSError):
            await self._redis.publish(_HINT + topic, key)

    async def subscribe(self, *topics: str) -> AsyncIterator[tuple[str, str]]:
        while True:
            try:
                async with self._redis.pubsub() as channel:
                    await channel.subscribe(*(_HINT + t for t in topics))
                    for topic in topics:
                        yield topic, "*"
                    async for message in channel.listen():
                        if message["type"] == "message":
                            yield message["channel"].removeprefix(_HINT), message["data"]
            except (RedisError, OSError):
                await asyncio.sleep(_RETRY_S)

    async def close(self) -> None:
        await self._redis.aclose()


class RedisRouteStore(RedisSignals):
    """ports.signals.RouteStore: the scheduler's side. Keeps its own copy and repairs Redis after it lost something."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._epoch = secrets.token_hex(6)
        self._version = 0
        self._routes: dict[str, Route] = {}
        self._lock = asyncio.Lock()
        self._whole = False  # whether Redis holds all of our table
        self._complete = False  # whether our table holds every Space: until then the last scheduler's records stay beside ours

    async def start(self) -> None:
        """Nothing to open: the first publication writes the whole table."""

    async def publish(self, route: Route) -> None:
        if self._routes.get(route.host) != route or not self._whole:
            self._routes[route.host] = route
            await self._write(route.host, route)

    async def withdraw(self, host: str) -> None:
        if self._routes.pop(host, None) is not None:
            await self._write(host, None)

    async def complete(self) -> None:
        self._complete = True
        async with self._lock:
            try:
                await self._write_all()
            except (RedisError, OSError):
                self._whole = False  # the next publication writes everything

    def _head(self) -> dict[str, Any]:
        return {"epoch": self._epoch, "version": self._version, "complete": int(self._complete)}

    async def _write(self, host: str, route: Route | None) -> None:
        async with self._lock:
            try:
                head = await self._redis.hgetall(_HEAD)
                if not self._whole or head.get("epoch") != self._epoch:
                    await self._write_all()
                    return
                self._version += 1
                body = json.dumps(route.to_payload()) if route else ""
                async with self._redis.pipeline(transaction=True) as pipe:
                    if route:
                        pipe.hset(_ROUTES, host, body)
                    else:
                        pipe.hdel(_ROUTES, host)
                    pipe.hset(_HEAD, mapping=self._head())
                    pipe.xadd(
                        _CHANGES,
                        {"epoch": self._epoch, "version": self._version, "host": host, "route": body},
                        maxlen=_KEEP,
                        approximate=True,
                    )
                    await pipe.execute()
            except (RedisError, OSError) as error:
                self._whole = False
                raise Unavailable("Redis does not answer; routes are published again when it does") from error

    async def _write_all(self) -> None:
        self._epoch, self._version = secrets.token_hex(6), 1
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(_CHANGES, *([_ROUTES] if self._complete else []))
            if self._routes:
                pipe.hset(_ROUTES, mapping={h: json.dumps(r.to_payload()) for h, r in self._routes.items()})
            pipe.hset(_HEAD, mapping=self._head())
            pipe.xadd(_CHANGES, {"epoch": self._epoch, "version": self._version, "host": "", "route": ""}, maxlen=_KEEP)
            await pipe.execute()
        self._whole = True

    async def table(self) -> RouteTable:
        return RouteTable(self._epoch, self._version, dict(self._routes), self._complete)

    async def requests(self) -> AsyncIterator[SpaceId | ActivityReport]:
        while True:
            try:
                item = await self._redis.blpop([_REQUESTS], timeout=1)
            except (RedisError, OSError):
                await asyncio.sleep(_RETRY_S)
                continue
            if item is None:
                continue
            body = json.loads(item[1])
            if "wake" in body:
                yield SpaceId(str(body["wake"]))
            else:
                with contextlib.suppress(TypeError):
                    yield ActivityReport(**body["report"])


class RedisRouteFeed(RedisSignals):
    """ports.signals.RouteFeed: a proxy's side."""

    async def wake(self, space_id: SpaceId) -> None:
        await self._push({"wake": space_id})

    async def report(self, reports: tuple[ActivityReport, ...]) -> None:
        for report in reports:
            await self._push({"report": asdict(report)})

    async def _push(self, body: dict[str, Any]) -> None:
        with contextlib.suppress(RedisError, OSError):
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.rpush(_REQUESTS, json.dumps(body))
                pipe.ltrim(_REQUESTS, -_REQUESTS_KEPT, -1)
                await pipe.execute()

    async def updates(self) -> AsyncIterator[RouteTable | RouteChange]:
        while True:
            try:
                table, position = await self._snapshot()
                yield table
                version, epoch = table.version, table.epoch
                while True:
                    found = await self._redis.xread({_CHANGES: position}, count=500, block=1000)
                    if not found and (await self._redis.hget(_HEAD, "epoch")) != epoch:
                        break
                    gap = False
                    for entry, fields in found[0][1] if found else ():
                        position = entry
                        if fields["epoch"] != epoch or int(fields["version"]) > version + 1:
                            gap = True
                            break
                        if int(fields["version"]) <= version:
                            continue
                        version = int(fields["version"])
                        try:
                            route = Route.from_payload(json.loads(fields["route"])) if fields["route"] else None
                        except (Rejected, ValueError):
                            continue  # one bad record never costs another host its route
                        yield RouteChange(epoch, version, fields["host"], route)
                    if gap:
                        break
            except (RedisError, OSError, KeyError):
                await asyncio.sleep(_RETRY_S)

    async def _snapshot(self) -> tuple[RouteTable, str]:
        """The table with the stream position from which changes follow; waits until a scheduler has published."""
        while True:
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.hgetall(_HEAD)
                pipe.hgetall(_ROUTES)
                pipe.xrevrange(_CHANGES, count=1)
                head, rows, last = await pipe.execute()
            if head:
                break
            await asyncio.sleep(_RETRY_S)
        routes: dict[str, Route] = {}
        for host, body in rows.items():
            with contextlib.suppress(Rejected, ValueError):
                routes[host] = Route.from_payload(json.loads(body))
        return RouteTable(head["epoch"], int(head["version"]), routes, head.get("complete", "1") == "1"), (last[0][0] if last else "0-0")
