"""Requests that wait for a Space to wake: how many may, what they cost, and what the ones too many are told."""

from __future__ import annotations

import asyncio
import json

import pytest

from control_plane.domain.routes import RouteState
from control_plane.proxy.server import ProxyConfig
from tests.functional.proxy.conftest import Answer, Wire, World

SPACES = {"alice-demo.localhost": "a" * 24, "bob-demo.localhost": "b" * 24, "carol-demo.localhost": "c" * 24}


@pytest.fixture
def config() -> dict[str, object]:
    return {"wake_per_space": 3, "wake_total": 5}


async def all_asleep(world: World) -> None:
    for host, space_id in SPACES.items():
        await world.put(host=host, space_id=space_id, state=RouteState.ASLEEP, endpoints=(), eta_s=7.0)


async def hold(world: World, host: str, count: int) -> list[asyncio.Task[Answer]]:
    before = world.proxy.core.activator.count
    asking = [asyncio.create_task(world.get(f"/{number}", host=host)) for number in range(count)]
    async with asyncio.timeout(60):
        while world.proxy.core.activator.count < before + count:
            await asyncio.sleep(0.001)
    return asking


def test_the_room_is_as_large_as_promised() -> None:
    assert (ProxyConfig().wake_per_space, ProxyConfig().wake_total) == (1_000, 10_000)


async def test_one_space_and_the_whole_proxy_have_a_limit_each(world: World) -> None:
    await all_asleep(world)
    alice, bob, carol = SPACES
    held = await hold(world, alice, 3)
    refused = await world.get(host=alice, Accept="application/json")
    assert (refused.status, refused.headers["x-vitrine-error"], refused.headers["retry-after"]) == (503, "WAKE_QUEUE_FULL", "7")
    assert json.loads(refused.body)["code"] == "WAKE_QUEUE_FULL"
    held += await hold(world, bob, 2)  # one full Space takes nothing from another
    for host in (bob, carol):
        refused = await world.get(host=host)
        assert (refused.status, refused.headers["x-vitrine-error"], refused.headers["retry-after"]) == (503, "PROXY_QUEUE_FULL", "7")
        assert refused.headers["content-type"] == "application/json"
    assert world.feed.woken == [SPACES[alice], SPACES[bob]]  # who cannot wait wakes nobody
    await world.put(host=alice, space_id=SPACES[alice])
    await world.put(host=bob, space_id=SPACES[bob])
    assert {answer.status for answer in await asyncio.gather(*held)} == {200}
    assert world.proxy.core.activator.count == 0
    later = await hold(world, carol, 3)  # there is room again
    await world.put(host=carol, space_id=SPACES[carol])
    assert {answer.status for answer in await asyncio.gather(*later)} == {200}


async def test_a_place_is_free_when_who_held_it_leaves(world: World) -> None:
    await all_asleep(world)
    alice = next(iter(SPACES))
    held = await hold(world, alice, 2)
    leaving = await world.wire()
    await leaving.send(b"GET / HTTP/1.1\r\nHost: alice-demo.localhost\r\n\r\n")
    async with asyncio.timeout(60):
        while world.proxy.core.activator.count < 3:
            await asyncio.sleep(0.001)
        await leaving.close()
        while world.proxy.core.activator.count > 2:
            await asyncio.sleep(0.001)
    held += await hold(world, alice, 1)
    await world.put(host=alice, space_id=SPACES[alice])
    assert {answer.status for answer in await asyncio.gather(*held)} == {200}


async def upload(world: World, size: int) -> tuple[Wire, asyncio.Task[None]]:
    wire = await world.wire()
    wire.writer.transport.set_write_buffer_limits(high=65_536)
    await wire.send(b"POST /up HTTP/1.1\r\nHost: alice-demo.localhost\r\nContent-Length: %d\r\n\r\n" % size)

    async def push() -> None:
        for _ in range(size // 1_000_000):
            await wire.send(b"x" * 1_000_000)

    return wire, asyncio.create_task(push())


async def test_bodies_wait_outside_of_memory_and_those_too_many_are_refused_unread(world: World) -> None:
    await all_asleep(world)
    alice = next(iter(SPACES))
    uploads = [await upload(world, 30_000_000) for _ in range(3)]
    async with asyncio.timeout(60):
        while world.proxy.core.activator.count < 3:
            await asyncio.sleep(0.001)
    fourth, pushing = await upload(world, 30_000_000)
    status, headers, _raw = await fourth.head()
    assert (status, headers["x-vitrine-error"], headers["connection"]) == (503, "WAKE_QUEUE_FULL", "close")
    assert int(headers["retry-after"]) > 0
    pushing.cancel()
    held = [connection for connection in world.proxy.core.connections if getattr(connection, "waits_for_wake", False)]
    assert len(held) == 3
    assert sum(len(connection._buffer) for connection in held) < 3 * 300_000  # type: ignore[union-attr]
    assert not any(task.done() for _wire, task in uploads)  # the kernel's buffers are full, and nobody reads
    await world.put(host=alice, space_id=SPACES[alice])
    for wire, task in uploads:
        assert json.loads((await wire.answer()).body)["size"] == 30_000_000
        await task


@pytest.mark.parametrize("config", [{"paused_patience_s": 300.0}])
@pytest.mark.parametrize("state", [RouteState.STARTING, RouteState.ASLEEP, RouteState.READY])
async def test_who_restarts_a_space_and_asks_at_once_is_not_told_that_it_is_paused(world: World, state: RouteState) -> None:
    """The route may be a moment old: a request waits for the next one, and what becomes of it is decided by that."""
    await world.put(state=RouteState.PAUSED, endpoints=())
    asking = await hold(world, "alice-demo.localhost", 2)
    page = asyncio.create_task(world.get(Accept="text/html", Sec_Fetch_Mode="navigate"))
    async with asyncio.timeout(60):
        while world.proxy.core.activator.count < 3:
            await asyncio.sleep(0.001)
    assert world.feed.woken == []
    if state is not RouteState.READY:
        await world.put(state=state, endpoints=())
        assert (await page).headers["x-vitrine-error"] == "SPACE_STARTING"
        assert world.proxy.core.activator.count == 2
    await world.put()
    assert {answer.status for answer in await asyncio.gather(*asking)} == {200}
    assert (await page).status in (200, 503) and world.proxy.core.activator.count == 0
