"""What one client connection is made of: its phase, the request at hand, who may read, and what it adds to the counters."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from control_plane.domain.routes import RouteState
from control_plane.proxy.access_log import client_part, request_part
from control_plane.proxy.activity import SpaceActivity
from control_plane.proxy.chunks import ChunkReader
from control_plane.proxy.core import Core
from control_plane.proxy.heads import CHUNKED, RequestHead
from control_plane.proxy.limits import Bucket, Client
from control_plane.proxy.pool import Pool
from control_plane.proxy.start_line import StartLine
from control_plane.proxy.table import Entry
from control_plane.proxy.upstream import Upstream

HEAD: Final = 0
LENGTH: Final = 1
CHUNKS: Final = 2
WAIT: Final = 3
HOLD: Final = 4
TUNNEL: Final = 5
DISCARD: Final = 6
CLOSED: Final = 7
FOLLOW: Final = 8  # a progress page is told what happens to its Space
BY_UPSTREAM: Final = 1
BY_BUFFER: Final = 2
REPEATABLE = frozenset((b"GET", b"HEAD", b"OPTIONS"))
_UNDER_WAY = frozenset((HOLD, LENGTH, CHUNKS, WAIT))


class Connection(asyncio.Protocol):
    __slots__ = (
        "_body_due", "_body_left", "_buffer", "_chunks", "_close_after", "_code", "_connect_s", "_forward", "_line", "_live", "_log_part",
        "_minor", "_read_holds", "_retried", "_routes", "_started", "_status", "_task", "_tunnel", "_unsent", "_up", "_wait_host",
        "_write_paused", "accepts_upgrade", "address", "answered", "app_host", "begins_session", "bucket", "client", "common", "core",
        "deadline", "entry", "extra_head", "head", "is_stream", "keep_upstream", "method", "phase", "plain_body", "pool", "proto",
        "request_id", "request_sent", "sent", "shown", "sign", "target", "transport", "visitor", "vouched", "vouched_host",
    )  # fmt: skip
    transport: asyncio.Transport
    _tunnel: asyncio.Transport
    _line: StartLine  # of a common exchange, express.py

    def __init__(self, core: Core, address: str = "", proto: bytes = b"") -> None:
        """`address` and `proto` say who asks and how where the socket cannot: behind TLS, HTTP/2 or a PROXY header.

        `visitor` is who asks: `address`, or whom a trusted hop there names. Its `bucket` is what requests are taken from.
        """
        self.core = core
        self.address = self.visitor = address
        self.proto = proto or core.scheme
        self.client: Client | None = None
        self.bucket: Bucket | None = None
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
        self.shown: tuple[tuple[str, str], ...] = ()  # the credentials that opened a private Space to the request at hand
        self.accepts_upgrade = False
        self.answered = False
        self.request_sent = False
        self.keep_upstream = False
        self.is_stream = False
        self.common = False
        self.begins_session = False  # of several replicas: what is sent or answered says by which name its session comes back
        self.plain_body = False  # chunked answers are passed on without their chunks: HTTP/2 has its own frames
        self.sent = 0
        self._minor = b"1"
        self._forward = b""
        self.vouched = b""  # who asks `vouched_host`, in the words that apps are told
        self.vouched_host = b""
        self._routes: object = None  # the look-ups that `entry` was found by, when what follows may be common exchanges
        self._buffer = b""
        self._body_left = 0
        self._body_due = 0.0  # when a body that came at the slowest rate allowed would have brought what is here
        self._chunks: ChunkReader | None = None
        self._up: Upstream | None = None
        self._task: asyncio.Task[None] | None = None
        self._wait_host = ""
        self._started = 0.0
        self._connect_s = 0.0
        self._status = 0
        self._code = ""
        self._log_part = b""
        self._close_after = False
        self._retried = False
        self._live = False
        self._write_paused = False
        self._unsent = 0  # bytes that waited for the client to take them, when it was last looked at
        self._read_holds = 0

    @property
    def takes_content_alone(self) -> bool:
        """No chunks for a client that has frames of its own (HTTP/2) or does not know them (HTTP/1.0)."""
        return self.plain_body or self._minor == b"0"

    @property
    def takes_trailers(self) -> bool:
        return self.head is not None and self.head.trailers

    @property
    def waits_for_wake(self) -> bool:
        return self.phase == HOLD and bool(self._wait_host)

    @property
    def is_sign_of_life(self) -> bool:
        """An event stream that only says that a tab is open: it begins again elsewhere, and nothing is lost."""
        return self.is_stream and not self._live

    @property
    def waits_for_restart(self) -> bool:
        return self.waits_for_wake and self.entry is not None and self.entry.route.state is RouteState.PAUSED

    @property
    def is_deaf(self) -> bool:
        """Nothing is read from a client whose request is under way: it is not heard when it leaves."""
        return self._read_holds != 0 and self.phase in _UNDER_WAY

    def hold_reading(self) -> None:
        self._hold(BY_UPSTREAM)

    def continue_reading(self) -> None:
        self._body_due = max(self._body_due, self.core.now + self.core.config.body_stall_s)  # it was the app that was slow
        self._unhold(BY_UPSTREAM)

    def _hold(self, why: int) -> None:
        if not self._read_holds and self.phase != CLOSED and not self.transport.is_closing():
            self.transport.pause_reading()
        self._read_holds |= why

    def _unhold(self, why: int) -> None:
        if self._read_holds:
            self._read_holds &= ~why
            if not self._read_holds and self.phase != CLOSED and not self.transport.is_closing():
                self.transport.resume_reading()

    def _takes(self) -> bool:
        """Whether a client that has something to take took some of it since this was last asked."""
        before, self._unsent = self._unsent, self.transport.get_write_buffer_size()
        return 0 < self._unsent < before

    def _has_unread_input(self) -> bool:
        head = self.head
        return head is None or head.upgrade or (not self.request_sent and (head.length > 0 or head.length == CHUNKED))

    def begin_use(self, activity: SpaceActivity, *, live: bool) -> None:
        if live and not self._live:
            self._live = True
            activity.live += 1

    def _open_stream(self) -> None:
        if self.entry is not None and not self.is_stream:
            self.is_stream = True
            self.entry.activity.tabs += 1

    def _begin_afresh(self) -> None:
        """Nothing of the request before is left in what says how an exchange goes."""
        self.answered = self.request_sent = self._retried = self.is_stream = self.accepts_upgrade = self._close_after = False
        self.begins_session = False
        self.extra_head = self.sign = b""
        self._code = ""
        self._status = self.sent = 0
        self._connect_s = 0.0

    def _account(self) -> None:
        core = self.core
        entry = self.entry
        self.common = False
        ended = time.perf_counter()
        seconds = ended - self._started
        activity = entry.activity if entry is not None else core.activity.platform
        activity.record(self._status if self._status < 600 else 500, 0.0 if self._status == 101 else seconds)
        activity.bytes_out += self.sent
        if self._status == 101:
            activity.sockets -= 1
            activity.tabs -= 1
        if self.is_stream:
            self.is_stream = False
            activity.tabs -= 1
        if self._live:
            self._live = False
            activity.live -= 1
            activity.last_used = core.wall
        if core.log.enabled:
            core.log.add(
                core.epoch_ms + ended * 1000, self.request_id, self._log_part or self._named(), request_part(self.method, self.target),
                self._status, self._code, self._connect_s * 1e6, seconds * 1e6, self.sent,
            )  # fmt: skip

    def _named(self) -> bytes:
        """The part of an access log line that says who asked whom."""
        self._log_part = client_part(
            self.visitor, self.head.host if self.head is not None else b"", self.entry.log_part if self.entry is not None else b""
        )
        return self._log_part

    if TYPE_CHECKING:  # of the layers above: client.py and app_side.py

        def _read_head(self, data: bytes) -> None: ...

        def _read_body(self, data: bytes) -> None: ...

        def look_again(self) -> None: ...
