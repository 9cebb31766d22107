"""Caddy and configurable-http-proxy on the same stage as ours: rows of the same table, each beside nginx of the same run."""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench.proxy import Load, Row, Target, _free_port, _wait_port, _wrk, stage

_CHP = Path(".venv/bench-peers")


def _chp_command() -> str:
    """configurable-http-proxy from the PATH, or put beside the virtual environment by npm; empty where neither can be had."""
    found = shutil.which("configurable-http-proxy")
    if found is None and shutil.which("npm"):
        local = _CHP / "node_modules/.bin/configurable-http-proxy"
        if not local.exists():
            _CHP.mkdir(parents=True, exist_ok=True)
            subprocess.run(["npm", "install", "--silent", "--prefix", str(_CHP), "configurable-http-proxy"], check=False, timeout=180)
        found = str(local) if local.exists() else None
    return found or ""


@contextlib.contextmanager
def _peer(name: str, command: list[str], port: int) -> Iterator[Target]:
    process = subprocess.Popen(
        ["taskset", "-c", "0", *command], env={**os.environ, "GOMAXPROCS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_port(port)
        yield Target(name, port, (process.pid,))
    finally:
        process.terminate()
        process.wait()


def rows(rounds: int = 2, seconds: float = 3.0) -> list[Row]:
    """proxy.cpu and proxy.rps at 32 connections of whichever peers are installed; ratio as everywhere: nginx is 1."""
    with stage() as (_ours, nginx, upstream), contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vpeers")))
        peers: list[Target] = []
        if shutil.which("caddy"):
            port = _free_port()
            config = folder / "Caddyfile"
            config.write_text(
                f"{{\n admin off\n auto_https off\n}}\n:{port} {{\n bind 127.0.0.1\n"
                f" log {{\n  output file {folder}/access.log\n }}\n reverse_proxy 127.0.0.1:{upstream}\n}}\n"
            )
            peers.append(stack.enter_context(_peer("Caddy", ["caddy", "run", "--config", str(config), "--adapter", "caddyfile"], port)))
        if chp := _chp_command():
            port, api = _free_port(), _free_port()
            command = [chp, "--ip", "127.0.0.1", "--port", str(port), "--api-ip", "127.0.0.1", "--api-port", str(api),
                       "--default-target", f"http://127.0.0.1:{upstream}", "--log-level", "error"]  # fmt: skip
            peers.append(stack.enter_context(_peer("configurable-http-proxy", command, port)))
        loads: dict[str, list[Load]] = {target.name: [] for target in (*peers, nginx)}
        for target in (*peers, nginx):
            _wrk(target, connections=32, seconds=1)
        for _ in range(rounds):
            for target in (*peers, nginx):
                loads[target.name].append(_wrk(target, connections=32, seconds=seconds))
    made: list[Row] = []
    reference = loads["nginx"]
    for peer in peers:
        for what, unit, of, less in (("cpu", "us", "cpu_us", True), ("rps.32", "req/s", "rps", False), ("p99.32", "ms", "p99_ms", True)):
            value = statistics.median(getattr(load, of) for load in loads[peer.name])
            beside = statistics.median(getattr(load, of) for load in reference)
            made.append(
                {
                    "name": f"proxy.{what}.{peer.name.lower()}", "value": round(value, 2), "unit": unit, "reference": "nginx, one worker",
                    "reference_value": round(beside, 2), "ratio": round(beside / value if less else value / beside, 3), "n": rounds,
                }
            )  # fmt: skip
    return made
