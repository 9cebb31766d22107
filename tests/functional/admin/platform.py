"""The API with its admin routes on a real port, built by bootstrap, in a thread of its own; and the console script."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from click.testing import CliRunner
from fastapi import FastAPI

from control_plane.accounts import people, tokens
from control_plane.api.admin import admin_router
from control_plane.bootstrap import Services, build_services
from control_plane.cli.main import vitrine as cli
from control_plane.domain.accounts import TokenRole
from control_plane.http import context, error_map
from control_plane.settings import Settings
from tests.fakes.state import STATE

T = TypeVar("T")
ROOT = Path(__file__).parents[3]


class Platform:
    def __init__(self, data_dir: Path, database_url: str = "") -> None:
        self.data_dir = data_dir
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # else each answer waits 40 ms
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        state = {"database_url": database_url} if database_url else STATE.settings()
        self._settings = Settings(data_dir=data_dir, public_url=self.url, **state)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready = threading.Event()
        self.services: Services
        self.token = ""

    def start(self) -> Platform:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    async def _main(self) -> None:
        self.services = build_services(self._settings)
        await self.services.database.migrate()
        async with self.services.uow.write() as work:
            root = await people.add_user(work, self.services.clock, "root-admin", is_admin=True)
            _, self.token = await tokens.create_token(work, self.services.clock, root, "tests", TokenRole.WRITE)
        app = FastAPI()
        error_map.install(app)
        app.include_router(admin_router(self.services))
        context.install_context(app)
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
        serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started:
            await asyncio.sleep(0.01)
        self._ready.set()
        await serving
        await self.services.bus.close()
        await self.services.database.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)
        self._socket.close()

    # --- the command line
    def admin(self, *args: str, stdin: str = "", token: str | None = None, code: int = 0) -> str:
        """stdout of `vitrine admin …` inside this process (a new one costs half a second); its stderr when `code` is not 0."""
        env = {"VITRINE_ENDPOINT": self.url, "VITRINE_TOKEN": token or self.token}
        done = CliRunner().invoke(cli, ["admin", *args], input=stdin, env=env, prog_name="vitrine")
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return _checked(done.exit_code, done.stdout, done.stderr, code)

    def script(self, *args: str, stdin: str = "", code: int = 0) -> str:
        """The same through the installed console script."""
        done = vitrine("admin", *args, stdin=stdin, VITRINE_ENDPOINT=self.url, VITRINE_TOKEN=self.token)
        return _checked(done.returncode, done.stdout, done.stderr, code)

    def json(self, *args: str) -> Any:
        return json.loads(self.admin(*args, "--json"))


def _checked(found: int, stdout: str, stderr: str, code: int) -> str:
    assert found == code, (found, stdout, stderr)
    assert "Traceback" not in stderr
    if code == 1:
        assert len(stderr.strip().splitlines()) == 1, stderr
    return stdout if code == 0 else stderr


def vitrine(*args: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    script = Path(sys.executable).parent / "vitrine"
    command = [str(script)] if script.exists() else [sys.executable, "-m", "control_plane.cli.main"]
    kept = {k: v for k, v in os.environ.items() if not k.startswith("VITRINE_") and k not in ("COLUMNS", "LINES")}
    # A coloured or narrow terminal of whoever runs the tests must not change the text.
    return subprocess.run(
        [*command, *args], input=stdin, capture_output=True, text=True, cwd=ROOT, timeout=60, env={**kept, "TERM": "dumb", **env}
    )
