"""During an upgrade both versions write: rows of the oldest code, without any newer column, are whole for the newest code.

"The oldest code" is the first migration's schema: statements that name its tables and columns and no others.
"""

from __future__ import annotations

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, inspect, text

from control_plane.db.engine import Database
from control_plane.db.migrate import MIGRATIONS, head_revision
from control_plane.db.tables import metadata
from control_plane.domain.builds import BuildStatus
from control_plane.domain.ids import AccountId, BuildId, ReplicaId, SpaceId
from control_plane.domain.replicas import ReplicaState
from control_plane.domain.spaces import Setting
from tests.contract.stores.databases import clock, db, postgres, sqlite_template, url
from tests.contract.stores.rows import NOW, build, deployment, replica, repo, space, user

__all__ = ("clock", "db", "postgres", "sqlite_template", "url")  # fixtures, found by name


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Table → quoted columns of the first schema; tables first that others refer to."""
    engine = create_engine(f"sqlite:///{tmp_path_factory.mktemp('oldest') / 'v.db'}")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        seen = inspect(connection)
        names = [table.name for table in metadata.sorted_tables if seen.has_table(table.name)]
        found = {name: [f'"{column["name"]}"' for column in seen.get_columns(name)] for name in names}
    engine.dispose()
    return found


async def as_the_oldest_code_wrote_it(db: Database, oldest: dict[str, list[str]]) -> None:
    """Every row goes and comes back by an INSERT that names the oldest columns only; the rest is the database's default."""
    async with db._writer.begin() as connection:
        for name, columns in oldest.items():
            await connection.execute(text(f'CREATE TABLE kept_{name} AS SELECT {", ".join(columns)} FROM "{name}"'))
        for name in reversed(oldest):
            await connection.execute(text(f'DELETE FROM "{name}"'))
        for name, columns in oldest.items():
            words = ", ".join(columns)
            await connection.execute(text(f'INSERT INTO "{name}" ({words}) SELECT {words} FROM kept_{name}'))


def test_the_newest_schema_has_columns_that_the_oldest_lacks(oldest: dict[str, list[str]]) -> None:
    """Else the tests below would say nothing."""
    newest = {table.name: {f'"{column.name}"' for column in table.columns} for table in metadata.sorted_tables}
    assert {name: set(columns) - newest[name] for name, columns in oldest.items() if set(columns) - newest[name]} == {}, "a column left"
    assert newest["spaces"] - set(oldest["spaces"]) and newest["replicas"] - set(oldest["replicas"])
    assert head_revision() > "0001"


async def test_rows_of_the_oldest_code_are_whole_for_the_newest(db: Database, oldest: dict[str, list[str]]) -> None:
    ann = user()
    its_repo = repo(ann)
    its_space = space(its_repo, generation=1, live_generation=1)
    its_build = build(its_space, status=BuildStatus.SUCCEEDED)
    its_deployment = deployment(its_space, 1)
    its_replica = replica(its_space, state=ReplicaState.READY)
    setting = Setting(its_space.id, "A", False, "1", updated_at=NOW)
    async with db.write() as work:
        await work.accounts.add(ann)
        await work.repos.add(its_repo)
        await work.spaces.add(its_space)
        await work.spaces.put_setting(setting)
        await work.builds.add(its_build)
        await work.deployments.add(its_deployment)
        await work.deployments.save_replica(its_replica)
        await work.events.add(its_space.id, NOW, "wake", {"n": 1})
        await work.quotas.set_limit("ann", "spaces", 5)
        for n in range(3):
            await work.audit.append(at=NOW, actor="ann", action="a.b", subject="s", address="", facts={"n": n})
    await as_the_oldest_code_wrote_it(db, oldest)
    async with db.read() as work:
        assert await work.accounts.get(AccountId(ann.id)) == ann
        assert await work.repos.get(its_repo.id) == its_repo
        assert await work.spaces.get(SpaceId(its_space.id)) == its_space
        assert await work.spaces.settings(its_space.id) == (setting,)
        assert await work.builds.get(BuildId(its_build.id)) == its_build
        assert await work.deployments.get(its_space.id, 1) == its_deployment
        assert await work.deployments.replicas(its_space.id) == (its_replica,)
        assert [event.facts for event in await work.events.of_space(its_space.id)] == [{"n": 1}]
        assert await work.quotas.limits("ann") == {"spaces": 5}
        assert await work.audit.verify() is None


async def test_the_oldest_code_changes_rows_of_the_newest(db: Database, oldest: dict[str, list[str]]) -> None:
    """What it does not know stays as it is, also when it writes back every column that it knows."""
    ann = user()
    its_repo = repo(ann)
    its_space = space(its_repo, generation=1)
    waiting = replica(its_space, queue_position=3, eta_s=12.5)
    async with db.write() as work:
        await work.accounts.add(ann)
        await work.repos.add(its_repo)
        await work.spaces.add(its_space)
        await work.deployments.save_replica(waiting)
    async with db._writer.begin() as connection:
        for name in ("spaces", "replicas"):
            same = ", ".join(f"{column} = {column}" for column in oldest[name])
            assert (await connection.execute(text(f'UPDATE "{name}" SET {same}'))).rowcount == 1
        await connection.execute(text("UPDATE replicas SET state = 'starting'"))
    async with db.read() as work:
        (found,) = await work.deployments.replicas(its_space.id)
    assert (found.id, found.state, found.queue_position, found.eta_s) == (ReplicaId(waiting.id), ReplicaState.STARTING, 3, 12.5)
