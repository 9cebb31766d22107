"""The same path with PostgreSQL as the database; and with PostgreSQL gone for a while."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import httpx

from tests.e2e.conftest import Platform, Work, start_platform, stop_platform
from tests.e2e.test_push_to_live import answers, child_named, plain, wait_for
from tests.fakes.postgres import needed_server, postgres_server


def test_push_with_postgresql_and_serve_on_without_it() -> None:
    with tempfile.TemporaryDirectory(prefix="v", ignore_cleanup_errors=True) as name, postgres_server(needed_server()) as server:
        folder = Path(name)
        server.sql("create database vitrine")
        platform = start_platform(folder / "d", env={"VITRINE_DATABASE_URL": server.url("vitrine")})
        try:
            assert not (folder / "d" / "vitrine.db").exists(), "the state is in PostgreSQL only"
            platform.create("elephant")
            work = Work(platform, "elephant", folder / "elephant")
            plain(work, "elephant")
            assert "Live at" in work.push("one")
            assert platform.app("admin-elephant").headers["x-vitrine-revision"] == work.commit_id()
            platform.create("site", "static")
            platform.until("site", "RUNNING")
            for component in ("scheduler", "api"):
                os.kill(child_named(platform.process.pid, component), signal.SIGKILL)
                wait_for(lambda: answers(platform, "elephant"), 10, f"after kill -9 of {component}")

            wait_for(lambda: readiness(platform).status_code == 200, 10, "the API is back")
            server.stop()
            assert answers(platform, "elephant"), "what runs goes on without PostgreSQL"
            refused = platform.api("GET", "/api/spaces/admin/elephant")
            assert refused.status_code == 503, refused.text
            assert refused.headers["retry-after"]
            ready = readiness(platform)
            assert ready.status_code == 503
            assert ready.json()["dependencies"]["database"] != "ok", ready.text
            server.start_again()

            wait_for(lambda: readiness(platform).status_code == 200, 10, "not ready after PostgreSQL came back")
            plain(work, "memory")
            assert "Live at" in work.push("two")
            assert platform.app("admin-elephant").text == "memory"
        finally:
            stop_platform(platform)


def readiness(platform: Platform) -> httpx.Response:
    """`/readyz` as a load balancer asks it: without a token."""
    return httpx.get(f"http://127.0.0.1:{platform.port}/readyz", headers={"Host": f"localhost:{platform.port}"}, timeout=20)
