"""Holds requests to Spaces that sleep or start, and asks once per Space for the start.

Nothing of a held request's body is read. The table tells when a route changed; each held request then looks again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from control_plane.domain.ids import SpaceId
from control_plane.domain.routes import RouteState
from control_plane.proxy.errors import Code

if TYPE_CHECKING:
    from control_plane.proxy.client import ClientConnection
    from control_plane.proxy.table import Entry

_ASK_AGAIN_S = 5.0  # a lost hint costs this much
_QUOTA_ASK_AGAIN_S = 1.0  # room may come at any moment, and nobody tells


class Activator:
    def __init__(self, wake: Callable[[SpaceId], Awaitable[None]], *, per_space: int = 1_000, total: int = 10_000) -> None:
        self._wake = wake
        self._per_space = per_space
        self._total = total
        self._held: dict[str, dict[ClientConnection, float]] = {}  # since when, monotonic
        self._asked: dict[SpaceId, tuple[float, float]] = {}  # Space → (first asked, last asked), monotonic
        self._tasks: set[asyncio.Task[None]] = set()
        self.count = 0

    def ask(self, entry: Entry) -> None:
        """Ask for a start: once per Space, and again only while nothing happens."""
        space_id = entry.route.space_id
        now = time.monotonic()
        first, last = self._asked.get(space_id, (now, 0.0))
        if last and now - last < (_QUOTA_ASK_AGAIN_S if entry.kept_by_quota else _ASK_AGAIN_S):
            return
        if not last:
            entry.activity.wakes += 1
        entry.activity.last_used = time.time()
        self._asked[space_id] = (first, now)
        task = asyncio.ensure_future(self._send(space_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, space_id: SpaceId) -> None:
        try:
            await self._wake(space_id)
        except OSError:
            self._asked.pop(space_id, None)  # the bus is down: the next visit or tick asks again

    def hold(self, client: ClientConnection, entry: Entry, *, ask: bool = True) -> Code | None:
        """None when the request waits now, for a start that is asked for or for news only; a code when a queue is full."""
        held = self._held.setdefault(entry.route.host, {})
        if len(held) >= self._per_space:
            return Code.WAKE_QUEUE_FULL
        if self.count >= self._total:
            return Code.PROXY_QUEUE_FULL
        held[client] = time.monotonic()
        self.count += 1
        if ask:
            self.ask(entry)
        return None

    def drop(self, client: ClientConnection, host: str) -> None:
        held = self._held.get(host)
        if held is not None and client in held:
            del held[client]
            self.count -= 1
            if not held:
                del self._held[host]

    def changed(self, host: str, entry: Entry | None) -> None:
        """The route of `host` changed: when it no longer waits, every held request looks again, oldest first."""
        if entry is not None:
            if entry.route.state.may_wake and not entry.is_ready:
                asked_at = self._asked.get(entry.route.space_id, (0.0, 0.0))[1]
                for client, since in tuple(self._held.get(host, {}).items()):
                    if client.waits_for_restart:
                        self.drop(client, host)
                        client.look_again()
                    elif entry.kept_by_quota:
                        client.entry = entry
                        if since <= asked_at:
                            client.wake_refused()
                        else:  # the answer is to one who asked before, and may be old: this one gets its own
                            client.wait_for_room()
                return
            asked = self._asked.pop(entry.route.space_id, None)
            if asked is not None and entry.route.state is RouteState.READY:
                entry.activity.wake_seconds += time.monotonic() - asked[0]
        held = self._held.pop(host, None)
        if held:
            self.count -= len(held)
            for client in held:
                client.look_again()

    def tick(self, get: Callable[[str], Entry | None]) -> None:
        """Ask again for Spaces that still have somebody waiting."""
        for host in tuple(self._held):
            entry = get(host)
            if entry is not None and entry.route.state is RouteState.ASLEEP:
                self.ask(entry)
