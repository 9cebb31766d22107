"""Where a tested platform keeps its state: SQLite and no Redis, or a real PostgreSQL and a real Redis (`pytest --database postgresql`).

Both servers start with the first platform that asks, serve the whole session, and end with it. Each platform gets a database of its
own, copied from a migrated template, and a Redis database of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from control_plane.db.engine import create_database
from tests.fakes.postgres import PostgresServer, needed_server, postgres_server
from tests.fakes.redis_server import RedisServer, redis_server

KINDS = ("sqlite", "postgresql")
_TEMPLATE = "vitrine_template"
_REDIS_DATABASES = 16


class State:
    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._open = ExitStack()
        self._servers: tuple[PostgresServer, RedisServer] | None = None
        self._numbers = itertools.count(1)

    def settings(self) -> dict[str, str]:
        """`database_url` and `redis_url` of a fresh platform; empty for the embedded default. Skips, or fails in CI, without servers."""
        if self.kind == "sqlite":
            return {}
        postgres, redis = self._servers or self._start()
        number = next(self._numbers)
        postgres.sql(f"create database vitrine_{number} template {_TEMPLATE}")
        return {
            "database_url": postgres.url(f"vitrine_{number}"),
            "redis_url": redis.url.removesuffix("/0") + f"/{number % _REDIS_DATABASES}",
        }

    def database_url(self, root: Path) -> str:
        """The database alone, for platforms that tests put together by hand."""
        return self.settings().get("database_url") or f"sqlite:///{root / 'vitrine.db'}"

    def environment(self) -> dict[str, str]:
        """The same as `VITRINE_…` variables."""
        return {f"VITRINE_{name.upper()}": value for name, value in self.settings().items()}

    def _start(self) -> tuple[PostgresServer, RedisServer]:
        postgres = self._open.enter_context(postgres_server(needed_server()))
        redis = self._open.enter_context(redis_server(Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="vr")))))
        postgres.sql(f"create database {_TEMPLATE}")
        template = create_database(postgres.url(_TEMPLATE))

        async def migrate() -> None:
            await template.migrate()
            await template.close()

        # In a thread of its own: the first platform that asks may be starting inside a running loop.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, migrate()).result()
        self._servers = (postgres, redis)
        return self._servers

    def close(self) -> None:
        self._open.close()


STATE = State("sqlite")
