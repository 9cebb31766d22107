"""The whole database as one SQLite file, taken while the platform runs, and back again.

The same file comes from SQLite and from PostgreSQL and goes to either: a backup is also the way to move from the
embedded default to PostgreSQL. Secrets in it are the sealed texts that the tables hold.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import Table, create_engine, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from control_plane.db.migrate import head_revision
from control_plane.db.tables import metadata
from control_plane.domain.errors import Rejected

_BATCH = 1000


async def take(engine: AsyncEngine, target: Path) -> None:
    """Writes `target`, which must not exist; it shows one moment of the database."""
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    if engine.dialect.name == "sqlite":
        await asyncio.to_thread(_copy_file, str(engine.url.database), target)
        return
    async with engine.connect() as connection, connection.begin():
        await _export(connection, target)


def _copy_file(source: str, target: Path) -> None:
    """By SQLite's own backup call, which reads one consistent moment beside writers."""
    with closing(sqlite3.connect(source)) as original, closing(sqlite3.connect(target)) as copy:
        original.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")
        if (found := copy.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
            raise Rejected(f"the copy of the database is damaged: {found}")


async def _export(connection: AsyncConnection, target: Path) -> None:
    file = create_engine(f"sqlite:///{target}")
    try:
        with file.begin() as rows:
            metadata.create_all(rows)
            rows.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
            revision = await connection.scalar(text("SELECT version_num FROM alembic_version"))
            rows.execute(text("INSERT INTO alembic_version VALUES (:revision)"), {"revision": revision})
            for table in metadata.sorted_tables:
                found = await connection.stream(select(table))
                async for batch in found.mappings().partitions(_BATCH):
                    rows.execute(table.insert(), [dict(row) for row in batch])
    finally:
        file.dispose()


async def load(engine: AsyncEngine, source: Path) -> dict[str, int]:
    """Fill an empty, migrated PostgreSQL database from a snapshot of the same revision. Rows per table."""
    file = create_engine(f"sqlite:///{source}")
    counts: dict[str, int] = {}
    try:
        with file.connect() as rows:
            revision = rows.execute(text("SELECT version_num FROM alembic_version")).scalar()
            if revision != head_revision():
                raise Rejected(
                    f"the snapshot has revision {revision}, this version {head_revision()}; restore it with the version that made it"
                )
            async with engine.connect() as connection, connection.begin():
                if await connection.scalar(select(func.count()).select_from(metadata.tables["accounts"])):
                    raise Rejected("the database to restore into holds accounts already; give an empty one")
                for table in metadata.sorted_tables:
                    counts[table.name] = 0
                    for batch in rows.execute(select(table)).mappings().partitions(_BATCH):
                        await connection.execute(table.insert(), [dict(row) for row in batch])
                        counts[table.name] += len(batch)
                    await _reset_sequence(connection, table)
    finally:
        file.dispose()
    return counts


async def _reset_sequence(connection: AsyncConnection, table: Table) -> None:
    """Numbers given by hand leave PostgreSQL's own counter behind."""
    counted = next((c for c in table.primary_key if c.autoincrement is True), None)
    if counted is not None:
        newest = await connection.scalar(select(func.max(counted)))
        if newest is not None:
            await connection.execute(select(func.setval(func.pg_get_serial_sequence(table.name, counted.name), newest)))
