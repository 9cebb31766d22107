"""Sending files so that hundreds of downloads leave room for everybody else.

Two things would starve small requests: reads that queue in the threads which everything else needs too, and an event loop
(ours, then the proxy's) that has hundreds of full sockets to serve in every round. So what the page cache holds is read
without a thread, the rest in threads of its own; and only a few downloads push bytes at any moment, in turn. One whose
client is slow gives its turn back after a moment: it costs nothing while it waits.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

PIECE_BYTES = 1 << 18
_AT_ONCE = 2
_PATIENCE_S = 0.01
_WAIT: Message = {"type": "http.response.body", "body": b"", "more_body": True}  # the server passes it on once the client has read
_READERS = ThreadPoolExecutor(4, thread_name_prefix="download")


_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """(first, last) of a single satisfiable range; None = send everything. ValueError when it lies past the end."""
    found = _RANGE.fullmatch(header.strip()) if header else None
    if found is None or (not found[1] and not found[2]):
        return None
    if not found[1]:
        length = min(int(found[2]), size)
        if length == 0:
            raise ValueError
        return size - length, size - 1
    first, last = int(found[1]), min(int(found[2]) if found[2] else size - 1, size - 1)
    if first >= size:
        raise ValueError
    return None if last < first else (first, last)


class Turns:
    """At most `at_once` senders push at a time, first come first served. Made anew for every event loop."""

    def __init__(self, at_once: int = _AT_ONCE) -> None:
        self._slots = asyncio.Semaphore(at_once)

    async def send(self, send: Send, message: Message) -> None:
        while True:
            async with self._slots:
                try:
                    async with asyncio.timeout(_PATIENCE_S):
                        await send(_WAIT)
                except TimeoutError:
                    pass
                else:
                    await send(message)  # there is room: it does not wait
                    return
            await send(_WAIT)


_turns: dict[asyncio.AbstractEventLoop, Turns] = {}


def turns() -> Turns:
    """Those of the running loop."""
    loop = asyncio.get_running_loop()
    found = _turns.get(loop)
    if found is None:
        for closed in [one for one in _turns if one.is_closed()]:
            del _turns[closed]
        found = _turns[loop] = Turns()
    return found


class FileStream(Response):
    """`length` bytes of a file from `first` on; nothing of it for HEAD. `headers` are complete but for Content-Length."""

    def __init__(self, path: str, first: int, length: int, status: int, headers: Mapping[str, str], *, is_head: bool = False) -> None:
        super().__init__(status_code=status, headers=dict(headers))
        self.headers["content-length"] = str(length)
        self._path, self._first, self._length = path, first, 0 if is_head else length

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def body() -> None:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if self._length:
                await self._pieces(send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await until_gone(body, receive)

    async def _pieces(self, send: Send) -> None:
        loop, mine = asyncio.get_running_loop(), turns()
        descriptor = await loop.run_in_executor(_READERS, os.open, self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            at, left = self._first, self._length
            while left:
                size = min(PIECE_BYTES, left)
                piece = _cached(descriptor, size, at)
                if not piece:
                    piece = await loop.run_in_executor(_READERS, os.pread, descriptor, size, at)
                if not piece:
                    raise OSError("the file became shorter while it was sent")
                at, left = at + len(piece), left - len(piece)
                await mine.send(send, {"type": "http.response.body", "body": piece, "more_body": True})
        finally:
            os.close(descriptor)


def _cached(descriptor: int, size: int, at: int) -> bytes | memoryview:
    """What can be read without waiting for a disk; b"" when nothing can, or the file system does not tell."""
    buffer = bytearray(size)
    try:
        return memoryview(buffer)[: os.preadv(descriptor, [buffer], at, os.RWF_NOWAIT)]
    except OSError:
        return b""


async def until_gone(work: Callable[[], object], receive: Receive) -> None:
    """Run `work()`; stop it when the client disconnects. To be used only after the request body was read."""
    task = asyncio.ensure_future(work())  # type: ignore[call-overload]

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    watch = asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in (task, watch):
            one.cancel()
        results = await asyncio.gather(task, watch, return_exceptions=True)
    if isinstance(results[0], Exception) and not isinstance(results[0], OSError):
        raise results[0]
