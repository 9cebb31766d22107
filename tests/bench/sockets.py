"""proxy.sockets: thousands of idle WebSockets through one proxy: memory for each, and whether any is dropped.

The app and the visitors are processes of their own. `VITRINE_BENCH_SOCKETS` and `VITRINE_BENCH_SOAK_S` change the number
(10,000, or as many as the limit of open files allows) and how long they stay (20 s). proxy.soak is the same for ten minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.bench.proxy import _HANDSHAKE, Row, _echo_main, _free_port, _need, _wait_port

_AT_ONCE = 50


class _Idler(asyncio.Protocol):
    """Shakes hands and is silent from then on."""

    def __init__(self) -> None:
        self.opened: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.transport.write(_HANDSHAKE)

    def data_received(self, data: bytes) -> None:
        if not self.opened.done():
            self.is_open = data.startswith(b"HTTP/1.1 101")
            self.opened.set_result(self.is_open)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if not self.opened.done():
            self.opened.set_result(False)


def _raise_limit(wanted: int = 0) -> int:
    """As many descriptors as this user may have, `wanted` at least where it may raise its own limit. Gives the limit."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


async def _idle(port: int, count: int, pid: int, seconds: float) -> None:
    """Prints: bytes of the proxy for each socket, and how many were open at the end."""
    _raise_limit()
    loop = asyncio.get_running_loop()
    idlers: list[_Idler] = []

    async def open_some(number: int) -> None:
        made = []
        for _ in range(number):
            with contextlib.suppress(OSError):
                made.append((await loop.create_connection(_Idler, "127.0.0.1", port))[1])
        for idler in made:
            await idler.opened
        idlers.extend(made)

    await open_some(20)  # what is allocated once
    before = _resident(pid)
    while len(idlers) < count:
        was = len(idlers)
        await asyncio.gather(*(open_some(min(20, count - was)) for _ in range(max(1, min(_AT_ONCE, (count - was) // 20)))))
        if len(idlers) == was:
            break
    size = (_resident(pid) - before) / max(1, len(idlers) - 20)
    await asyncio.sleep(seconds)
    later = (_resident(pid) - before) / max(1, len(idlers) - 20)
    print(max(size, later), sum(idler.is_open for idler in idlers))


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def soak_rows() -> list[Row]:
    """The same for ten minutes."""
    return [row | {"name": "proxy.soak"} for row in rows(seconds=600.0)]


def rows(count: int = 0, seconds: float = 0.0) -> list[Row]:
    """Bytes per socket (limit 20,000); the reference is how many sockets were asked for, `n` how many lived to the end."""
    _need("taskset")
    count = count or int(os.environ.get("VITRINE_BENCH_SOCKETS", "10000"))
    seconds = seconds or float(os.environ.get("VITRINE_BENCH_SOAK_S", "20"))
    count = min(count, (_raise_limit(2 * count + 200) - 200) // 2)  # where this user may not have more descriptors: as many as fit
    upstream = _free_port()
    me = [sys.executable, "-m", "tests.bench.sockets"]
    with contextlib.ExitStack() as stack:
        app = stack.enter_context(subprocess.Popen([*me, "echo", str(upstream)], stdout=subprocess.DEVNULL))
        proxy = stack.enter_context(
            subprocess.Popen([sys.executable, "-m", "tests.bench.proxy_process", f"127.0.0.1:{upstream}", ""], stdout=subprocess.PIPE)
        )
        stack.callback(app.kill)
        stack.callback(proxy.kill)
        _wait_port(upstream)
        assert proxy.stdout is not None
        port = int(proxy.stdout.readline())
        command = [*me, "idle", str(port), str(count), str(proxy.pid), str(seconds)]
        size, alive = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return [
        {
            "name": "proxy.sockets", "value": round(float(size)), "unit": "bytes/socket", "reference": "limit; n lived to the end",
            "reference_value": 20_000, "ratio": round(20_000 / max(1.0, float(size)), 3), "n": int(alive),
        }
    ]  # fmt: skip


if __name__ == "__main__":
    import uvloop

    match sys.argv[1:]:
        case ["echo", port]:
            _raise_limit()
            uvloop.run(_echo_main(int(port)))
        case ["idle", port, count, pid, seconds]:
            uvloop.run(_idle(int(port), int(count), int(pid), float(seconds)))
