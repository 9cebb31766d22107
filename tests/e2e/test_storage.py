"""Persistent storage as an owner has it: what an app wrote in /data is there after a restart, a new version, a rebuild and a sleep."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Platform, Work, patience, start_platform, stop_platform

README = "---\ntitle: Diary\nsdk: gradio\napp_file: app.py\n---\n"
APP = """import http.server, os

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            if self.path.startswith("/write/"):
                with open("/data/diary", "a") as file:
                    file.write(self.path[7:])
            elif self.path.startswith("/fill/"):
                with open("/data/big", "wb") as file:
                    file.write(os.urandom(int(self.path[6:])))
            text = open("/data/diary").read() if os.path.exists("/data/diary") else "empty"
        except OSError as error:
            text = f"no: {error}"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"VERSION {text}".encode())

http.server.ThreadingHTTPServer(("0.0.0.0", 7860), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with tempfile.TemporaryDirectory(prefix="v", ignore_cleanup_errors=True) as name:
        running = start_platform(Path(name) / "d", env={"VITRINE_STORAGE_TIERS": "small=0.02,medium=0.5", "VITRINE_DRAIN_S": "1"})
        yield running
        stop_platform(running)


def until(look: object, wanted: str, platform: Platform, path: str = "/", seconds: float = 60) -> None:
    end = time.monotonic() + seconds * patience()
    while (text := platform.app("admin-diary", path).text) != wanted:
        assert time.monotonic() < end, f"{look}: {text!r}, wanted {wanted!r}"
        time.sleep(0.1)


def volumes(platform: Platform) -> list[Path]:
    return sorted((platform.data_dir / "volumes").glob("*/*"))


def test_a_diary_outlives_everything_but_its_deletion(platform: Platform, tmp_path: Path) -> None:
    platform.create("diary")
    work = Work(platform, "diary", tmp_path / "diary")
    work.write(README__md=README, app__py=APP.replace("VERSION", "one"))
    work.push()
    base = "/api/spaces/admin/diary"
    assert platform.app("admin-diary").text == "one empty"
    assert "no:" in platform.app("admin-diary", "/write/x").text, "without storage there is nothing to write to"

    asked = platform.api("POST", f"{base}/storage", json={"tier": "small"})
    assert (asked.status_code, asked.json()["storage"]) == (200, "small")
    platform.until("diary", "RUNNING")
    end = time.monotonic() + 60
    while platform.app("admin-diary", "/write/a").text != "one a":
        assert time.monotonic() < end
        time.sleep(0.2)
    assert [folder.name for folder in volumes(platform)[0].iterdir()] == ["diary"]
    assert (platform.data_dir / "volumes").stat().st_mode & 0o777 == 0o700

    generation = len(platform.api("GET", f"{base}/versions").json())
    assert generation
    platform.api("POST", f"{base}/restart")
    platform.until("diary", "RUNNING")
    until("after a restart", "one a", platform)
    work.write(app__py=APP.replace("VERSION", "two"))
    work.push("two")
    until("after a new version", "two a", platform)
    platform.api("POST", f"{base}/restart?factory=true")
    platform.until("diary", "RUNNING", seconds=120)
    until("after a rebuild", "two a", platform)
    platform.api("POST", f"{base}/pause")
    platform.until("diary", "PAUSED")
    platform.api("POST", f"{base}/restart")
    platform.until("diary", "RUNNING")
    until("after a pause", "two a", platform)

    copy = platform.api("POST", f"{base}/duplicate", json={"repository": "admin/copy"})
    assert copy.status_code == 200, copy.text
    assert platform.runtime("copy")["storage"] is None
    assert len(volumes(platform)) == 1, "a copy starts without what the original keeps"

    # More than the tier holds: the app is ended with the reason, and may be started again with a larger one.
    platform.app("admin-diary", "/fill/30000000")
    end = time.monotonic() + 60
    while "persistent storage" not in str(platform.runtime("diary").get("reason")):
        assert time.monotonic() < end, platform.runtime("diary")
        time.sleep(0.2)
    assert platform.api("POST", f"{base}/storage", json={"tier": "medium"}).json()["storage"] == "medium"
    platform.until("diary", "RUNNING")
    until("with a larger tier", "two a", platform)

    assert platform.api("DELETE", f"{base}/storage").json()["storage"] is None
    until("after the deletion", "two empty", platform)
    end = time.monotonic() + 40
    while volumes(platform):
        assert time.monotonic() < end, "the bytes are still there"
        time.sleep(0.2)


def test_the_volume_goes_with_its_space(platform: Platform) -> None:
    platform.create("brief", storageTier="small")
    assert platform.runtime("brief")["storage"] == "small"
    space_id = platform.api("GET", "/api/spaces/admin/brief").json()["_id"]
    left = platform.data_dir / "volumes" / space_id
    (left / "k").mkdir(parents=True)
    platform.api("DELETE", "/api/repos/delete", json={"name": "brief", "type": "space"})
    end = time.monotonic() + 30
    while left.exists():
        assert time.monotonic() < end
        time.sleep(0.1)
