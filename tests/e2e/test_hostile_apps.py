"""Apps that eat everything, pushed by real git: each stays in its sandbox, is told why it ended, and its neighbour never notices."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import pytest

from tests.e2e.conftest import Platform, Work
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
    for n in range(3_000_000): print("flood", n, "x" * 100)
    print("the flood is over", flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        what = globals().get(self.path[1:])
        if callable(what): threading.Thread(target=what, daemon=True).start()
        self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
"""

Make = Callable[..., Work]


@pytest.fixture(scope="module")
def neighbour(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> str:
    platform.create("neighbour")
    work = Work(platform, "neighbour", tmp_path_factory.mktemp("w") / "neighbour")
    plain(work, "neighbour")
    assert "Live at" in work.push("x")
    return "neighbour"


def misbehave(platform: Platform, work: Make, what: str) -> str:
    name = f"eats-{what}"
    demo = work(name)
    demo.write(**{"app.py": SWITCH, "requirements.txt": ""})
    assert "Live at" in demo.push("x")
    assert platform.app(f"admin-{name}", f"/{what}").text == "ok"
    return name


def log_of(platform: Platform, name: str) -> str:
    text = ""
    try:
        headers = {"Authorization": f"Bearer {platform.token}", "Host": f"localhost:{platform.port}"}
        with httpx.stream(
            "GET", f"http://127.0.0.1:{platform.port}/api/spaces/admin/{name}/logs/run", headers=headers, timeout=1
        ) as answer:
            for piece in answer.iter_text():
                text += piece
    except httpx.ReadTimeout:
        pass  # a live log never ends; what is there has come
    return text


def test_a_fork_bomb_stays_in_its_sandbox(platform: Platform, work: Make, neighbour: str) -> None:
    name = misbehave(platform, work, "fork")
    for _ in range(5):
        began = time.monotonic()
        assert serves(platform, neighbour, neighbour)
        assert time.monotonic() - began < 5, "the neighbour waits"
    platform.api("POST", f"/api/spaces/admin/{name}/pause")
    platform.until(name, "PAUSED")
    assert serves(platform, neighbour, neighbour)


def test_an_app_that_fills_memory_is_ended_with_the_reason(platform: Platform, work: Make, neighbour: str) -> None:
    name = misbehave(platform, work, "memory")

    def told() -> bool:
        return "OUT_OF_MEMORY" in str(platform.runtime(name))

    wait_for(told, 120, f"no reason: {platform.runtime(name)}")
    assert serves(platform, neighbour, neighbour)
    platform.api("POST", f"/api/spaces/admin/{name}/pause")


def test_an_app_that_fills_its_disk_goes_on_and_hears_it(platform: Platform, work: Make, neighbour: str) -> None:
    name = misbehave(platform, work, "disk")
    wait_for(lambda: "No space left on device" in log_of(platform, name), 120, "the app was not told that its disk is full")
    assert platform.app(f"admin-{name}").text == "ok"
    assert serves(platform, neighbour, neighbour)
    platform.api("POST", f"/api/spaces/admin/{name}/pause")


def test_a_flood_of_log_lines_is_cut_and_said(platform: Platform, work: Make, neighbour: str) -> None:
    name = misbehave(platform, work, "log")
    wait_for(lambda: "the flood is over" in log_of(platform, name), 120, "the end of the flood is not in the log")
    size = sum(f.stat().st_size for f in (platform.data_dir / "logs").rglob("*") if f.is_file())
    assert size < 100 << 20, f"{size >> 20} MiB of logs"
    assert serves(platform, neighbour, neighbour)
    assert platform.app(f"admin-{name}").text == "ok"
