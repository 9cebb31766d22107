"""Running the migrations: under a lock, one transaction, and without loading Alembic when the schema is current."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from control_plane.domain.errors import Broken

log = logging.getLogger("vitrine.database")

MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_LOCK = 0x76697472696E6502  # PostgreSQL advisory lock: "vitrine", 2
LOCK_TIMEOUT_S = 30  # another process migrates; longer than any migration that keeps to the rules


def head_revision() -> str:
    """The newest migration of this version. Files are named NNNN_what.py and form one line."""
    return max(m[1] for p in (MIGRATIONS / "versions").iterdir() if (m := re.fullmatch(r"(\d{4})_\w+\.py", p.name)))


def stored_revision(connection: Connection) -> str | None:
    """None for an empty database."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return str(found) if found else None


async def migrate(engine: AsyncEngine) -> None:
    """Raises Broken when the database was written by a newer version: its meaning is unknown here."""
    head = head_revision()
    async with engine.connect() as connection, _patient(connection), connection.begin():
        if engine.dialect.name == "postgresql":
            await connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'"))
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
        stored = await connection.run_sync(stored_revision)
        if stored == head:
            return
        if stored is not None and stored > head:
            raise Broken(
                f"the database is at revision {stored}, this version knows {head}",
                hint="start the newer version of the platform, or restore the backup made before the upgrade",
            )
        log.info("database.migrating", extra={"before": stored or "empty", "after": head})
        await connection.run_sync(_upgrade)
        log.info("database.migrated", extra={"revision": head})


@asynccontextmanager
async def _patient(connection: AsyncConnection) -> AsyncIterator[None]:
    """On SQLite: whoever migrates at the same moment is waited for longer than any other writer."""
    raw = await connection.get_raw_connection()
    driver: Any = raw.driver_connection
    if connection.dialect.name != "sqlite":
        yield
        return
    usual = (await (await driver.execute("PRAGMA busy_timeout")).fetchone())[0]
    await driver.execute(f"PRAGMA busy_timeout = {LOCK_TIMEOUT_S * 1000}")
    try:
        yield
    finally:
        await driver.execute(f"PRAGMA busy_timeout = {usual}")


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
