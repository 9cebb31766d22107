"""A real PostgreSQL for tests: its own cluster in a temporary folder, on a Unix socket, no TCP port."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString, cast

import psycopg
import pytest

_SPEED = "-c fsync=off -c synchronous_commit=off -c full_page_writes=off -c max_connections=60 -c shared_buffers=32MB"


def find_server() -> Path | None:
    """The folder with initdb and postgres, newest version first; None when PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name), reverse=True)
    on_path = shutil.which("initdb")
    found += [Path(on_path).parent] if on_path else []
    return next((p for p in found if (p / "initdb").exists() and (p / "postgres").exists()), None)


def needed_server() -> Path:
    """The same; without PostgreSQL the test that asks is skipped, and fails in CI."""
    found = find_server()
    if found is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("PostgreSQL is not installed")
    return found


class PostgresServer:
    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        # The server refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else None
        self._owner = "postgres" if self._user else str(subprocess.check_output(["id", "-un"], text=True)).strip()

    def _run(self, program: str, *args: str) -> None:
        command = [str(self._programs / program), *args]
        done = subprocess.run(
            command, user=self._user, cwd=self._folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=_ENV
        )
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stdout}")

    def start(self) -> None:
        if self._user:
            shutil.chown(self._folder, self._user)
        self._run("initdb", "-D", "data", "--no-sync", "-A", "trust", "-U", self._owner, "-E", "UTF8", "--locale=C")
        self.start_again()

    def start_again(self) -> None:
        options = f"-k {self._folder} -c listen_addresses='' {_SPEED}"
        # The server inherits the output of pg_ctl; a file keeps it from holding our pipe open.
        command = [str(self._programs / "pg_ctl"), "-D", "data", "-w", "-t", "60", "-l", "log", "-o", options, "start"]
        subprocess.run(
            command, user=self._user, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_ENV, check=True
        )

    def stop(self) -> None:
        self._run("pg_ctl", "-D", "data", "-w", "-m", "fast", "stop")

    def url(self, database: str) -> str:
        return f"postgresql://{self._owner}@/{database}?host={self._folder}"

    def sql(self, statement: str, database: str = "postgres") -> None:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(cast(LiteralString, statement))

    def rows(self, query: str, database: str = "postgres") -> list[tuple[object, ...]]:
        with psycopg.connect(self.url(database)) as connection:
            return connection.execute(cast(LiteralString, query)).fetchall()


_ENV = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "HOME": "/"}


@contextmanager
def postgres_server(programs: Path) -> Iterator[PostgresServer]:
    folder = Path(tempfile.mkdtemp(prefix="vpg"))
    server = PostgresServer(programs, folder)
    try:
        server.start()
        yield server
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)
