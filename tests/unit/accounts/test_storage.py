"""Reservations of storage: nothing passes the limit together, and use is never less than what lies on disk, whoever dies."""

# ruff: noqa: PT017  (either outcome is allowed, and a refusal is looked at)
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.accounts import quotas
from control_plane.accounts.storage import StorageRoom
from control_plane.db.engine import Database, create_database
from control_plane.db.process_marks import ProcessMarks
from control_plane.domain.accounts import Account, AccountKind
from control_plane.domain.errors import QuotaExceeded, Unavailable
from control_plane.domain.hardware import FlavorCatalog
from control_plane.domain.ids import AccountId, RepoId, new_id
from control_plane.domain.spaces import Repo, RepoType, Visibility
from tests.fakes.clock import FixedClock
from tests.fakes.postgres import PostgresServer, needed_server, postgres_server

NOW = datetime(2026, 8, 20, 12, 0, tzinfo=UTC)
CATALOG = FlavorCatalog()
GB = 10**9


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server(needed_server()) as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
async def db(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    url = f"sqlite:///{tmp_path}/v.db"
    if request.param == "postgresql":
        running: PostgresServer = request.getfixturevalue("server")
        name = f"d{new_id()}"
        running.sql(f"CREATE DATABASE {name}")
        url = running.url(name)
    database = create_database(url)
    await database.migrate()
    yield database
    await database.close()


class World:
    """One account with repositories whose bytes on disk are a plain dictionary."""

    def __init__(self, db: Database) -> None:
        self.db, self.clock, self.disk = db, FixedClock(NOW), dict[str, int]()
        self.owner = Account(AccountId(new_id()), AccountKind.USER, "Ann", "Ann", NOW)

    async def measure(self, repo_id: RepoId) -> int:
        await asyncio.sleep(0)
        return self.disk[repo_id]

    @property
    def room(self) -> StorageRoom:
        """As a process that just started has it: nothing is remembered in memory."""
        return StorageRoom(self.db, self.clock, lambda: CATALOG, self.measure)

    async def begin(self, limit_gb: float, repos: int = 3) -> list[RepoId]:
        made = []
        async with self.db.write() as work:
            await work.accounts.add(self.owner)
            await work.quotas.set_limit("ann", "storage-gb", limit_gb)
            for _ in range(repos):
                repo_id = RepoId(new_id())
                name = str(repo_id)
                await work.repos.add(Repo(repo_id, RepoType.MODEL, self.owner.id, "Ann", name, Visibility.PUBLIC, NOW, NOW, self.owner.id))
                self.disk[repo_id] = 0
                made.append(repo_id)
        return made

    async def used(self) -> int:
        async with self.db.read() as work:
            return (await work.quotas.held(self.owner.id)).storage_bytes


async def test_what_a_process_was_taking_in_ends_with_that_process(db: Database, tmp_path: Path) -> None:
    """A push and an upload were under way: what the push reserved is counted anew at once, the upload may go on at another process."""
    world = World(db)
    [repo_id] = await world.begin(5, repos=1)
    marks = [ProcessMarks(tmp_path / "processes") for _ in range(3)]
    killed, other, again = (StorageRoom(db, world.clock, lambda: CATALOG, world.measure, one) for one in marks)
    await killed.hold(repo_id, {"push": 2 * GB}, is_ours=True)
    await killed.hold(repo_id, {"upload": GB, "part": GB})
    assert await killed.keep(repo_id, "part", life_s=60, is_ours=True)
    await other.hold(repo_id, {"another push": GB}, is_ours=True)
    world.disk[repo_id] = GB
    assert await again.settle_overdue() == 0
    marks[0].close()
    assert await again.settle_overdue() == 2
    assert await world.used() == (1 + 1 + 1) * GB
    marks[1].close()
    assert await again.settle_overdue() == 1
    assert await world.used() == (1 + 1) * GB


async def patiently(call: Callable[[], Awaitable[object]]) -> None:
    """As a client that is told to come again in a moment: a hundred at once wait for eight connections on a busy machine."""
    for _ in range(60):
        try:
            await call()
        except Unavailable:
            continue
        return
    raise AssertionError("the database was busy all the time")


async def test_a_hundred_parallel_uploads_into_room_for_ten(db: Database) -> None:
    world = World(db)
    repos = await world.begin(10)

    async def upload(number: int) -> bool:
        repo_id, name = repos[number % 3], f"upload-{number}"
        try:
            await patiently(lambda: world.room.hold(repo_id, {name: GB}))
            world.disk[repo_id] += GB
            await patiently(lambda: world.room.settle(repo_id, name))
        except QuotaExceeded as error:
            assert error.facts["key"] == "storage-gb"
            assert error.facts["limit"] == 10
            return False
        return True

    done = await asyncio.gather(*(upload(n) for n in range(100)))
    assert sum(done) == 10
    assert sum(world.disk.values()) == 10 * GB == await world.used()


async def test_a_batch_is_reserved_whole_or_not_at_all_and_again_is_not_twice(db: Database) -> None:
    world = World(db)
    [repo_id] = await world.begin(5, repos=1)
    with pytest.raises(QuotaExceeded):
        await world.room.hold(repo_id, {"a": 3 * GB, "b": 3 * GB})
    assert await world.used() == 0
    for _ in range(3):
        await world.room.hold(repo_id, {"a": 3 * GB})
    assert await world.used() == 3 * GB
    world.disk[repo_id] = 2 * GB
    await world.room.settle(repo_id, "a")
    assert await world.used() == 2 * GB


async def test_what_a_dead_process_reserved_counts_until_it_is_measured(db: Database) -> None:
    world = World(db)
    [repo_id] = await world.begin(5, repos=1)
    await world.room.hold(repo_id, {"a": 4 * GB}, life_s=60)
    world.disk[repo_id] = GB  # a part arrived, then the process died
    assert await world.room.settle_overdue() == 0
    with pytest.raises(QuotaExceeded):
        await world.room.hold(repo_id, {"b": 2 * GB})
    world.clock.advance(61)
    assert await world.room.settle_overdue() == 1
    assert await world.used() == GB
    await world.room.hold(repo_id, {"b": 2 * GB})


async def test_a_reservation_lasts_as_long_as_it_is_kept(db: Database) -> None:
    world = World(db)
    [repo_id] = await world.begin(5, repos=1)
    await world.room.hold(repo_id, {"a": 4 * GB}, life_s=60)
    world.clock.advance(50)
    assert await world.room.keep(repo_id, "a", life_s=60)
    world.clock.advance(50)
    assert await world.room.settle_overdue() == 0
    assert await world.used() == 4 * GB
    world.clock.advance(11)
    assert await world.room.settle_overdue() == 1
    assert not await world.room.keep(repo_id, "a", life_s=60)
    assert await world.used() == 0


async def test_a_repository_that_was_deleted_meanwhile_leaves_no_reservation(db: Database) -> None:
    world = World(db)
    [repo_id] = await world.begin(5, repos=1)
    await world.room.hold(repo_id, {"a": 4 * GB}, life_s=60)
    async with db.write() as work:
        await work.repos.remove(repo_id)
    await world.room.settle(repo_id, "a")
    assert await world.used() == 0


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["upload", "die before the bytes", "die after the bytes", "delete", "sweep", "clock"]),
        st.integers(0, 2),
        st.integers(1, 4),
    ),
    max_size=20,
)


