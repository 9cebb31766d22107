"""The same path with Redis as broker, signals and route stream; and with Redis gone for a while."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Work, start_platform, stop_platform
from tests.e2e.test_push_to_live import plain, wait_for


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _redis(folder: Path, port: int) -> subprocess.Popen[bytes]:
    program = shutil.which("redis-server")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("redis-server is missing")
        pytest.skip("redis-server is missing")
    process = subprocess.Popen(
        [program, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    wait_for(lambda: _answers(port), 10, "redis did not start")
    return process


def test_push_with_redis_and_serve_on_without_it() -> None:
    with tempfile.TemporaryDirectory(prefix="v", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        port = _free_port()
        redis = _redis(folder, port)
        platform = start_platform(folder / "d", env={"VITRINE_REDIS_URL": f"redis://127.0.0.1:{port}/0"})
        try:
            platform.create("red")
            work = Work(platform, "red", folder / "red")
            plain(work, "one")
            assert "Live at" in work.push("one")
            assert platform.app("admin-red").text == "one"
            redis.kill()
            redis.wait()
            assert platform.app("admin-red").text == "one", "what runs goes on without Redis"
            plain(work, "two")
            assert "Build queued" in work.push("two", wait=False), "a push is accepted without Redis"
            redis = _redis(folder, port)

            def caught_up() -> bool:
                try:
                    return platform.app("admin-red").text == "two"
                except httpx.HTTPError:
                    return False

            wait_for(caught_up, 60, "built and routed after Redis came back empty")
        finally:
            stop_platform(platform)
            redis.kill()
            redis.wait()
