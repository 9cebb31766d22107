"""Two schedulers never both act: one leads, the others stand by and take over.

    stand-by ──(nobody leads, or the leader's beat has not changed for TTL_S)──▶ leader ──(another took over)──▶ ends

Three walls, each enough for what it guards:

- the row: who leads, and a beat that changes every `RENEW_S`. Whether a leader is gone is judged by the observer's own
  monotonic clock since the beat last changed, so clocks that disagree do no harm. A holder on this very machine whose
  process is gone is replaced at once.
- belief: a leader that could not renew for two thirds of the time stops acting (runtime, routes) before anybody takes over.
- the fence: leading begins with a new number in the database, and every write of a leader checks it in its own transaction. A
  process that was frozen and thaws finds its writes refused, whatever it believes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from control_plane.domain.errors import Unavailable, VitrineError
from control_plane.domain.replicas import ReplicaSpec
from control_plane.domain.routes import Route
from control_plane.ports.leadership import Leadership
from control_plane.ports.stores import UnitOfWork, UnitOfWorkFactory

log = logging.getLogger("vitrine.scheduler")

TTL_S = 9.0
RENEW_S = 2.0
_KIND, _KEY = "leadership", "scheduler"
_FENCE = "fence"


@dataclass(frozen=True, slots=True)
class Identity:
    """This process among all that ever led. Its pid says something only to processes of the same boot and pid namespace."""

    place: str = field(default_factory=lambda: _place())
    pid: int = field(default_factory=os.getpid)
    start: str = field(default_factory=lambda: secrets.token_hex(6))

    def __str__(self) -> str:
        return f"{self.place} {self.pid} {self.start}"

    def outlived(self, holder: str) -> bool:
        """Whether `holder` ran where this process runs, and is gone."""
        try:
            place, pid_text, start = holder.rsplit(" ", 2)
            pid = int(pid_text)
        except ValueError:
            return False
        if place != self.place:
            return False
        if pid == self.pid:
            return start != self.start  # an earlier process with our number
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False


def _place() -> str:
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()}/{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    return f"{socket.gethostname()}/{secrets.token_hex(8)}"


class DatabaseLeadership:
    """ports.leadership.Leadership as one row. A database that is away costs no leader its place: it pauses, and goes on after."""

    def __init__(
        self, uow: UnitOfWorkFactory, identity: Identity | None = None, *, ttl_s: float = TTL_S, renew_s: float = RENEW_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._uow = uow
        self._identity = identity or Identity()
        self._ttl_s, self._renew_s, self._monotonic = ttl_s, renew_s, monotonic
        self._renewed_at = -1e18
        self._seen: tuple[str, int] = ("", -1)  # holder and beat as last read
        self._seen_at = monotonic()

    def is_leading(self) -> bool:
        return self._monotonic() - self._renewed_at < self._ttl_s * 2 / 3

    async def attempt(self) -> bool | None:
        """Take or renew. True: this process leads. False: another does. None: the database did not say."""
        asked_at = self._monotonic()
        me = str(self._identity)
        try:
            async with self._uow.write() as uow:
                row = await uow.documents.get(_KIND, _KEY) or {"holder": "", "beat": 0}
                holder, beat = str(row["holder"]), int(row["beat"])
                if holder not in ("", me) and not self._may_replace(holder, beat):
                    self._renewed_at = -1e18
                    return False
                await uow.documents.put(_KIND, _KEY, "", {"holder": me, "beat": beat + 1})
        except VitrineError as error:
            log.warning("leadership.unsure", extra={"error": error.message})
            return None
        self._renewed_at = asked_at
        return True

    def _may_replace(self, holder: str, beat: int) -> bool:
        if self._identity.outlived(holder):
            return True
        if self._seen != (holder, beat):
            self._seen, self._seen_at = (holder, beat), self._monotonic()
        return self._monotonic() - self._seen_at >= self._ttl_s

    async def release(self) -> None:
        """Let the next one in at once. Harmless when not leading."""
        self._renewed_at = -1e18
        with contextlib.suppress(VitrineError):
            async with self._uow.write() as uow:
                row = await uow.documents.get(_KIND, _KEY)
                if row is not None and row["holder"] == str(self._identity):
                    await uow.documents.put(_KIND, _KEY, "", {"holder": "", "beat": int(row["beat"]) + 1})

    async def acquire(self) -> None:
        """Try until this process leads, also through an outage of the database."""
        while not await self.attempt():
            await asyncio.sleep(self._renew_s / 4)

    async def lost(self) -> None:
        """Renew until another process has taken over."""
        while True:
            await asyncio.sleep(self._renew_s)
            if await self.attempt() is False:
                return


class Fence:
    """The number of this leader's reign. After `begin()`, every write through `FencedUnits` belongs to it or is refused."""

    def __init__(self, uow: UnitOfWorkFactory, leadership: Leadership) -> None:
        self._uow, self._leadership = uow, leadership
        self._number = 0

    async def begin(self) -> int:
        async with self._uow.write() as uow:
            self._number = await uow.documents.next_number(_FENCE, _KEY)
            await uow.documents.put(_FENCE, _KEY, _KEY, {"number": self._number})
        return self._number

    def check_belief(self) -> None:
        """Raises Unavailable while this process cannot show that it leads."""
        if not self._leadership.is_leading():
            raise Unavailable("this scheduler cannot show that it leads; it waits")

    async def check(self, uow: UnitOfWork) -> None:
        """Raises Unavailable inside the write of a process whose reign is over. Without `begin()` there is none to be over."""
        if self._number:
            row = await uow.documents.get(_FENCE, _KEY)
            if row is None or int(row["number"]) != self._number:
                raise Unavailable("another scheduler leads; this write is refused")


class FencedUnits:
    """A UnitOfWorkFactory whose writes are refused once another scheduler leads. Reads are everybody's."""

    def __init__(self, uow: UnitOfWorkFactory, fence: Fence) -> None:
        self._inner, self._fence = uow, fence

    def read(self) -> contextlib.AbstractAsyncContextManager[UnitOfWork]:
        return self._inner.read()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[UnitOfWork]:
        self._fence.check_belief()
        async with self._inner.write() as uow:
            await self._fence.check(uow)
            yield uow


class FencedRuntime:
    """A runtime that starts and stops nothing while this process cannot show that it leads; all else is the inner one's."""

    def __init__(self, runtime: Any, fence: Fence) -> None:
        self._inner, self._fence = runtime, fence

    async def apply(self, spec: ReplicaSpec) -> None:
        self._fence.check_belief()
        await self._inner.apply(spec)

    async def stop(self, *args: Any, **kwargs: Any) -> None:
        self._fence.check_belief()
        await self._inner.stop(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class FencedRoutes:
    """A RouteStore that publishes nothing while this process cannot show that it leads; all else is the inner one's."""

    def __init__(self, routes: Any, fence: Fence) -> None:
        self._inner, self._fence = routes, fence

    async def publish(self, route: Route) -> None:
        self._fence.check_belief()
        await self._inner.publish(route)

    async def withdraw(self, host: str) -> None:
        self._fence.check_belief()
        await self._inner.withdraw(host)

    async def complete(self) -> None:
        self._fence.check_belief()
        await self._inner.complete()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
