"""An event loop in which nobody waits: when nothing is ready, the clock stands at the next timer at once."""

from __future__ import annotations

import asyncio
import selectors
from datetime import UTC, datetime, timedelta
from typing import Any


class _Jumping(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.moment = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise AssertionError("nothing is ready and nobody has set a timer: everybody waits for ever")
        self.moment += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Nothing in it may wait for a thread, a socket or a process: their time is another one."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.moment


class LoopClock:
    """`ports.clock.Clock` over the time of a loop."""

    def __init__(self, loop: VirtualLoop, began: datetime) -> None:
        self._loop, self._began = loop, began.astimezone(UTC)

    def now(self) -> datetime:
        return self._began + timedelta(seconds=self._loop.time())

    def monotonic(self) -> float:
        return self._loop.time()
