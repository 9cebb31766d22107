"""Leadership: of two schedulers one leads, a dead one is replaced after its duration, clocks that disagree do no harm."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from control_plane.domain.errors import Broken
from control_plane.runtimes.kubernetes.lease import LeaderLease
from tests.fakes.api_server import ApiServer, api_server


class Time:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with api_server() as made:
        yield made


def lease(server: ApiServer, name: str, time: Time, *, off: timedelta = timedelta()) -> LeaderLease:
    start = datetime(2026, 1, 1, tzinfo=UTC) + off
    return LeaderLease(server.api(), namespace="v", identity=name, monotonic=time, now=lambda: start)


async def test_one_of_two_leads_and_the_other_takes_over_when_it_dies(server: ApiServer) -> None:
    time = Time()
    a, b = lease(server, "a", time), lease(server, "b", time, off=timedelta(days=-400))
    assert await asyncio.to_thread(a.attempt)
    assert not await asyncio.to_thread(b.attempt)
    assert b.holder == "a"
    for _ in range(5):
        time.seconds += 5
        assert await asyncio.to_thread(a.attempt)
        assert not await asyncio.to_thread(b.attempt)
    time.seconds += 10.1  # a is silent
    assert not a.is_leading(), "it stops before anybody else may start"
    assert not await asyncio.to_thread(b.attempt)
    time.seconds += 5
    assert await asyncio.to_thread(b.attempt)
    assert not await asyncio.to_thread(a.attempt), "the returning one follows"
    assert not (a.is_leading() and b.is_leading())


async def test_both_at_once(server: ApiServer) -> None:
    time = Time()
    leases = [lease(server, f"s{n}", time) for n in range(6)]
    got = await asyncio.gather(*(asyncio.to_thread(one.attempt) for one in leases))
    assert sum(got) == 1
    time.seconds += 16
    await asyncio.gather(*(asyncio.to_thread(one.attempt) for one in leases))
    assert sum(one.is_leading() for one in leases) <= 1


async def test_a_conflict_ends_leadership_at_once(server: ApiServer) -> None:
    time = Time()
    a = lease(server, "a", time)
    assert await asyncio.to_thread(a.attempt)
    server.deny("PUT", "/leases/", 409)
    assert not await asyncio.to_thread(a.attempt)
    assert not a.is_leading()


async def test_a_silent_server_keeps_leadership_only_for_a_while(server: ApiServer) -> None:
    time = Time()
    a = lease(server, "a", time)
    assert await asyncio.to_thread(a.attempt)
    server.deny("*", "/leases", 503, times=100)
    time.seconds += 9
    assert await asyncio.to_thread(a.attempt)
    time.seconds += 1.1
    assert not await asyncio.to_thread(a.attempt)


async def test_acquire_waits_and_release_lets_the_next_one_in(server: ApiServer) -> None:
    time = Time()
    a, b = lease(server, "a", time), lease(server, "b", time)
    await asyncio.wait_for(a.acquire(), 60)
    assert a.is_leading()
    second = asyncio.create_task(b.acquire())
    await a.release()
    await asyncio.wait_for(second, 60)  # no need to wait for the duration
    assert b.is_leading()
    assert not a.is_leading()


async def test_lost_returns_when_another_holds_it(server: ApiServer) -> None:
    time = Time()
    a = LeaderLease(server.api(), namespace="v", identity="a", monotonic=time, renew_s=0.01)
    await asyncio.wait_for(a.acquire(), 60)
    server.deny("PUT", "/leases/", 409)
    await asyncio.wait_for(a.lost(), 60)
    assert not a.is_leading()


async def test_a_refused_lease_is_said_at_once(server: ApiServer) -> None:
    server.deny("*", "/leases", 403, times=10)
    with pytest.raises(Broken):
        await asyncio.wait_for(lease(server, "a", Time()).acquire(), 60)
