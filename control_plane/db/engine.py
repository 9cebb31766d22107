"""Opening the database: SQLite in WAL for the embedded default, PostgreSQL for production, one behaviour.

There is one writer at a time, everywhere. On SQLite `BEGIN IMMEDIATE` takes the file's write lock, shared by all
processes of the platform; on PostgreSQL a transaction-level advisory lock does the same. A use case may therefore read,
decide and write inside `write()` without any race (quotas, generations, the audit chain). Readers never wait: they see
the last commit, and the connection refuses to write.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from sqlalchemy import event, exc, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from control_plane.db.account_stores import SqlAccountStore, SqlTokenStore
from control_plane.db.gate_store import SqlGateStore
from control_plane.db.ledger_stores import SqlAuditStore, SqlDocumentStore, SqlQuotaStore
from control_plane.db.notice_store import SqlNoticeStore
from control_plane.db.repo_store import SqlRepoStore
from control_plane.db.rows import Rows
from control_plane.db.search import begins_words
from control_plane.db.space_stores import SqlBuildStore, SqlDeploymentStore, SqlEventStore, SqlSpaceStore
from control_plane.db.traffic_store import SqlTrafficStore
from control_plane.db.try_store import SqlTryStore
from control_plane.domain.errors import Broken, Conflict, Rejected, Unavailable, VitrineError
from control_plane.ports.clock import Clock
from control_plane.ports.stores import (
    AccountStore,
    AuditStore,
    BuildStore,
    DeploymentStore,
    DocumentStore,
    EventStore,
    GateStore,
    NoticeStore,
    QuotaStore,
    RepoStore,
    SpaceStore,
    TokenStore,
    TrafficStore,
    TryStore,
    UnitOfWork,
)

BUSY_TIMEOUT_S = 5.0  # how long a writer waits for another process's write
POOL_WAIT_S = 10.0  # how long a caller waits for a connection of this process
_READERS = 8
_WRITE_LOCK = 0x76697472696E6501  # PostgreSQL advisory lock: "vitrine", 1
# PostgreSQL: serialization failure, deadlock, lock not available, too many connections, shutting down, starting up
_TRY_LATER = {"40001", "40P01", "55P03", "53300", "57P01", "57P02", "57P03", "25006"}

log = logging.getLogger(__name__)


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return monotonic()


class SqlUnitOfWork:
    """Every store over one transaction, and what to do once it is committed."""

    def __init__(self, connection: AsyncConnection, clock: Clock, *, has_search_index: bool) -> None:
        rows = Rows(connection)
        self.accounts: AccountStore = SqlAccountStore(rows)
        self.tokens: TokenStore = SqlTokenStore(rows)
        self.repos: RepoStore = SqlRepoStore(rows, clock, has_search_index=has_search_index)
        self.spaces: SpaceStore = SqlSpaceStore(rows, clock)
        self.builds: BuildStore = SqlBuildStore(rows)
        self.deployments: DeploymentStore = SqlDeploymentStore(rows)
        self.events: EventStore = SqlEventStore(rows)
        self.quotas: QuotaStore = SqlQuotaStore(rows)
        self.traffic: TrafficStore = SqlTrafficStore(rows)
        self.audit: AuditStore = SqlAuditStore(rows)
        self.documents: DocumentStore = SqlDocumentStore(rows)
        self.notices: NoticeStore = SqlNoticeStore(rows)
        self.gates: GateStore = SqlGateStore(rows)
        self.tries: TryStore = SqlTryStore(rows)
        self.callbacks: list[Callable[[], Awaitable[None]]] = []

    def after_commit(self, callback: Callable[[], Awaitable[None]]) -> None:
        self.callbacks.append(callback)


class Database:
    """A `UnitOfWorkFactory`. Engines connect on first use; `close()` ends every connection."""

    def __init__(self, reader: AsyncEngine, writer: AsyncEngine, clock: Clock) -> None:
        self._reader = reader
        self._writer = writer
        self._clock = clock
        self._search_index: bool | None = None
        self.observe: Callable[[str, float], None] = lambda kind, seconds: None  # of each transaction: read, write, wait

    @property
    def is_sqlite(self) -> bool:
        return self._writer.dialect.name == "sqlite"

    def read(self) -> AbstractAsyncContextManager[UnitOfWork]:
        return self._read()

    def write(self) -> AbstractAsyncContextManager[UnitOfWork]:
        return self._write()

    @asynccontextmanager
    async def _read(self) -> AsyncIterator[UnitOfWork]:
        asked = monotonic()
        async with _port_errors(), self._reader.connect() as connection, connection.begin():
            began = monotonic()
            yield SqlUnitOfWork(connection, self._clock, has_search_index=await self._has_search_index(connection))
            self._observed("read", asked, began)

    @asynccontextmanager
    async def _write(self) -> AsyncIterator[UnitOfWork]:
        asked = monotonic()
        async with _port_errors():
            async with self._writer.connect() as connection, connection.begin():
                began = monotonic()
                work = SqlUnitOfWork(connection, self._clock, has_search_index=await self._has_search_index(connection))
                yield work
        self._observed("write", asked, began)
        for callback in work.callbacks:
            try:
                await callback()
            except VitrineError as error:
                # The change is true already; what was to be told about it is found again by the periodic scans.
                log.warning("after_commit_failed", extra={"error": error.code, "detail": error.message})

    def _observed(self, kind: str, asked: float, began: float) -> None:
        self.observe("wait", began - asked)
        self.observe(kind, monotonic() - began)

    async def _has_search_index(self, connection: AsyncConnection) -> bool:
        if self._search_index is None:
            found = None
            if self.is_sqlite:
                found = await connection.scalar(text("SELECT 1 FROM sqlite_master WHERE name = 'repo_search'"))
            self._search_index = found is not None
        return self._search_index

    async def migrate(self) -> None:
        """Bring the schema to this version's. Safe to call from several processes at once; quick when there is nothing to do."""
        from control_plane.db.migrate import migrate

        async with _port_errors():
            await migrate(self._writer)
        self._search_index = None

    async def snapshot(self, target: Path) -> None:
        """The whole database as one SQLite file at `target`, which must not exist. Writers go on meanwhile."""
        from control_plane.db.snapshot import take

        async with _port_errors():
            await take(self._reader, target)

    async def load_snapshot(self, source: Path) -> dict[str, int]:
        """Rows per table, filled from a snapshot; PostgreSQL only, migrated and empty (SQLite takes the file itself)."""
        from control_plane.db.snapshot import load

        async with _port_errors():
            return await load(self._writer, source)

    async def ping(self) -> None:
        """Raises Unavailable when the database does not answer."""
        async with _port_errors(), self._reader.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def close(self) -> None:
        await self._reader.dispose()
        await self._writer.dispose()


