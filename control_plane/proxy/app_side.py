"""The exchange with the app: a connection for the request, and the answer on its way to the client."""

from __future__ import annotations

import asyncio
import re
import time
from itertools import chain, repeat
from typing import TYPE_CHECKING, cast

from control_plane.net.dial import DialError
from control_plane.proxy import balancer, routing
from control_plane.proxy.chunks import BadChunk, ChunkReader
from control_plane.proxy.connection import BY_BUFFER, BY_UPSTREAM, CHUNKS, CLOSED, FOLLOW, HOLD, LENGTH, REPEATABLE, TUNNEL, WAIT
from control_plane.proxy.errors import Code
from control_plane.proxy.heads import CHUNKED, ResponseHead
from control_plane.proxy.own_answers import OwnAnswers
from control_plane.proxy.pool import PASSED_OVER_S, Pool
from control_plane.proxy.upstream import Upstream

if TYPE_CHECKING:
    from control_plane.proxy.client import ClientConnection

_CODING = re.compile(rb"\r\ntransfer-encoding:[^\r]*", re.IGNORECASE)
_LAST_WORDS_S = 3.0
_CONNECT_RETRY_S = (0.05, 0.2)  # and then each half second


class AppSide(OwnAnswers):
    __slots__ = ()

    def forward(self, pool: Pool) -> None:
        """Send the request to `pool`: over an idle connection at once, else as soon as a fresh one stands."""
        self.pool = pool
        head = self.head
        assert head is not None
        up = pool.take(self.core.now, repeatable=self.method in REPEATABLE and head.length <= 0 and head.length != CHUNKED)
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
            self._hold(BY_BUFFER)
        self._task = asyncio.get_running_loop().create_task(self._connected(pool))

    async def _connected(self, pool: Pool) -> None:
        """A connection for this request. Nothing of it has left yet, so another replica may take it as well as the first.

        While nobody takes it, it waits a moment for the app to come back: as many at once as may wait for a wake, no more.
        """
        waiting_room, name = self.core.reconnecting, self.entry.route.host if self.entry is not None else ""
        has_place = False
        began = time.perf_counter()
        retries = chain(_CONNECT_RETRY_S, repeat(0.5))
        refused: list[Pool] = []
        try:
            while True:
                try:
                    up = await pool.connect()
                    break
                except DialError as error:
                    pool.down_until = self.core.clock() + PASSED_OVER_S
                    refused.append(pool)
                    other = self._another(refused)
                    if other is not None:
                        self.pool = pool = other
                        continue
                    if self._left_the_table():
                        self._task = None
                        self.look_again()
                        return
                    waits = not error.timed_out and time.perf_counter() - began < self.core.config.refused_patience_s
                    has_place = has_place or (waits and waiting_room.enter(name))
                    if not waits or not has_place:
                        self._task = None
                        self.refuse(self._no_connection(error), reveal=True)
                        return
                    await asyncio.sleep(next(retries))
        finally:
            if has_place:
                waiting_room.leave(name)
        pool.down_until = 0.0
        self._task = None
        self._connect_s = time.perf_counter() - began
        if self.phase != HOLD:
            up.close()
            return
        self._send_request(up)

    def _no_connection(self, error: DialError) -> Code:
        if self.app_host is None:
            return Code.PLATFORM_UNAVAILABLE
        return Code.APP_CONNECT_TIMEOUT if error.timed_out else Code.APP_REFUSED

    def _left_the_table(self) -> bool:
        """The Space is not served any more, since it sleeps or was stopped: what follows is for its route as it is now."""
        if self.entry is None:
            return False
        entry = self.core.table.get(self.entry.route.host)
        return entry is not self.entry and (entry is None or not entry.is_ready)

    def _another(self, refused: list[Pool]) -> Pool | None:
        """A replica of the Space, as its route is now, that did not refuse this request yet; the session moves there."""
        if self.entry is None or self.head is None:
            return None
        entry = self.core.table.get(self.entry.route.host)
        left = tuple(pool for pool in entry.pools if pool not in refused) if entry is not None and entry.is_ready else ()
        if not left:
            return None
        pool = routing.choose(self, left, [])
        framed = routing.keeps_framed_cookies(self)
        self.extra_head = self.extra_head.replace(balancer.cookie_line(refused[-1], framed=framed), b"")
        if entry is not None and len(entry.pools) > 1:
            self.extra_head += balancer.cookie_line(pool, framed=framed)
        return pool

    def _send_request(self, up: Upstream) -> None:
        head = self.head
        assert head is not None
        assert self.pool is not None
        self.common = False
        self._up = up
        self.keep_upstream = True
        if head.upgrade:
            tail = b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        elif self._minor == b"0":
            tail = b"\r\nConnection: close\r\n\r\n"
        else:
            tail = b"\r\n\r\n"
        up.begin(
            cast("ClientConnection", self),
            b"%b %b HTTP/1.%b%b%b%b%b" % (self.method, self.target, self._minor, self._forward, self.request_id, self.pool.site, tail),
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
        self._body_due = self.deadline = self.core.now + self.core.config.body_stall_s
        if data:
            self._read_body(data)
        self._unhold(BY_BUFFER)

    def _read_body(self, data: bytes) -> None:
        up = self._up
        core = self.core
        if up is None:
            self._buffer += data
            self._hold(BY_BUFFER)
            return
        self._body_due += len(data) / core.config.body_min_rate
        self.deadline = min(self._body_due, core.now + core.config.body_stall_s)
        if self.entry is not None:
            self.entry.activity.bytes_in += len(data)
            if self.begins_session:
                self._learn(data)
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

    def answer_head(self, head: ResponseHead, body: bytes, *, ends: bool) -> None:
        """`ends` is false for an answer that lasts until the app closes: then this connection ends with it."""
        self.answered = True
        self._status = head.status
        core = self.core
        if not ends or not self.request_sent or core.draining or self.accepts_upgrade:
            self._close_after = True
        if head.is_stream:
            self._open_stream()
        ending = b"\r\nConnection: close" if self._close_after else b""
        block = head.block
        if self._minor == b"0":  # a client of the old kind: no chunks, and kept connections are said
            if head.length == CHUNKED:
                block = _CODING.sub(b"", block)
                self._close_after = True
            ending = b"\r\nConnection: close" if self._close_after else b"\r\nConnection: keep-alive"
        entry = self.entry
        data = b"%b%b%b\r\nX-Vitrine-Request-Id: %b%b%b\r\n\r\n%b" % (
            head.line,
            block,
            entry.response_suffix if entry is not None else b"",
            self.request_id,
            self.extra_head,
            ending,
            body,
        )
        if self.begins_session:
            self._learn(body)
        self.sent = len(data)
        self.deadline = core.stream_deadline
        self.transport.write(data)

    def interim(self, head: ResponseHead) -> None:
        """100 only when the client waits for it; other 1xx to clients that can read them."""
        if self._minor == b"1" and (head.status != 100 or (self.head is not None and self.head.expect)):
            self.transport.write(head.line + head.block + b"\r\n\r\n")

    def _learn(self, data: bytes) -> None:
        if self.entry is not None and self.pool is not None:
            self.core.balancer.learn(data, self.entry.route.space_id, self.pool)

    def send(self, data: bytes) -> None:
        if self.begins_session:
            self._learn(data)
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
        activity = entry.activity if entry is not None else self.core.activity.platform
        activity.sockets += 1
        activity.tabs += 1
        if self._live:  # an open socket alone is not use: messages are, or tabs when the owner says so
            self._live = False
            activity.live -= 1
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
        self._unhold(BY_BUFFER)

    def response_done(self, pool: Pool, up: Upstream | None) -> None:
        """The answer left completely; `up` is the upstream when it may be used again."""
        self._up = None
        self._read_holds &= ~BY_UPSTREAM
        if up is not None:
            pool.give(up, self.core.now)
        self._account()
        self._next()

    def upstream_failed(self, code: Code) -> None:
        up, self._up = self._up, None
        if self.phase == CLOSED:
            return
        self.common = False
        head = self.head
        if (
            code is Code.APP_RESET and up is not None and up.reused and not self._retried and self.phase == WAIT
            and self.method in REPEATABLE and head is not None and head.length <= 0 and self.pool is not None
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

    def cut(self) -> None:
        """The right to this exchange has ended. An answer that has not begun is what a stranger gets."""
        self._stop_waiting()
        if self.phase == TUNNEL:
            self._code = Code.ACCESS_ENDED.name
            self.close_tunnel(1008)
            if self._up is not None:
                self._up.close()
            self.deadline = self.core.now + _LAST_WORDS_S  # a client that does not read gets no longer
        elif self.phase == FOLLOW:
            self.end_follow()
        else:
            self._drop_upstream()
            if self.answered:
                self._fail(Code.ACCESS_ENDED)
            else:
                self.refuse(Code.NOT_FOUND, close=True)

    def turn_away(self) -> None:
        """This process leaves: a request that still waits for its app is told so, and a progress page looks elsewhere."""
        if self.phase == FOLLOW:
            self.end_follow()
        elif self.phase == HOLD:
            self._stop_waiting()
            self.refuse(Code.DRAINING, close=True, reveal=True)

    def _stop_waiting(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._wait_host:
            self.core.activator.drop(cast("ClientConnection", self), self._wait_host)
            if self.phase != FOLLOW:
                self._wait_host = ""

    def close_tunnel(self, status: int) -> None:
        """End a WebSocket from our side with a close frame to both ends (RFC 6455 5.5.1)."""
        payload = status.to_bytes(2, "big")
        self.transport.write(b"\x88\x02" + payload)
        if self._up is not None:
            self._up.transport.write(b"\x88\x82\0\0\0\0" + payload)
        self.transport.close()
