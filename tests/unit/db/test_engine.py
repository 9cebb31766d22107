from __future__ import annotations

import sqlite3
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from control_plane.db.engine import Database, create_database
from control_plane.domain.accounts import Account, AccountKind
from control_plane.domain.errors import Rejected, Unavailable
from control_plane.domain.ids import AccountId, RepoId, new_id
from control_plane.domain.repo_query import RepoQuery
from control_plane.domain.spaces import Repo, RepoType, Visibility

NOW = datetime(2026, 8, 1, tzinfo=UTC)


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = create_database(f"sqlite:///{tmp_path}/v.db", busy_timeout_s=0.05)
    await database.migrate()
    yield database
    await database.close()


def account(name: str = "ann") -> Account:
    return Account(AccountId(new_id()), AccountKind.USER, name, name, NOW)


@pytest.mark.parametrize("url", ["mysql://x/y", "sqlite://", "sqlite:///:memory:", "nonsense", ""])
def test_other_databases_are_refused_by_name(url: str) -> None:
    with pytest.raises(Rejected, match="sqlite:///PATH"):
        create_database(url)


async def test_the_file_is_private_and_durable(db: Database, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "v.db").stat().st_mode) == 0o600
    async with db._writer.connect() as connection:
        found = [(await connection.exec_driver_sql(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "synchronous", "foreign_keys")]
    assert found == ["wal", 2, 1]


async def test_a_write_lock_held_by_another_process_is_unavailable_and_reads_go_on(db: Database, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "v.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(Unavailable):
            async with db.write() as work:
                await work.accounts.add(account())
        async with db.read() as work:
            assert await work.accounts.list() == ()
    finally:
        other.execute("ROLLBACK")
        other.close()
    async with db.write() as work:
        await work.accounts.add(account())


async def test_a_database_in_no_folder_is_unavailable(tmp_path: Path) -> None:
    database = create_database(f"sqlite:///{tmp_path}/none/v.db")
    with pytest.raises(Unavailable):
        await database.ping()
    await database.close()


@pytest.mark.parametrize("sort", ["trending", "likes", "created", "updated"])
@pytest.mark.parametrize(
    ("query", "offset"),
    [({}, 0), ({"see_all": True}, 0), ({"viewer": "v"}, 0), ({"owner": "ann"}, 0), ({"viewer": "v", "viewer_orgs": ("a", "b")}, 40)],
)
async def test_every_order_of_a_listing_walks_an_index(db: Database, sort: str, query: dict[str, Any], offset: int) -> None:
    ann = account()
    async with db.write() as work:
        await work.accounts.add(ann)
        await work.repos.add(Repo(RepoId(new_id()), RepoType.SPACE, ann.id, "ann", "x", Visibility.PUBLIC, NOW, NOW, ann.id))
    statements: list[tuple[str, Any]] = []

    @event.listens_for(db._reader.sync_engine, "before_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        statements.append((statement, parameters))

    async with db.read() as work:
        await work.repos.list(RepoQuery(RepoType.SPACE, **query), sort=sort, offset=offset)
    event.remove(db._reader.sync_engine, "before_cursor_execute", note)
    async with db._reader.connect() as connection:
        for statement, parameters in statements:
            if "FROM repos" not in statement:
                continue
            plan = [row[3] for row in (await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)).all()]
            assert not [step for step in plan if step.startswith("SCAN repos")], plan
            if "UNION" not in statement:
                assert not [step for step in plan if "TEMP B-TREE" in step], plan
