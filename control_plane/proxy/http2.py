"""HTTP/2 for browsers: frames in and out, and each stream a client connection of its own.

    frames ─► h2 ─► stream ─► HTTP/1.1 head and body ─► ClientConnection (checks, guard, limits, wake, splice)
    frames ◄─ h2 ◄─ stream ◄─ answer head and plain body ◄─┘

So every rule of the HTTP/1.1 side holds here without being written twice. Socket upgrades are not offered over HTTP/2
(RFC 8441): browsers open an HTTP/1.1 connection for them.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from control_plane.proxy.client import ClientConnection
from control_plane.proxy.connection import CLOSED, HEAD
from control_plane.proxy.core import Core
from control_plane.proxy.upstream import WRITE_HIGH

MAX_STREAMS: Final = 128
_STREAM_WINDOW = 262_144
_CONNECTION_WINDOW = 1_048_576
_MAX_RESETS = 500  # by the client, before it has earned them: two for each answer it took (CVE-2023-44487)
_LOW = 65_536
_HOP_HEADERS = frozenset((b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"proxy-connection"))
_CONFIG = H2Configuration(client_side=False, header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False)


class Http2Connection(asyncio.Protocol):
    """One connection. Its streams count as client connections; itself it only waits, `check` ends it when it waits too long."""

    def __init__(self, core: Core, address: str) -> None:
        self.core = core
        self.address = address
        self.phase = HEAD
        self.deadline = core.now + core.config.header_timeout_s
        self.streams: dict[int, Stream] = {}
        self.write_paused = False
        self._h2 = H2Connection(_CONFIG)
        self._flushing = False
        self._said_goodbye = False
        self._allowed_resets = _MAX_RESETS

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_HIGH)
        self.core.connections.add(self)
        self._h2.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
                SettingCodes.INITIAL_WINDOW_SIZE: _STREAM_WINDOW,
                SettingCodes.MAX_HEADER_LIST_SIZE: self.core.config.heads.head,
                SettingCodes.ENABLE_PUSH: 0,
            },
        )
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_CONNECTION_WINDOW - 65_535)
        self.flush()

    def data_received(self, data: bytes) -> None:
        try:
            events = self._h2.receive_data(data)
        except ProtocolError:
            self.flush()  # the goodbye that says why
            self._die()
            return
        for event in events:
            self._take(event)
            if self.phase == CLOSED:
                return
        self.deadline = self.core.now + self.core.config.keep_alive_s
        self.flush()

    def _take(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self._open(event.stream_id, event.headers, ended=event.stream_ended is not None)
        elif isinstance(event, DataReceived):
            stream = self.streams.get(event.stream_id)
            size = event.flow_controlled_length or 0
            if stream is None:
                self.acknowledge(0, size)
            else:
                stream.body(event.data or b"", size)
        elif isinstance(event, StreamEnded):
            if (stream := self.streams.get(event.stream_id)) is not None:
                stream.body_ended()
        elif isinstance(event, StreamReset):
            self._allowed_resets -= 1
            if (stream := self.streams.pop(event.stream_id, None)) is not None:
                stream.lost()
            if self._allowed_resets < 0:
                self._goodbye(ErrorCodes.ENHANCE_YOUR_CALM)
                self._die()
        elif isinstance(event, WindowUpdated | RemoteSettingsChanged):
            self._drain(cast("int | None", getattr(event, "stream_id", None)))
        elif isinstance(event, ConnectionTerminated):
            self._die()  # h2 sends nothing more after it
        elif isinstance(event, TrailersReceived):
            pass  # dropped, as on the HTTP/1.1 side; the end of the stream comes as its own event

    def _open(self, number: int, headers: list[tuple[bytes, bytes]], *, ended: bool) -> None:
        head = as_http1(headers, ended=ended)
        if head is None:
            self._h2.reset_stream(number, ErrorCodes.PROTOCOL_ERROR)
            return
        stream = self.streams[number] = Stream(self, number, ended, chunked=head[1])
        stream.begin(head[0])

    # -- for streams -------------------------------------------------------------------------------------------------

    def send_head(self, number: int, headers: list[tuple[bytes, bytes]]) -> None:
        if self.phase != CLOSED:
            self._h2.send_headers(number, headers)
            self._flush_soon()

    def send_body(self, number: int, data: bytes) -> int:
        """How much of `data` the client's windows took."""
        if self.write_paused or self.phase == CLOSED:
            return 0
        sent = 0
        limit = min(self._h2.local_flow_control_window(number), len(data))
        size = self._h2.max_outbound_frame_size
        while sent < limit:
            step = min(size, limit - sent)
            self._h2.send_data(number, data[sent : sent + step])
            sent += step
        if sent:
            self._flush_soon()
        return sent

    def end(self, number: int) -> None:
        self._h2.end_stream(number)
        self.streams.pop(number, None)
        self._allowed_resets = min(_MAX_RESETS, self._allowed_resets + 2)
        self._flush_soon()

    def reset(self, number: int, code: ErrorCodes) -> None:
        self.streams.pop(number, None)
        if self.phase != CLOSED:
            try:
                self._h2.reset_stream(number, code)
            except ProtocolError:
                return  # it is gone already
            self._flush_soon()

    def acknowledge(self, number: int, size: int) -> None:
        """Give the client `size` bytes of window back: of stream `number`, or only of the connection when that is 0."""
        if self.phase == CLOSED or size <= 0:
            return
        if number:
            self._h2.acknowledge_received_data(size, number)
        else:
            self._h2.increment_flow_control_window(size)
        self._flush_soon()

    def flush(self) -> None:
        self._flushing = False
        data = self._h2.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self.flush)

    def _drain(self, number: int | None = None) -> None:
        if number:
            if (stream := self.streams.get(number)) is not None:
                stream.push()
            return
        for stream in tuple(self.streams.values()):
            stream.push()

    # -- transport ---------------------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        self.write_paused = True
        self.transport.pause_reading()  # neither pings nor resets may pile answers up

    def resume_writing(self) -> None:
        self.write_paused = False
        self.transport.resume_reading()
        self._drain()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._die()
        self.core.connections.discard(self)

    def _die(self) -> None:
        self.phase = CLOSED
        self.transport.close()
        streams, self.streams = tuple(self.streams.values()), {}
        for stream in streams:
            stream.lost()

    def check(self, now: float) -> None:
        """The tick: a connection without streams ends when it is idle too long, or when this process leaves."""
        if self.core.draining:
            # Some client libraries drop running streams at a GOAWAY, so it waits for a quiet moment as long as that is possible.
            if self.streams and now < self.core.goodbye_at:
                return
            self._goodbye(ErrorCodes.NO_ERROR)
        elif now < self.deadline or self.streams:
            return
        if not self.streams:
            self._goodbye(ErrorCodes.NO_ERROR)
            self.transport.close()

    def close_tunnel(self, status: int) -> None:
        """There are no sockets over HTTP/2."""

    def _goodbye(self, code: ErrorCodes) -> None:
        if not self._said_goodbye:
            self._said_goodbye = True
            self.flush()
            # Not h2's own: after its GOAWAY it sends nothing more, and streams that run are to finish (RFC 9113 6.8).
            self.transport.write(GoAwayFrame(0, last_stream_id=self._h2.highest_inbound_stream_id, error_code=code).serialize())


