"""One stream of HTTP/2: an exchange of its own, and the transport that its ClientConnection believes to be a socket."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

from h2.errors import ErrorCodes

from control_plane.proxy.client import ClientConnection
from control_plane.proxy.connection import CLOSED
from control_plane.proxy.http2_heads import as_http2
from control_plane.proxy.upstream import WRITE_HIGH

if TYPE_CHECKING:
    from control_plane.proxy.http2 import Http2Connection

_LOW: Final = 65_536


class Stream:
    """`body`, `body_ended` and `lost` come from the frames; the rest is what asyncio.Transport offers."""

    def __init__(self, parent: Http2Connection, number: int, ended: bool, *, chunked: bool) -> None:
        self._parent = parent
        self._number = number
        self._input_ended = ended
        self._chunked = chunked
        self._client = ClientConnection(parent.core, parent.address, b"https")
        self._client.plain_body = True
        self._reading = True
        self._unread: list[bytes] = []
        self._owed = 0  # window bytes that are given back once somebody reads
        self._pending = bytearray()
        self._high = WRITE_HIGH
        self._paused = False
        self._has_head = False
        self._closing = False
        self._stuck_since = 0.0  # the exchange is over, and the client has not taken the rest of its answer yet
        self._stuck_at = 0

    def begin(self, head: bytes) -> None:
        self._client.connection_made(cast(asyncio.Transport, self))
        if not self._closing:
            self._client.data_received(head)

    # -- from the client ---------------------------------------------------------------------------------------------

    def body(self, data: bytes, window: int) -> None:
        self._owed += window
        if self._chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._feed(data)

    def body_ended(self) -> None:
        if not self._input_ended:
            self._input_ended = True
            if self._chunked:
                self._feed(b"0\r\n\r\n")

    def _feed(self, data: bytes) -> None:
        if not self._reading:
            self._unread.append(data)
            return
        if data and not self._closing:
            self._client.data_received(data)
        if self._reading and self._owed:
            owed, self._owed = self._owed, 0
            self._parent.acknowledge(0 if self._input_ended else self._number, owed)

    def lost(self) -> None:
        """The client reset the stream, or its connection is gone."""
        if not self._closing:
            self._closing = True
            self._client.connection_lost(None)

    # -- to the client: what asyncio.Transport offers -----------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if self._closing:
            return
        while not self._has_head:
            status, headers, at = as_http2(data)
            self._parent.send_head(self._number, headers)
            data = data[at:]
            self._has_head = status >= 200
            if not data:
                return
        if self._pending:
            self._pending += data
        else:
            sent = self._parent.send_body(self._number, data)
            if sent < len(data):
                self._pending += data[sent:]
        if len(self._pending) > self._high and not self._paused:
            self._paused = True
            self._client.pause_writing()

    def push(self) -> None:
        """Windows have opened: send what waits."""
        if self._pending:
            sent = self._parent.send_body(self._number, bytes(self._pending))
            del self._pending[:sent]
        if self._paused and len(self._pending) <= _LOW and not self._closing:
            self._paused = False
            self._client.resume_writing()
        if self._closing and not self._pending:
            self._finish()

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if self._pending:
                self._stuck_since, self._stuck_at = self._parent.core.now, len(self._pending)
            else:
                self._finish()
            asyncio.get_running_loop().call_soon(self._client.connection_lost, None)

    def is_stuck(self, now: float) -> bool:
        """An answer that nobody takes any more: its window stays closed. Called now and then."""
        if not self._closing or len(self._pending) < self._stuck_at:
            self._stuck_since, self._stuck_at = now, len(self._pending)
            return False
        return now - self._stuck_since > self._parent.core.config.body_stall_s

    def _finish(self) -> None:
        if self._parent.phase == CLOSED or self._number not in self._parent.streams:
            return
        if not self._has_head:
            self._parent.reset(self._number, ErrorCodes.INTERNAL_ERROR)
            return
        self._parent.end(self._number)
        if not self._input_ended:  # the answer did not need the rest of the request (RFC 9113 8.1)
            self._parent.reset(self._number, ErrorCodes.NO_ERROR)
        if self._owed:
            self._parent.acknowledge(0, self._owed)
            self._owed = 0

    def abort(self) -> None:
        if not self._closing:
            self._closing = True
            self._pending.clear()
            self._parent.reset(self._number, ErrorCodes.INTERNAL_ERROR)
            asyncio.get_running_loop().call_soon(self._client.connection_lost, None)

    def write_eof(self) -> None:
        self.close()

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if self._reading:
            return
        self._reading = True
        unread, self._unread = self._unread, []
        for data in unread:
            self._feed(data)
        self._feed(b"")

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is not None:
            self._high = high

    def get_write_buffer_size(self) -> int:
        return len(self._pending)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default
