"""Visitors and apps that both talk nonsense at once: no error that nobody foresaw, and nothing is held when they are gone.

Single cases say what each malformed request gets; this looks for what only their mixture does: leaks, counters that stay, tracebacks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from control_plane.domain.ids import SpaceId
from control_plane.domain.routes import RouteAccess, RouteState
from tests.functional.proxy.conftest import Seen, World

HOSTS = (
    "alice-demo.localhost",
    "private.localhost",
    "sleeper.localhost",
    "failed.localhost",
    "renamed.localhost",
    "none.localhost",
    "localhost",
)
REQUESTS = (
    b"GET /a?b=1 HTTP/1.1\r\nHost: %h\r\nAccept: text/html\r\nAccept-Language: ru,en;q=0.5\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: %h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    b"POST /x HTTP/1.1\r\nHost: %h\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"GET /ws HTTP/1.1\r\nHost: %h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\nOrigin: http://x\r\n\r\n",
    b"GET /q?__sign=good&x=1 HTTP/1.1\r\nHost: %h\r\nCookie: a=b; vitrine_app=good; __Host-vitrine_app=x\r\nReferer: http://a/?__sign=q\r\n\r\n",
    b"HEAD http://%h/x HTTP/1.1\r\nHost: %h\r\nAuthorization: Bearer hf_good\r\nX-HF-Authorization: Bearer hf_weird\r\n\r\n",
    b"OPTIONS * HTTP/1.0\r\nHost: %h\r\nConnection: keep-alive, x-y\r\nX-Y: 1\r\nX-Forwarded-For: 1.2.3.4:5, [::1]:3\r\n\r\n",
    b"GET /.well-known/vitrine/stages HTTP/1.1\r\nHost: %h\r\n\r\n",
    b"GET /gradio_api/heartbeat/abc HTTP/1.1\r\nHost: %h\r\n\r\n",
)
ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: a=b; Domain=localhost\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x02hi",
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nrest",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nConnection: close, x-z\r\nX-Z: 1\r\n\r\n",
)
PIECES = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"\t", b";", b",", b"%00", b"\xff", b"chunked", b"0\r\n\r\n", b"Content-Length: 3\r\n",
    b"Host: x\r\n", b"?__sign=", b"HTTP/1.1", b"q=-1", b"q=1e999", b"q=nan", b"[::1", b"..", b"//", b"hf_", b'"', b"99999999999999999999",
)  # fmt: skip


def mutated(dice: random.Random, text: bytes) -> bytes:
    data = bytearray(text)
    for _ in range(dice.choice((0, 1, 1, 2, 4))):
        at, kind = dice.randrange(len(data) + 1), dice.random()
        if kind < 0.4:
            data[at:at] = dice.choice(PIECES)
        elif kind < 0.6:
            del data[at : at + dice.randrange(1, 8)]
        elif kind < 0.8 and at < len(data):
            data[at] = dice.randrange(256)
        else:
            data[at:at] = data[at : at + dice.randrange(30)]
    return bytes(data)


@pytest.fixture
def config(tmp_path: Path) -> dict[str, object]:
    return {
        "access_log": str(tmp_path / "access.log"), "trusted_proxies": ("127.0.0.0/8",), "client_rate": 0.0, "wake_timeout_s": 0.2,
        "body_stall_s": 0.3, "header_timeout_s": 0.3, "keep_alive_s": 0.3, "app_timeout_s": 0.5,
    }  # fmt: skip


async def test_a_storm_leaves_nothing_behind(world: World, tmp_path: Path) -> None:
    dice = random.Random(8)
    unforeseen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unforeseen.append(context))

    async def nonsense(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(mutated(dice, dice.choice(ANSWERS)))
        await writer.drain()
        return dice.random() < 0.7

    async def authorize(host: str, kind: str, credential: str) -> bool:
        if "weird" in credential:
            raise KeyError(credential)
        return "good" in credential

    world.app.script = world.api.script = nonsense
    world.proxy.core.guard._authorize = authorize
    for number, (host, changes) in enumerate(
        {
            "private.localhost": {"access": RouteAccess.PRIVATE},
            "sleeper.localhost": {"state": RouteState.ASLEEP, "endpoints": ()},
            "failed.localhost": {"state": RouteState.FAILED, "endpoints": (), "message": "Тест"},
            "renamed.localhost": {"redirect_to": HOSTS[0]},
        }.items()
    ):
        await world.put(host=host, space_id=SpaceId(str(number) * 24), **changes)

    async def visitor() -> None:
        for _ in range(40):
            reader, writer = await asyncio.open_connection("127.0.0.1", world.proxy.port)
            with contextlib.suppress(TimeoutError, ConnectionError, RuntimeError):  # the last: uvloop, when the proxy has hung up already
                for _request in range(dice.choice((1, 1, 2, 3))):
                    data = mutated(dice, dice.choice(REQUESTS).replace(b"%h", dice.choice(HOSTS).encode()))
                    for at in range(0, len(data), step := dice.choice((40, 10_000))):
                        writer.write(data[at : at + step])
                        await asyncio.sleep(0)
                async with asyncio.timeout(dice.choice((0.01, 0.05, 0.2))):
                    await reader.read(100_000)
            writer.close()

    await asyncio.gather(*(visitor() for _ in range(12)))
    core = world.proxy.core
    async with asyncio.timeout(60):
        while core.connections or core.activator.count or core.reconnecting.count:
            await asyncio.sleep(0.01)
    assert not [each for each in unforeseen if not isinstance(each.get("exception"), ConnectionError)]
    spaces = [core.activity.platform, *core.activity._spaces.values()]
    assert [(space.live, space.tabs, space.sockets) for space in spaces] == [(0, 0, 0)] * len(spaces)
    assert not any(client.connections for client in core.clients._known.values())
    assert len(core.activity.refused) > 8, "the storm was no storm"
    core.log.flush()
    lines = [json.loads(line) for line in (tmp_path / "access.log").read_text(encoding="utf-8").splitlines()]
    assert len(lines) > 300
