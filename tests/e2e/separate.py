"""The production shape on one machine: every service its own process, told by settings alone where the others are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.conftest import ROOT, Platform

READY_S = 60


@dataclass
class Service:
    """One `vitrine serve …`. `output` is what it printed; its log lines are among them."""

    name: str
    command: tuple[str, ...]
    env: dict[str, str]
    process: subprocess.Popen[str] | None = None
    output: list[str] = field(default_factory=list)
    is_told: bool = False

    def start(self) -> None:
        """Returns once it says that it is ready."""
        self.output.clear()
        self.is_told = False
        self.process = subprocess.Popen(
            self.command, cwd=ROOT, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        told = threading.Event()
        threading.Thread(target=self._read, args=(self.process, told), daemon=True).start()
        assert told.wait(READY_S), f"{self.name} is not ready: {''.join(self.output)[-3000:]}"
        assert any(line.startswith("vitrine ") for line in self.output), f"{self.name} ended: {''.join(self.output)[-3000:]}"

    def _read(self, process: subprocess.Popen[str], told: threading.Event) -> None:
        assert process.stdout is not None
        with process.stdout as stdout:
            for line in stdout:
                self.output.append(line)
                if line.startswith("vitrine "):
                    told.set()
        told.set()

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self, seconds: float = 120) -> int:
        """SIGTERM, and the exit code."""
        if self.process is None:
            return 0
        if not self.is_told:
            self.is_told = True
            self.process.terminate()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


class Separate:
    """Services on one set of settings. Data dirs: one for API, schedulers and builders (the process runtime shares it), one per proxy."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.folder, self._settings = folder, settings
        self.services: dict[str, Service] = {}

    def add(self, name: str, component: str, *options: str, data_dir: str = "d", **settings: str) -> Service:
        env = {k: v for k, v in os.environ.items() if not k.startswith("VITRINE_")}
        env |= {"VITRINE_DATA_DIR": str(self.folder / data_dir), "PYTHONUNBUFFERED": "1", **self._settings, **settings}
        command = (sys.executable, "-m", "control_plane.cli.main", "serve", component, *options)
        service = self.services[name] = Service(name, command, env)
        return service

    def platform(self, proxy_port: int) -> Platform:
        """The platform as met at one of its proxies."""
        facts = json.loads((self.folder / "d" / "ready.json").read_text())
        process = next(iter(self.services.values())).process
        assert process is not None
        return Platform(self.folder / "d", process, {**facts, "url": f"http://localhost:{proxy_port}"}, [])

    def stop(self) -> dict[str, int]:
        running = [service for service in self.services.values() if service.process is not None]
        with ThreadPoolExecutor(max(1, len(running))) as pool:
            return dict(zip((s.name for s in running), pool.map(Service.stop, running), strict=True))
