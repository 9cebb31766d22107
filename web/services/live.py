"""One subscription to the platform's signals for every open page: an idle stream costs a line every `ALIVE_S` and no query.

Signals may be lost. Once in `LOOK_S` the hub asks for the newest event of the whole platform, one query for all streams;
when it moved without a signal, every listener looks at its own rows.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable

from control_plane.domain.errors import VitrineError
from control_plane.ports.signals import Signals

ALIVE_S = 40.0  # a sign of life on quiet streams; proxies close silent ones after a minute
LOOK_S = 15.0
LOOK_EVERY = 20  # signs of life after which a stream looks at its rows and rights without having been told to


class LiveHub:
    """Tells waiting pages which Space, or whose notices, changed. `newest` gives the id of the newest event of all Spaces."""

    def __init__(self, signals: Signals, newest: Callable[[], Awaitable[int]]) -> None:
        self._signals = signals
        self._newest = newest
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._tasks: list[asyncio.Task[None]] = []
        self._heard = False  # a signal came since the last look

    @contextlib.asynccontextmanager
    async def listener(self, *keys: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set whenever one of `keys` changed (a Space, somebody's rights); the caller clears it."""
        event = asyncio.Event()
        for key in keys:
            self._waiting[key].add(event)
        if not self._tasks or any(task.done() for task in self._tasks):
            await self.close()
            self._tasks = [asyncio.create_task(work(), name="web-live") for work in (self._listen, self._look)]
        try:
            yield event
        finally:
            for key in keys:
                self._waiting[key].discard(event)
                if not self._waiting[key]:
                    del self._waiting[key]

    async def _listen(self) -> None:
        async for _topic, key in self._signals.subscribe("events", "builds", "access", "notices"):
            self._heard = True
            self._wake(None if key == "*" else key)

    async def _look(self) -> None:
        last: int | None = None
        while True:
            try:
                newest = await self._newest()
            except VitrineError:
                newest = last or 0
            if last is not None and newest != last and not self._heard:
                self._wake(None)
            last, self._heard = newest, False
            await asyncio.sleep(LOOK_S)

    def _wake(self, key: str | None) -> None:
        waiting = [e for events in self._waiting.values() for e in events] if key is None else self._waiting.get(key, ())
        for event in tuple(waiting):
            event.set()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []


async def changed(event: asyncio.Event, timeout_s: float = ALIVE_S) -> bool:
    """Wait for the next change; False after `timeout_s` without one."""
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return False
    event.clear()
    return True
