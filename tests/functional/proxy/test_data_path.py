# ruff: noqa: E501  (raw requests and config lines read best unbroken)
from __future__ import annotations

import asyncio
import json

import pytest

from control_plane.proxy.access_log import _LINE
from control_plane.proxy.client import ClientConnection
from tests.functional.proxy.conftest import HOST, Seen, World

GET = b"GET / HTTP/1.1\r\nHost: alice-demo.localhost\r\n\r\n"


async def test_a_request_reaches_the_app_and_carries_our_headers(world: World) -> None:
    answer = await world.get("/x?y=1", X_Forwarded_For="6.6.6.6", Forwarded="for=6.6.6.6", X_Real_IP="6.6.6.6", X_Vitrine_Site="evil")
    assert answer.status == 200
    assert answer.headers["x-vitrine-revision"] == "f" * 40
    assert answer.headers["x-vitrine-request-id"]
    seen = world.app.seen[0]
    assert seen.line == "GET /x?y=1 HTTP/1.1"
    assert seen.header("host") == [HOST]
    assert seen.header("x-forwarded-for") == ["127.0.0.1"]
    assert seen.header("x-forwarded-host") == [HOST]
    assert seen.header("x-forwarded-proto") == ["http"]
    assert not seen.header("forwarded") and not seen.header("x-real-ip") and not seen.header("x-vitrine-site")


