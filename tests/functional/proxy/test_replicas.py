"""Several replicas of one Space: what happens when one of them does not take connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from control_plane.domain.ids import ReplicaId
from control_plane.domain.routes import Endpoint, EndpointKind, RouteState
from control_plane.proxy.balancer import Balancer
from control_plane.proxy.pool import Pool
from tests.functional.proxy.conftest import HOST, SPACE, App, Seen, World


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


@pytest.mark.parametrize("config", [{"trusted_proxies": ("127.0.0.0/8",)}])
async def test_a_call_and_its_events_meet_on_one_replica_without_cookies_and_from_any_address(world: World) -> None:
    """An event's id stands in what `call/NAME` answers, a session's hash in what `queue/join` is sent."""
    made = 0

    async def script(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        nonlocal made
        body = b"{}"
        if seen.line.startswith("POST"):
            made += 1
            await reader.readexactly(int(seen.header("content-length")[0]))
            body = b'{"event_id": "event%04d"}' % made
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body))
        await writer.drain()
        writer.write(body)  # as uvicorn does: in a segment of its own
        return True

    async with another_app() as (other, _server):
        world.app.script = other.script = script
        await world.put(endpoints=(replica(0, world.app.port), replica(1, other.port)))
        ask = b"POST /gradio_api/%b HTTP/1.1\r\nHost: alice-demo.localhost\r\nX-Forwarded-For: 9.0.0.%d\r\nContent-Length: %d\r\n\r\n%b"
        joined = b'{"data": ["x"], "fn_index": 0, "session_hash": "hash%04d"}'
        for number in range(1, 25):
            body = joined % number
            answer = await world.ask(ask % (b"call/predict", number, 2, b"{}"))
            assert (await world.ask(ask % (b"queue/join", number, len(body), body))).status == 200
            event = answer.body.decode()[14:23]
            for path in (f"call/predict/{event}", f"queue/data?session_hash=hash{number:04d}", f"heartbeat/hash{number:04d}"):
                assert (await world.get(f"/gradio_api/{path}", X_Forwarded_For=f"9.9.9.{number}")).status == 200
        sent = sum(len(app.seen) for app in (world.app, other))
        assert sent == 24 * 5 and all(len(app.seen) >= 5 for app in (world.app, other))
        for app in (world.app, other):
            called = [seen.header("x-forwarded-for")[0].rpartition(".")[2] for seen in app.seen if seen.line.startswith("POST")]
            heard = [seen.header("x-forwarded-for")[0].rpartition(".")[2] for seen in app.seen if seen.line.startswith("GET")]
            assert set(called) == set(heard) and len(called) == 2 * len(set(called)), "join and call of an address go to one replica"


async def test_two_proxies_that_share_nothing_choose_the_same_replica_for_an_address() -> None:
    pools = tuple(Pool(replica(number, 1), 1) for number in range(4))
    for number in range(50):
        client = f"10.0.0.{number}".encode()
        first = Balancer().pick(pools, [], b"/gradio_api/call/predict", client, SPACE, 0.0)
        assert Balancer().pick(pools[::-1], [], b"/gradio_api/call/predict/abcdef0123", client, SPACE, 0.0) is first


async def test_browsers_behind_one_address_are_spread_and_stay_where_they_are(world: World) -> None:
    async def slow(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        return True

    release = asyncio.Event()
    async with another_app() as (other, _server):
        world.app.script = other.script = slow
        await world.put(endpoints=(replica(0, world.app.port), replica(1, other.port)))
        visits = []
        async with asyncio.timeout(60):
            for number in range(10):
                visits.append(asyncio.create_task(world.get("/", Accept="text/html,*/*", Sec_Fetch_Mode="navigate")))
                while len(world.app.seen) + len(other.seen) <= number:
                    await asyncio.sleep(0.001)
        assert len(world.app.seen) == len(other.seen) == 5, "by one address all would be on one replica"
        release.set()
        cookies = {(await visit).headers["set-cookie"].partition(";")[0] for visit in visits}
        assert len(cookies) == 2
        for cookie in cookies:
            before = (len(world.app.seen), len(other.seen))
            for _ in range(3):
                await world.get("/", Accept="text/html,*/*", Cookie=cookie)
            grown = sorted((len(world.app.seen) - before[0], len(other.seen) - before[1]))
            assert grown == [0, 3]
