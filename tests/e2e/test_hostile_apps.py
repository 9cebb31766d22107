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
from tests.e2e.operators import Operator
from tests.e2e.surfaces import browser_of
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
        running.pools = pools  # type: ignore[attr-defined]
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


def test_the_hardware_file_is_taken_up_while_everything_runs(platform: Platform, neighbour: str) -> None:
    """Edited: the operator's list and the owner's picker change. Broken: the old one stays, and its line is named."""
    file: Path = platform.pools  # type: ignore[attr-defined]
    operator, before = Operator(platform), file.read_text()

    def pools() -> str:
        return operator.quick("pool", "list")

    made = platform.api("POST", "/api/admin/users", json={"name": "picker", "password": "as good as any other", "admin": True})
    assert made.is_success, made.text
    browser = browser_of(platform, "picker", "as good as any other")

    def picker() -> str:
        page = browser.get(f"/spaces/admin/{neighbour}/settings")
        assert page.status_code == 200, page.text
        return page.text

    def logged() -> str:
        return "".join(file.read_text() for file in (platform.data_dir / "logs/platform").glob("*.log"))

    assert "cpu-half" not in pools() + picker()
    added = "flavors:\n  - {name: cpu-half, pretty_name: Half a core, vcpu: 0.5, memory_gb: 0.25, disk_gb: 1}\n"
    edited = before.replace("\nflavors:\n", f"\n{added}", 1).replace("flavors: [cpu-basic,", "flavors: [cpu-half, cpu-basic,", 1)
    try:
        file.write_text(edited)
        wait_for(lambda: "cpu-half" in pools() and "Half a core" in picker(), 60, "the edited file is not in force")
        line = 1 + edited[: edited.index("memory_gb: 0.25")].count("\n")
        file.write_text(edited.replace("memory_gb: 0.25", "memory_gb: lots"))
        wait_for(lambda: f"pools.yaml, line {line}:" in platform.api("GET", "/api/admin/pools").json()["warning"], 60, "nobody is told")
        assert "cpu-half" in pools(), "the last good file stays"
        assert "Half a core" in picker()
        wait_for(lambda: f"pools.yaml, line {line}:" in logged(), 60, "the platform's own log does not say it")
        file.write_text(before)
        wait_for(lambda: "cpu-half" not in pools() + picker(), 60, "the mended file is not in force")
    finally:
        browser.close()
        file.write_text(before)


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
