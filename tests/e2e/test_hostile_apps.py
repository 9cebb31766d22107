"""Apps that eat everything, pushed by real git: each stays in its sandbox, is told why it ended, and its neighbour never notices."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import ROOT, Platform, Work, start_platform, stop_platform
from tests.e2e.test_push_to_live import plain, serves, wait_for

# Serves well until it is told to misbehave.
SWITCH = """
import http.server, os, threading
def fork():
    while True:
        try:
            if os.fork() == 0:
                while True: pass
        except OSError:
            pass
def memory():
    kept = []
    while True: kept.append(bytearray(os.urandom(1 << 20)) * 16)
def disk():
    try:
        with open("/tmp/big", "wb") as file:
            while True: file.write(b"x" * (1 << 20)); file.flush()
    except OSError as error:
        print("disk:", error.strerror, flush=True)
def log():
    while True: print("flood", "x" * 100)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        what = globals().get(self.path[1:])
        if callable(what): threading.Thread(target=what, daemon=True).start()
        self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    """A platform of its own whose smallest flavor is small, so that filling it does not fill the machine."""
    shipped = (ROOT / "control_plane/scheduler/default_pools.yaml").read_text()
    small = shipped.replace("vcpu: 2, memory_gb: 16, disk_gb: 50", "vcpu: 1, memory_gb: 0.5, disk_gb: 1")
    assert small != shipped
    with tempfile.TemporaryDirectory(prefix="v", ignore_cleanup_errors=True) as folder:
        pools = Path(folder) / "pools.yaml"
        pools.write_text(small)
        running = start_platform(Path(folder) / "d", env={"VITRINE_POOLS_FILE": str(pools)})
        yield running
        stop_platform(running)


@pytest.fixture(scope="module")
def neighbour(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> str:
    platform.create("neighbour")
    work = Work(platform, "neighbour", tmp_path_factory.mktemp("w") / "neighbour")
    plain(work, "neighbour")
    assert "Live at" in work.push("x")
    return "neighbour"


def misbehave(platform: Platform, folder: Path, what: str) -> str:
    name = f"eats-{what}"
    platform.create(name)
    demo = Work(platform, name, folder / name)
    demo.write(**{"app.py": SWITCH, "requirements.txt": ""})
    assert "Live at" in demo.push("x")
    assert platform.app(f"admin-{name}", f"/{what}").text == "ok"
    return name


def log_of(platform: Platform, name: str, seconds: float = 1.0) -> str:
    """What the run log's stream gives within `seconds`: a live log never ends."""
    text, end = "", time.monotonic() + seconds
    headers = {"Authorization": f"Bearer {platform.token}", "Host": f"localhost:{platform.port}"}
    url = f"http://127.0.0.1:{platform.port}/api/spaces/admin/{name}/logs/run"
    with contextlib.suppress(httpx.ReadTimeout), httpx.stream("GET", url, headers=headers, timeout=seconds) as answer:
        for piece in answer.iter_text():
            text += piece
            if time.monotonic() > end:
                break
    return text


def test_a_fork_bomb_stays_in_its_sandbox(platform: Platform, tmp_path: Path, neighbour: str) -> None:
    name = misbehave(platform, tmp_path, "fork")
    for _ in range(5):
        began = time.monotonic()
        assert serves(platform, neighbour, neighbour)
        assert time.monotonic() - began < 30, "the neighbour waits"
    platform.api("POST", f"/api/spaces/admin/{name}/pause")
    platform.until(name, "PAUSED")
    assert serves(platform, neighbour, neighbour)


def test_an_app_that_fills_memory_is_ended_with_the_reason(platform: Platform, tmp_path: Path, neighbour: str) -> None:
    name = misbehave(platform, tmp_path, "memory")

    wait_for(lambda: "memory" in log_of(platform, name), 60, "the log does not say why the app ended")
    assert serves(platform, neighbour, neighbour)
    platform.api("POST", f"/api/spaces/admin/{name}/pause")


def test_an_app_that_fills_its_disk_goes_on_and_hears_it(platform: Platform, tmp_path: Path, neighbour: str) -> None:
    name = misbehave(platform, tmp_path, "disk")
    wait_for(lambda: "No space left on device" in log_of(platform, name), 120, "the app was not told that its disk is full")
    assert platform.app(f"admin-{name}").text == "ok"
    assert serves(platform, neighbour, neighbour)
    platform.api("POST", f"/api/spaces/admin/{name}/pause")


def test_a_flood_of_log_lines_is_cut_and_said(platform: Platform, tmp_path: Path, neighbour: str) -> None:
    name = misbehave(platform, tmp_path, "log")
    wait_for(lambda: "dropped" in log_of(platform, name), 60, "the log does not say that lines are missing")
    assert platform.app(f"admin-{name}").text == "ok"
    assert serves(platform, neighbour, neighbour)
    platform.api("POST", f"/api/spaces/admin/{name}/pause")
    platform.until(name, "PAUSED")
    size = sum(f.stat().st_size for f in (platform.data_dir / "logs").rglob("*") if f.is_file())
    assert size < 64 << 20, f"{size >> 20} MiB of logs"
