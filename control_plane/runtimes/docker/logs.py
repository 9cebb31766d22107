"""Apps' logs: one thread per running container follows the engine's log and hands lines over in batches.

What was handed over stays in the log store after the container is gone. A mark on disk (the engine's time of the last
line) lets the next life of the platform go on where this one stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from control_plane.domain.errors import VitrineError
from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.runtimes.docker import facts
from control_plane.runtimes.docker.engine import Absent, Engine, Stream

MAX_LINE_BYTES = 8192
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(?:Z|[+-]\d\d:\d\d)) ")
_MARK_S = 1.0
log = logging.getLogger(__name__)

LogSink = Callable[[SpaceId, ReplicaId, Sequence[str]], Awaitable[None]]
Deliver = Callable[[SpaceId, ReplicaId, list[str]], None]


class Meter:
    """A flood is cut: at most `burst_bytes` at once and `bytes_per_s` after; what was dropped is said. Pure: time is an argument."""

    def __init__(self, *, bytes_per_s: int = 256 << 10, burst_bytes: int = 2 << 20) -> None:
        self._rate, self._burst, self._credit, self._at = bytes_per_s, burst_bytes, float(burst_bytes), 0.0
        self._dropped_lines = self._dropped_bytes = 0

    def admit(self, line: str, now: float) -> list[str]:
        """What of this line may be kept, after a word on what was dropped before it."""
        self._credit = min(float(self._burst), self._credit + max(0.0, now - self._at) * self._rate)
        self._at = now
        size = len(line) + 1
        # After a drop, wait for a little room: otherwise every other line would be a count.
        if self._credit < (self._burst / 8 if self._dropped_lines else size):
            self._dropped_lines += 1
            self._dropped_bytes += size
            return []
        self._credit -= size
        return [*self.rest(), line]

    def rest(self) -> list[str]:
        if not self._dropped_lines:
            return []
        said = f"[{self._dropped_lines} lines ({self._dropped_bytes} bytes) were dropped: the app printed faster than its log may grow]"
        self._dropped_lines = self._dropped_bytes = 0
        return [said]


class LineCutter:
    """Pieces of the engine's log (each begins with its time stamp; a line longer than 16 KiB comes in several) become lines."""

    def __init__(self) -> None:
        self._partial = b""
        self.last_stamp = ""

    def feed(self, piece: bytes) -> list[str]:
        found = _STAMP.match(piece)
        if found:
            self.last_stamp = found[1].decode()
            piece = piece[found.end() :]
        whole = piece.endswith(b"\n")
        self._partial += piece
        if not whole and len(self._partial) < MAX_LINE_BYTES:
            return []
        text, self._partial = self._partial, b""
        return [clean(line) for line in text.rstrip(b"\n").split(b"\n")]

    def finish(self) -> list[str]:
        text, self._partial = self._partial, b""
        return [clean(text)] if text else []


def clean(line: bytes) -> str:
    return line[:MAX_LINE_BYTES].rstrip(b"\r").decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")


class LogFollowers:
    """`deliver(space_id, replica_id, lines)` is called in a follower's thread and may block. `marks`: a folder."""

    def __init__(self, engine: Engine, deliver: Deliver, marks: Path, *, retry_s: float = 1.0) -> None:
        self._engine, self._deliver, self._marks, self._retry_s = engine, deliver, marks, retry_s
        self._followers: dict[ReplicaId, _Follower] = {}
        self._lock = threading.Lock()

    def follow(self, space_id: SpaceId, replica_id: ReplicaId, container: str) -> None:
        """Begin, once per replica."""
        with self._lock:
            if replica_id in self._followers:
                return
            follower = _Follower(self._engine, self._deliver, space_id, replica_id, container, self._marks, self._retry_s)
            self._followers[replica_id] = follower
        follower.start()

    def finish(self, replica_id: ReplicaId, wait_s: float = 2.0) -> None:
        """The container has ended: its last lines are waited for, up to `wait_s` seconds."""
        with self._lock:
            follower = self._followers.get(replica_id)
        if follower is not None:
            follower.join(wait_s)

    def forget(self, replica_id: ReplicaId) -> None:
        """The container is gone, with its log."""
        with self._lock:
            follower = self._followers.pop(replica_id, None)
        if follower is not None:
            follower.stop()
            follower.join(2.0)
        (self._marks / replica_id).unlink(missing_ok=True)

    def close(self) -> None:
        with self._lock:
            followers = list(self._followers.values())
            self._followers.clear()
        for follower in followers:
            follower.stop()
        for follower in followers:
            follower.join(5.0)


