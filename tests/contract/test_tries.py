"""Tries to sign in, counted by several processes on one database: no more pass together than one after another."""

from __future__ import annotations

import asyncio

import pytest

from control_plane.accounts.throttle import Throttle
from control_plane.db.engine import Database, create_database
from control_plane.domain.errors import RateLimited
from tests.contract.stores.databases import clock, db, postgres, sqlite_template, url
from tests.fakes.clock import FixedClock

__all__ = ("clock", "db", "postgres", "sqlite_template", "url")  # fixtures, found by name


async def test_tries_are_counted_for_all_processes_together_and_no_two_pass_at_once(db: Database, url: str, clock: FixedClock) -> None:
    second = create_database(url, clock=clock)
    try:
        doors = [Throttle(one, clock, limit=10) for one in (db, second)]
        tries = await asyncio.gather(*(door.attempt("address:a", "name:ann") for door in doors for _ in range(20)), return_exceptions=True)
        assert [isinstance(one, RateLimited) for one in tries].count(False) == 10
        assert all(one is None or isinstance(one, RateLimited) for one in tries), tries
        with pytest.raises(RateLimited) as closed:
            await doors[0].check("name:ann")
        assert closed.value.retry_after_s == 300
        await doors[1].give_back("name:ann")
        await doors[0].attempt("name:ann")
        with pytest.raises(RateLimited):
            await doors[1].attempt("name:ann")
        await doors[0].attempt("name:bob")
    finally:
        await second.close()


async def test_a_window_of_tries_ends_also_after_a_clock_that_went_back(db: Database, clock: FixedClock) -> None:
    door = Throttle(db, clock, limit=1)
    await door.attempt("address:a")
    clock.advance(301)
    await door.attempt("address:a")
    clock.advance(-86400)  # the row now seems to last for a day
    with pytest.raises(RateLimited) as closed:
        await door.attempt("address:a")
    assert closed.value.retry_after_s <= 300
    await door.failed("address:a")
    clock.advance(301)
    await door.attempt("address:a")
    await door.remember("ann a")
    assert await door.knows("ann a") and not await door.knows("ann b")
    clock.advance(31 * 86400)
    assert not await door.knows("ann a")
    async with db.write() as work:
        assert await work.tries.prune(int(clock.now().timestamp())) == 2
