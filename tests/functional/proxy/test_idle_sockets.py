"""Hundreds of WebSockets that say nothing, through a proxy process of its own: what each costs, and that none is lost.

The short form of a measurement with 10,000 for ten minutes; the bound is the same, since the cost per socket is.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

BYTES_EACH = 20_000
SOCKETS = 600
WARM = 200  # what the first ones cost once: code, buffers of the allocator
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: public.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nCookie: %b\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        while data := await reader.read(1000):
            writer.write(data)
    writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[tuple[int, int]]:
    """(port, process id) of a proxy with everything switched on but its access log."""
    server = await asyncio.start_server(_echo, "127.0.0.1", 0, limit=2**14, backlog=1024)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.proxy_process", address, "", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        port = int(await process.stdout.readline())
    yield port, process.pid
    process.terminate()
    await process.wait()
    server.close()


def resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


async def test_hundreds_of_idle_sockets_cost_little_and_none_is_dropped(proxy: tuple[int, int]) -> None:
    port, pid = proxy

    async def opened(number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**14)
        writer.write(UPGRADE % (b"session=%d; " % number + b"x" * 800))  # heads of a browser's size, each another one
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        return reader, writer

    async with asyncio.timeout(60):
        sockets = [await opened(number) for number in range(WARM)]
        before = resident(pid)
        sockets += [await opened(WARM + number) for number in range(SOCKETS)]
        each = (resident(pid) - before) / SOCKETS
        for number, (reader, writer) in enumerate(sockets):
            frame = b"\x81\x84abcd%04d" % number
            writer.write(frame)
            assert await reader.readexactly(len(frame)) == frame
            writer.close()
    assert each <= BYTES_EACH, f"{each:.0f} bytes a socket"
