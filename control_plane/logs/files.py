"""Logs as files: one append-only file of lines per stream, `<unix seconds>\\t<text>\\n`.

Line numbers are stable: when a file outgrows its limit its first half is replaced by one `dropped` record that carries
how many lines it stands for, and readers count it as that many. Followers are woken by size; several processes may read.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from control_plane.domain.errors import Rejected
from control_plane.ports.log_store import LogLine

_STREAM = re.compile(r"(?:build|run)/[0-9a-f]{24}\Z")
_DROPPED = "\x00dropped "
_FOLLOW_POLL_S = 0.15
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


class FileLogStore:
    """ports.log_store.LogStore under `root`. `max_bytes` bounds one stream on disk."""

    def __init__(self, root: Path, *, max_bytes: int = 32 << 20) -> None:
        self._root = root
        self._max = max_bytes

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
        path, size = self._path(stream), -1
        while True:
            try:
                now = path.stat().st_size
            except FileNotFoundError:
                now = 0
            if now != size:
                size = now
                while lines := await self.read(stream, after=after, limit=1000):
                    for line in lines:
                        yield line
                    after += len(lines)
            await asyncio.sleep(_FOLLOW_POLL_S)

    async def remove(self, stream: str) -> None:
        await asyncio.to_thread(self._path(stream).unlink, True)
