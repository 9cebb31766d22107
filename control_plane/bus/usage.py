"""Live use of replicas and what is free, asked of the scheduler (it owns the runtime): one line each way, over a
small socket, or over Redis where one is named."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from control_plane.background import ended
from control_plane.domain.capacity import Capacity, Node, NodePool
from control_plane.domain.errors import VitrineError
from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.domain.replicas import ReplicaUsage
from control_plane.ports.runtime import Runtime
from control_plane.ports.stores import UnitOfWorkFactory

_CAPACITY, _METRICS = "capacity", "metrics"  # not space ids: those are hex
_QUESTIONS, _ANSWER = "vitrine:questions", "vitrine:answer:"


class UsageDoor:
    """What the scheduler answers, at its socket or over Redis: a space id with the use of each of its replicas, `capacity` with pools
    and nodes, `metrics` with Prometheus text; each one line of JSON."""

    def __init__(self, uow: UnitOfWorkFactory, runtime: Runtime, metrics: Callable[[], str] = lambda: "") -> None:
        self._uow, self._runtime, self._metrics = uow, runtime, metrics
        self._server: asyncio.Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def answer(self, asked: str) -> bytes:
        if asked == _CAPACITY:
            return json.dumps(asdict(await self._runtime.capacity()), default=list).encode()
        if asked == _METRICS:
            return json.dumps(self._metrics()).encode()
        async with self._uow.read() as uow:
            replicas = await uow.deployments.replicas(SpaceId(asked))
        found = [u for r in replicas if (u := await self._runtime.usage(r.id))]
        return json.dumps([asdict(u) for u in found]).encode()

    async def open_socket(self, path: Path) -> None:
        async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                writer.write(await self.answer((await reader.readline()).decode().strip()) + b"\n")
                await writer.drain()
            except (OSError, ValueError):
                pass
            finally:
                writer.close()

        path.unlink(missing_ok=True)
        old = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(client, path=str(path))
        finally:
            os.umask(old)

    def open_redis(self, url: str) -> None:
        """Questions as a list that APIs on any host push to; each names the list of its answer."""
        self._task = asyncio.create_task(self._over_redis(url))

    async def _over_redis(self, url: str) -> None:
        redis: Any = Redis.from_url(url, decode_responses=True, socket_connect_timeout=2.0)
        try:
            while True:
                try:
                    item = await redis.blpop([_QUESTIONS], timeout=1)
                    if item is None:
                        continue
                    asked, reply = json.loads(item[1])
                    body = await self.answer(str(asked))
                    async with redis.pipeline(transaction=True) as pipe:
                        pipe.rpush(f"{_ANSWER}{reply}", body)
                        pipe.expire(f"{_ANSWER}{reply}", 5)
                        await pipe.execute()
                except (RedisError, OSError):
                    await asyncio.sleep(0.5)
                except (VitrineError, ValueError, TypeError):
                    continue
        finally:
            await redis.aclose()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        await ended(self._task)


async def ask_usage(where: Path | str, space_id: SpaceId) -> tuple[ReplicaUsage, ...]:
    """Empty when nothing runs or the scheduler does not answer within a second."""
    rows = await _ask(where, space_id)
    return tuple(ReplicaUsage(**{**row, "replica_id": ReplicaId(row["replica_id"])}) for row in rows or ())


async def ask_capacity(where: Path | str) -> Capacity | None:
    """None when the scheduler does not answer within a second."""
    body = await _ask(where, _CAPACITY)
    if body is None:
        return None
    pools = tuple(NodePool(**{**p, "flavors": tuple(p["flavors"]), "tolerations": tuple(p["tolerations"])}) for p in body["pools"])
    return Capacity(pools, tuple(Node(**{**n, "replicas": frozenset(n["replicas"])}) for n in body["nodes"]), str(body.get("warning", "")))


async def ask_metrics(where: Path | str) -> str | None:
    """The scheduler's metrics; None when it does not answer within a second."""
    found = await _ask(where, _METRICS)
    return found if isinstance(found, str) else None


async def _ask(where: Path | str, line: str) -> Any:
    """`where`: the scheduler's socket, or the URL of the Redis that both know."""
    try:
        async with asyncio.timeout(1.0):
            return await (_ask_redis(where, line) if isinstance(where, str) else _ask_socket(where, line))
    except (OSError, ValueError, TimeoutError, RedisError):
        return None


async def _ask_socket(path: Path, line: str) -> Any:
    reader, writer = await asyncio.open_unix_connection(str(path), limit=16 << 20)
    try:
        writer.write(f"{line}\n".encode())
        await writer.drain()
        return json.loads(await reader.readline() or b"null")
    finally:
        writer.close()


async def _ask_redis(url: str, line: str) -> Any:
    redis: Any = Redis.from_url(url, decode_responses=True)
    try:
        reply = secrets.token_hex(12)
        async with redis.pipeline(transaction=True) as pipe:
            pipe.rpush(_QUESTIONS, json.dumps([line, reply]))
            pipe.expire(_QUESTIONS, 2)  # nobody answers late questions
            await pipe.execute()
        item = await redis.blpop([f"{_ANSWER}{reply}"], timeout=1)
        return json.loads(item[1]) if item else None
    finally:
        await redis.aclose()
