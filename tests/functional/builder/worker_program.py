"""A builder's worker as a process of its own, with the real Celery and a real broker."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

from builder.broker import BrokerOptions, broker_options, prepare_spool
from builder.config import DoorConfig

HEARTBEAT_S = 0.1
PROGRAM = """
import json, sys
from pathlib import Path
from builder.broker import broker_options
from builder.config import DoorConfig, ToolConfig, WorkerConfig
from builder.worker import run_worker
given = json.load(sys.stdin)
data = Path(given["data_dir"])
run_worker(WorkerConfig(
    broker=broker_options(given["redis"] or None, data / "queue"), door=DoorConfig(**given["door"]),
    data_dir=data, heartbeat_s=given["heartbeat_s"],
    tools=ToolConfig(pypi_index_url=given["index"], uv=given["uv"]),
))
"""

Start = Callable[..., "subprocess.Popen[bytes]"]


def broker_of(data_dir: Path, redis: str = "") -> BrokerOptions:
    """The broker that workers of `worker_processes` listen to; its spool is made."""
    options = broker_options(redis or None, data_dir / "queue")
    prepare_spool(options)
    return options


@contextlib.contextmanager
def worker_processes(data_dir: Path, door: DoorConfig, index_url: str) -> Iterator[Start]:
    """Gives `start(uv="", redis="", url="")`; `uv`: another program in its place, `url`: another door. All are killed at the end."""
    running: list[subprocess.Popen[bytes]] = []
    broker_of(data_dir)

    def start(uv: str = "", redis: str = "", url: str = "") -> subprocess.Popen[bytes]:
        its = replace(door, base_url=url, socket_path="") if url else door
        facts = {"data_dir": str(data_dir), "door": asdict(its), "index": index_url, "uv": uv, "redis": redis, "heartbeat_s": HEARTBEAT_S}
        process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE)
        running.append(process)
        assert process.stdin is not None
        process.stdin.write(json.dumps(facts).encode())
        process.stdin.close()
        return process

    try:
        yield start
    finally:
        for process in running:
            process.kill()
            process.wait()


def stuck_uv(folder: Path) -> str:
    """A program that a build waits for until it is killed."""
    path = folder / "stuck-uv"
    path.write_text("#!/bin/sh\nexec sleep 600\n")
    path.chmod(0o755)
    return str(path)
