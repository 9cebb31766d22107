"""A proxy process and its signals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from tests.functional.proxy.conftest import App

REQUEST = b"GET /%b HTTP/1.1\r\nHost: public.localhost\r\n\r\n"


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


async def test_a_hangup_reopens_the_access_log_and_keeps_its_connections(tmp_path: Path) -> None:
    app = App()
    server = await asyncio.start_server(app.serve, "127.0.0.1", 0)
    log, moved = tmp_path / "access.log", tmp_path / "access.log.1"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.proxy_process", f"127.0.0.1:{server.sockets[0].getsockname()[1]}", str(log),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            port = int(await process.stdout.readline())
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number, file in ((b"1", log), (b"2", log)):
            writer.write(REQUEST % number)
            async with asyncio.timeout(60):
                await reader.readuntil(b"}")
            await until(lambda file=file: file.exists() and file.read_text().endswith("}\n"))  # type: ignore[misc]
            if number == b"1":
                os.replace(log, moved)
                process.send_signal(signal.SIGHUP)
                await until(log.exists)
        for path, file in (("/1", moved), ("/2", log)):
            (line,) = [json.loads(text) for text in file.read_text().splitlines()]
            assert line["path"] == path
            assert {"id", "client", "host", "space", "revision", "connect_us", "service_us", "status", "code"} <= line.keys()
        writer.close()
        await writer.wait_closed()
    finally:
        process.terminate()
        assert await process.wait() == 0
        server.close()
        await app.stop()
