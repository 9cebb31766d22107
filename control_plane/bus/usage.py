"""Live use of replicas, asked of the scheduler (it owns the runtime) over a small socket: one JSON line each way."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import asdict
from pathlib import Path

from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.domain.replicas import ReplicaUsage
from control_plane.ports.runtime import Runtime
from control_plane.ports.stores import UnitOfWorkFactory


async def serve_usage(path: Path, uow_factory: UnitOfWorkFactory, runtime: Runtime) -> asyncio.Server:
    """Answers `space id` with the use of each of its replicas."""

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            space_id = SpaceId((await reader.readline()).decode().strip())
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
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_unix_connection(str(path))
            try:
                writer.write(f"{space_id}\n".encode())
                await writer.drain()
                rows = json.loads(await reader.readline() or b"[]")
            finally:
                writer.close()
    except (OSError, ValueError, TimeoutError):
        return ()
    return tuple(ReplicaUsage(**{**row, "replica_id": ReplicaId(row["replica_id"])}) for row in rows)
