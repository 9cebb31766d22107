"""Which Spaces are to be looked at: each at most once at a time, a hint twice is one look, timers keep the earliest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta

from control_plane.domain.errors import Unavailable
from control_plane.domain.ids import SpaceId
from control_plane.ports.clock import Clock

log = logging.getLogger("vitrine.scheduler")

_UNAVAILABLE_PAUSE, _FAULT_PAUSE = timedelta(seconds=1), timedelta(seconds=5)


class WorkQueue:
    """`handle(space_id)` is run by `worker` tasks; what it raises is logged and tried again after a pause.

    `observe` is told of each look: how long it had been wanted, and how long it took, seconds.
    """

    def __init__(
        self,
        clock: Clock,
        handle: Callable[[SpaceId], Awaitable[None]],
        observe: Callable[[float, float], None] = lambda lag_s, took_s: None,
    ) -> None:
        self._clock, self._handle, self._observe = clock, handle, observe
        self._wanted: dict[SpaceId, float] = {}  # in order of the first request, with its moment on the monotonic clock
        self._busy: set[SpaceId] = set()
        self._wake = asyncio.Event()
        self._unseen: set[SpaceId] = set()
        self._done = asyncio.Event()
        self._timers: dict[SpaceId, asyncio.TimerHandle] = {}

    def request(self, space_id: SpaceId) -> None:
        self._wanted.setdefault(space_id, self._clock.monotonic())
        self._wake.set()

    def request_at(self, space_id: SpaceId, at: datetime) -> None:
        delay = max(0.02, (at - self._clock.now()).total_seconds())
        loop = asyncio.get_running_loop()
        known = self._timers.get(space_id)
        if known is not None and known.when() <= loop.time() + delay and not known.cancelled():
            return
        if known is not None:
            known.cancel()
        self._timers[space_id] = loop.call_later(delay, self._timer, space_id)

    async def looked_at(self, space_ids: Iterable[SpaceId]) -> None:
        """Request all of them and return once each has had a look, however many are asked for again meanwhile."""
        self._unseen.update(space_ids)
        for space_id in tuple(self._unseen):
            self.request(space_id)
        while self._unseen:
            self._done.clear()
            await self._done.wait()

    async def worker(self) -> None:
        """Until cancelled."""
        while True:
            space_id = next((s for s in self._wanted if s not in self._busy), None)
            if space_id is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            asked, began = self._wanted.pop(space_id), self._clock.monotonic()
            self._busy.add(space_id)
            try:
                await self._handle(space_id)
            except Unavailable as error:
                log.warning("reconcile.retry", extra={"space_id": space_id, "error": error.message})
                self.request_at(space_id, self._clock.now() + _UNAVAILABLE_PAUSE)
            except Exception:
                log.exception("reconcile.failed", extra={"space_id": space_id})
                self.request_at(space_id, self._clock.now() + _FAULT_PAUSE)
            finally:
                self._observe(began - asked, self._clock.monotonic() - began)
                self._busy.discard(space_id)
                self._unseen.discard(space_id)
                self._wake.set()
                self._done.set()

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()

    def _timer(self, space_id: SpaceId) -> None:
        self._timers.pop(space_id, None)
        self.request(space_id)
