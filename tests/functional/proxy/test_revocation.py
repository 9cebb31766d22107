"""What is open when a right ends: it ends too, within a second, and nobody else's does."""

from __future__ import annotations

import asyncio

import pytest

from control_plane.domain.routes import RouteAccess, RouteState
from control_plane.proxy import revocation
from tests.functional.proxy.conftest import HOST, Seen, Wire, World

SOCKET = (
    b"GET /ws HTTP/1.1\r\nHost: alice-demo.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%b\r\n"
)
STREAM = b"GET /events HTTP/1.1\r\nHost: alice-demo.localhost\r\n%b\r\n"


async def echo_or_stream(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    if "/ws" in seen.line:
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        while data := await reader.read(1000):
            writer.write(data)
        return False
    if "/slow" not in seen.line:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    await reader.read()  # until the proxy hangs up
    return False


async def open_socket(world: World, token: bytes = b"") -> Wire:
    wire = await world.wire()
    await wire.send(SOCKET % (b"Authorization: Bearer %b\r\n" % token if token else b""))
    assert (await wire.head())[0] == 101
    return wire


async def open_stream(world: World, token: bytes = b"") -> Wire:
    wire = await world.wire()
    await wire.send(STREAM % (b"X-HF-Authorization: Bearer %b\r\n" % token if token else b""))
    assert (await wire.head())[0] == 200
    assert await wire.reader.readexactly(10) == b"5\r\nhello\r\n"
    return wire


async def still_answers(wire: Wire) -> None:
    await wire.send(b"\x81\x80abcd")
    assert await wire.reader.readexactly(6) == b"\x81\x80abcd"


async def test_a_revoked_token_ends_its_socket_stream_and_pending_request_and_no_other(world: World) -> None:
    world.app.script = echo_or_stream
    world.allowed["token"] = {"hf_one", "hf_two"}
    await world.put(access=RouteAccess.PRIVATE)
    socket, other, stream = await open_socket(world, b"hf_one"), await open_socket(world, b"hf_two"), await open_stream(world, b"hf_one")
    pending = asyncio.create_task(world.get("/slow", Authorization="Bearer hf_one"))
    async with asyncio.timeout(60):
        while len(world.app.seen) < 4:
            await asyncio.sleep(0.001)
    world.allowed["token"].discard("hf_one")
    world.feed.hints.put_nowait(("access", "token-id"))
    async with asyncio.timeout(10):
        assert await socket.eof() == b"\x88\x02\x03\xf0"  # 1008, policy violation
        assert b"0\r\n\r\n" not in await _rest(stream)  # not ended as if it were complete
        assert (await pending).headers["x-vitrine-error"] == "NOT_FOUND"
    assert (await world.get(Authorization="Bearer hf_one")).status == 404
    await still_answers(other)


async def _rest(wire: Wire) -> bytes:
    try:
        return await wire.eof()
    except ConnectionResetError:
        return b""


async def test_a_space_made_private_ends_what_strangers_have_open(world: World) -> None:
    world.app.script = echo_or_stream
    socket, stream = await open_socket(world), await open_stream(world)
    await world.put(host="bob-demo.localhost", space_id="b" * 24)
    elsewhere = await world.wire()
    await elsewhere.send(SOCKET.replace(b"alice", b"bob") % b"")
    assert (await elsewhere.head())[0] == 101
    await world.put(access=RouteAccess.PRIVATE)
    async with asyncio.timeout(10):
        assert await socket.eof() == b"\x88\x02\x03\xf0"
        await _rest(stream)
    await still_answers(elsewhere)


async def test_held_requests_and_progress_pages_end_too(world: World) -> None:
    world.allowed["token"] = {"hf_one"}
    await world.put(access=RouteAccess.PRIVATE, state=RouteState.ASLEEP, endpoints=())
    page = await world.wire()
    await page.send(b"GET /.well-known/vitrine/stages HTTP/1.1\r\nHost: alice-demo.localhost\r\nAuthorization: Bearer hf_one\r\n\r\n")
    assert (await page.head())[0] == 200
    held = asyncio.create_task(world.get("/api", Authorization="Bearer hf_one"))
    async with asyncio.timeout(60):
        while not world.proxy.core.activator.count:
            await asyncio.sleep(0.001)
    world.allowed["token"].clear()
    world.feed.hints.put_nowait(("access", "*"))
    async with asyncio.timeout(10):
        assert (await held).status == 404
        await page.eof()
    assert world.proxy.core.activator.count == 0


async def test_a_lost_hint_costs_a_timer_tick(world: World) -> None:
    world.app.script = echo_or_stream
    world.allowed["token"] = {"hf_one"}
    await world.put(access=RouteAccess.PRIVATE)
    socket = await open_socket(world, b"hf_one")
    watch = revocation.Revocation(world.proxy.core, recheck_s=0.01)
    task = asyncio.create_task(watch.run())
    await still_answers(socket)
    world.allowed["token"].clear()
    async with asyncio.timeout(10):  # a verdict is a second old at most
        assert await socket.eof() == b"\x88\x02\x03\xf0"
    task.cancel()


async def test_nothing_is_cut_while_nobody_can_say(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.app.script = echo_or_stream
    world.allowed["token"] = {"hf_one"}
    await world.put(access=RouteAccess.PRIVATE)
    socket = await open_socket(world, b"hf_one")
    asked = asyncio.Event()

    async def down(host: str, kind: str, credential: str) -> bool:
        asked.set()
        raise OSError("the API is away")

    monkeypatch.setattr(world.proxy.core.guard, "_authorize", down)
    world.feed.hints.put_nowait(("access", "*"))
    async with asyncio.timeout(60):
        await asked.wait()
    await still_answers(socket)
    assert (await world.get(host=HOST, Authorization="Bearer hf_one")).headers["x-vitrine-error"] == "GUARD_UNAVAILABLE"
