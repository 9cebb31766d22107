"""HTTP/2 for browsers: frames in and out, and each stream a client connection of its own.

    frames ─► h2 ─► stream ─► HTTP/1.1 head and body ─► ClientConnection (checks, guard, limits, wake, splice)
    frames ◄─ h2 ◄─ stream ◄─ answer head and plain body ◄─┘

So every rule of the HTTP/1.1 side holds here without being written twice. Socket upgrades are not offered over HTTP/2
(RFC 8441): browsers open an HTTP/1.1 connection for them.
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

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

from control_plane.proxy.connection import CLOSED, HEAD
from control_plane.proxy.core import Core
from control_plane.proxy.errors import Code
from control_plane.proxy.http2_heads import as_http1
from control_plane.proxy.http2_stream import Stream
from control_plane.proxy.limits import Client
from control_plane.proxy.upstream import WRITE_HIGH

MAX_STREAMS: Final = 128
_STREAM_WINDOW = 262_144
_CONNECTION_WINDOW = 1_048_576
_MAX_RESETS = 500  # by the client, before it has earned them: two for each answer it took (CVE-2023-44487)
_LOOK_S = 5.0  # how often open streams are looked at
_CONFIG = H2Configuration(client_side=False, header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False)


class Http2Connection(asyncio.Protocol):
    """One connection. It and its streams count as client connections; `check` ends it, or a stream, that waits too long."""

    def __init__(self, core: Core, address: str) -> None:
        self.core = core
        self.address = address
        self.phase = HEAD
        self.deadline = core.now + core.config.header_timeout_s
        self.client: Client | None = None
        self.streams: dict[int, Stream] = {}
        self.write_paused = False
        self._h2 = H2Connection(_CONFIG)
        self._flushing = False
        self._said_goodbye = False
        self._allowed_resets = _MAX_RESETS

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_HIGH)
        core = self.core
        core.connections.add(self)
        self.client = core.clients.arrive(self.address, core.now, shared=core.is_trusted(self.address))
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
        if self.client is None or not core.has_room():
            refused = core.activity.refused
            refused[Code.TOO_MANY_CONNECTIONS.name] = refused.get(Code.TOO_MANY_CONNECTIONS.name, 0) + 1
            self._goodbye(ErrorCodes.ENHANCE_YOUR_CALM)
            self._die()

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
        self.deadline = self.core.now + (_LOOK_S if self.streams else self.core.config.keep_alive_s)
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
        if self.client is not None:
            self.client.connections -= 1
            self.client = None
        self.core.connections.discard(self)

    def _die(self) -> None:
        self.phase = CLOSED
        self.transport.close()
        streams, self.streams = tuple(self.streams.values()), {}
        for stream in streams:
            stream.lost()

    def check(self, now: float) -> None:
        """The tick: what is idle too long ends, a connection without streams as well as a stream that nobody takes."""
        if self.core.draining:
            # Some client libraries drop running streams at a GOAWAY, so it waits for a quiet moment as long as that is possible.
            if self.streams and now < self.core.goodbye_at:
                return
            self._goodbye(ErrorCodes.NO_ERROR)
        elif now < self.deadline:
            return
        elif self.streams:
            for number, stream in tuple(self.streams.items()):
                if stream.is_stuck(now):
                    self.reset(number, ErrorCodes.CANCEL)
            self.deadline = now + (_LOOK_S if self.streams else self.core.config.keep_alive_s)
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