async def test_underscore_twins_hop_by_hop_and_nominated_headers_are_gone(world: World) -> None:
    await world.ask(
        b"GET / HTTP/1.1\r\nHost: alice-demo.localhost\r\nX_Forwarded_For: 6\r\nx_vitrine_user: root\r\nConnection: keep-alive, X-Secret\r\n"
        b"X-Secret: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nProxy-Authorization: x\r\nProxy: http://evil\r\nUpgrade: h2c\r\nX-Kept: yes\r\n\r\n"
    )
    names = {name.lower() for name, _ in world.app.seen[0].headers}
    assert names == {"host", "x-kept", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-vitrine-request-id"}


async def test_keep_alive_and_pipelining_keep_order_on_one_upstream(world: World) -> None:
    wire = await world.wire()
    await wire.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: alice-demo.localhost\r\n\r\n" % i for i in range(20)))
    lines = [json.loads((await wire.answer()).body)["line"] for _ in range(20)]
    assert lines == [f"GET /{i} HTTP/1.1" for i in range(20)]
    assert world.app.connections == 1


@pytest.mark.parametrize("config", [{"access_log": "/dev/null"}])
async def test_common_exchanges_and_others_alternate_on_one_connection(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that repeat themselves take a shorter way through the proxy: nothing of one way may show in the other."""
    replies = {
        "whole": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "other": b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
        "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "stream": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 5\r\n\r\nhello",
    }

    async def script(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        kind = seen.line.split("/")[1].partition(" ")[0]
        if seen.header("content-length"):
            await reader.readexactly(5)
        reply = replies["whole" if kind == "halves" else kind]
        if seen.line.startswith("HEAD"):
            reply = reply.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        if kind == "halves":  # the same answer in two pieces, cut in the body
            writer.write(reply[:-2])
            await writer.drain()
            await asyncio.sleep(0.01)
            reply = reply[-2:]
        writer.write(reply)
        return True

    world.app.script = script
    core = world.proxy.core
    wire = await world.wire()
    ids = set()
    order = (
        "whole",
        "whole",
        "halves",
        "whole",
        "HEAD",
        "whole",
        "POST",
        "other",
        "other",
        "whole",
        "chunks",
        "whole",
        "stream",
        "whole",
    ) * 3
    waiting = core.log.waiting
    monkeypatch.setattr(core.log, "flush", lambda: None)  # the clock's: lines stay here to be looked at
    short_ways = 0
    for number, kind in enumerate(order, 1):
        method, path = (kind, "whole") if kind.isupper() else ("GET", kind)
        body = b"Content-Length: 5\r\n\r\nhello" if method == "POST" else b"\r\n"
        waiting.clear()
        await wire.send(f"{method} /{path} HTTP/1.1\r\nHost: {HOST}\r\n".encode() + body)
        answer = await wire.answer(head_only=method == "HEAD")
        want = replies["whole" if path == "halves" else path]
        assert answer.status == int(want[9:12])
        assert answer.body == (b"" if method == "HEAD" else b"no" if path == "other" else b"hello")
        assert list(answer.headers)[-2:] == ["x-vitrine-revision", "x-vitrine-request-id"]
        async with asyncio.timeout(60):
            while not waiting:  # the client may have the answer before it is accounted for
                await asyncio.sleep(0.001)
        (entry,) = waiting
        line = json.loads(_LINE % entry)
        assert (line["method"], line["path"], line["status"]) == (method, f"/{path}", answer.status)
        assert (line["id"], line["space"], line["host"]) == (answer.headers["x-vitrine-request-id"], "alice/demo", HOST)
        assert line["bytes"] == len(answer.raw_head) + (15 if path == "chunks" else len(answer.body))
        ids.add(line["id"])
        (connection,) = core.connections
        short_ways += isinstance(connection, ClientConnection) and connection.common
        activity = core.table.get(HOST).activity  # type: ignore[union-attr]
        assert sum(activity.classes) == sum(activity.buckets) == number and activity.live == activity.tabs == 0
    assert len(ids) == len(order) and world.app.connections == 1
    assert short_ways >= len(order) / 4


async def test_upstream_connections_are_shared_by_clients(world: World) -> None:
    for _ in range(5):
        assert (await world.get(Connection="close")).status == 200
    assert world.app.connections == 1


async def test_bodies_by_length_and_chunked_and_with_a_continue(world: World) -> None:
    wire = await world.wire()
    await wire.send(b"POST /a HTTP/1.1\r\nHost: alice-demo.localhost\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000)
    assert json.loads((await wire.answer()).body)["size"] == 300_000
    await wire.send(
        b"POST /b HTTP/1.1\r\nHost: alice-demo.localhost\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n0006\r\n world\r\n0\r\nX-T: 1\r\n\r\n"
    )
    assert json.loads((await wire.answer()).body)["size"] == 11
    assert world.app.seen[1].body == b"hello world"
    await wire.send(b"POST /c HTTP/1.1\r\nHost: alice-demo.localhost\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert (await wire.head())[0] == 100
    await wire.send(b"ok")
    assert json.loads((await wire.answer()).body)["size"] == 2
    assert world.app.connections == 1


async def test_chunked_bodies_split_at_every_byte(world: World) -> None:
    wire = await world.wire()
    for byte in b"POST / HTTP/1.1\r\nHost: alice-demo.localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n":
        await wire.send(bytes([byte]))
    assert json.loads((await wire.answer()).body)["size"] == 3


@pytest.mark.parametrize(
    ("reply", "body", "reused"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwxyz\r\n0\r\n\r\n", b"wxyz", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", b"ok", False),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"until the end", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1", b"1", True),
    ],
)
async def test_answers_in_every_framing(world: World, reply: bytes, body: bytes, reused: bool) -> None:
    async def script(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(reply)
        await writer.drain()
        return reused

    world.app.script = script
    for _ in range(2):
        wire = await world.wire()
        await wire.send(GET)
        answer = await wire.answer()
        if answer.status == 103:
            answer = await wire.answer()
        assert answer.body == body
    assert world.app.connections == (1 if reused else 2)


async def test_a_head_request_and_a_304_have_no_body(world: World) -> None:
    wire = await world.wire()
    for _ in range(2):
        await wire.send(b"HEAD / HTTP/1.1\r\nHost: alice-demo.localhost\r\n\r\n")
        assert (await wire.answer(head_only=True)).status == 200
    assert world.app.connections == 1


async def test_http_1_0_clients_get_a_closing_answer(world: World) -> None:
    wire = await world.wire()
    await wire.send(b"GET / HTTP/1.0\r\nHost: alice-demo.localhost\r\n\r\n")
    assert b"Connection: close" in await wire.eof()
    assert world.app.seen[0].line.endswith("HTTP/1.0")


async def test_event_streams_are_not_buffered(world: World) -> None:
    step = asyncio.Event()

    async def script(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for i in range(3):
            writer.write(b"9\r\ndata: %d\n\n\r\n" % i)
            await step.wait()
            step.clear()
        return False

    world.app.script = script
    wire = await world.wire()
    await wire.send(b"GET /gradio_api/queue/data?session_hash=abcd HTTP/1.1\r\nHost: alice-demo.localhost\r\n\r\n")
    await wire.head()
    activity = world.proxy.core.table.get(HOST).activity  # type: ignore[union-attr]
    for i in range(3):
        assert await wire.reader.readexactly(14) == b"9\r\ndata: %d\n\n\r\n" % i
        assert (activity.tabs, activity.live) == (1, 1)
        step.set()
    await wire.eof()
    assert (activity.tabs, activity.live) == (0, 0)


async def test_a_slow_reader_does_not_fill_memory(world: World) -> None:
    sent = 0
    stalled = asyncio.Event()

    async def script(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 200000000\r\n\r\n")
        block = b"x" * 1_000_000
        for _ in range(200):
            writer.write(block)
            try:
                async with asyncio.timeout(0.3):
                    await writer.drain()
            except TimeoutError:
                stalled.set()
                return False
            sent += len(block)
        return False

    world.app.script = script
    wire = await world.wire()
    await wire.send(GET)
    await wire.head()
    await asyncio.wait_for(stalled.wait(), 60)
    assert sent < 60_000_000


async def test_a_websocket_is_spliced_and_no_byte_leaves_before_the_101(world: World) -> None:
    early: list[bytes] = []

    async def script(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        try:
            async with asyncio.timeout(0.05):
                early.append(await reader.read(100))
        except TimeoutError:
            pass
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n")
        writer.write(await reader.readexactly(8))
        await writer.drain()
        await reader.read()
        return False

    world.app.script = script
    wire = await world.wire()
    await wire.send(
        b"GET /ws HTTP/1.1\r\nHost: alice-demo.localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nOrigin: http://x\r\n\r\n\x81\x82abcdxy"
    )
    status, headers, _ = await wire.head()
    assert (status, headers["upgrade"], headers["connection"]) == (101, "websocket", "Upgrade")
    assert await wire.reader.readexactly(8) == b"\x81\x82abcdxy"
    assert early == []
    assert world.app.seen[0].header("origin") == ["http://x"]
    activity = world.proxy.core.table.get(HOST).activity  # type: ignore[union-attr]
    assert (activity.sockets, activity.tabs, activity.live) == (1, 1, 0)


async def test_a_socket_of_the_platform_is_counted_once(world: World) -> None:
    async def script(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        await reader.read()
        return False

    world.api.script = script
    platform = world.proxy.core.activity.platform
    wire = await world.wire()
    await wire.send(
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert (await wire.head())[0] == 101
    assert (platform.sockets, platform.tabs) == (1, 1)
    await wire.close()
    async with asyncio.timeout(60):
        while world.proxy.core.connections:
            await asyncio.sleep(0.001)
    assert (platform.sockets, platform.tabs, platform.live) == (0, 0, 0)


async def test_an_upgrade_that_is_refused_ends_the_connection(world: World) -> None:
    wire = await world.wire()
    await wire.send(
        b"GET /ws HTTP/1.1\r\nHost: alice-demo.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    assert (await wire.answer()).status == 200
    await wire.eof()
    assert [seen.line for seen in world.app.seen] == ["GET /ws HTTP/1.1"]


async def test_an_idle_connection_closed_by_the_app_costs_no_request(world: World) -> None:
    async def script(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if len(world.app.seen) == 2:
            return False  # hang up without a word
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        return True

    world.app.script = script
    assert (await world.get()).status == 200
    assert (await world.get()).status == 200
    assert len(world.app.seen) == 3


@pytest.mark.parametrize(
    "path", ["/internal/x", "/%69nternal/x", "//internal/x", "/a/../internal", "/%2e/internal", "/%2569nternal", "/INTERNAL"]
)
async def test_the_platform_host_reaches_the_api_but_never_its_internal_door(world: World, path: str) -> None:
    answer = await world.get("/api/spaces?x=/internal/", host="localhost", X_Vitrine_User="root", Authorization="Bearer hf_x")
    assert answer.status == 200
    assert world.api.seen[0].header("authorization") == ["Bearer hf_x"]
    assert not world.api.seen[0].header("x-vitrine-user")
    refused = await world.get(path, host="127.0.0.1:7860")
    assert (refused.status, refused.headers["x-vitrine-error"]) == (404, "INTERNAL_PATH")
    assert len(world.api.seen) == 1


async def test_unknown_hosts_are_coded(world: World) -> None:
    for host, status, code in (("nobody.localhost", 404, "NOT_FOUND"), ("example.com", 421, "MISDIRECTED")):
        answer = await world.get(host=host)
        assert (answer.status, answer.headers["x-vitrine-error"]) == (status, code)
        assert json.loads(answer.body)["code"] == code


async def test_an_app_that_is_not_there_is_a_502(world: World) -> None:
    from control_plane.domain.routes import Endpoint, EndpointKind

    await world.put(endpoints=(Endpoint(EndpointKind.UNIX, "/nonexistent.sock"),))
    answer = await world.get()
    assert (answer.status, answer.headers["x-vitrine-error"]) == (502, "APP_REFUSED")