class _Follower:
    def __init__(
        self, engine: Engine, deliver: Deliver, space_id: SpaceId, replica_id: ReplicaId, container: str, marks: Path, retry_s: float
    ) -> None:
        self._engine, self._deliver, self._container, self._retry_s = engine, deliver, container, retry_s
        self._space_id, self._replica_id, self._mark = space_id, replica_id, marks / replica_id
        self._meter, self._cutter = Meter(), LineCutter()
        self._stopping = threading.Event()
        self._stream: Stream | None = None
        self._resumed_at = ""
        self._marked_at = 0.0
        self._thread = threading.Thread(target=self._run, name=f"log {replica_id}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._stream is not None:
            self._stream.close()

    def join(self, wait_s: float) -> None:
        self._thread.join(wait_s)

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            self._cutter.last_stamp = self._mark.read_text(encoding="utf-8").strip()
        while not self._stopping.is_set():
            try:
                self._follow()
                # A connection that broke looks like an end: the log has ended only when the container has.
                if not self._engine.inspect(self._container)["State"]["Running"]:
                    return
            except Absent:
                return
            except VitrineError:
                pass  # the engine restarts: again, from the last line seen
            self._stopping.wait(self._retry_s)

    def _follow(self) -> None:
        self._resumed_at = self._cutter.last_stamp
        since = facts.moment(self._resumed_at)
        self._stream = stream = self._engine.follow_logs(self._container, since.timestamp() if since else 0.0)
        try:
            if self._stopping.is_set():
                return
            for piece in stream:
                before = self._cutter.last_stamp
                lines = self._cutter.feed(piece)
                if self._resumed_at and self._cutter.last_stamp <= self._resumed_at:
                    self._cutter.last_stamp = before
                    continue  # handed over in an earlier life
                self._send([kept for line in lines for kept in self._meter.admit(line, time.monotonic())])
            self._send(
                [*[kept for line in self._cutter.finish() for kept in self._meter.admit(line, time.monotonic())], *self._meter.rest()]
            )
        finally:
            stream.close()
            self._stream = None
            self._write_mark()

    def _send(self, lines: list[str]) -> None:
        if lines:
            self._deliver(self._space_id, self._replica_id, lines)
            if time.monotonic() - self._marked_at > _MARK_S:
                self._write_mark()

    def _write_mark(self) -> None:
        self._marked_at = time.monotonic()
        with contextlib.suppress(OSError):
            self._mark.write_text(self._cutter.last_stamp, encoding="utf-8")


class Outbox:
    """Lines from followers' threads go to the event loop's sink, everything that waits for a Space's replica in one call.

    `limit`: lines that may wait; beyond, followers wait too (up to `patience_s`, then their lines are dropped).
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, sink: LogSink, *, limit: int = 20_000, patience_s: float = 30.0) -> None:
        self._loop, self._sink, self._limit, self._patience_s = loop, sink, limit, patience_s
        self._waiting: dict[tuple[SpaceId, ReplicaId], list[str]] = {}
        self._count = 0
        self._room = threading.Condition()
        self._is_flushing = False

    def put(self, space_id: SpaceId, replica_id: ReplicaId, lines: list[str]) -> None:
        """In a follower's thread."""
        with self._room:
            if not self._room.wait_for(lambda: self._count < self._limit, self._patience_s):
                return
            self._waiting.setdefault((space_id, replica_id), []).extend(lines)
            self._count += len(lines)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if not self._is_flushing:
            self._is_flushing = True
            self._task = self._loop.create_task(self.flush())

    async def flush(self) -> None:
        """Until nothing waits. A sink that fails loses its lines and is written down; the next are tried again."""
        self._is_flushing = True
        try:
            while True:
                with self._room:
                    taken, self._waiting, self._count = self._waiting, {}, 0
                    self._room.notify_all()
                if not taken:
                    return
                for (space_id, replica_id), lines in taken.items():
                    try:
                        await self._sink(space_id, replica_id, lines)
                    except (VitrineError, OSError):
                        log.exception("logs.sink", extra={"space_id": space_id, "replica_id": replica_id})
        finally:
            self._is_flushing = False
