"""A whole platform as its users meet it: `vitrine up` in its own process, reached over HTTP and git only."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.e2e import installed
from tests.fakes.state import STATE

ROOT = Path(__file__).parent.parent.parent
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # for clients of plain http: each would read every authority's certificate, 30 ms of it


@dataclass
class Platform:
    """A running `vitrine up`. `request` goes to the platform host, `app` to a Space's host on the same listener."""

    data_dir: Path
    process: subprocess.Popen[str]
    facts: dict[str, object]
    output: list[str]

    @property
    def url(self) -> str:
        return str(self.facts["url"])

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    @property
    def token(self) -> str:
        return str(self.facts["admin_token"])

    def api(self, method: str, path: str, *, token: str | None = None, timeout: float = 60, **kwargs: object) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token or self.token}"}
        return httpx.request(
            method, f"http://127.0.0.1:{self.port}{path}", headers={**headers, "Host": f"localhost:{self.port}"}, timeout=timeout,
            verify=PLAIN, **kwargs,
        )  # type: ignore[arg-type]  # fmt: skip

    def app(
        self,
        subdomain: str,
        path: str = "/",
        method: str = "GET",
        *,
        timeout: float = 90,
        headers: dict[str, str] | None = None,
        **kwargs: object,
    ) -> httpx.Response:
        host = {"Host": f"{subdomain}.localhost:{self.port}", **(headers or {})}
        return httpx.request(method, f"http://127.0.0.1:{self.port}{path}", headers=host, timeout=timeout, verify=PLAIN, **kwargs)  # type: ignore[arg-type]

    def create(self, name: str, sdk: str = "gradio", **more: object) -> str:
        answer = self.api("POST", "/api/repos/create", json={"name": name, "type": "space", "sdk": sdk, **more})
        assert answer.status_code == 200, answer.text
        return f"admin-{name}"

    def runtime(self, name: str) -> dict[str, object]:
        return dict(self.api("GET", f"/api/spaces/admin/{name}/runtime").json())

    def until(self, name: str, *stages: str, seconds: float = 60) -> dict[str, object]:
        end = time.monotonic() + seconds * patience()
        while True:
            found = self.runtime(name)
            if found["stage"] in stages:
                return found
            assert time.monotonic() < end, f"{name} is {found}, wanted {stages}"
            time.sleep(0.1)


class Work:
    """A clone with real git, as a person has it."""

    def __init__(self, platform: Platform, name: str, folder: Path, *, owner: str = "admin", token: str = "") -> None:
        self.platform, self.name, self.folder = platform, name, folder
        address = f"http://{owner}:{token or platform.token}@localhost:{platform.port}/spaces/{owner}/{name}"
        self.git("clone", "-q", address, str(folder), cwd=folder.parent)

    def git(self, *args: str, cwd: Path | None = None, ok: bool = True) -> subprocess.CompletedProcess[str]:
        env = {
            "PATH": os.environ["PATH"], "HOME": str(self.folder.parent), "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0",
            "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.org", "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@example.org",
        }  # fmt: skip
        done = subprocess.run(["git", *args], cwd=cwd or self.folder, env=env, capture_output=True, text=True, timeout=280, check=False)
        assert not ok or done.returncode == 0, done.stderr
        return done

    def write(self, **files: str) -> None:
        for name, text in files.items():
            (self.folder / name.replace("__", ".")).write_text(text)

    def push(self, message: str = "change", *, wait: bool = True, ok: bool = True, force: bool = False) -> str:
        """What git printed. With `wait`, the push follows the Space until it is live or not."""
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("push", *(["-f"] if force else []), *(["-o", "wait"] if wait else []), "origin", "HEAD:main", ok=ok).stderr

    def commit_id(self) -> str:
        return self.git("rev-parse", "HEAD").stdout.strip()


def patience() -> float:
    """Factor for limits in seconds, which are meant for a machine at rest. Generous: speed is what `make bench` measures."""
    return max(4.0, 2 * os.getloadavg()[0] / (os.cpu_count() or 1))


def start_platform(data_dir: Path, *arguments: str, env: dict[str, str] | None = None, port: int = 0, user: int | None = None) -> Platform:
    """Start and wait for the ready line. Its output is kept for assertions. `user`: somebody else's uid and gid."""
    if user is None:
        installed.take(data_dir)
    process = subprocess.Popen(
        [sys.executable, "-m", "control_plane.cli.main", "up", "--data-dir", str(data_dir), "--port", str(port), *arguments],
        cwd=ROOT, env={"VITRINE_THUMBNAILS": "false", **os.environ, **STATE.environment(), **(env or {})},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        user=user, group=user, extra_groups=None if user is None else [],
    )  # fmt: skip
    output: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        output.append(line)
        if "Ctrl-C stops" in line:
            break
    else:
        process.wait()
        process.stdout.close()
        logs = "\n".join(f"{p.name}: {p.read_text()[-3000:]}" for p in (data_dir / "logs/platform").glob("*.log"))
        raise AssertionError(f"did not start: {''.join(output)}\n{logs}")
    return Platform(data_dir, process, json.loads((data_dir / "ready.json").read_text()), output)


def stop_platform(platform: Platform) -> None:
    if platform.process.poll() is None:
        platform.process.send_signal(signal.SIGINT)
    wait_gone(platform.process)
    installed.leave(platform.data_dir)


def wait_gone(process: subprocess.Popen[str]) -> None:
    try:
        process.wait(120)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    """One platform for the read-mostly tests of a session; tests that kill things start their own."""
    with tempfile.TemporaryDirectory(prefix="v", ignore_cleanup_errors=True) as folder:
        running = start_platform(Path(folder) / "d")
        yield running
        stop_platform(running)


@pytest.fixture
def work(platform: Platform, tmp_path: Path) -> object:
    def make(name: str, sdk: str = "gradio") -> Work:
        platform.create(name, sdk)
        return Work(platform, name, tmp_path / name)

    return make
