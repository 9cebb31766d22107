"""One subscription to the platform's signals for every open stream: an idle one costs a line every `ALIVE_S` and no query.

Signals may be lost. Every `LOOK_S` the hub asks what happened on the whole platform since it last looked, one query for all
streams, and wakes those of the Spaces that are named there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator

from control_plane.background import ended
from control_plane.domain.errors import VitrineError
from control_plane.ports.signals import Signals
from control_plane.ports.stores import UnitOfWorkFactory

ALIVE_S = 40.0  # a sign of life on quiet streams; proxies close silent ones after a minute
LOOK_S = 2.0
LOOK_EVERY = 20  # signs of life after which a stream looks at its rows and rights without having been told to
_AT_ONCE = 500


class LiveHub:
    """Tells waiting streams which Space, build or person something changed for. It listens while somebody waits."""

    def __init__(self, signals: Signals, uow: UnitOfWorkFactory) -> None:
        self._signals = signals
        self._uow = uow
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._tasks: list[asyncio.Task[None]] = []

    @contextlib.asynccontextmanager
    async def listener(self, *keys: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set whenever one of `keys` changed (a Space, a build, somebody's rights); the caller clears it."""
        event = asyncio.Event()
        for key in keys:
            self._waiting[key].add(event)
        if not self._tasks or any(task.done() for task in self._tasks):
            await self.close()
            self._tasks = [asyncio.create_task(work(), name="live") for work in (self._listen, self._look)]
        try:
            yield event
        finally:
            for key in keys:
                self._waiting[key].discard(event)
                if not self._waiting[key]:
                    del self._waiting[key]
            if not self._waiting:
                await self.close()

    async def _listen(self) -> None:
        async for _topic, key in self._signals.subscribe("events", "builds", "access", "notices"):
            self._wake(None if key == "*" else key)

    async def _look(self) -> None:
        last: int | None = None
        while True:
            with contextlib.suppress(VitrineError):
                async with self._uow.read() as uow:
                    if last is None:
                        last = await uow.events.last_id()
                    news = await uow.events.since(last, _AT_ONCE)
                if news:
                    last = news[-1].id
                    for space_id in {event.space_id for event in news}:
                        self._wake(space_id)
                    if len(news) == _AT_ONCE:
                        continue
            await asyncio.sleep(LOOK_S)

    def _wake(self, key: str | None) -> None:
        waiting = [e for events in self._waiting.values() for e in events] if key is None else self._waiting.get(key, ())
        for event in tuple(waiting):
            event.set()

    async def close(self) -> None:
        tasks, self._tasks = self._tasks, []
        await ended(*tasks)


async def changed(event: asyncio.Event, timeout_s: float = ALIVE_S) -> bool:
    """Wait for the next change; False after `timeout_s` without one."""
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return False
    event.clear()
    return True
