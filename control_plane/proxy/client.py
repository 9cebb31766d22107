"""The client's side: one connection, one request at a time, what follows waits in a bounded buffer.

    HEAD ─► (routing.decide) ─► HOLD ─► LENGTH | CHUNKS ─► WAIT ─► HEAD
                                 │                           └──► TUNNEL (after a 101)
                                 └─► own answer ─► HEAD | DISCARD (body unread: drain a little, then close)

Nothing of a body is read before its upstream is there, and nothing after an upgrade request goes out before the 101.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, cast

from control_plane.net.dial import DialError
from control_plane.proxy import answers, routing, stages
from control_plane.proxy.activity import SpaceActivity, counts_as_use
from control_plane.proxy.chunks import BadChunk, ChunkReader
from control_plane.proxy.core import Core
from control_plane.proxy.errors import Code
from control_plane.proxy.heads import CHUNKED, HeadError, RequestHead, ResponseHead, origin_form, request_line
from control_plane.proxy.limits import Client
from control_plane.proxy.pool import Pool
from control_plane.proxy.table import Entry
from control_plane.proxy.upstream import WRITE_HIGH, Upstream

HEAD: Final = 0
LENGTH: Final = 1
CHUNKS: Final = 2
WAIT: Final = 3
HOLD: Final = 4
TUNNEL: Final = 5
DISCARD: Final = 6
CLOSED: Final = 7
FOLLOW: Final = 8  # a progress page is told what happens to its Space

_MAX_WAITING_INPUT = 65_536
_REPEATABLE = frozenset((b"GET", b"HEAD", b"OPTIONS"))
_REFUSED_METHODS = frozenset((b"CONNECT", b"TRACE", b"TRACK", b"PRI"))
_BY_UPSTREAM: Final = 1
_BY_BUFFER: Final = 2
_LINGER_S = 3.0
_QUOTA_PATIENCE_S = 3.0  # how long a visit to a Space that a quota keeps asleep waits for the scheduler's word
_LINGER_BYTES = 16 * 1024 * 1024
_CONNECT_RETRY_S = (0.05, 0.2, 0.5)  # an app may be between two processes; then it is refused


class ClientConnection(asyncio.Protocol):
    __slots__ = (
        "_body_left", "_buffer", "_chunks", "_close_after", "_code", "_connect_s", "_forward", "_live", "_log_part", "_minor",
        "_read_holds", "_retried", "_started", "_status", "_task", "_tunnel", "_up", "_wait_host", "_write_paused", "accepts_upgrade",
        "address", "answered", "app_host", "client", "core", "deadline", "entry", "extra_head", "head", "is_stream", "keep_upstream",
        "method", "phase", "plain_body", "pool", "proto", "request_id", "request_sent", "sent", "sign", "target", "transport",
    )  # fmt: skip
    transport: asyncio.Transport
    _tunnel: asyncio.Transport

    def __init__(self, core: Core, address: str = "", proto: bytes = b"") -> None:
        """`address` and `proto` say who asks and how where the socket cannot: behind TLS, HTTP/2 or a PROXY header."""
        self.core = core
        self.address = address
        self.proto = proto or core.scheme
        self.client: Client | None = None
        self.phase = HEAD
        self.deadline = 0.0
        self.head: RequestHead | None = None
        self.entry: Entry | None = None
        self.pool: Pool | None = None
        self.method = b""
        self.target = b""
        self.request_id = b""
        self.app_host: bytes | None = None
        self.extra_head = b""
        self.sign = b""
        self.accepts_upgrade = False
        self.answered = False
        self.request_sent = False
        self.keep_upstream = False
        self.is_stream = False
        self.plain_body = False  # chunked answers are passed on without their chunks: HTTP/2 has its own frames
        self.sent = 0
        self._minor = b"1"
        self._forward = b""
        self._buffer = b""
        self._body_left = 0
        self._chunks: ChunkReader | None = None
        self._up: Upstream | None = None
        self._task: asyncio.Task[None] | None = None
        self._wait_host = ""
        self._started = 0.0
        self._connect_s = 0.0
        self._status = 0
        self._code = ""
        self._log_part = ""
        self._close_after = False
        self._retried = False
        self._live = False
        self._write_paused = False
        self._read_holds = 0

    # -- transport ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        core = self.core
        core.now = core.clock()
        self.transport.set_write_buffer_limits(high=WRITE_HIGH)
        if not self.address:
            peer = transport.get_extra_info("peername")
            self.address = peer[0] if isinstance(peer, tuple) and peer else ""
        self.deadline = core.now + core.config.header_timeout_s
        self.client = core.clients.arrive(self.address, core.now)
        core.connections.add(self)
        if self.client is None or len(core.connections) > core.config.max_connections > 0:
            self.refuse(Code.TOO_MANY_CONNECTIONS, close=True)

    def data_received(self, data: bytes) -> None:
        phase = self.phase
        if phase == HEAD:
            if self._buffer:
                data = self._buffer + data
                self._buffer = b""
            self._read_head(data)
        elif phase == TUNNEL:
            core = self.core
            entry = self.entry
            if entry is not None:
                activity = entry.activity
                activity.bytes_in += len(data)
                if entry.messages_are_use and data[0] & 15 < 8:  # a data frame; pings and pongs are nobody's use
                    activity.last_used = core.wall
            self.deadline = core.stream_deadline
            self._tunnel.write(data)
        elif phase in (LENGTH, CHUNKS):
            self._read_body(data)
        elif phase in (WAIT, HOLD):
            self._buffer += data
            if len(self._buffer) > _MAX_WAITING_INPUT:
                self._hold(_BY_BUFFER)
        elif phase in (DISCARD, FOLLOW):
            self._body_left += len(data)
            if self._body_left > _LINGER_BYTES:
                self.transport.abort()

    def eof_received(self) -> bool:
        return False  # a client that stops listening to itself has left; the transport closes

    def connection_lost(self, error: Exception | None) -> None:
        core = self.core
        core.connections.discard(self)
        if self.client is not None:
            self.client.connections -= 1
        phase, self.phase = self.phase, CLOSED
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._wait_host:
            core.activator.drop(self, self._wait_host)
            core.followers.drop(self, self._wait_host)
        up, self._up = self._up, None
        if up is not None:
            up.client = None
            if phase == TUNNEL:
                up.close()
            else:
                up.abort()
        if phase in (LENGTH, CHUNKS, WAIT, HOLD, TUNNEL, FOLLOW):
            if phase != TUNNEL and self._status == 0:
                self._status, self._code = 499, Code.CLIENT_LEFT.name
            elif phase not in (TUNNEL, FOLLOW) and not self._code:
                self._code = Code.CLIENT_LEFT.name
            self._account()
        self.head = None
        self.entry = None

    def pause_writing(self) -> None:
        self._write_paused = True
        if self._up is not None:
            self._up.pause()

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._up is not None:
            self._up.resume()

    def hold_reading(self) -> None:
        self._hold(_BY_UPSTREAM)

    def continue_reading(self) -> None:
        self._unhold(_BY_UPSTREAM)

    def _hold(self, why: int) -> None:
        if not self._read_holds and self.phase != CLOSED and not self.transport.is_closing():
            self.transport.pause_reading()
        self._read_holds |= why

    def _unhold(self, why: int) -> None:
        if self._read_holds:
            self._read_holds &= ~why
            if not self._read_holds and self.phase != CLOSED and not self.transport.is_closing():
                self.transport.resume_reading()

    # -- request -----------------------------------------------------------------------------------------------------

    def _read_head(self, data: bytes) -> None:
        core = self.core
        self._started = time.perf_counter()
        head = self.head
        fresh = False
        line_end = data.find(b"\r\n")
        try:
            # Clients often repeat their headers to the byte; checked once, they stay checked.
            if head is None or line_end < 1 or len(data) - line_end != len(head.tail) or not data.endswith(head.tail):
                found = self._checked_head(data)
                if found is None:
                    return
                fresh = head is not found[0]
                head, data, line_end, end = found
                self._buffer = data[end:] if len(data) > end else b""
            method, target, minor = request_line(data, line_end, core.config.heads)
            if minor != head.minor:
                fresh = True
                head = RequestHead(head.block, minor, core.config.heads)
            if target[0] != 47:
                target = origin_form(method, target, head.host)
            if method in _REFUSED_METHODS:
                raise HeadError(Code.METHOD_REFUSED)
            if head.upgrade and method != b"GET":
                raise HeadError(Code.BAD_UPGRADE)
            if head.length > core.config.max_body_bytes > 0:
                raise HeadError(Code.BODY_TOO_LARGE)
        except HeadError as refused:
            self.head = self.entry = None
            self._log_part = ""
            self.method = self.target = self.request_id = b""
            self.refuse(refused.code, close=True)
            return
        self.method = method
        self.target = target
        self.request_id = core.next_id()
        self.answered = self.request_sent = self._retried = self.is_stream = False
        self.extra_head = self.sign = b""
        self._code = ""
        self._status = self.sent = 0
        self._connect_s = 0.0
        self._close_after = not head.keep_alive
        self.accepts_upgrade = head.upgrade
        self.phase = HOLD
        self.deadline = core.app_deadline
        is_platform, entry, ours = core.resolved.get(head.host) or core.resolve(head.host)
        if fresh or self.entry is not entry:
            self.head = head
            self.entry = entry
            self._minor = head.minor
            self._log_part = ""
            self.app_host = None if is_platform else entry.host if entry is not None else b""
            self._forward = routing.forwarded(self, head, is_platform)
        if entry is None or not entry.is_plain or not head.is_plain or target[1:2] == b"." or not self._express(head, entry):
            self.decide(head, is_platform, entry, ours)

    def decide(self, head: RequestHead, is_platform: bool, entry: Entry | None, ours: bool) -> None:
        routing.decide(self, head, is_platform, entry, ours)

    def _checked_head(self, data: bytes) -> tuple[RequestHead, bytes, int, int] | None:
        """(head, data, end of its first line, where the body begins), or None while the head is incomplete."""
        limits = self.core.config.heads
        end = data.find(b"\r\n\r\n")
        if data[:2] == b"\r\n" and end >= 0:  # one empty line before a request is tolerated (RFC 9112 2.2)
            data = data[2:]
            end = data.find(b"\r\n\r\n")
        if end <= 0:
            self._partial_head(data)
            return None
        if end > limits.head:
            raise HeadError(Code.HEADERS_TOO_LARGE)
        line_end = data.find(b"\r\n")
        minor = request_line(data, line_end, limits)[2]
        block = data[line_end:end]
        head = self.head
        if head is None:  # a new connection: its client may be known from others
            head = self.core.known_heads.get(block) if minor == b"1" else None
            if head is None:
                head = RequestHead(block, minor, limits)
                self.core.remember_head(block, minor, head)
        elif head.block != block or head.minor != minor:
            self.head = None
            head = RequestHead(block, minor, limits)
        return head, data, line_end, end + 4

    def _express(self, head: RequestHead, entry: Entry) -> bool:
        """The common case of routing.decide, routing.admit and forward in one: a public, ready Space with an idle connection.

        False when it is not that case; nothing has happened then.
        """
        pool = entry.pools[0]
        idle = pool.idle
        if not idle or idle[-1].closed or b"__sign=" in self.target or self.method not in _REPEATABLE:
            return False
        now = self.core.now
        if self.client is None or not self.client.bucket.take(now) or not entry.bucket.take(now):
            return False
        if counts_as_use(self.target):
            self._live = True
            entry.activity.live += 1
        self.pool = pool
        self._up = up = idle.pop()
        self.keep_upstream = self.request_sent = True
        self.phase = WAIT
        up.begin(
            self,
            b"%b %b HTTP/1.1%b\r\nX-Vitrine-Request-Id: %b%b\r\n\r\n"
            % (self.method, self.target, self._forward, self.request_id, pool.header),
        )
        if self._write_paused:
            up.pause()
        return True

    def _partial_head(self, data: bytes) -> None:
        limits = self.core.config.heads
        if not self._buffer and self.phase == HEAD:
            first = self.core.now + self.core.config.header_timeout_s
            self.deadline = min(self.deadline, first) if self.deadline else first
        line_end = data.find(b"\r\n", 2)
        if line_end < 0 and len(data) > limits.line:
            raise HeadError(Code.TARGET_TOO_LONG)
        if len(data) > limits.head:
            raise HeadError(Code.HEADERS_TOO_LARGE)
        if data.count(b"\n") != data.count(b"\r\n") or b"\0" in data:
            raise HeadError(Code.BAD_HEADER)
        if line_end > 0:
            request_line(data.removeprefix(b"\r\n"), line_end - (2 if data[:2] == b"\r\n" else 0), limits)
        elif data[0] not in b"\r" and not 33 <= data[0] <= 126:
            raise HeadError(Code.BAD_REQUEST_LINE)
        self._buffer = data

    def _read_body(self, data: bytes) -> None:
        up = self._up
        core = self.core
        self.deadline = core.now + core.config.body_stall_s
        if up is None:
            self._buffer += data
            self._hold(_BY_BUFFER)
            return
        if self.entry is not None:
            self.entry.activity.bytes_in += len(data)
        if self.phase == LENGTH:
            if len(data) < self._body_left:
                self._body_left -= len(data)
                up.transport.write(data)
                return
            up.transport.write(data[: self._body_left])
            rest = data[self._body_left :]
        else:
            assert self._chunks is not None
            limit = core.config.max_body_bytes
            try:
                out, left = self._chunks.feed(data)
            except BadChunk:
                self._drop_upstream()
                self._fail(Code.BAD_CHUNK)
                return
            if self._chunks.size > limit > 0:
                self._drop_upstream()
                self._fail(Code.BODY_TOO_LARGE)
                return
            if out:
                up.transport.write(out)
            if left is None:
                return
            self._chunks = None
            rest = left
        self.phase = WAIT
        self.request_sent = True
        self.deadline = core.now + core.config.app_timeout_s
        self._buffer = rest

    # -- to the app --------------------------------------------------------------------------------------------------

    def forward(self, pool: Pool) -> None:
        """Send the request to `pool`: over an idle connection at once, else as soon as a fresh one stands."""
        self.pool = pool
        head = self.head
        assert head is not None
        up = pool.take(self.core.now, repeatable=self.method in _REPEATABLE and head.length <= 0 and head.length != CHUNKED)
        if up is not None and not head.upgrade and self._minor == b"1":
            self._send_request(up)
            return
        if up is not None:
            pool.give(up, self.core.now)
        self._connect(pool)

    def _connect(self, pool: Pool) -> None:
        self.phase = HOLD
        head = self.head
        assert head is not None
        if head.length > 0 or head.length == CHUNKED:
            self._hold(_BY_BUFFER)
        self._task = asyncio.get_running_loop().create_task(self._connected(pool))

    async def _connected(self, pool: Pool) -> None:
        began = time.perf_counter()
        retries = iter(_CONNECT_RETRY_S)
        while True:
            try:
                up = await pool.connect()
                break
            except DialError as error:
                if self.app_host is None:
                    code = Code.PLATFORM_UNAVAILABLE
                else:
                    code = Code.APP_CONNECT_TIMEOUT if error.timed_out else Code.APP_REFUSED
                pause = None if error.timed_out else next(retries, None)
                if pause is None:
                    self._task = None
                    self.refuse(code, reveal=True)
                    return
                await asyncio.sleep(pause)
        self._task = None
        self._connect_s = time.perf_counter() - began
        if self.phase != HOLD:
            up.close()
            return
        self._send_request(up)

    def _send_request(self, up: Upstream) -> None:
        head = self.head
        assert head is not None
        assert self.pool is not None
        self._up = up
        self.keep_upstream = True
        if head.upgrade:
            tail = b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        elif self._minor == b"0":
            tail = b"\r\nConnection: close\r\n\r\n"
        else:
            tail = b"\r\n\r\n"
        up.begin(
            self,
            b"%b %b HTTP/1.%b%b\r\nX-Vitrine-Request-Id: %b%b%b"
            % (self.method, self.target, self._minor, self._forward, self.request_id, self.pool.header, tail),
        )
        if self._write_paused:
            up.pause()
        length = head.length
        if length == CHUNKED:
            self.phase = CHUNKS
            self._chunks = ChunkReader()
        elif length > 0:
            self.phase = LENGTH
            self._body_left = length
        else:
            self.phase = WAIT
            self.request_sent = True
            return
        data, self._buffer = self._buffer, b""
        self.deadline = self.core.now + self.core.config.body_stall_s
        if data:
            self._read_body(data)
        self._unhold(_BY_BUFFER)

    # -- from the app ------------------------------------------------------------------------------------------------

    def answer_head(self, head: ResponseHead, body: bytes, *, ends: bool) -> None:
        """`ends` is false for an answer that lasts until the app closes: then this connection ends with it."""
        self.answered = True
        self._status = head.status
        core = self.core
        if not ends or not self.request_sent or core.draining or self.accepts_upgrade:
            self._close_after = True
        if head.is_stream:
            self._open_stream()
        entry = self.entry
        data = b"%b%b%b\r\nX-Vitrine-Request-Id: %b%b%b\r\n\r\n%b" % (
            head.line,
            head.block,
            entry.response_suffix if entry is not None else b"",
            self.request_id,
            self.extra_head,
            b"\r\nConnection: close" if self._close_after else b"",
            body,
        )
        self.sent = len(data)
        self.deadline = core.stream_deadline
        self.transport.write(data)

    def interim(self, head: ResponseHead) -> None:
        """100 only when the client waits for it; other 1xx to clients that can read them."""
        if self._minor == b"1" and (head.status != 100 or (self.head is not None and self.head.expect)):
            self.transport.write(head.line + head.block + b"\r\n\r\n")

    def send(self, data: bytes) -> None:
        self.sent += len(data)
        self.deadline = self.core.stream_deadline
        self.transport.write(data)

    def send_frames(self, data: bytes) -> None:
        core = self.core
        entry = self.entry
        if entry is not None and entry.messages_are_use and data[0] & 15 < 8:
            entry.activity.last_used = core.wall
        self.sent += len(data)
        self.deadline = core.stream_deadline
        self.transport.write(data)

    def switch(self, head: ResponseHead, rest: bytes) -> None:
        """The app answered 101: both sides are spliced from here on."""
        assert self._up is not None
        self.phase = TUNNEL
        self._tunnel = self._up.transport
        self.answered = True
        self._status = 101
        entry = self.entry
        if entry is not None:
            entry.activity.sockets += 1
            entry.activity.tabs += 1
            if self._live:  # an open socket alone is not use: messages are, or tabs when the owner says so
                self._live = False
                entry.activity.live -= 1
        suffix = entry.response_suffix if entry is not None else b""
        self.send(
            b"%b%b%b\r\nX-Vitrine-Request-Id: %b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n%b"
            % (head.line, head.block, suffix, self.request_id, rest)
        )
        self._named()
        self.head, self._forward = None, b""  # thousands of idle sockets must not keep their heads
        data, self._buffer = self._buffer, b""
        if data:
            self.data_received(data)
        self._unhold(_BY_BUFFER)

    def response_done(self, pool: Pool, up: Upstream | None) -> None:
        """The answer left completely; `up` is the upstream when it may be used again."""
        self._up = None
        self._read_holds &= ~_BY_UPSTREAM
        if up is not None:
            pool.give(up, self.core.now)
        self._account()
        self._next()

    def upstream_failed(self, code: Code, *, before_answer: bool) -> None:
        up, self._up = self._up, None
        if self.phase == CLOSED:
            return
        head = self.head
        if (
            code is Code.APP_RESET and up is not None and up.reused and not self._retried and self.phase == WAIT
            and self.method in _REPEATABLE and head is not None and head.length <= 0 and self.pool is not None
        ):  # fmt: skip
            self._retried = True  # the app closed an idle connection while we took it: nothing was lost yet
            self._connect(self.pool)
            return
        if self.app_host is None and code is Code.APP_RESET:
            code = Code.PLATFORM_UNAVAILABLE
        self._fail(code)

    def tunnel_closed(self) -> None:
        self._up = None
        self.transport.close()

    def close_tunnel(self, status: int) -> None:
        """End a WebSocket from our side with a close frame to both ends (RFC 6455 5.5.1)."""
        payload = status.to_bytes(2, "big")
        self.transport.write(b"\x88\x02" + payload)
        if self._up is not None:
            self._up.transport.write(b"\x88\x82\0\0\0\0" + payload)
        self.transport.close()

    # -- own answers -------------------------------------------------------------------------------------------------

    def refuse(self, code: Code, *, close: bool = False, reveal: bool = False, extra: str = "", words: str = "") -> None:
        """Answer with `code`. `reveal`: the asker passed the guard, so the Space may be named."""
        head = self.head
        counts = self.core.activity.refused
        counts[code.name] = counts.get(code.name, 0) + 1
        self._code = code.name
        if not self.request_id:
            self.request_id = self.core.next_id()
        keep = self._own_answer_keeps(close)
        data = answers.refusal(
            code,
            route=self.entry.route if reveal and self.entry is not None else None,
            page=head is not None and self.method == b"GET" and head.wants_page,
            request_id=self.request_id.decode(),
            keep=keep,
            head_only=self.method == b"HEAD",
            hub=self.core.hub,
            extra=extra,
            words=words,
        )
        self.own_answer(code.value.status, data, keep=keep)

    def reply(self, status: int, content_type: str, body: bytes, headers: str = "") -> None:
        """A plain answer of ours that is not an error."""
        keep = self._own_answer_keeps(False)
        headers += f"X-Vitrine-Request-Id: {self.request_id.decode()}\r\n"
        data = answers.raw(status, content_type, body, headers=headers, keep=keep, head_only=self.method == b"HEAD")
        self.own_answer(status, data, keep=keep)

    def _own_answer_keeps(self, close: bool) -> bool:
        return not (close or self._close_after or self.core.draining or self._has_unread_input())

    def _has_unread_input(self) -> bool:
        head = self.head
        return head is None or head.upgrade or (not self.request_sent and (head.length > 0 or head.length == CHUNKED))

    def own_answer(self, status: int, data: bytes, *, keep: bool) -> None:
        self._status = status
        self._close_after = not keep
        self.answered = True
        self.sent = len(data)
        self.transport.write(data)
        if not self._started:
            self._started = time.perf_counter()
        self._account()
        self._next()

    def _fail(self, code: Code) -> None:
        """The exchange broke: an answer when none has begun, else the connection ends so that nobody takes it for complete."""
        if not self.answered:
            self.refuse(code, close=code in (Code.BAD_CHUNK, Code.BODY_TOO_LARGE), reveal=True)
            return
        self._code = code.name
        counts = self.core.activity.refused
        counts[code.name] = counts.get(code.name, 0) + 1
        self._account()
        self.phase = CLOSED
        self.transport.abort()

    def _drop_upstream(self) -> None:
        up, self._up = self._up, None
        if up is not None:
            up.abort()

    def _next(self) -> None:
        """After an answer: the next request on this connection, or its end."""
        self.pool = None
        if self._close_after:
            if self._buffer or self._has_unread_input():
                self._linger()
            else:
                self.phase = DISCARD
                self._body_left = 0
                self.deadline = self.core.now + _LINGER_S
                self.transport.close()
            return
        self.phase = HEAD
        self.deadline = self.core.now + self.core.config.keep_alive_s
        if self._buffer:
            self.deadline = self.core.now + self.core.config.header_timeout_s
            asyncio.get_running_loop().call_soon(self._read_buffered)
        if self._read_holds:
            self._unhold(_BY_BUFFER | _BY_UPSTREAM)

    def _read_buffered(self) -> None:
        if self.phase == HEAD and self._buffer and not self.transport.is_closing():
            data, self._buffer = self._buffer, b""
            self._read_head(data)

    def _linger(self) -> None:
        """Unread input: closing at once would reset the connection and could destroy the answer on its way."""
        self.phase = DISCARD
        self._buffer = b""
        self._body_left = 0
        self.deadline = self.core.now + _LINGER_S
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()
        self._unhold(_BY_BUFFER | _BY_UPSTREAM)

    def follow(self, entry: Entry) -> None:
        """Answer with the stages of a Space as they come, until it serves or does not start."""
        code = self.core.followers.add(self, entry)
        if code is not None:
            self.refuse(code, reveal=True)
            return
        self._wait_host = entry.route.host
        self.phase = FOLLOW
        self._status = 200
        self._close_after = self.answered = True
        self.deadline = self.core.now + stages.LIFE_S
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
            b"X-Accel-Buffering: no\r\nConnection: close\r\nX-Vitrine-Request-Id: %b\r\n\r\n" % self.request_id
        )
        self.follow_event(self.core.followers.opening(entry.route), last=not entry.route.state.may_wake)

    def follow_event(self, data: bytes, *, last: bool) -> None:
        self.sent += len(data)
        self.transport.write(data)
        if last:
            self.end_follow()

    def end_follow(self) -> None:
        self.core.followers.drop(self, self._wait_host)
        self._wait_host = ""
        self._started = time.perf_counter()  # how long a Space takes to wake is not how fast it answers
        self._account()
        self._next()

    # -- waiting and accounting --------------------------------------------------------------------------------------

    def wait_for_wake(self, entry: Entry) -> None:
        head = self.head
        code = self.core.activator.hold(self, entry)
        if code is not None:
            self.refuse(code, reveal=True)
            return
        self._wait_host = entry.route.host
        # A quota that refused before may have room now: the scheduler is asked, and answers soon when it has not.
        patience = min(_QUOTA_PATIENCE_S, self.core.config.wake_timeout_s) if entry.kept_by_quota else self.core.config.wake_timeout_s
        self.deadline = self.core.now + patience
        if head is not None and (head.length > 0 or head.length == CHUNKED):
            self._hold(_BY_BUFFER)

    def wake_refused(self) -> None:
        """The owner's quota does not let the Space up: said now instead of after a long wait."""
        self.core.activator.drop(self, self._wait_host)
        self._wait_host = ""
        self.refuse(Code.WAKE_REFUSED, reveal=True)

    def _waited_enough(self, now: float) -> None:
        entry = self.core.table.get(self._wait_host)
        if entry is not None and entry.kept_by_quota:
            self.entry = entry
            self.wake_refused()
        elif self.entry is not None and self.entry.kept_by_quota:
            self.entry = entry  # it has room now and starts: the usual patience begins
            self.deadline = now + self.core.config.wake_timeout_s
        else:
            self.core.activator.drop(self, self._wait_host)
            self._wait_host = ""
            self.refuse(Code.WAKE_TIMEOUT, reveal=True)

    def look_again(self) -> None:
        """The route of the Space this request waits for has changed."""
        self._wait_host = ""
        if self.phase != HOLD or self.head is None:
            return
        is_platform, entry, ours = self.core.resolve(self.head.host)
        self.entry = entry
        self.extra_head = b""
        self._log_part = ""
        self.deadline = self.core.app_deadline
        self.decide(self.head, is_platform, entry, ours)

    def run(self, task: asyncio.Task[None]) -> None:
        """Let `task` decide; it is cancelled when the client leaves. No body is read meanwhile."""
        self._task = task
        head = self.head
        if head is not None and (head.length > 0 or head.length == CHUNKED):
            self._hold(_BY_BUFFER)

    def task_done(self) -> None:
        self._task = None

    def begin_use(self, activity: SpaceActivity, *, live: bool) -> None:
        if live and not self._live:
            self._live = True
            activity.live += 1

    def _open_stream(self) -> None:
        if self.entry is not None and not self.is_stream:
            self.is_stream = True
            self.entry.activity.tabs += 1

    def _account(self) -> None:
        core = self.core
        entry = self.entry
        seconds = time.perf_counter() - self._started
        activity = entry.activity if entry is not None else core.activity.platform
        activity.record(self._status if self._status < 600 else 500, 0.0 if self._status == 101 else seconds)
        activity.bytes_out += self.sent
        if self._status == 101:
            activity.sockets -= 1
            activity.tabs -= 1
        if self.is_stream:
            self.is_stream = False
            activity.tabs -= 1
        now = time.time()
        if self._live:
            self._live = False
            activity.live -= 1
            activity.last_used = now
        log = core.log
        if log.enabled:
            log.add(
                now, self.request_id, self._log_part or self._named(), self.method, self.target, self._status, self._code,
                self._connect_s, seconds, self.sent,
            )  # fmt: skip

    def _named(self) -> str:
        """The part of an access log line that says who asked whom; the same for all requests with the same head."""
        space = self.entry.log_part if self.entry is not None else ""
        host = self.head.host.decode("latin-1") if self.head is not None else ""
        self._log_part = f'","client":"{self.address}","host":"{host}",{space}"method":"'
        return self._log_part

    def _idle_since(self) -> float:
        config = self.core.config
        return self.deadline - (config.keep_alive_s if self.request_id else config.header_timeout_s)

    def check(self, now: float) -> None:
        """The tick: end what waited too long. `now` is the loop's clock."""
        phase = self.phase
        if self.core.draining and phase == HEAD and not self._buffer and now > self._idle_since() + self.core.config.last_call_s:
            self.transport.close()  # before that its next request may be on its way; it is answered with `Connection: close`
        elif now < self.deadline:
            return
        elif phase == HEAD:
            if self._buffer:
                self.refuse(Code.CLIENT_TIMEOUT, close=True)
            else:
                self.transport.close()
        elif phase == HOLD:
            if self._wait_host:
                self._waited_enough(now)
            else:
                if self._task is not None:
                    self._task.cancel()
                    self._task = None
                self._fail(Code.APP_TIMEOUT)
        elif phase == FOLLOW:
            self.end_follow()
        elif phase in (LENGTH, CHUNKS):
            if self._read_holds & _BY_UPSTREAM:  # the app does not read: its fault, and it has the longer limit
                if now < self.deadline + self.core.config.app_timeout_s:
                    return
                self._drop_upstream()
                self._fail(Code.APP_TIMEOUT)
                return
            self._drop_upstream()
            self._fail(Code.CLIENT_TIMEOUT)
        elif phase == WAIT:
            self._drop_upstream()
            self._fail(Code.APP_TIMEOUT if not self.answered else Code.APP_CUT_SHORT)
        else:
            self.transport.abort()