class Stream:
    """One exchange, and the transport that its ClientConnection believes to be a socket."""

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
            if not self._pending:
                self._finish()
            asyncio.get_running_loop().call_soon(self._client.connection_lost, None)

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

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


def as_http1(headers: list[tuple[bytes, bytes]], *, ended: bool) -> tuple[bytes, bool] | None:
    """(head in HTTP/1.1, whether its body is to be chunked), or None for a request that cannot be said so.

    What HTTP/1.1 would read differently (line breaks, NUL, a second authority) is refused here; the rest is checked by the
    same strict reader as every other head.
    """
    method = path = authority = b""
    host: bytes | None = None
    cookies: list[bytes] = []
    lines: list[bytes] = []
    has_length = False
    for name, value in headers:
        if b"\r" in value or b"\n" in value or b"\0" in value or not name or b":" in name[1:] or b"\r" in name or b"\n" in name:
            return None
        if name == b":method":
            method = value
        elif name == b":path":
            path = value
        elif name == b":authority":
            authority = value
        elif name == b"host":
            if host is not None and host != value:
                return None
            host = value
        elif name == b"cookie":
            cookies.append(value)
        elif name[:1] != b":" and name not in _HOP_HEADERS:
            has_length = has_length or name == b"content-length"
            lines.append(b"\r\n%b: %b" % (name, value))
    if host is not None and authority and host.lower() != authority.lower():
        return None
    if b" " in method or b" " in path or not method:
        return None
    chunked = not ended and not has_length
    head = b"%b %b HTTP/1.1\r\nhost: %b%b%b%b\r\nconnection: close\r\n\r\n" % (
        method,
        path or b"*",
        authority or host or b"",
        b"".join(lines),
        b"\r\ncookie: " + b"; ".join(cookies) if cookies else b"",
        b"\r\ntransfer-encoding: chunked" if chunked else b"",
    )
    return head, chunked


def as_http2(data: bytes) -> tuple[int, list[tuple[bytes, bytes]], int]:
    """(status, headers, where the body begins) of an answer head of ours, complete in `data`."""
    end = data.index(b"\r\n\r\n")
    line, *lines = data[:end].split(b"\r\n")
    headers = [(b":status", line[9:12])]
    for entry in lines:
        name, _, value = entry.partition(b":")
        name = name.lower()
        if name not in _HOP_HEADERS:
            headers.append((name, value.strip(b" \t")))
    return int(line[9:12]), headers, end + 4