@given(STEPS)
@settings(max_examples=25, deadline=None)
def test_random_histories_never_count_less_than_lies_on_disk(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    async def history() -> None:
        database = create_database(f"sqlite:///{tmp_path_factory.mktemp('s')}/v.db")
        await database.migrate()
        world = World(database)
        repos = await world.begin(8)
        try:
            for number, (verb, index, gb) in enumerate(steps):
                repo_id, name, room = repos[index], f"step-{number}", world.room
                if verb == "clock":
                    world.clock.jump(60 * (-30, 5, 4000)[index])
                elif verb == "sweep":
                    await room.settle_overdue()
                elif verb == "delete":
                    world.disk[repo_id] = 0
                    await room.settle(repo_id)
                else:
                    try:
                        await room.hold(repo_id, {name: gb * GB})
                    except QuotaExceeded:
                        continue
                    if verb != "die before the bytes":
                        world.disk[repo_id] += gb * GB
                    if verb == "upload":
                        await room.settle(repo_id, name)
                used, on_disk = await world.used(), sum(world.disk.values())
                assert on_disk <= used
                assert on_disk <= 8 * GB
            world.clock.jump(4000 * 86400)
            await world.room.settle_overdue()
            for repo_id in repos:
                await world.room.settle(repo_id)
            assert await world.used() == sum(world.disk.values())
            async with database.read() as work:
                shown = {row.key: row.used for row in await quotas.show(work, world.owner, CATALOG, world.clock.now())}
            assert shown["storage-gb"] == sum(world.disk.values()) / GB
        finally:
            await database.close()

    asyncio.run(history())
