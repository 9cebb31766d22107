# ruff: noqa: E501  (raw requests and config lines read best unbroken)
"""Proxy rows of `make bench`: our proxy beside nginx with one worker, same core, same upstream, rounds in turn, median.

Core 0 runs the proxy under test; core 1 runs the upstream (nginx, a fixed 24-byte answer) and the load (wrk). Everything is
switched on in ours: head validation, guard look-up for the route, limits, activity counters, a full access log; nginx
writes its access log too. CPU time comes from /proc/PID/stat, the steadiest figure on a shared machine.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]

BROWSER_HEADERS = {
    "Connection": "keep-alive",
    "sec-ch-ua": '"Chromium";v="140", "Not=A?Brand";v="24", "Google Chrome";v="140"',
    "sec-ch-ua-mobile": "?0",
    "sec-ch-ua-platform": '"Linux"',
    "Upgrade-Insecure-Requests": "1",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8",
    "Sec-Fetch-Site": "same-origin",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Dest": "document",
    "Referer": "http://public.localhost:7860/gallery/index.html?session=0123456789abcdef",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Accept-Language": "en-GB,en;q=0.9,de;q=0.8",
    "Cookie": "session=0123456789abcdef0123456789abcdef; theme=dark; _ga=GA1.1.123456789.1234567890; csrftoken=0123456789abcdef0123456789abcdef",
}
_TICKS = os.sysconf("SC_CLK_TCK")


class Missing(RuntimeError):
    """A tool the benchmark needs is not installed; the message names it."""


@dataclass(frozen=True)
class Target:
    name: str
    port: int
    pids: tuple[int, ...]

    def cpu_s(self) -> float:
        total = 0
        for pid in self.pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / _TICKS


@dataclass(frozen=True)
class Load:
    """One run of wrk. `p99_ms` is milliseconds, `cpu_us` the target's CPU microseconds per request."""

    requests: int
    rps: float
    p99_ms: float
    cpu_us: float
    megabytes_s: float


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def _need(*tools: str) -> None:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        raise Missing(f"install {', '.join(missing)} to run the proxy benchmarks")
    if len(os.sched_getaffinity(0)) < 2:
        raise Missing("two CPU cores are needed: one for the proxy, one for the load")


def _wait_port(port: int) -> None:
    limit = time.monotonic() + 10
    while time.monotonic() < limit:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on {port}")


def _children(pid: int) -> tuple[int, ...]:
    return tuple(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


@contextlib.contextmanager
def _nginx(folder: Path, name: str, core: int, port: int, http: str) -> Iterator[subprocess.Popen[bytes]]:
    config = folder / f"{name}.conf"
    config.write_text(
        f"worker_processes 1;\npid {folder}/{name}.pid;\nerror_log {folder}/{name}.err;\ndaemon off;\n"
        f"events {{ worker_connections 8192; }}\nhttp {{\nkeepalive_requests 100000000;\n"
        f"client_body_temp_path {folder}/{name}-b; proxy_temp_path {folder}/{name}-p; fastcgi_temp_path {folder}/{name}-f;\n"
        f"uwsgi_temp_path {folder}/{name}-u; scgi_temp_path {folder}/{name}-s;\n{http}\n}}\n"
    )
    process = subprocess.Popen(["taskset", "-c", str(core), "nginx", "-e", f"{folder}/{name}.err", "-c", str(config), "-p", str(folder)])
    try:
        _wait_port(port)
        yield process
    finally:
        process.send_signal(signal.SIGQUIT)
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def stage() -> Iterator[tuple[Target, Target, int]]:
    """(ours, nginx, port of the upstream that both stand in front of)."""
    _need("nginx", "wrk", "taskset")
    folder = Path(tempfile.mkdtemp(prefix="vbench"))
    folder.chmod(0o755)  # nginx workers give up root before they read the file
    upstream, front = _free_port(), _free_port()
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, True)
        (folder / "big").write_bytes(os.urandom(1_000_000) * 50)
        stack.enter_context(
            _nginx(
                folder, "upstream", 1, upstream,
                f'access_log off; sendfile on; server {{ listen 127.0.0.1:{upstream} backlog=4096; root {folder};\n'
                'location / { return 200 "0123456789abcdef01234567"; } location = /big { } }',
            )
        )  # fmt: skip
        nginx = stack.enter_context(
            _nginx(
                folder, "front", 0, front,
                f"access_log {folder}/front.log combined buffer=64k flush=1s;\n"
                f"upstream app {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 100000000; }}\n"
                "map $http_upgrade $up { default upgrade; '' ''; }\n"
                f"server {{ listen 127.0.0.1:{front} backlog=4096; location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_buffering on;\n"
                "proxy_set_header Host $http_host; proxy_set_header Connection $up; proxy_set_header Upgrade $http_upgrade;\n"
                "proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;\n"
                "proxy_set_header X-Forwarded-Host $http_host; add_header X-Vitrine-Request-Id $request_id; } }",
            )
        )  # fmt: skip
        ours = subprocess.Popen(
            ["taskset", "-c", "0", sys.executable, "-m", "tests.bench.proxy_process", f"127.0.0.1:{upstream}", str(folder / "access.log")],
            stdout=subprocess.PIPE,
        )
        stack.callback(ours.wait)
        stack.callback(ours.terminate)
        assert ours.stdout is not None
        stack.callback(ours.stdout.close)
        port = int(ours.stdout.readline())
        yield Target("vitrine", port, (ours.pid,)), Target("nginx", front, _children(nginx.pid)), upstream


