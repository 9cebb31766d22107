"""Long work: progress for who asks for it, the answer for everybody, what fails on the way; drawn on a terminal by the real script."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response

from control_plane.domain.errors import Rejected
from control_plane.http import error_map
from control_plane.http.long_work import MEDIA_TYPE, Tell, follow
from tests.functional.admin.platform import ROOT, Platform
from tests.functional.admin.test_admin_cli import make_space

Work = Callable[[Tell], Awaitable[dict[str, Any]]]


async def asked(work: Work, accept: str = MEDIA_TYPE) -> httpx.Response:
    app = FastAPI()
    error_map.install(app)

    @app.post("/work", response_model=None)
    async def door(request: Request) -> Response:
        return await follow(request, work)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://hub") as client:
        return await client.post("/work", headers={"Accept": accept})


async def two_steps(tell: Tell) -> dict[str, Any]:
    tell("first", 0, 2)
    await asyncio.sleep(0)
    tell("second", 1, 2)
    return {"made": 2}


async def test_the_answer_is_the_same_with_and_without_its_progress() -> None:
    assert (await asked(two_steps, "application/json")).json() == {"made": 2}
    followed = await asked(two_steps)
    assert followed.headers["content-type"].startswith(MEDIA_TYPE)
    lines = [json.loads(line) for line in followed.text.splitlines()]
    assert lines[-1] == {"result": {"made": 2}}
    assert all(set(line) == {"words", "done", "total"} for line in lines[:-1])


async def test_what_fails_at_once_is_an_answer_and_what_fails_later_is_the_last_line() -> None:
    async def at_once(tell: Tell) -> dict[str, Any]:
        raise Rejected("not like this")

    async def later(tell: Tell) -> dict[str, Any]:
        tell("first", 0, None)
        await asyncio.sleep(0.01)
        raise Rejected("not any more")

    async def broken(tell: Tell) -> dict[str, Any]:
        tell("first", 0, None)
        await asyncio.sleep(0.01)
        raise ValueError("a secret of the code")

    for accept in (MEDIA_TYPE, "*/*"):
        assert (await asked(at_once, accept)).status_code == 400
    assert json.loads((await asked(later)).text.splitlines()[-1]) == {"error": "not any more"}
    said = (await asked(broken)).text
    assert "log" in json.loads(said.splitlines()[-1])["error"] and "secret" not in said


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    running = Platform(tmp_path_factory.mktemp("long") / "d").start()
    for name in ("one", "two"):
        make_space(running, "root-admin", name)
        running.admin("user", "add", name)
        make_space(running, name, "app")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("written")


@pytest.mark.parametrize(
    ("command", "drawn"),
    [
        (("audit", "--verify"), "events checked"),
        (("gc", "--dry-run"), "Garbage"),
        (("key", "rotate", "--yes"), "Secrets"),
        (("key", "rewrap"), "Secrets"),
        (("key", "retire", "--yes"), "Secrets"),
        (("audit", "--export", "{folder}/log"), "events written"),
        (("user", "suspend", "{name}"), "Spaces"),
        (("space", "remove", "root-admin/{name}", "--yes"), "deleting files"),
        (("backup", "{folder}/{name}"), "Backup"),
        (("restore", "{folder}/{name}", "--into", "{folder}/{name}-again"), "Restore"),
    ],
)
def test_a_terminal_sees_a_bar_and_a_script_its_answer_alone(
    platform: Platform, folder: Path, command: tuple[str, ...], drawn: str
) -> None:
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "VITRINE_ENDPOINT": platform.url, "VITRINE_TOKEN": platform.token}
    try:
        for name, flags, is_drawn in (("one", ("--json",), False), ("two", (), True)):
            words = [word.format(name=name, folder=folder) for word in command]
            done = subprocess.run(
                [sys.executable, "-m", "control_plane.cli.main", "admin", *words, *flags],
                stdout=subprocess.PIPE, stderr=theirs, env=env, cwd=ROOT, timeout=60, text=True,
            )  # fmt: skip
            assert done.returncode == 0
            if flags:
                json.loads(done.stdout)
            try:
                seen = os.read(ours, 65536).decode()
            except BlockingIOError:
                seen = ""
            assert (drawn in seen) is is_drawn, seen
    finally:
        os.close(ours)
        os.close(theirs)