def create_database(url: str, *, clock: Clock | None = None, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Database:
    """`sqlite:///relative.db`, `sqlite:////absolute.db` or `postgresql://…`; raises Rejected for anything else.

    `busy_timeout_s` bounds how long a writer waits for another process's write; then it is Unavailable.
    """
    try:
        parsed = make_url(url)
    except exc.ArgumentError as error:
        raise Rejected("the database URL cannot be read; use sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME") from error
    family = parsed.get_backend_name()
    if family == "sqlite" and parsed.database and parsed.database != ":memory:":
        reader, writer = _sqlite(parsed, busy_timeout_s)
    elif family in ("postgresql", "postgres"):
        reader, writer = _postgresql(parsed, busy_timeout_s)
    else:
        raise Rejected(f"'{family}' is not a database this platform can use; use sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME")
    return Database(reader, writer, clock or SystemClock())


def _sqlite(url: URL, busy_timeout_s: float) -> tuple[AsyncEngine, AsyncEngine]:
    assert url.database is not None
    path = url.database
    options: dict[str, Any] = {"pool_timeout": POOL_WAIT_S, "connect_args": {"timeout": busy_timeout_s}}
    url = url.set(drivername="sqlite+aiosqlite")
    reader = create_async_engine(url, pool_size=_READERS, max_overflow=0, **options)
    # One connection: writers of this process queue in order instead of polling for the file's lock.
    writer = create_async_engine(url, pool_size=1, max_overflow=0, **options)

    def prepare(engine: AsyncEngine, pragmas: tuple[str, ...], begin: str) -> None:
        @event.listens_for(engine.sync_engine, "do_connect")
        def create_file(*_: object) -> None:
            # Before SQLite does, so that the file with everybody's hashes is private from its first byte.
            try:
                if not os.path.exists(path):
                    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
            except OSError as error:
                raise Unavailable(f"the database file {path} cannot be made: {error.strerror}") from error

        @event.listens_for(engine.sync_engine, "connect")
        def configure(connection: Any, _: object) -> None:
            connection.create_function("begins_words", 2, begins_words, deterministic=True)
            connection.isolation_level = None  # the driver must not open transactions by itself; `begin` below does
            cursor = connection.cursor()
            for pragma in pragmas:
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        @event.listens_for(engine.sync_engine, "begin")
        def start(connection: Any) -> None:
            connection.exec_driver_sql(begin)

    prepare(reader, ("foreign_keys=ON", "query_only=ON", "cache_size=-16000", "mmap_size=268435456"), "BEGIN")
    prepare(writer, ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-16000"), "BEGIN IMMEDIATE")
    return reader, writer


def _postgresql(url: URL, busy_timeout_s: float) -> tuple[AsyncEngine, AsyncEngine]:
    url = url.set(drivername="postgresql+psycopg")
    limits = f"-c lock_timeout={int(busy_timeout_s * 1000)} -c idle_in_transaction_session_timeout=60000 -c timezone=UTC"
    # A plan made once for any value of a filter reads the whole table where one for this value takes the few rows of an index.
    limits += " -c plan_cache_mode=force_custom_plan"
    options: dict[str, Any] = {
        "pool_timeout": POOL_WAIT_S,
        "pool_pre_ping": True,  # a restarted server costs a reconnect, not an error
        "pool_recycle": 1800,
        "connect_args": {"connect_timeout": 5, "application_name": "vitrine", "options": limits},
    }
    reader = create_async_engine(url, pool_size=_READERS, max_overflow=4, isolation_level="REPEATABLE READ", **options)
    reader = reader.execution_options(postgresql_readonly=True)
    writer = create_async_engine(url, pool_size=4, max_overflow=4, isolation_level="READ COMMITTED", **options)

    @event.listens_for(writer.sync_engine, "begin")
    def lock(connection: Any) -> None:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITE_LOCK})")

    return reader, writer


