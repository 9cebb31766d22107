"""Clients that are slow, stuck or gone: what they hold is given to others, and who is merely slow gets everything."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from control_plane.domain.routes import RouteState
from control_plane.proxy.client import ClientConnection
from control_plane.proxy.connection import DISCARD
from control_plane.proxy.connection import HEAD as HEAD_PHASE
from tests.functional.proxy.conftest import HOST, Seen, Wire, World
from tests.functional.proxy.test_replicas import replica

HEAD = b"%b HTTP/1.1\r\nHost: alice-demo.localhost\r\n%b\r\n"


@pytest.fixture
def config() -> dict[str, object]:
    return {"wake_per_space": 3, "wake_total": 5, "body_min_rate": 64.0}


@pytest.fixture
async def closed_port() -> AsyncIterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.002)


def only(world: World) -> ClientConnection:
    (connection,) = world.proxy.core.connections
    assert isinstance(connection, ClientConnection)
    return connection


async def narrow(world: World) -> Wire:
    """A connection whose own buffers are small, so that what it does not take stays with the proxy."""
    assert world.proxy._server is not None
    world.proxy._server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", world.proxy.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
    wire = Wire(reader, writer)
    world._wires.append(wire)
    return wire


def large(size: int) -> Callable[[Seen, asyncio.StreamReader, asyncio.StreamWriter], object]:
    async def script(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // 65_536):
            writer.write(b"x" * 65_536)
            await writer.drain()
        return True

    return script


@pytest.mark.parametrize("closing", [b"Connection: close\r\n", b""], ids=["closing", "kept"])
async def test_a_slow_reader_gets_the_whole_answer(world: World, closing: bytes) -> None:
    size = 3 * 65_536
    world.app.script = large(size)  # type: ignore[assignment]
    wire = await narrow(world)
    await wire.send(HEAD % (b"GET /", closing))
    await until(lambda: bool(world.app.seen) and only(world).phase in (HEAD_PHASE, DISCARD))
    connection = only(world)
    assert connection.transport.get_write_buffer_size() > 0
    for _look in range(3):  # as many deadlines pass, and a little is taken between them
        connection.check(connection.deadline + 1)
        before = connection.transport.get_write_buffer_size()
        while connection.transport.get_write_buffer_size() == before:
            await wire.reader.readexactly(512)
            await asyncio.sleep(0)
    async with asyncio.timeout(60):
        left = await wire.reader.read() if closing else await wire.reader.readexactly(100_000)
    assert left and set(left) == {ord("x")}


async def test_a_client_that_takes_nothing_is_let_go(world: World) -> None:
    world.app.script = large(400 * 65_536)  # type: ignore[assignment]
    wire = await narrow(world)
    await wire.send(HEAD % (b"GET /", b""))
    await until(lambda: bool(world.proxy.core.connections) and only(world)._write_paused)
    connection = only(world)
    patience = connection.deadline - world.proxy.core.now
    assert patience <= world.proxy.config.body_stall_s + 1

    def looked() -> bool:  # the kernel may still take a little the first time
        if not connection.transport.is_closing():
            connection.check(connection.deadline)
        return not world.proxy.core.connections

    await until(looked)
    assert world.proxy.core.activity.refused["CLIENT_STALLED"] == 1
    await until(lambda: not len(world.proxy.core.pools))  # the app is not kept waiting by it


async def test_a_body_that_trickles_is_a_408(world: World) -> None:
    wire = await world.wire()
    await wire.send(HEAD % (b"POST /", b"Content-Length: 100000\r\n"))
    await until(lambda: bool(world.app.seen))
    connection = only(world)
    began = connection.deadline
    for _byte in range(64):
        await wire.send(b"x")
        await asyncio.sleep(0)
    await until(lambda: connection._body_left == 100_000 - 64)
    assert connection._body_due == pytest.approx(began + 1), "64 bytes buy a second, however often they come"
    assert connection.deadline <= connection._body_due
    connection.check(connection.deadline)
    answer = await wire.answer()
    assert (answer.status, answer.headers["x-vitrine-error"]) == (408, "CLIENT_TIMEOUT")


async def test_an_app_that_does_not_read_holds_the_upload_back(world: World) -> None:
    size, read = 60_000_000, asyncio.Event()

    async def script(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await read.wait()
        left = size
        while left:
            left -= len(await reader.read(1_000_000))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        return True

    world.app.script = script
    wire = await world.wire()
    wire.writer.transport.set_write_buffer_limits(high=65_536)
    await wire.send(HEAD % (b"POST /", b"Content-Length: %d\r\n" % size))

    async def push() -> None:
        for _ in range(size // 1_000_000):
            await wire.send(b"x" * 1_000_000)

    pushing = asyncio.create_task(push())
    entry = world.proxy.core.table.get(HOST)
    assert entry is not None
    await until(lambda: any(upstream.write_paused for upstream in entry.pools[0].open))
    (upstream,) = entry.pools[0].open
    assert only(world).is_deaf
    assert upstream.transport.get_write_buffer_size() < 1_000_000
    assert not pushing.done()
    due = only(world)._body_due
    read.set()
    assert (await wire.answer()).status == 200
    await pushing
    assert only(world)._body_due >= due, "what the app was slow with is not the client's fault"


async def test_an_upload_whose_client_left_gives_its_place_back(world: World) -> None:
    await world.put(state=RouteState.ASLEEP, endpoints=())
    for _turn in range(2):  # twice as many as may wait
        wires = []
        for _ in range(3):
            wire = await world.wire()
            await wire.send(HEAD % (b"POST /", b"Content-Length: 10000000\r\n") + b"x" * 100_000)
            wires.append(wire)
        await until(lambda: world.proxy.core.activator.count == 3)
        for wire in wires:
            wire.writer.transport.abort()
        await until(lambda: world.proxy.core.activator.count == 0)
    assert not world.app.seen


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An app may stay away for as long as a busy machine needs to run the test."""
    monkeypatch.setattr("control_plane.proxy.app_side._CONNECT_RETRY_S", (0.05,) * 5_000)


