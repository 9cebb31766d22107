from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect, text

from control_plane.db.engine import create_database
from control_plane.db.migrate import MIGRATIONS, head_revision
from control_plane.db.tables import metadata
from control_plane.domain.errors import Broken


def test_the_head_is_read_from_the_file_names() -> None:
    assert ScriptDirectory(str(MIGRATIONS)).get_heads() == [head_revision()]


async def test_upgrading_an_empty_database_gives_the_metadata(tmp_path: Path) -> None:
    database = create_database(f"sqlite:///{tmp_path}/v.db")
    await database.migrate()

    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(
            connection,
            opts={"include_name": lambda name, kind, _: not (kind == "table" and name.startswith("repo_search")), "compare_type": True},
        )
        return compare_metadata(context, metadata)

    async with database._reader.connect() as connection:
        assert await connection.run_sync(differences) == []
    await database.close()


async def test_several_processes_may_migrate_at_once(tmp_path: Path) -> None:
    databases = [create_database(f"sqlite:///{tmp_path}/v.db") for _ in range(3)]
    try:
        await asyncio.gather(*(one.migrate() for one in databases))
        for one in databases:
            await one.ping()
    finally:
        for one in databases:
            await one.close()


async def test_a_current_database_is_opened_without_alembic(tmp_path: Path) -> None:
    first = create_database(f"sqlite:///{tmp_path}/v.db")
    await first.migrate()
    await first.close()
    code = (
        "import asyncio, sys\n"
        "from control_plane.db.engine import create_database\n"
        "async def main():\n"
        "    database = create_database(sys.argv[1])\n"
        "    await database.migrate()\n"
        "    await database.close()\n"
        "asyncio.run(main())\n"
        "sys.exit('alembic' in sys.modules)\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, f"sqlite:///{tmp_path}/v.db", cwd=Path(__file__).parents[3])
    assert await process.wait() == 0


async def test_a_newer_schema_is_not_touched(tmp_path: Path) -> None:
    database = create_database(f"sqlite:///{tmp_path}/v.db")
    await database.migrate()
    async with database._writer.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Broken, match="9999"):
        await database.migrate()
    await database.close()


Column = dict[str, Any]


def _schema(connection: Connection) -> dict[str, tuple[dict[str, Column], set[tuple[str, ...]]]]:
    """Table → its columns by name, and the columns of each of its unique constraints and indexes."""
    seen = inspect(connection)
    found = {}
    for table in seen.get_table_names():
        if table.startswith(("repo_search", "alembic_")):  # the search index is made again from the rows; no old code reads it
            continue
        unique = {tuple(one["column_names"]) for one in seen.get_unique_constraints(table)}
        unique |= {tuple(str(name) for name in one["column_names"]) for one in seen.get_indexes(table) if one["unique"]}
        found[table] = ({column["name"]: dict(column) for column in seen.get_columns(table)}, unique)
    return found


def _breaks(before: Any, after: Any) -> list[str]:
    """What the code of the version before could not live with."""
    wrong = []
    for table, (columns, unique) in before.items():
        if table not in after:
            wrong.append(f"{table} is gone")
            continue
        now, unique_now = after[table]
        for name, column in columns.items():
            if name not in now:
                wrong.append(f"{table}.{name} is gone")
            elif str(now[name]["type"]) != str(column["type"]):
                wrong.append(f"{table}.{name} is {now[name]['type']}, it was {column['type']}")
            elif column["nullable"] and not now[name]["nullable"]:
                wrong.append(f"{table}.{name} may not be null any more")
        for name in now.keys() - columns.keys():
            if not now[name]["nullable"] and now[name]["default"] is None:
                wrong.append(f"{table}.{name} has no default, and old code does not name it")
        for names in unique_now - unique:
            if not set(names) - columns.keys():
                wrong.append(f"{table}: {names} must be unique now, and old code does not know that")
    return wrong


def test_each_migration_only_adds(tmp_path: Path) -> None:
    """Processes of the version before go on beside the new schema while an upgrade rolls: see decisions/0023."""
    engine = create_engine(f"sqlite:///{tmp_path / 'v.db'}")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    wrong: dict[str, list[str]] = {}
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        before: Any = {}
        for script in reversed(list(ScriptDirectory(str(MIGRATIONS)).walk_revisions())):
            command.upgrade(config, script.revision)
            after = _schema(connection)
            if found := _breaks(before, after):
                wrong[script.revision] = found
            before = after
    engine.dispose()
    assert wrong == {}


def test_what_would_break_old_code_is_seen() -> None:
    old = {"a": ({"x": {"type": "TEXT", "nullable": True, "default": None}}, set[tuple[str, ...]]())}
    column = {"type": "TEXT", "nullable": True, "default": None}
    assert _breaks(old, {}) == ["a is gone"]
    for changed, words in (
        ({}, "gone"),
        ({"x": {**column, "type": "INTEGER"}}, "it was TEXT"),
        ({"x": {**column, "nullable": False}}, "null"),
        ({"x": column, "y": {**column, "nullable": False}}, "no default"),
    ):
        assert [words in line for line in _breaks(old, {"a": (changed, set())})] == [True]
    assert "unique" in _breaks(old, {"a": ({"x": column}, {("x",)})})[0]
    assert _breaks(old, {"a": ({"x": column, "y": {**column, "nullable": False, "default": "''"}}, {("y",)}), "b": ({}, set())}) == []


def test_no_statement_takes_away_what_only_postgresql_has() -> None:
    """The schema above is SQLite's; what is written out for PostgreSQL alone is read."""
    words = r"drop_table|drop_column|rename_table|alter_column|DROP\s+(TABLE|COLUMN)|RENAME\s+(TO|COLUMN)|SET\s+NOT\s+NULL"
    taking = re.compile(words, re.IGNORECASE)
    found = {path.name: taking.findall(path.read_text()) for path in (MIGRATIONS / "versions").glob("[0-9]*.py")}
    assert {name: hits for name, hits in found.items() if hits} == {}
