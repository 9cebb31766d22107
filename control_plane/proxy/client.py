"""The client's side: one connection, one request at a time, what follows waits in a bounded buffer.

    HEAD ─► (routing.decide) ─► HOLD ─► LENGTH | CHUNKS ─► WAIT ─► HEAD
                                 │                           └──► TUNNEL (after a 101)
                                 └─► own answer ─► HEAD | DISCARD (body unread: drain a little, then close)

Nothing of a body is read before its upstream is there, and nothing after an upgrade request goes out before the 101.
"""

from __future__ import annotations

import asyncio
import time
from typing import cast

from control_plane.proxy import routing
from control_plane.proxy.connection import (
    BY_BUFFER,
    BY_UPSTREAM,
    CHUNKS,
    CLOSED,
    DISCARD,
    FOLLOW,
    HEAD,
    HOLD,
    LENGTH,
    TUNNEL,
    WAIT,
)
from control_plane.proxy.errors import Code
from control_plane.proxy.express import ExpressSide
from control_plane.proxy.heads import CHUNKED, HeadError, RequestHead, origin_form, request_line
from control_plane.proxy.limits import plain_address
from control_plane.proxy.start_line import StartLine
from control_plane.proxy.table import Entry
from control_plane.proxy.upstream import WRITE_HIGH

_MAX_WAITING_INPUT = 65_536
_REFUSED_METHODS = frozenset((b"CONNECT", b"TRACE", b"TRACK", b"PRI"))
_LINGER_BYTES = 16 * 1024 * 1024
_QUOTA_PATIENCE_S = 3.0  # how long a visit to a Space that a quota keeps asleep waits for the scheduler's word


