from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

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
