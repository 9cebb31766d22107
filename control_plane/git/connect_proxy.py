"""The only way out for a git program that fetches from a stranger's address: an HTTP proxy for one host.

git resolves no names: it asks this door to connect to the one host and port that was checked, and the door dials the
addresses that were checked with it. A redirect to another host, or a name that changes its address meanwhile, leads nowhere.
Every byte that comes is counted, so a fetch cannot bring more than it may. TLS goes through untouched.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

_HEAD_MAX = 8192
_CHUNK = 256 << 10
_DIAL_S = 10.0
_REFUSED = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
_UNREACHABLE = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"
_OPEN = b"HTTP/1.1 200 Connection established\r\n\r\n"


class ConnectProxy:
    """`target` is `host:port` as git asks for it; `addresses` are dialled in order. `max_bytes` of answers, then it closes."""

    def __init__(self, target: str, addresses: Sequence[str], port: int, max_bytes: int) -> None:
        self._target, self._addresses, self._port, self._left = target.lower(), tuple(addresses), port, max_bytes
        self.received = 0
        self._ends: set[asyncio.Task[None]] = set()

    @property
    def is_spent(self) -> bool:
        """Whether more came than may."""
        return self._left < 0

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """The proxy's address while it lasts; leaving ends every connection."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_HEAD_MAX)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for task in self._ends:
                task.cancel()
            await asyncio.gather(*self._ends, return_exceptions=True)
            await server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._ends.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, asyncio.CancelledError):
            pass  # the connection is over either way; git says in its own words that it ended
        finally:
            self._ends.discard(task)
            await _close(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(_DIAL_S):
            head = await reader.readuntil(b"\r\n\r\n")
        method, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        if method != "CONNECT" or rest.partition(" ")[0].lower() != self._target:
            writer.write(_REFUSED)
            return await writer.drain()
        opened = await self._dial()
        if opened is None:
            writer.write(_UNREACHABLE)
            return await writer.drain()
        far_reader, far_writer = opened
        try:
            writer.write(_OPEN)
            await writer.drain()
            # Either side that ends, ends both: what git needs has come by then, or never will.
            ways = [
                asyncio.ensure_future(self._pump(far_reader, writer, counted=True)),
                asyncio.ensure_future(self._pump(reader, far_writer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            await _close(far_writer)

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for address in self._addresses:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_DIAL_S):
                    return await asyncio.open_connection(address, self._port)
        return None

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool = False) -> None:
        while data := await reader.read(_CHUNK):
            if counted:
                self.received += len(data)
                self._left -= len(data)
                if self._left < 0:
                    return
            writer.write(data)
            await writer.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, asyncio.CancelledError):
        await writer.wait_closed()