class ClientConnection(ExpressSide):
    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        core = self.core
        core.now = core.clock()
        self.transport.set_write_buffer_limits(high=WRITE_HIGH)
        if not self.address:
            peer = transport.get_extra_info("peername")
            self.address = plain_address(peer[0]) if isinstance(peer, tuple) and peer else ""
        self.deadline = core.now + core.config.header_timeout_s
        self.visitor = self.address
        self.client = core.clients.arrive(self.address, core.now, shared=core.is_trusted(self.address))
        if self.client is not None:
            self.bucket = self.client.bucket
        core.connections.add(self)
        if self.client is None or not core.has_room():
            self.refuse(Code.TOO_MANY_CONNECTIONS, close=True)

    def data_received(self, data: bytes) -> None:
        phase = self.phase
        if phase == HEAD:
            if self._buffer:
                data = self._buffer + data
                self._buffer = b""
            head = self.head
            # Clients often repeat their headers to the byte; checked once, they stay checked.
            if head is not None and data.endswith(head.tail):
                line = self.core.known_lines.get(data[: -head.tail_size])
                if line is not None and line.is_common and self._express(line):
                    return
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
                self._hold(BY_BUFFER)
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
        self._unsent = self.transport.get_write_buffer_size()
        self.deadline = min(self.deadline, self.core.clock() + self.core.config.body_stall_s)
        if self._up is not None:
            self._up.pause()

    def resume_writing(self) -> None:
        self._write_paused = False
        if self.phase == WAIT or self.phase == TUNNEL:
            self.deadline = self.core.stream_deadline
        if self._up is not None:
            self._up.resume()

    def _read_head(self, data: bytes) -> None:
        core = self.core
        self._started = time.perf_counter()
        try:
            found = self._checked_head(data)
            if found is None:
                return
            line, head, self._buffer = found
            method, target = line.method, line.target
            if target[0] != 47:
                target = origin_form(method, target, head.host)
            if method in _REFUSED_METHODS:
                raise HeadError(Code.METHOD_REFUSED)
            if head.upgrade and method != b"GET":
                raise HeadError(Code.BAD_UPGRADE)
            if head.length > core.config.max_body_bytes > 0:
                raise HeadError(Code.BODY_TOO_LARGE)
        except HeadError as refused:
            self.head = self.entry = self._routes = None
            self._log_part = self.method = self.target = self.request_id = b""
            self.refuse(refused.code, close=True)
            return
        is_platform, entry, ours = core.resolved.get(head.host) or core.resolve(head.host)
        if head is not self.head or entry is not self.entry:
            self._settle(head, entry, is_platform)
        if entry is not None and entry.is_plain and head.is_plain and not core.draining:
            self._routes = core.resolved
            if line.is_common and self._express(line):
                return
        self._begin_afresh()
        self.common = False
        self.method = method
        self.target = target
        self.request_id = next(core.ids)
        self._close_after = not head.keep_alive
        self.accepts_upgrade = head.upgrade
        self.phase = HOLD
        self.deadline = core.app_deadline
        self.decide(head, is_platform, entry, ours)

    def _settle(self, head: RequestHead, entry: Entry | None, is_platform: bool) -> None:
        """What is the same for all requests with this head, on to the next one."""
        known, visitor = self.head, self.visitor
        stays = known is not None and known.host == head.host and entry is self.entry
        self.head = head
        self.entry = entry
        self._minor = head.minor
        self._routes = None
        self.app_host = None if is_platform else entry.host if entry is not None else b""
        self._forward = routing.forwarded(self, head, is_platform)
        if not stays or visitor != self.visitor:
            self._named()

    def decide(self, head: RequestHead, is_platform: bool, entry: Entry | None, ours: bool) -> None:
        routing.decide(self, head, is_platform, entry, ours)

    def _checked_head(self, data: bytes) -> tuple[StartLine, RequestHead, bytes] | None:
        """(first line, head, what follows it), or None while the head is incomplete."""
        core = self.core
        limits = core.config.heads
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
        line = core.known_lines.read(data[:line_end])
        block = data[line_end:end]
        head = self.head
        if head is None or head.block != block or head.minor != line.minor:
            head = core.checked_head(block, line.minor, head)
        return line, head, data[end + 4 :]

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

    def wait_for_wake(self, entry: Entry) -> None:
        code = self.core.activator.hold(self, entry)
        if code is not None:
            self.refuse(code, reveal=True)
            return
        # A quota that refused before may have room now: the scheduler is asked, and answers soon when it has not.
        patience = min(_QUOTA_PATIENCE_S, self.core.config.wake_timeout_s) if entry.kept_by_quota else self.core.config.wake_timeout_s
        self._wait(entry, patience)

    def wait_for_restart(self, entry: Entry) -> bool:
        """A paused Space may have been restarted a moment ago, by who asks now. False when it is known not to be."""
        if self.core.activator.hold(self, entry, ask=False) is not None:
            return False
        self._wait(entry, self.core.config.paused_patience_s)
        return True

    def _wait(self, entry: Entry, patience_s: float) -> None:
        self._wait_host = entry.route.host
        self.deadline = self.core.clock() + patience_s
        head = self.head
        if head is not None and (head.length > 0 or head.length == CHUNKED):
            self._hold(BY_BUFFER)

    def wait_for_room(self) -> None:
        """Not longer than one who comes now, when it is known that a quota keeps the Space asleep."""
        self.deadline = min(self.deadline, self.core.clock() + _QUOTA_PATIENCE_S)

    def wake_refused(self) -> None:
        """The owner's quota does not let the Space up: said now instead of after a long wait."""
        self.core.activator.drop(self, self._wait_host)
        self._wait_host = ""
        self.refuse(Code.WAKE_REFUSED, reveal=True)

    def _waited_enough(self, now: float) -> None:
        entry = self.core.table.get(self._wait_host)
        if self.waits_for_restart:
            self.core.activator.drop(self, self._wait_host)
            self._wait_host = ""
            self.refuse(Code.SPACE_PAUSED, reveal=True)
        elif entry is not None and entry.kept_by_quota:
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
        if self._live and self.entry is not None:  # its Space may be gone: what began there ends there
            self._live = False
            self.entry.activity.live -= 1
        is_platform, entry, ours = self.core.resolve(self.head.host)
        self.entry = entry
        self.extra_head = b""
        self._named()
        self.deadline = self.core.app_deadline
        self.decide(self.head, is_platform, entry, ours)

    def run(self, task: asyncio.Task[None]) -> None:
        """Let `task` decide; it is cancelled when the client leaves. No body is read meanwhile."""
        self._task = task
        head = self.head
        if head is not None and (head.length > 0 or head.length == CHUNKED):
            self._hold(BY_BUFFER)

    def task_done(self) -> None:
        self._task = None

    def _idle_since(self) -> float:
        config = self.core.config
        return self.deadline - (config.keep_alive_s if self.request_id else config.header_timeout_s)

    def check(self, now: float) -> None:
        """The tick: end what waited too long. `now` is the loop's clock."""
        phase = self.phase
        if self.core.draining and phase == HEAD and not self._buffer and now > self._idle_since() + self.core.config.last_call_s:
            self.leave()  # before that its next request may be on its way; it is answered with `Connection: close`
        elif now < self.deadline:
            return
        elif phase == HEAD:
            if self._buffer:
                self.refuse(Code.CLIENT_TIMEOUT, close=True)
            else:
                self.leave()
        elif phase in (WAIT, TUNNEL, DISCARD) and self._takes():
            self.deadline = now + self.core.config.body_stall_s
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
            if self._read_holds & BY_UPSTREAM:  # the app does not read: its fault, and it has the longer limit
                if now < self.deadline + self.core.config.app_timeout_s:
                    return
                self._drop_upstream()
                self._fail(Code.APP_TIMEOUT)
                return
            self._drop_upstream()
            self._fail(Code.CLIENT_TIMEOUT)
        elif phase == WAIT:
            self._drop_upstream()
            self._fail(Code.APP_TIMEOUT if not self.answered else Code.CLIENT_STALLED if self._write_paused else Code.APP_CUT_SHORT)
        else:
            if phase == TUNNEL and self._write_paused:
                self._code = Code.CLIENT_STALLED.name
            self.transport.abort()