@asynccontextmanager
async def _port_errors() -> AsyncIterator[None]:
    """The library's exceptions stop here and become the platform's, with the original as their cause."""
    try:
        yield
    except exc.TimeoutError as error:
        raise Unavailable("the database is busy; try again in a moment") from error
    except exc.IntegrityError as error:
        raise Conflict("something this change refers to has gone or exists already; read again and retry") from error
    except (exc.DataError, UnicodeEncodeError) as error:  # half a surrogate pair fails in the driver, before the database sees it
        raise Rejected("a value holds characters or a number that cannot be stored") from error
    except exc.DBAPIError as error:
        if _is_outage(error):
            raise Unavailable("the database does not answer; try again in a moment") from error
        raise Broken("the database refused a statement") from error
    except exc.SQLAlchemyError as error:
        raise Broken("a statement could not be made") from error
    except OSError as error:
        # The PostgreSQL driver lets a refused or vanished socket pass as it is.
        if isinstance(error, ConnectionError):
            raise Unavailable("the database does not answer; try again in a moment") from error
        raise


def _is_outage(error: exc.DBAPIError) -> bool:
    if error.connection_invalidated:
        return True
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return state in _TRY_LATER or state.startswith("08")
    if isinstance(error, (exc.OperationalError, exc.InterfaceError)):
        # SQLite says "database is locked", "disk I/O error", "database or disk is full"; no schema error is one of these.
        return "no such" not in str(error.orig) and "syntax" not in str(error.orig)
    return False
