"""Several replicas of one Space: what happens when one of them does not take connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from control_plane.domain.ids import ReplicaId
from control_plane.domain.routes import Endpoint, EndpointKind, RouteState
from tests.functional.proxy.conftest import HOST, App, World


def replica(number: int, port: int) -> Endpoint:
    return Endpoint(EndpointKind.TCP, f"127.0.0.1:{port}", ReplicaId(f"r{number}"))


@pytest.fixture
async def closed_port() -> AsyncIterator[int]:
    """A port that refuses: bound, so that nobody else gets it, but nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@contextlib.asynccontextmanager
async def another_app() -> AsyncIterator[tuple[App, asyncio.Server]]:
    app = App()
    server = await asyncio.start_server(app.serve, "127.0.0.1", 0)
    app.port = server.sockets[0].getsockname()[1]
    try:
        yield app, server
    finally:
        server.close()
        await app.stop()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /gradio_api/queue/data?session_hash=abcdef HTTP/1.1\r\nHost: alice-demo.localhost\r\nCookie: own=1; %b\r\n\r\n",
        b"POST /run?session_hash=abcdef HTTP/1.1\r\nHost: alice-demo.localhost\r\nCookie: %b\r\nContent-Length: 5\r\n\r\nhello",
    ],
    ids=["stream", "upload"],
)
async def test_a_refused_connection_goes_to_another_replica_and_takes_the_session_along(world: World, request_bytes: bytes) -> None:
    async with another_app() as (other, server):
        await world.put(endpoints=(replica(0, world.app.port), replica(1, other.port)))
        for turn in range(64):  # a session that lives on the other replica: a new visitor's address decides, ours is fixed
            first = await world.get("/config")
            if other.seen:
                break
            await world.put(endpoints=(replica(turn + 2, world.app.port), replica(1, other.port)))
        home = first.headers["set-cookie"].partition(";")[0].encode()
        await world.ask(request_bytes % home)
        assert len(other.seen) == 2 and not [seen for seen in world.app.seen if "session_hash" in seen.line]
        server.close()
        await other.stop()
        moved = await world.ask(request_bytes % home)
        assert moved.status == 200
        assert [seen.line for seen in world.app.seen if "session_hash" in seen.line] == [request_bytes.partition(b"\r\n")[0].decode()]
        cookie = moved.headers["set-cookie"].partition(";")[0]
        assert cookie.startswith("vitrine_replica=") and cookie.encode() != home
        served = len(world.app.seen)
        again = await world.get("/gradio_api/queue/data?session_hash=abcdef", Cookie=cookie)
        assert again.status == 200 and "set-cookie" not in again.headers
        assert (await world.get("/gradio_api/queue/join?session_hash=abcdef")).status == 200
        assert len(world.app.seen) == served + 2


async def test_a_replica_that_refuses_is_not_asked_by_everybody(world: World, closed_port: int) -> None:
    await world.put(endpoints=(replica(0, world.app.port), replica(1, closed_port)))
    answers = await asyncio.gather(*(world.get(f"/{i}?session_hash=session{i}") for i in range(20)))
    assert {answer.status for answer in answers} == {200}
    assert len(world.app.seen) == 20


async def test_when_every_replica_refuses_the_answer_is_coded_and_names_none(world: World, closed_port: int) -> None:
    await world.put(endpoints=(replica(0, closed_port), replica(1, closed_port)))
    answer = await world.get()
    assert (answer.status, answer.headers["x-vitrine-error"]) == (502, "APP_REFUSED")
    assert world.app.seen == []


async def test_a_replica_that_comes_while_one_is_tried_gets_the_request(world: World, closed_port: int) -> None:
    """A switch: the old replica has gone a moment before its route did."""
    await world.put(endpoints=(replica(0, closed_port),))
    asking = asyncio.create_task(world.get())
    pool = world.proxy.core.table.get("alice-demo.localhost").pools[0]  # type: ignore[union-attr]
    async with asyncio.timeout(60):
        while not pool.down_until:
            await asyncio.sleep(0.001)
    await world.put(endpoints=(replica(1, world.app.port),))
    assert (await asking).status == 200


async def test_a_space_that_falls_asleep_under_a_request_is_woken_for_it(world: World, closed_port: int) -> None:
    await world.put(endpoints=(replica(0, closed_port),))
    asking = asyncio.create_task(world.get())
    pool = world.proxy.core.table.get("alice-demo.localhost").pools[0]  # type: ignore[union-attr]
    async with asyncio.timeout(60):
        while not pool.down_until:
            await asyncio.sleep(0.001)
        await world.put(state=RouteState.ASLEEP, endpoints=())
        while not world.feed.woken:
            await asyncio.sleep(0.001)
    await world.put()
    assert (await asking).status == 200


async def test_a_space_that_is_removed_under_a_request_is_in_use_no_more(world: World, closed_port: int) -> None:
    await world.put(endpoints=(replica(0, closed_port),))
    core = world.proxy.core
    entry = core.table.get(HOST)
    assert entry is not None
    asked = asyncio.create_task(world.get())
    async with asyncio.timeout(60):
        while not core.reconnecting.count:
            await asyncio.sleep(0.001)
    assert entry.activity.live == 1
    world.feed.drop(HOST)
    assert (await asked).status == 404
    assert (entry.activity.live, core.activity.platform.live, core.reconnecting.count) == (0, 0, 0)
