"""The common exchange, in two functions: one when its head is here, one when its answer is here.

Common is: a GET without a body for a public Space with one ready replica, on a connection whose last head was the same but for
the first line (or was just checked), while an idle connection to the app is there; and an answer that comes in one piece
behind a head that this replica sent a moment ago. All else takes the long way: routing.decide, app_side, upstream.

Nothing is left out here, limits, counters and log included; it is only done in one place, since calls are what costs.
`common` says that the exchange at hand came this way and that no field holds what a longer one left behind.
"""

from __future__ import annotations

from bisect import bisect_left
from time import perf_counter

from control_plane.proxy.access_log import BATCH
from control_plane.proxy.activity import BUCKETS_S
from control_plane.proxy.app_side import AppSide
from control_plane.proxy.connection import HEAD, WAIT
from control_plane.proxy.pool import MAX_IDLE, KnownAnswer
from control_plane.proxy.start_line import StartLine
from control_plane.proxy.upstream import Upstream

_STAYS = b"\r\n\r\n"
_CLOSES = b"\r\nConnection: close\r\n\r\n"


class ExpressSide(AppSide):
    __slots__ = ()

    def _express(self, line: StartLine) -> bool:
        """Send the request on. False when it is not a common one; nothing has happened then."""
        core = self.core
        entry = self.entry
        head = self.head
        if self._routes is not core.resolved or entry is None or head is None or self.bucket is None:
            return False
        pool = entry.pools[0]
        idle = pool.idle
        if not idle or idle[-1].closed:
            return False
        now = core.now
        for bucket in (self.bucket, entry.bucket):
            if bucket.tokens >= 1 and bucket.last == now:
                bucket.tokens -= 1
            elif not bucket.take(now):
                return False
        if not self.common:
            self._begin_afresh()
            self._close_after = not head.keep_alive
            self.common = self.request_sent = self.keep_upstream = True
        self._started = perf_counter()
        self._line = line
        self.method = b"GET"
        self.target = line.target
        self.request_id = request_id = next(core.ids)
        if line.is_use:
            self._live = True
            entry.activity.live += 1
        self.pool = pool
        self.phase = WAIT
        self.deadline = core.app_deadline
        self._up = up = idle.pop()
        up.client = self
        up.transport.write(b"".join((line.start, self._forward, request_id, pool.head_end)))
        if self._write_paused:
            up.pause()
        return True

    def finish_common(self, up: Upstream, answer: KnownAnswer, data: bytes) -> None:
        """`data` is the whole answer, `answer` what is known of its head; `up` has nothing more to say."""
        core = self.core
        out = b"".join((answer.start, self.request_id, _CLOSES if self._close_after else _STAYS, data[answer.body_at :]))
        sent = len(out)
        self.transport.write(out)
        self._up = up.client = None
        if up.paused:
            up.resume()
        pool = up.pool
        idle = pool.idle
        if pool.references and len(idle) < MAX_IDLE:
            up.idle_since = core.now
            idle.append(up)
        else:
            up.close()
        ended = perf_counter()
        seconds = ended - self._started
        entry = self.entry
        assert entry is not None
        activity = entry.activity
        activity.classes[answer.status_class] += 1
        activity.buckets[bisect_left(BUCKETS_S, seconds)] += 1
        activity.seconds += seconds
        activity.bytes_out += sent
        if self._live:
            self._live = False
            activity.live -= 1
            activity.last_used = core.wall
        log = core.log
        ended_ms = core.epoch_ms + ended * 1000
        if log.keeps_all:
            waiting = log.waiting
            waiting.append((ended_ms, self.request_id, self._log_part, self._line.log_part, answer.status, b"", 0.0, seconds * 1e6, sent))
            if len(waiting) >= BATCH:
                log.flush()
        else:
            log.add(ended_ms, self.request_id, self._log_part, self._line.log_part, answer.status, "", 0.0, seconds * 1e6, sent)
        if self._buffer or self._read_holds or self._close_after:
            self._next()
        else:
            self.phase = HEAD
            self.deadline = core.idle_deadline
