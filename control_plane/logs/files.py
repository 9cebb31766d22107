"""Logs as files: one append-only file of lines per stream, `<unix seconds>\\t<text>\\n`.

Line numbers are stable: when a file outgrows its limit its first half is replaced by one `dropped` record that carries
how many lines it stands for, and readers count it as that many. Several processes may read and write.

Followers are woken by size: one task looks at every followed file in turn, so that a thousand quiet ones cost a few
milliseconds a second. Not inotify, because the folder may be a volume that other hosts write to.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from control_plane.domain.errors import Rejected
from control_plane.ports.log_store import LogLine

_STREAM = re.compile(r"(?:build|run)/[0-9a-f]{24}\Z")
_DROPPED = "\x00dropped "
_LOOK_S = 0.2
MAX_LINE = 8192  # characters; longer lines are cut and say so
_UNSAFE = re.compile(r"[\x00\x0b\x0c\x85\u2028\u2029]")


def _encode(lines: Sequence[LogLine]) -> bytes:
    out = []
    for line in lines:
        text = _UNSAFE.sub("\ufffd", line.text.replace("\r\n", "\n").rstrip("\n").replace("\n", "\u240a"))
        if len(text) > MAX_LINE:
            text = f"{text[:MAX_LINE]}… ({len(text) - MAX_LINE} characters cut)"
        out.append(f"{line.at.timestamp():.3f}\t{text}\n")
    return "".join(out).encode("utf-8", "replace")


def _decode(raw: str) -> tuple[LogLine, int]:
    """The line and how many line numbers it stands for."""
    stamp, _, text = raw.partition("\t")
    try:
        at = datetime.fromtimestamp(float(stamp), UTC)
    except ValueError:
        at, text = datetime.fromtimestamp(0, UTC), raw
    if text.startswith(_DROPPED):
        count = int(text[len(_DROPPED) :])
        return LogLine(at, f"… {count} earlier lines were dropped to keep the log within its size"), count
    return LogLine(at, text), 1


class _Growth:
    """Looks at the sizes of followed files while somebody follows one."""

    def __init__(self) -> None:
        self._events: dict[Path, set[asyncio.Event]] = {}
        self._sizes: dict[Path, int] = {}
        self._task: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def watch(self, path: Path, event: asyncio.Event) -> Iterator[None]:
        if path not in self._events:
            self._sizes[path] = _size(path)
        self._events.setdefault(path, set()).add(event)
        event.set()  # what came before is news to who begins now
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look(), name="log-growth")
        try:
            yield
        finally:
            self._events[path].discard(event)
            if not self._events[path]:
                del self._events[path], self._sizes[path]
            if not self._events:
                self._task.cancel()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            for path, events in self._events.items():
                now = _size(path)
                if now != self._sizes[path]:
                    self._sizes[path] = now
                    for event in events:
                        event.set()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


class _FileReader:
    """`ports.log_store.LogReader`: keeps the byte where it stopped, and finds its line again when the file was shortened."""

    def __init__(self, path: Path, after: int) -> None:
        self._path, self._number = path, after  # the number of the next line to give
        self._offset = 0  # of the first record not read yet
        self._at = 0  # the number of the line there
        self._head = b""  # how the file began: it begins anew when it was shortened

    async def read(self, limit: int = 5000) -> tuple[LogLine, ...]:
        return await asyncio.to_thread(self._read, limit)

    def _read(self, limit: int) -> tuple[LogLine, ...]:
        out: list[LogLine] = []
        if not self._path.exists():
            return ()
        with open(self._path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            head = file.read(64)
            if not head.startswith(self._head) or os.fstat(file.fileno()).st_size < self._offset:
                self._offset = self._at = 0
            self._head = head
            file.seek(self._offset)
            while len(out) < limit and (raw := file.readline()).endswith(b"\n"):
                line, count = _decode(raw[:-1].decode("utf-8", "replace"))
                end = self._at + count
                # A dropped stretch answers for each of its numbers, so that clients which count stay in step.
                given = max(0, min(end - max(self._at, self._number), limit - len(out)))
                out.extend([line] * given)
                self._number += given
                if self._number < end and given:
                    break  # the rest of the stretch comes with the next call
                self._at, self._offset = end, self._offset + len(raw)
        return tuple(out)


class FileLogStore:
    """ports.log_store.LogStore under `root`. `max_bytes` bounds one stream on disk."""

    def __init__(self, root: Path, *, max_bytes: int = 32 << 20) -> None:
        self._root = root
        self._max = max_bytes
        self._growth = _Growth()

    def _path(self, stream: str) -> Path:
        if not _STREAM.match(stream):
            raise Rejected(f"'{stream}' is not a log stream")
        return self._root / f"{stream}.log"

    async def append(self, stream: str, lines: Sequence[LogLine]) -> None:
        if lines:
            await asyncio.to_thread(self._append, self._path(stream), _encode(lines))

    def _append(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(path, "ab", opener=lambda p, f: os.open(p, f, 0o600)) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(data)
            file.flush()
            if file.tell() > self._max:
                self._shorten(path)

    def _shorten(self, path: Path) -> None:
        kept: list[str] = []
        with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
            raw = file.read().split("\n")[:-1]
        half = len(raw) // 2
        dropped = sum(_decode(line)[1] for line in raw[:half])
        kept = [f"{raw[half].partition(chr(9))[0]}\t{_DROPPED}{dropped}", *raw[half:]]
        # Rewritten in place under the lock: followers hold the same file open.
        with open(path, "r+b") as out:
            out.write(("\n".join(kept) + "\n").encode())
            out.truncate()

    async def read(self, stream: str, *, after: int = 0, limit: int = 5000) -> tuple[LogLine, ...]:
        return await asyncio.to_thread(self._read, self._path(stream), after, limit)

    def _read(self, path: Path, after: int, limit: int) -> tuple[LogLine, ...]:
        out: list[LogLine] = []

        def take(line: LogLine, count: int, number: int) -> bool:
            end = number + count
            if end > after:
                # A dropped stretch answers for each of its numbers, so that clients which count stay in step.
                out.extend([line] * min(end - max(number, after), limit - len(out)))
            return len(out) < limit

        self._scan(path, take)
        return tuple(out)

    def _scan(self, path: Path, take: Callable[[LogLine, int, int], bool]) -> None:
        number = 0
        if not path.exists():
            return
        with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            for raw in file:
                if not raw.endswith("\n"):
                    return
                line, count = _decode(raw[:-1])
                if not take(line, count, number):
                    return
                number += count

    async def tail(self, stream: str, count: int) -> tuple[LogLine, ...]:
        total = await self.count(stream)
        return await self.read(stream, after=max(0, total - count), limit=count)

    async def count(self, stream: str) -> int:
        return await asyncio.to_thread(self._count, self._path(stream))

    def _count(self, path: Path) -> int:
        total = 0

        def add(line: LogLine, count: int, number: int) -> bool:
            nonlocal total
            total = number + count
            return True

        self._scan(path, add)
        return total

    async def follow(self, stream: str, *, after: int = 0) -> AsyncIterator[LogLine]:
        reader, grown = self.reader(stream, after=after), asyncio.Event()
        with self.growing(stream, grown):
            while True:
                grown.clear()
                while lines := await reader.read(1000):
                    for line in lines:
                        yield line
                await grown.wait()

    def reader(self, stream: str, *, after: int = 0) -> _FileReader:
        return _FileReader(self._path(stream), after)

    def growing(self, stream: str, event: asyncio.Event) -> contextlib.AbstractContextManager[None]:
        return self._growth.watch(self._path(stream), event)

    async def remove(self, stream: str) -> None:
        await asyncio.to_thread(self._path(stream).unlink, True)
