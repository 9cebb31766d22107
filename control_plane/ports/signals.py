"""Hints between processes, and the route stream. A lost hint costs a timer tick, never correctness."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from control_plane.domain.ids import SpaceId
from control_plane.domain.routes import ActivityReport, Route, RouteChange, RouteTable


class Signals(Protocol):
    """Topics: `reconcile` (key = space id), `events` (key = space id: new SpaceEvent rows or runtime change),
    `builds` (key = build id: new log lines or status), `access` (key = user or token id: rights changed),
    `notices` (key = user id: something to be told, or read), `pictures` (key = space id and revision of a new picture)."""

    async def notify(self, topic: str, key: str) -> None:
        """Tell everyone; never raises for a missing listener or a broken bus."""

    def subscribe(self, *topics: str) -> AsyncIterator[tuple[str, str]]:
        """(topic, key) pairs from now on; ends only when closed. Reconnects by itself and then yields (topic, "*")."""


class RouteStore(Protocol):
    """The scheduler's side: the one writer of the table."""

    async def publish(self, route: Route) -> None: ...
    async def withdraw(self, host: str) -> None: ...
    async def complete(self) -> None:
        """Every Space has been published once since the start: hosts that were not are gone. Until then readers keep them."""

    async def table(self) -> RouteTable: ...
    def requests(self) -> AsyncIterator[SpaceId | ActivityReport]:
        """What proxies say: wake this Space (SpaceId), or an ActivityReport."""


class RouteFeed(Protocol):
    """The proxy's side. The first item is a RouteTable; afterwards ordered changes, or a new table after a gap."""

    def updates(self) -> AsyncIterator[RouteTable | RouteChange]: ...
    async def wake(self, space_id: SpaceId) -> None: ...
    async def report(self, reports: tuple[ActivityReport, ...]) -> None: ...
    def subscribe(self, *topics: str) -> AsyncIterator[tuple[str, str]]:
        """As in Signals: proxies hear `access`."""
