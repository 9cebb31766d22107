"""Live use of replicas and what is free, asked of the scheduler (it owns the runtime) over a small socket: one line each way."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from control_plane.domain.capacity import Capacity, Node, NodePool
from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.domain.replicas import ReplicaUsage
from control_plane.ports.runtime import Runtime
from control_plane.ports.stores import UnitOfWorkFactory

_CAPACITY, _METRICS = "capacity", "metrics"  # not space ids: those are hex


async def serve_usage(
    path: Path, uow_factory: UnitOfWorkFactory, runtime: Runtime, metrics: Callable[[], str] = lambda: ""
) -> asyncio.Server:
    """Answers a space id with the use of each of its replicas, `capacity` with pools and nodes, `metrics` with Prometheus text."""

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = (await reader.readline()).decode().strip()
            if asked == _CAPACITY:
                writer.write(json.dumps(asdict(await runtime.capacity()), default=list).encode() + b"\n")
                await writer.drain()
                return
            if asked == _METRICS:
                writer.write(json.dumps(metrics()).encode() + b"\n")
                await writer.drain()
                return
            space_id = SpaceId(asked)
            async with uow_factory.read() as uow:
                replicas = await uow.deployments.replicas(space_id)
            found = [u for r in replicas if (u := await runtime.usage(r.id))]
            writer.write(json.dumps([asdict(u) for u in found]).encode() + b"\n")
            await writer.drain()
        except (OSError, ValueError):
            pass
        finally:
            writer.close()

    path.unlink(missing_ok=True)
    old = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(client, path=str(path))
    finally:
        os.umask(old)


async def ask_usage(path: Path, space_id: SpaceId) -> tuple[ReplicaUsage, ...]:
    """Empty when nothing runs or the scheduler does not answer within a second."""
    rows = await _ask(path, space_id)
    return tuple(ReplicaUsage(**{**row, "replica_id": ReplicaId(row["replica_id"])}) for row in rows or ())


async def ask_capacity(path: Path) -> Capacity | None:
    """None when the scheduler does not answer within a second."""
    body = await _ask(path, _CAPACITY)
    if body is None:
        return None
    pools = tuple(NodePool(**{**p, "flavors": tuple(p["flavors"]), "tolerations": tuple(p["tolerations"])}) for p in body["pools"])
    return Capacity(pools, tuple(Node(**{**n, "replicas": frozenset(n["replicas"])}) for n in body["nodes"]))


async def ask_metrics(path: Path) -> str | None:
    """The scheduler's metrics; None when it does not answer within a second."""
    found = await _ask(path, _METRICS)
    return found if isinstance(found, str) else None


async def _ask(path: Path, line: str) -> Any:
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_unix_connection(str(path), limit=16 << 20)
            try:
                writer.write(f"{line}\n".encode())
                await writer.drain()
                return json.loads(await reader.readline() or b"null")
            finally:
                writer.close()
    except (OSError, ValueError, TimeoutError):
        return None
