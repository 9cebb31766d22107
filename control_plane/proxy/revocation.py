"""Exchanges that are open already end when the right to them does: sockets, event streams, downloads of private Spaces.

A request is checked by the guard when it comes; this asks again for those that last. The bus says when somebody's rights
changed (`access`), the table says when a Space became private, and a timer covers lost hints and credentials that expire.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING

from control_plane.proxy.app_side import AppSide
from control_plane.proxy.connection import CHUNKS, FOLLOW, HOLD, LENGTH, TUNNEL, WAIT
from control_plane.proxy.guard import GuardUnavailable

if TYPE_CHECKING:
    from control_plane.proxy.core import Core

_LASTING = frozenset((FOLLOW, HOLD, LENGTH, CHUNKS, WAIT, TUNNEL))
_GATHER_S = 0.1  # several changes of rights are one round
_QUESTIONS = 16  # open at once, so that a round does not crowd out visitors' own

_Right = tuple[str, tuple[tuple[str, str], ...]]  # (host, what was shown at the door)


class Revocation:
    def __init__(self, core: Core, *, recheck_s: float) -> None:
        self._core = core
        self._recheck_s = recheck_s
        self._asked = asyncio.Event()
        self._closed: set[str] = set()  # hosts that are private, or gone, since the last round
        self._questions = asyncio.Semaphore(_QUESTIONS)

    def route_changed(self, host: str) -> None:
        entry = self._core.table.get(host)
        if entry is not None and entry.is_private:
            self._closed.add(host)
            self._asked.set()

    async def listen(self, hints: AsyncIterator[tuple[str, str]]) -> None:
        """Take hints of changed rights until `hints` ends."""
        async for _topic, _key in hints:
            self._core.guard.forget()
            self._asked.set()

    async def run(self) -> None:
        """Rounds until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._recheck_s):
                    await self._asked.wait()
            except TimeoutError:
                pass
            else:
                await asyncio.sleep(_GATHER_S)
            self._asked.clear()
            await self._round()

    async def _round(self) -> None:
        closed, self._closed = self._closed, set()
        rights: dict[_Right, list[AppSide]] = {}
        for connection in tuple(self._core.connections):
            if not isinstance(connection, AppSide) or connection.phase not in _LASTING or connection.entry is None:
                continue
            host = connection.entry.route.host
            if connection.entry.is_private:
                if connection.shown:
                    rights.setdefault((host, connection.shown), []).append(connection)
            elif host in closed and not connection.waits_for_wake:  # it came while the Space was public: nobody was asked
                connection.cut()
        await asyncio.gather(*(self._ask_again(right, connections) for right, connections in rights.items()))

    async def _ask_again(self, right: _Right, connections: Iterable[AppSide]) -> None:
        host, shown = right
        async with self._questions:
            try:
                verdict, _kind, _credential = await self._core.guard.check(host, list(shown))
            except GuardUnavailable:
                return  # who takes rights away is the one that does not answer: the next round asks again
        if verdict.allowed:
            return
        for connection in connections:
            entry = connection.entry
            if connection.phase in _LASTING and connection.shown == shown and entry is not None and entry.route.host == host:
                connection.cut()
