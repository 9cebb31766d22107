"""Answers in our own name, what follows an answer, and the event stream of a progress page."""

from __future__ import annotations

import asyncio
import time

from control_plane.proxy import answers, stages
from control_plane.proxy.connection import BY_BUFFER, BY_UPSTREAM, CLOSED, DISCARD, FOLLOW, HEAD, Connection
from control_plane.proxy.errors import Code
from control_plane.proxy.table import Entry
from control_plane.proxy.words import choose

_LINGER_S = 3.0


class OwnAnswers(Connection):
    __slots__ = ()

    def refuse(self, code: Code, *, close: bool = False, reveal: bool = False, extra: str = "", words: str = "") -> None:
        """Answer with `code`. `reveal`: the asker passed the guard, so the Space may be named."""
        head = self.head
        counts = self.core.activity.refused
        counts[code.name] = counts.get(code.name, 0) + 1
        self._code = code.name
        if not self.request_id:
            self.request_id = next(self.core.ids)
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
            language=choose(head.value(b"accept-language").decode("latin-1")) if head is not None else "en",
        )
        self.own_answer(code.value.status, data, keep=keep)

    def reply(self, status: int, content_type: str, body: bytes, headers: str = "") -> None:
        """A plain answer of ours that is not an error."""
        keep = self._own_answer_keeps(False)
        headers += f"X-Vitrine-Request-Id: {self.request_id.decode()}\r\n"
        data = answers.raw(status, content_type, body, headers=headers, keep=keep, head_only=self.method == b"HEAD")
        self.own_answer(status, data, keep=keep)

    def _own_answer_keeps(self, close: bool) -> bool:
        return not (close or self._close_after or self._minor == b"0" or self.core.draining or self._has_unread_input())

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
                self.leave()
            return
        self.phase = HEAD
        self.deadline = self.core.now + self.core.config.keep_alive_s
        if self._buffer:
            self.deadline = self.core.now + self.core.config.header_timeout_s
            asyncio.get_running_loop().call_soon(self._read_buffered)
        if self._read_holds:
            self._unhold(BY_BUFFER | BY_UPSTREAM)

    def leave(self) -> None:
        """Close once what was written is taken; a client that takes nothing any more is not waited for."""
        self.phase = DISCARD
        self._body_left = 0
        self._unsent = self.transport.get_write_buffer_size() + 1  # the first look finds progress
        self.deadline = self.core.now + _LINGER_S
        self.transport.close()

    def _read_buffered(self) -> None:
        if self.phase == HEAD and self._buffer and not self.transport.is_closing():
            data, self._buffer = self._buffer, b""
            self._read_head(data)

    def _linger(self) -> None:
        """Unread input: closing at once would reset the connection and could destroy the answer on its way."""
        self.phase = DISCARD
        self._buffer = b""
        self._body_left = 0
        self._unsent = self.transport.get_write_buffer_size() + 1
        self.deadline = self.core.now + _LINGER_S
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()
        self._unhold(BY_BUFFER | BY_UPSTREAM)

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
