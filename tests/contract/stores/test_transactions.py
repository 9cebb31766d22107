"""One writer, readers that never wait, and what happens when something breaks in between."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from control_plane.db.engine import Database, create_database
from control_plane.domain.accounts import Account
from control_plane.domain.errors import Broken, Conflict, Rejected, Unavailable
from control_plane.domain.ids import new_id
from control_plane.domain.spaces import Setting, Space
from tests.contract.stores.rows import NOW, build, repo, space, user
from tests.fakes.postgres import PostgresServer


async def test_numbers_are_handed_out_once_by_parallel_writers_of_two_processes(db: Database, url: str) -> None:
    second = create_database(url)  # its own engines, as another process has
    taken: list[int] = []

    async def take(database: Database) -> None:
        async with database.write() as work:
            taken.append(await work.documents.next_number("discussion", "r"))

    try:
        await asyncio.gather(*(take(one) for one in (db, second) for _ in range(25)))
    finally:
        await second.close()
    assert sorted(taken) == list(range(1, 51))


async def test_read_then_write_is_never_interleaved(db: Database, url: str) -> None:
    second = create_database(url)

    async def raise_limit(database: Database) -> None:
        async with database.write() as work:
            seen = (await work.quotas.limits("ann")).get("spaces") or 0
            await asyncio.sleep(0)
            await work.quotas.set_limit("ann", "spaces", seen + 1)

    try:
        await asyncio.gather(*(raise_limit(one) for one in (db, second) for _ in range(20)))
    finally:
        await second.close()
    async with db.read() as work:
        assert await work.quotas.limits("ann") == {"spaces": 40}


async def test_an_exception_rolls_back_and_calls_nothing(db: Database) -> None:
    called: list[str] = []

    async def note() -> None:
        called.append("told")

    async def fail() -> None:
        raise Unavailable("the broker is down")

    with pytest.raises(RuntimeError):
        async with db.write() as work:
            await work.accounts.add(user())
            work.after_commit(note)
            raise RuntimeError
    async with db.write() as work:
        assert await work.accounts.list() == ()
        await work.accounts.add(user())
        work.after_commit(fail)
        work.after_commit(note)
        assert called == []
    assert called == ["told"]


async def test_a_cancelled_write_leaves_no_lock(db: Database) -> None:
    inside = asyncio.Event()

    async def hang() -> None:
        async with db.write() as work:
            await work.accounts.add(user())
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hang())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with db.write() as work:
        assert await work.accounts.list() == ()


async def test_a_read_sees_one_moment_and_cannot_write(db: Database, ann: Account) -> None:
    async with db.read() as reading:
        assert len(await reading.accounts.list()) == 1
        async with db.write() as work:
            await work.accounts.add(user("bob"))
        assert len(await reading.accounts.list()) == 1
    with pytest.raises((Broken, Unavailable)):
        async with db.read() as work:
            await work.accounts.remove(ann.id)


async def test_what_refers_to_nothing_is_a_conflict(db: Database) -> None:
    ghost = space(repo(user()))
    with pytest.raises(Conflict):
        async with db.write() as work:
            await work.builds.save(build(ghost))


async def test_hostile_text_is_kept_or_rejected(db: Database, demo: Space) -> None:
    words = "'; DROP TABLE repos; -- \u202e😀\ud7ff"
    async with db.write() as work:
        await work.spaces.put_setting(Setting(demo.id, words, False, words))
    async with db.read() as work:
        assert (await work.spaces.settings(demo.id))[0].value == words
    try:
        async with db.write() as work:
            await work.spaces.put_setting(Setting(demo.id, "nul", False, "a\x00b"))
    except Rejected:
        return
    async with db.read() as work:
        assert (await work.spaces.settings(demo.id))[1].value == "a\x00b"


async def test_a_restarted_server_is_unavailable_and_then_answers_again(postgres: PostgresServer) -> None:
    name = f"t{new_id()}"
    postgres.sql(f"CREATE DATABASE {name} TEMPLATE template_vitrine")
    database = create_database(postgres.url(name))
    try:
        async with database.write() as work:
            await work.accounts.add(user())
        with pytest.raises(Unavailable):
            async with database.write() as work:
                await work.accounts.add(user("bob"))
                postgres.stop()
                await work.accounts.add(user("eve"))
        for again in (database.read, database.write):
            with pytest.raises(Unavailable):
                async with again() as work:
                    await work.accounts.list()
        with pytest.raises(Unavailable):
            await database.ping()
        postgres.start_again()
        await database.ping()
        async with database.write() as work:
            assert [a.name for a in await work.accounts.list()] == ["Ann"]
    finally:
        await database.close()


async def test_a_snapshot_moves_everything_between_the_two_databases(
    db: Database, demo: Space, postgres: PostgresServer, tmp_path: Path
) -> None:
    async with db.write() as work:
        await work.builds.add(build(demo))
        await work.events.add(demo.id, NOW, "sleep", {"n": [1, None, "ü"]})
        await work.audit.append(at=NOW, actor="a", action="b", subject="c", address="", facts={"k": 1})
    await db.snapshot(tmp_path / "copy.db")
    name = f"t{new_id()}"
    postgres.sql(f"CREATE DATABASE {name} TEMPLATE template_vitrine")
    target = create_database(postgres.url(name))
    file = create_database(f"sqlite:///{tmp_path / 'copy.db'}")
    try:
        counts = await target.load_snapshot(tmp_path / "copy.db")
        assert (counts["spaces"], counts["builds"], counts["audit"]) == (1, 1, 1)
        with pytest.raises(Rejected, match="empty"):
            await target.load_snapshot(tmp_path / "copy.db")
        await file.migrate()
        for one in (target, file):
            async with one.write() as work:
                assert await work.spaces.get(demo.id) == demo
                assert (await work.events.since(0))[0].facts == {"n": [1, None, "ü"]}
                assert await work.audit.verify() is None
                await work.audit.append(at=NOW, actor="a", action="b", subject="c", address="", facts={})
                await work.builds.add(build(demo))
                assert await work.audit.verify() is None
                assert len(await work.builds.open()) == 2
    finally:
        await target.close()
        await file.close()