def _wrk(target: Target, *, connections: int, seconds: float, path: str = "/", close: bool = False, script: Path | None = None) -> Load:
    headers = dict(BROWSER_HEADERS, Host="public.localhost")
    if close:
        headers["Connection"] = "close"
    command = ["taskset", "-c", "1", "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency"]
    for name, value in headers.items():
        command += ["-H", f"{name}: {value}"]
    if script is not None:
        command += ["-s", str(script)]
    before = target.cpu_s()
    out = subprocess.run([*command, f"http://127.0.0.1:{target.port}{path}"], capture_output=True, text=True, check=True).stdout
    cpu = target.cpu_s() - before
    requests = int(_found(r"(\d+) requests in", out))
    if "Non-2xx" in out:
        raise RuntimeError(f"{target.name} answered errors:\n{out}")
    amount, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", out).groups()  # type: ignore[union-attr]
    size, size_unit = re.search(r"Transfer/sec:\s+([\d.]+)([KMG]?)B", out).groups()  # type: ignore[union-attr]
    return Load(
        requests,
        float(_found(r"Requests/sec:\s+([\d.]+)", out)),
        float(amount) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit],
        cpu / max(requests, 1) * 1e6,
        float(size) * {"": 1e-6, "K": 1e-3, "M": 1.0, "G": 1e3}[size_unit] * 1.048576,
    )


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"wrk said something unexpected:\n{text}")
    return match[1]


def _row(name: str, unit: str, ours: list[float], theirs: list[float], *, less_is_better: bool) -> Row:
    value, reference = statistics.median(ours), statistics.median(theirs)
    ratio = reference / value if less_is_better else value / reference
    return {
        "name": name, "value": round(value, 2), "unit": unit, "reference": "nginx, one worker", "reference_value": round(reference, 2),
        "ratio": round(ratio, 3), "n": len(ours),
    }  # fmt: skip


def _in_turn(targets: tuple[Target, Target], rounds: int, run: Callable[[Target], Load]) -> tuple[list[Load], list[Load]]:
    ours, theirs = [], []
    for number in range(rounds):
        order = targets if number % 2 == 0 else targets[::-1]
        for target in order:
            (ours if target is targets[0] else theirs).append(run(target))
    return ours, theirs


# A header that changes with every request: what our per-connection memory of checked heads does not help with.
_VARIED = 'local n=0\nrequest=function() n=n+1; return wrk.format("GET","/"..n,{["X-N"]=tostring(n)}) end\n'


def http_rows(rounds: int = 3, seconds: float = 4.0) -> list[Row]:
    """proxy.cpu, proxy.rps, proxy.p99 at 32 and 512 connections, proxy.connect, proxy.stream."""
    rows: list[Row] = []
    with stage() as (vitrine, nginx, _upstream):
        targets = (vitrine, nginx)
        for target in targets:
            _wrk(target, connections=32, seconds=1)
        ours, theirs = _in_turn(targets, rounds, lambda t: _wrk(t, connections=32, seconds=seconds))
        rows.append(_row("proxy.cpu", "us", [x.cpu_us for x in ours], [x.cpu_us for x in theirs], less_is_better=True))
        rows.append(_row("proxy.rps.32", "req/s", [x.rps for x in ours], [x.rps for x in theirs], less_is_better=False))
        rows.append(_row("proxy.p99.32", "ms", [x.p99_ms for x in ours], [x.p99_ms for x in theirs], less_is_better=True))
        with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
            script.write(_VARIED)
            script.flush()
            ours, theirs = _in_turn(targets, rounds, lambda t: _wrk(t, connections=32, seconds=seconds, script=Path(script.name)))
        rows.append(_row("proxy.cpu.varied", "us", [x.cpu_us for x in ours], [x.cpu_us for x in theirs], less_is_better=True))
        ours, theirs = _in_turn(targets, rounds, lambda t: _wrk(t, connections=512, seconds=seconds))
        rows.append(_row("proxy.rps.512", "req/s", [x.rps for x in ours], [x.rps for x in theirs], less_is_better=False))
        rows.append(_row("proxy.p99.512", "ms", [x.p99_ms for x in ours], [x.p99_ms for x in theirs], less_is_better=True))
        ours, theirs = _in_turn(targets, rounds, lambda t: _wrk(t, connections=32, seconds=seconds, close=True))
        rows.append(_row("proxy.connect", "us", [x.cpu_us for x in ours], [x.cpu_us for x in theirs], less_is_better=True))
        ours, theirs = _in_turn(targets, rounds, lambda t: _wrk(t, connections=2, seconds=seconds, path="/big"))
        rows.append(_row("proxy.stream", "MB/s", [x.megabytes_s for x in ours], [x.megabytes_s for x in theirs], less_is_better=False))
    return rows


_HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: public.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: " + base64.b64encode(bytes(16)) + b"\r\n\r\n"
)
_MASKED = b"\x81\xa0\0\0\0\0" + b"x" * 32
_PLAIN = b"\x81\x20" + b"x" * 32


class _Echo(asyncio.Protocol):
    """Answers each masked 32-byte text frame with the same text; nothing else is understood."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.open = False
        self.have = 0

    def data_received(self, data: bytes) -> None:
        if not self.open:
            self.open = True
            self.transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n"
            )
            return
        self.have += len(data)
        frames, self.have = divmod(self.have, len(_MASKED))
        if frames:
            self.transport.write(_PLAIN * frames)


class _Asker(asyncio.Protocol):
    def __init__(self, counts: list[int]) -> None:
        self.counts = counts

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.open = False
        self.have = 0
        self.transport.write(_HANDSHAKE)

    def data_received(self, data: bytes) -> None:
        if not self.open:
            if not data.startswith(b"HTTP/1.1 101"):
                raise RuntimeError(f"no upgrade: {data[:100]!r}")
            self.open = True
            self.transport.write(_MASKED)
            return
        self.have += len(data)
        while self.have >= len(_PLAIN):
            self.have -= len(_PLAIN)
            self.counts[0] += 1
            self.transport.write(_MASKED)


async def _ask(port: int, connections: int, seconds: float) -> float:
    counts = [0]
    loop = asyncio.get_running_loop()
    transports = [(await loop.create_connection(lambda: _Asker(counts), "127.0.0.1", port))[0] for _ in range(connections)]
    await asyncio.sleep(0.3)
    start, before = time.perf_counter(), counts[0]
    await asyncio.sleep(seconds)
    rate = (counts[0] - before) / (time.perf_counter() - start)
    for transport in transports:
        transport.abort()
    return rate


async def _echo_main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Echo, "127.0.0.1", port)
    print("ready", flush=True)
    await server.serve_forever()


def ws_rows(rounds: int = 3, seconds: float = 2.0, connections: int = 100) -> list[Row]:
    """proxy.ws: echo messages per second over 100 connections, through the proxy and directly; .nginx: beside nginx in its place.

    App and load share core 1, the proxies have core 0.
    """
    _need("taskset", "nginx")
    upstream, front = _free_port(), _free_port()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vbench")))
        folder.chmod(0o755)
        me = [sys.executable, "-m", "tests.bench.proxy"]
        echo = subprocess.Popen(["taskset", "-c", "1", *me, "echo", str(upstream)], stdout=subprocess.PIPE)
        ours = subprocess.Popen(
            ["taskset", "-c", "0", sys.executable, "-m", "tests.bench.proxy_process", f"127.0.0.1:{upstream}", ""], stdout=subprocess.PIPE
        )
        for process in (echo, ours):
            assert process.stdout is not None
            stack.callback(process.stdout.close)
            stack.callback(process.wait)
            stack.callback(process.kill)
        _wait_port(upstream)
        stack.enter_context(
            _nginx(
                folder, "front", 0, front,
                f"access_log off; server {{ listen 127.0.0.1:{front}; location / {{ proxy_pass http://127.0.0.1:{upstream};\n"
                "proxy_http_version 1.1; proxy_set_header Connection upgrade; proxy_set_header Upgrade $http_upgrade; } }",
            )
        )  # fmt: skip
        assert ours.stdout is not None
        port = int(ours.stdout.readline())
        through: list[float] = []
        direct: list[float] = []
        peer: list[float] = []
        for _ in range(rounds):
            for where, rates in ((port, through), (upstream, direct), (front, peer)):
                out = subprocess.run(
                    ["taskset", "-c", "1", *me, "ask", str(where), str(connections), str(seconds)],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                rates.append(float(out.stdout))
    row = _row("proxy.ws", "msg/s", through, direct, less_is_better=False) | {"reference": "direct to the app"}
    return [row, _row("proxy.ws.nginx", "msg/s", through, peer, less_is_better=False)]


def rows(rounds: int = 3, seconds: float = 4.0) -> list[Row]:
    return http_rows(rounds, seconds) + ws_rows(rounds)


if __name__ == "__main__":
    import uvloop

    match sys.argv[1:]:
        case ["echo", port]:
            uvloop.run(_echo_main(int(port)))
        case ["ask", port, connections, seconds]:
            print(uvloop.run(_ask(int(port), int(connections), float(seconds))))
        case ["quick"]:
            for row in rows(1, 2.0):
                print(row)
        case _:
            for row in rows():
                print(row)
