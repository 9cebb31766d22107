"""The route stream on both buses: what a proxy reads while schedulers come, go and forget."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from control_plane.bus.local import BusClient, BusServer
from control_plane.bus.redis_bus import RedisRouteFeed, RedisRouteStore
from control_plane.domain.ids import SpaceId
from control_plane.domain.routes import Route, RouteState
from control_plane.proxy.activity import Activity
from control_plane.proxy.pool import Pools
from control_plane.proxy.table import Table
from tests.fakes.redis_server import redis_server

OpenStore = Callable[[], Awaitable[Any]]


def route(name: str, state: RouteState = RouteState.ASLEEP, generation: int = 1) -> Route:
    return Route(f"{name}.localhost", SpaceId((name * 24)[:24]), f"alice/{name}", state, generation)


class Reader:
    """A proxy's table that follows one feed."""

    def __init__(self, feed: Any) -> None:
        self.table = Table(Pools(1.0), Activity(), file=None, embed_origin="http://localhost", space_rate=0, space_burst=0)
        self._feed = feed
        self._heard = asyncio.Event()
        self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        async for update in self._feed.updates():
            self.table.apply(update)
            self._heard.set()

    async def until(self, **states: RouteState | None) -> None:
        """Return once each named host has this state, None for unknown."""
        async with asyncio.timeout(60):
            while any(self.state(name) != state for name, state in states.items()):
                self._heard.clear()
                await self._heard.wait()

    def state(self, name: str) -> RouteState | None:
        entry = self.table.get(f"{name}.localhost")
        return entry.route.state if entry else None

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._feed.close()


@pytest.fixture(params=["local", "redis"])
async def stream(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[OpenStore, Reader]]:
    """(opens the store of a scheduler that has just started, a proxy that follows)."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(redis_server(tmp_path)) if request.param == "redis" else None
        stores: list[Any] = []

        async def open_store() -> Any:
            for old in stores:
                await old.close()
            stores[:] = [RedisRouteStore(server.url) if server else BusServer(tmp_path / "bus.sock")]
            await stores[0].start()
            return stores[0]

        reader = Reader(RedisRouteFeed(server.url) if server else BusClient(tmp_path / "bus.sock"))
        try:
            yield open_store, reader
        finally:
            await reader.close()
            for store in stores:
                await store.close()


async def test_changes_arrive_in_order(stream: tuple[OpenStore, Reader]) -> None:
    open_store, reader = stream
    store = await open_store()
    await store.publish(route("a"))
    await store.complete()
    await reader.until(a=RouteState.ASLEEP)
    await store.publish(route("b"))
    await store.publish(route("a", RouteState.READY))
    await store.withdraw("b.localhost")
    await store.publish(route("c"))
    await reader.until(a=RouteState.READY, b=None, c=RouteState.ASLEEP)
    assert reader.table.loaded


async def test_a_new_scheduler_takes_no_host_away_before_it_has_looked_at_all(stream: tuple[OpenStore, Reader]) -> None:
    open_store, reader = stream
    store = await open_store()
    for name in "abc":
        await store.publish(route(name))
    await store.complete()
    await reader.until(a=RouteState.ASLEEP, b=RouteState.ASLEEP, c=RouteState.ASLEEP)

    store = await open_store()  # knows nothing
    await store.publish(route("a", RouteState.PAUSED))
    await reader.until(a=RouteState.PAUSED)
    assert reader.state("b") is RouteState.ASLEEP
    assert reader.state("c") is RouteState.ASLEEP
    await store.publish(route("b", RouteState.FAILED))
    await reader.until(a=RouteState.PAUSED, b=RouteState.FAILED, c=RouteState.ASLEEP)
    await store.complete()  # nobody spoke of c: it was deleted while no scheduler ran
    await reader.until(a=RouteState.PAUSED, b=RouteState.FAILED, c=None)


async def test_a_new_scheduler_without_any_space_empties_the_table(stream: tuple[OpenStore, Reader]) -> None:
    open_store, reader = stream
    store = await open_store()
    await store.publish(route("a"))
    await store.complete()
    await reader.until(a=RouteState.ASLEEP)
    store = await open_store()
    await store.complete()
    await reader.until(a=None)
    assert reader.table.loaded
