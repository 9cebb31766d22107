"""The app's side of an exchange: one connection, its answers framed from their heads and passed on as slices.

    HEAD → LENGTH | CHUNKED | EOF → (back to the pool | closed)
    HEAD → 101 → TUNNEL → closed

A connection is used again only when the answer's end is known from its framing, nothing followed it, the request was sent
completely, and neither side asked to close.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from control_plane.proxy.chunks import BadChunk, ChunkReader
from control_plane.proxy.errors import Code
from control_plane.proxy.heads import CHUNKED, NO_BODY, ResponseHead

if TYPE_CHECKING:
    from control_plane.proxy.express import ExpressSide
    from control_plane.proxy.pool import Pool

HEAD: Final = 0
LENGTH: Final = 1
CHUNKS: Final = 2
EOF: Final = 3
TUNNEL: Final = 4

MAX_RESPONSE_HEAD = 131_072
_MAX_INTERIM = 8
WRITE_HIGH = 262_144


class Upstream(asyncio.Protocol):
    __slots__ = ("_buffer", "_chunks", "_interim", "_left", "client", "closed", "idle_since", "mode", "paused", "pool", "reused",
                 "transport", "write_paused")  # fmt: skip

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.client: ExpressSide | None = None
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.mode = HEAD
        self.closed = False
        self.reused = False
        self.idle_since = 0.0
        self.write_paused = False
        self.paused = False
        self._buffer = b""
        self._left = 0
        self._chunks: ChunkReader | None = None
        self._interim = 0

    # -- transport ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_HIGH)
        self.pool.open.add(self)

    def data_received(self, data: bytes) -> None:
        client = self.client
        if client is None:
            self.close()  # an idle connection has nothing to say
            return
        if client.common:
            known = self.pool.known.get(data[: data.find(b"\r\n\r\n") + 4])
            if known is not None and known.total == len(data) and known.entry is client.entry and not self.write_paused:
                client.finish_common(self, known, data)
                return
            client.common = False
        mode = self.mode
        if mode == TUNNEL:
            client.send_frames(data)
        elif mode == HEAD:
            self._head(client, data)
        elif mode == LENGTH:
            size = len(data)
            if size < self._left:
                self._left -= size
                client.send(data)
            else:
                extra = size > self._left
                client.send(data[: self._left] if extra else data)
                self._finish(client, clean=not extra)
        elif mode == CHUNKS:
            self._chunked(client, data)
        else:
            client.send(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self.pool.open.discard(self)
        client, self.client = self.client, None
        if client is None:
            return
        if self.mode == EOF and error is None:
            client.response_done(self.pool, None)
        elif self.mode == HEAD:
            client.upstream_failed(Code.APP_BAD_ANSWER if self._buffer else Code.APP_RESET)
        elif self.mode == TUNNEL:
            client.tunnel_closed()
        else:
            client.upstream_failed(Code.APP_CUT_SHORT)

    def pause_writing(self) -> None:
        self.write_paused = True
        if self.client is not None:
            self.client.hold_reading()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self.client is not None:
            self.client.continue_reading()

    def pause(self) -> None:
        if not self.paused and not self.closed:
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.paused and not self.closed:
            self.paused = False
            self.transport.resume_reading()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.transport.close()

    def abort(self) -> None:
        self.client = None
        if not self.closed:
            self.closed = True
            self.transport.abort()

    def go_away(self) -> None:
        """The replica left the table: sockets end with 1001; plain exchanges finish by themselves."""
        if self.mode == TUNNEL and self.client is not None:
            self.client.close_tunnel(1001)

    # -- answers -----------------------------------------------------------------------------------------------------

    def begin(self, client: ExpressSide, request: bytes) -> None:
        self.client = client
        self.mode = HEAD
        self.transport.write(request)

    def _head(self, client: ExpressSide, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        pool = self.pool
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > MAX_RESPONSE_HEAD:
                self._refuse(client, Code.APP_HEAD_TOO_LARGE)
            elif not data.startswith(b"HTTP/1."[: len(data)]):
                self._refuse(client, Code.APP_BAD_ANSWER)
            else:
                self._buffer = data
            return
        if end > MAX_RESPONSE_HEAD:
            self._refuse(client, Code.APP_HEAD_TOO_LARGE)
            return
        rest_at = end + 4
        raw = data[:rest_at]
        known = pool.known.get(raw)
        if known is not None and known.app_host == client.app_host and known.entry is client.entry:
            head = known.head
        else:
            try:
                head = ResponseHead(data[:end], client.app_host)
            except ValueError:
                self._refuse(client, Code.APP_BAD_ANSWER)
                return
            pool.know(raw, head, client)
        status = head.status
        if status < 200:
            self._interim_head(client, head, data[rest_at:])
            return
        size = len(data)
        length = head.length
        if client.method == b"HEAD" or status == 204 or status == 304:
            client.answer_head(head, b"", ends=True)
            self._finish(client, clean=size == rest_at and head.keep_alive)
        elif length >= 0:
            have = size - rest_at
            if have < length:
                self._left = length - have
                self.mode = LENGTH
                client.keep_upstream = head.keep_alive
                client.answer_head(head, data[rest_at:], ends=True)
            else:
                client.answer_head(head, data[rest_at:] if have == length else data[rest_at : rest_at + length], ends=True)
                self._finish(client, clean=have == length and head.keep_alive)
        elif length == CHUNKED:
            self._chunks = ChunkReader(plain=client.takes_content_alone, trailers=client.takes_trailers)
            self.mode = CHUNKS
            client.keep_upstream = head.keep_alive
            client.answer_head(head, b"", ends=True)
            if size > rest_at:
                self._chunked(client, data[rest_at:])
        else:
            assert length == NO_BODY
            self.mode = EOF
            client.answer_head(head, data[rest_at:], ends=False)

    def _interim_head(self, client: ExpressSide, head: ResponseHead, rest: bytes) -> None:
        if head.status == 101:
            if not client.accepts_upgrade or not head.upgrade:
                self._refuse(client, Code.APP_BAD_ANSWER)
                return
            self.mode = TUNNEL
            client.switch(head, rest)
            return
        self._interim += 1
        if self._interim > _MAX_INTERIM or head.length != NO_BODY:
            self._refuse(client, Code.APP_BAD_ANSWER)
            return
        client.interim(head)
        if rest:
            self._head(client, rest)

    def _chunked(self, client: ExpressSide, data: bytes) -> None:
        reader = self._chunks
        assert reader is not None
        try:
            out, rest = reader.feed(data)
        except BadChunk:
            self.abort()
            client.upstream_failed(Code.APP_CUT_SHORT)
            return
        if out:
            client.send(out)
        if rest is not None:
            self._chunks = None
            self._finish(client, clean=not rest)

    def _finish(self, client: ExpressSide, *, clean: bool) -> None:
        """The answer is complete. `clean`: nothing follows it and the app keeps the connection."""
        self.client = None
        again = clean and client.request_sent and (client.keep_upstream or self.mode == HEAD) and not self.closed and not self.write_paused
        if again:
            self.mode = HEAD
            self.reused = True
            self._interim = 0
            if self.paused:
                self.resume()
        else:
            self.close()
        client.response_done(self.pool, self if again else None)

    def _refuse(self, client: ExpressSide, code: Code) -> None:
        self.abort()
        client.upstream_failed(code)
