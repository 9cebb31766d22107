"""One subscription to the platform's signals for every open page: a thousand streams cost one listener and no polling."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator

from control_plane.ports.signals import Signals

ALIVE_S = 15.0  # a sign of life on quiet streams; proxies close silent ones after a minute


class LiveHub:
    """Tells waiting pages which Space changed. A lost signal costs one `ALIVE_S`: every wake-up looks at the rows."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def listener(self, key: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set whenever `key` changed; the caller clears it."""
        event = asyncio.Event()
        self._waiting[key].add(event)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._listen(), name="web-live")
        try:
            yield event
        finally:
            self._waiting[key].discard(event)
            if not self._waiting[key]:
                del self._waiting[key]

    async def _listen(self) -> None:
        async for _topic, key in self._signals.subscribe("events", "builds"):
            waiting = [e for events in self._waiting.values() for e in events] if key == "*" else self._waiting.get(key, ())
            for event in tuple(waiting):
                event.set()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None


async def changed(event: asyncio.Event, timeout_s: float = ALIVE_S) -> bool:
    """Wait for the next change; False after `timeout_s` without one."""
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return False
    event.clear()
    return True
