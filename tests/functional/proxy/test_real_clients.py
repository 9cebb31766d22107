"""Unmodified clients and servers on both sides: websockets, httpx, and a listener handed over between two proxies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

import httpx
import pytest
import websockets
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from control_plane.domain.routes import Endpoint, EndpointKind, RouteAccess
from control_plane.proxy.server import Proxy, ProxyConfig
from tests.functional.proxy.conftest import HOST, MemoryFeed, Seen, World


async def _echo(connection: ServerConnection) -> None:
    with contextlib.suppress(websockets.ConnectionClosed):
        async for message in connection:
            await connection.send(message)


async def test_websockets_of_every_size_pass_both_ways(world: World) -> None:
    async with serve(_echo, "127.0.0.1", 0, max_size=2**24) as server:
        port = server.sockets[0].getsockname()[1]
        await world.put(endpoints=(Endpoint(EndpointKind.TCP, f"127.0.0.1:{port}"),))
        async with connect(f"ws://{HOST}/ws", host="127.0.0.1", port=world.proxy.port, max_size=2**24) as client:
            for size in (0, 1, 125, 126, 65_535, 65_536, 3_000_000):
                await client.send(b"x" * size)
                assert len(await client.recv()) == size
            pong = await client.ping()
            await asyncio.wait_for(pong, 60)
            assert client.response is not None
            assert client.response.headers["X-Vitrine-Revision"] == "f" * 40
        assert client.close_code == 1000


async def test_a_private_socket_needs_its_token(world: World) -> None:
    world.allowed["token"] = {"hf_good"}
    async with serve(_echo, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await world.put(endpoints=(Endpoint(EndpointKind.TCP, f"127.0.0.1:{port}"),), access=RouteAccess.PRIVATE)
        address = {"host": "127.0.0.1", "port": world.proxy.port}
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with connect(f"ws://{HOST}/ws", **address):  # type: ignore[arg-type]
                pass
        assert refused.value.response.status_code == 404
        async with connect(f"ws://{HOST}/ws", additional_headers={"X-HF-Authorization": "Bearer hf_good"}, **address) as client:  # type: ignore[arg-type]
            await client.send("hello")
            assert await client.recv() == "hello"


async def test_httpx_streams_an_upload_of_unknown_length(world: World) -> None:
    async def blocks():  # type: ignore[no-untyped-def]
        for _ in range(50):
            yield b"x" * 100_000

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{world.proxy.port}", headers={"Host": HOST}, trust_env=False) as client:
        answer = await client.post("/up", content=blocks(), timeout=20)
        assert answer.json()["size"] == 5_000_000
        many = await asyncio.gather(*(client.get(f"/{i}", timeout=20) for i in range(60)))
        assert {one.status_code for one in many} == {200}


async def test_what_takes_longer_than_the_drain_is_finished_after_a_hand_over(world: World) -> None:
    async def script(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if seen.header("upgrade"):
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
            await reader.read()
            return False
        if seen.line.startswith("POST"):
            seen.body = await reader.readexactly(int(seen.header("content-length")[0]))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")
            return True
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        if "queue" in seen.line:
            await release.wait()
            writer.write(b"data: 2\n\n")
        else:
            await reader.read()
        return False

    release, hurry = asyncio.Event(), asyncio.Event()
    world.app.script = script
    head = f"HTTP/1.1\r\nHost: {HOST}\r\n"
    upload, result, heartbeat, socket_ = [await world.wire() for _ in range(4)]
    await upload.send(f"POST /up {head}Content-Length: 8\r\n\r\nhalf".encode())
    await result.send(f"GET /gradio_api/queue/data?session_hash=abcdef {head}\r\n".encode())
    await heartbeat.send(f"GET /gradio_api/heartbeat/abcdef {head}\r\n".encode())
    await socket_.send(
        f"GET /ws {head}Connection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    assert [(await wire.head())[0] for wire in (result, heartbeat, socket_)] == [200, 200, 101]
    async with asyncio.timeout(60):
        while len(world.app.seen) < 4:  # the upload as well
            await asyncio.sleep(0.001)
        stopping = asyncio.create_task(world.proxy.stop(0.05, hurry=hurry))
        assert await socket_.eof() == b"\x88\x02\x03\xe9"  # 1001: the drain is over
        with contextlib.suppress(ConnectionError):
            await heartbeat.eof()
        assert not stopping.done()
        await upload.send(b"half")
        answer = await upload.answer()
        assert (answer.status, answer.body, answer.headers["connection"]) == (200, b"done", "close")
        assert not stopping.done()
        release.set()
        assert (await result.eof()).endswith(b"data: 2\n\n")
        await stopping
    assert world.proxy.core.connections == set()


async def test_a_listener_is_handed_over_without_a_lost_request(world: World) -> None:
    """Old and new share one accept queue: what the old one has not accepted yet, the new one answers."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    port = listener.getsockname()[1]

    async def authorize(host: str, kind: str, credential: str) -> bool:
        return False

    async def start() -> Proxy:
        feed = MemoryFeed()
        feed.put(world.route(generation=1))
        config = ProxyConfig(listen_fd=os.dup(listener.fileno()), api_address="127.0.0.1:1", access_log="")
        proxy = Proxy(config, feed, authorize)
        await proxy.start()
        async with asyncio.timeout(60):
            while not len(proxy.core.table):
                await asyncio.sleep(0.001)
        return proxy

    done = 0
    going = True

    async def visitor() -> None:
        nonlocal done
        while going:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            await reader.read()
            writer.close()
            await writer.wait_closed()
            done += 1

    proxy = await start()
    visitors = [asyncio.create_task(visitor()) for _ in range(4)]
    try:
        for _ in range(3):
            successor = await start()
            await proxy.stop(2)
            proxy = successor
    finally:
        going = False
        async with asyncio.timeout(60):
            results = await asyncio.gather(*visitors, return_exceptions=True)
        await proxy.stop(0)
        listener.close()
    assert [error for error in results if error is not None] == []
    assert done > 20
