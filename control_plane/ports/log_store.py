"""Logs of builds and apps: users' data, kept apart from the platform's own logs.

A stream is an append-only list of lines; its key is "build/<build id>" or "run/<space id>". Line numbers start at 0
and never change: when old lines are dropped for space, one line that says so takes the place of each dropped one's count.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class LogLine:
    at: datetime
    text: str  # without its newline


class LogReader(Protocol):
    """A place in a stream. Going on costs what came since, however long the stream is."""

    async def read(self, limit: int = 5000) -> tuple[LogLine, ...]:
        """What follows what was read before; () when there is nothing new."""


class LogStore(Protocol):
    async def append(self, stream: str, lines: Sequence[LogLine]) -> None: ...

    async def read(self, stream: str, *, after: int = 0, limit: int = 5000) -> tuple[LogLine, ...]:
        """Lines from number `after` on."""

    async def tail(self, stream: str, count: int) -> tuple[LogLine, ...]: ...

    async def count(self, stream: str) -> int: ...

    def reader(self, stream: str, *, after: int = 0) -> LogReader:
        """At line number `after`."""

    def growing(self, stream: str, event: asyncio.Event) -> AbstractContextManager[None]:
        """`event` is set whenever the stream grew, whoever wrote to it, within about a quarter of a second."""

    def follow(self, stream: str, *, after: int = 0) -> AsyncIterator[LogLine]:
        """Everything from `after`, then new lines as they come, until closed by the reader."""

    async def remove(self, stream: str) -> None: ...
