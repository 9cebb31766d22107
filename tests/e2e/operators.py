"""The console script against a running `vitrine up`, on SQLite or on PostgreSQL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from control_plane.cli.main import vitrine as cli
from tests.e2e.conftest import ROOT, Platform, start_platform, stop_platform
from tests.fakes.postgres import needed_server, postgres_server

NO_TIMER = {"VITRINE_RIGHTS_RECHECK_S": "3600"}  # what ends here ends because the proxy was told


class Operator:
    """The console script with the platform's own ready.json."""

    def __init__(self, platform: Platform, *, database_url: str = "", empty_database: str = "") -> None:
        self.platform = platform
        self.database_url = database_url  # "" = SQLite
        self.empty_database = empty_database  # where a backup may be restored to; "" = SQLite

    def run(self, *args: str, code: int = 0, stdin: str = "", **env: str) -> str:
        script = Path(sys.executable).parent / "vitrine"
        command = [str(script)] if script.exists() else [sys.executable, "-m", "control_plane.cli.main"]
        kept = {k: v for k, v in os.environ.items() if not k.startswith("VITRINE_")}
        done = subprocess.run(
            [*command, "admin", *args], input=stdin, capture_output=True, text=True, cwd=ROOT, timeout=120,
            env={**kept, "TERM": "dumb", "VITRINE_DATA_DIR": str(self.platform.data_dir), **env},
        )  # fmt: skip
        assert done.returncode == code, (args, done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        if code == 1:
            assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        return done.stdout if code == 0 else done.stderr

    def json(self, *args: str) -> Any:
        return json.loads(self.run(*args, "--json"))

    def quick(self, *args: str, code: int = 0) -> str:
        """The same command inside this process: a new one costs half a second, and there are many."""
        env = {"VITRINE_DATA_DIR": str(self.platform.data_dir), "VITRINE_ENDPOINT": None, "VITRINE_TOKEN": None}
        done = CliRunner().invoke(cli, ["admin", *args], env=env, prog_name="vitrine")
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert done.exit_code == code, (args, done.output)
        if "--json" in args:
            json.loads(done.stdout)
        elif code == 0:
            assert all(len(line) <= 80 for line in done.stdout.splitlines()), done.stdout
        return done.stdout if code == 0 else done.stderr


@contextmanager
def running_operator(database: str) -> Iterator[Operator]:
    """`database`: sqlite or postgresql, which skips where it is not installed, or fails in CI."""
    with tempfile.TemporaryDirectory(prefix="v", ignore_cleanup_errors=True) as name:
        if database == "sqlite":
            running = start_platform(Path(name) / "d", env=NO_TIMER)
            try:
                yield Operator(running)
            finally:
                stop_platform(running)
            return
        with postgres_server(needed_server()) as server:
            server.sql("CREATE DATABASE vitrine")
            server.sql("CREATE DATABASE restored")
            running = start_platform(Path(name) / "d", env={"VITRINE_DATABASE_URL": server.url("vitrine"), **NO_TIMER})
            try:
                yield Operator(running, database_url=server.url("vitrine"), empty_database=server.url("restored"))
            finally:
                stop_platform(running)
