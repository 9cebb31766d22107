"""A SQLite file and a PostgreSQL database for each test, copied from a migrated one."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from control_plane.db.engine import Database, create_database
from control_plane.domain.ids import new_id
from tests.contract.stores.rows import NOW
from tests.fakes.clock import FixedClock
from tests.fakes.postgres import PostgresServer, needed_server, postgres_server


async def _migrated(url: str) -> None:
    database = create_database(url)
    await database.migrate()
    await database.close()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "empty.db"
    asyncio.run(_migrated(f"sqlite:///{path}"))
    return path


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server(needed_server()) as server:
        server.sql("CREATE DATABASE template_vitrine")
        asyncio.run(_migrated(server.url("template_vitrine")))
        yield server


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(NOW)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "v.db")
        return f"sqlite:///{tmp_path / 'v.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    name = f"t{new_id()}"
    server.sql(f"CREATE DATABASE {name} TEMPLATE template_vitrine")
    return server.url(name)


@pytest.fixture
async def db(url: str, clock: FixedClock) -> AsyncIterator[Database]:
    database = create_database(url, clock=clock)
    yield database
    await database.close()
