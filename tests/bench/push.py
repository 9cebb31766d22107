"""push.first, push.code, push.shared, wake.http, wake.many: the whole platform against `python app.py` in a ready environment."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.e2e.conftest import Platform, Work, start_platform, stop_platform
from tests.e2e.test_push_to_live import PLAIN

APP = 'import gradio as gr\ngr.Interface(lambda x: "{tag} " + x, "text", "text").launch()\n'
_SLEEPERS = 25


def _row(name: str, ours: list[float], reference: str, theirs: list[float]) -> dict[str, Any]:
    value, other = statistics.median(ours), statistics.median(theirs)
    return {
        "name": name,
        "value": round(value, 3),
        "unit": "s",
        "reference": reference,
        "reference_value": round(other, 3),
        "ratio": round(value / other, 3),
        "n": len(ours),
    }


def _cold_start(environment: Path) -> float:
    """Seconds from `python app.py` to its first answer, in the very environment that a build made."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        app = Path(folder) / "app.py"
        app.write_text(APP.format(tag="x"))
        env = {"PATH": os.environ["PATH"], "HOME": folder, "GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False"}
        began = time.monotonic()
        process = subprocess.Popen([environment / "bin" / "python", app], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
                    return time.monotonic() - began
                except OSError:
                    time.sleep(0.02)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


def _push(platform: Platform, work: Work, tag: str, requirements: str) -> float:
    """Seconds from the start of `git push` until the new commit answers on its own address."""
    work.write(**{"app.py": APP.format(tag=tag), "requirements.txt": requirements})
    work.git("add", "-A")
    work.git("commit", "-q", "--allow-empty", "-m", tag)
    commit = work.commit_id()
    began = time.monotonic()
    work.git("push", "-q", "origin", "HEAD:main")
    while platform.app(f"admin-{work.name}").headers.get("x-vitrine-revision") != commit:
        assert time.monotonic() - began < 120, "not live within two minutes"
        time.sleep(0.02)
    return time.monotonic() - began


def rows(rounds: int = 3) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="v", ignore_cleanup_errors=True) as folder:
        # Two seconds of rest put a Space to sleep here, so that waking can be measured without waiting.
        platform = start_platform(Path(folder) / "d", env={"VITRINE_SLEEP_AFTER_S": "2"})
        try:
            return _measure(platform, Path(folder), rounds)
        finally:
            stop_platform(platform)


def _measure(platform: Platform, folder: Path, rounds: int) -> list[dict[str, Any]]:
    def made(name: str) -> Work:
        platform.create(name)
        return Work(platform, name, folder / name)

    _push(platform, made("warm"), "warm", "gradio\n")  # fills the package cache
    environment = next((platform.data_dir / "envs").glob("*/bin/python")).parent.parent
    cold = [_cold_start(environment) for _ in range(2)][1:]
    first, shared, code, wake = [], [], [], []
    for i in range(rounds):
        # Declared by nobody before: another small requirement beside gradio each time, all wheels cached but that one.
        first.append(_push(platform, made(f"first{i}"), "a", f"gradio\nidna>=2.{i}\n"))
        cold.append(_cold_start(environment))
        work = made(f"shared{i}")
        shared.append(_push(platform, work, "a", "gradio\n"))
        cold.append(_cold_start(environment))
        code.append(_push(platform, work, "b", "gradio\n"))
        cold.append(_cold_start(environment))
        platform.until(work.name, "SLEEPING", seconds=30)
        began = time.monotonic()
        assert platform.app(f"admin-{work.name}", "/config").status_code == 200
        wake.append(time.monotonic() - began)
        for name in (f"first{i}", work.name):
            platform.api("POST", f"/api/spaces/admin/{name}/pause")
    platform.api("POST", "/api/spaces/admin/warm/pause")
    alone, many = _sleepers(platform, folder)
    start = "python app.py in a ready environment"
    return [
        _row("push.first", first, start, cold),
        _row("push.code", code, start, cold),
        _row("push.shared", shared, start, cold),
        _row("wake.http", wake, start, cold),
        _row("wake.many", [many], "one sleeper alone", [alone]),
    ]


def _sleepers(platform: Platform, folder: Path) -> tuple[float, float]:
    """(one alone, p95 of 25 at once) in seconds, for an app that starts at once."""
    names = [f"nap{i}" for i in range(_SLEEPERS)]
    for name in names:
        platform.create(name)
        work = Work(platform, name, folder / name)
        work.write(
            **{"README.md": "---\ntitle: Nap\nsdk: gradio\n---\n", "app.py": PLAIN.format(text=name), "requirements.txt": "gradio\n"}
        )
        work.push("nap")

    def lull() -> None:
        for name in names:
            platform.until(name, "SLEEPING", seconds=60)

    def wake(name: str) -> float:
        began = time.monotonic()
        assert platform.app(f"admin-{name}", "/x").text == name
        return time.monotonic() - began

    lull()
    alone = wake(names[0])
    lull()
    with concurrent.futures.ThreadPoolExecutor(_SLEEPERS) as pool:
        times = sorted(pool.map(wake, names))
    return alone, times[int(0.95 * (len(times) - 1))]