@pytest.mark.usefixtures("patient")
async def test_requests_that_wait_for_an_app_to_come_back_are_bounded(world: World, closed_port: int) -> None:
    dead = (replica(0, closed_port),)
    await world.put(endpoints=dead)
    await world.put(host="bob-demo.localhost", space_id="b" * 24, endpoints=dead)
    asked = [asyncio.create_task(world.get(f"/{n}")) for n in range(8)]
    await until(lambda: sum(task.done() for task in asked) == 5)  # three wait, the others are told
    assert world.proxy.core.reconnecting.count == 3
    for task in asked:
        if task.done():
            answer = task.result()
            assert (answer.status, answer.headers["x-vitrine-error"], answer.headers["retry-after"]) == (502, "APP_REFUSED", "5")
    others = [asyncio.create_task(world.get(f"/{n}", host="bob-demo.localhost")) for n in range(4)]
    await until(lambda: sum(task.done() for task in others) == 2)  # the proxy as a whole holds five
    assert world.proxy.core.reconnecting.count == 5
    await world.put(endpoints=(replica(0, world.app.port),))  # the app is back where its route says
    await world.put(host="bob-demo.localhost", space_id="b" * 24, endpoints=(replica(1, world.app.port),))
    answers = [task.result() for task in asked + others if task.done()]
    assert {answer.status for answer in await asyncio.gather(*asked, *others) if answer not in answers} == {200}
    assert world.proxy.core.reconnecting.count == 0


@pytest.mark.usefixtures("patient")
async def test_who_leaves_while_an_app_is_away_is_not_kept(world: World, closed_port: int) -> None:
    await world.put(endpoints=(replica(0, closed_port),))
    wires = []
    for head in (HEAD % (b"GET /", b""), HEAD % (b"POST /", b"Content-Length: 1000000\r\n") + b"x" * 100_000):
        wire = await world.wire()
        await wire.send(head)
        wires.append(wire)
    await until(lambda: world.proxy.core.reconnecting.count == 2)
    for wire in wires:
        wire.writer.transport.abort()
    await until(lambda: world.proxy.core.reconnecting.count == 0 and not world.proxy.core.connections)
