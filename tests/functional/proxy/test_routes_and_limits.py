from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest

from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.domain.routes import Endpoint, EndpointKind, Route, RouteChange, RouteState, RouteTable
from control_plane.proxy.server import Proxy, ProxyConfig
from tests.functional.proxy.conftest import HOST, App, MemoryFeed, Seen, World

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: alice-demo.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def accept_socket(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    while data := await reader.read(1000):
        writer.write(data)
    return False


async def refused_authorize(host: str, kind: str, credential: str) -> bool:
    return False


@pytest.mark.parametrize(
    "poison",
    [
        {"host": "other.localhost"},
        {"headers": {"X": "a\r\nSet-Cookie: evil=1"}},
        {"headers": {"X Y": "a"}},
        {"revision": "a\r\nb"},
        {"redirect_to": "evil/?"},
        {"endpoints": (Endpoint(EndpointKind.TCP, "127.0.0.1:1", site="a\r\nHost: x"),)},
        {"endpoints": None},
        {"endpoints": ("127.0.0.1:1",)},
        {"space_name": 'a/b",space="alice/demo'},
        {"space_name": None},
        {"revision": "a\\"},
        {"message": 5},
        {"title": ["x"]},
        {"emoji": b"x"},
        {"space_id": ["x"]},
        {"eta_s": "soon"},
        {"eta_s": float("nan")},
        {"eta_s": float("inf")},
        {"eta_s": -1.0},
        {"generation": "new"},
        {"headers": None},
        {"headers": {"X": 5}},
        {"redirect_to": 5},
    ],
    ids=lambda poison: next(iter(poison)),
)
async def test_a_poisoned_record_affects_no_other_space(world: World, poison: dict[str, object]) -> None:
    bad = world.route(**({"host": "bad.localhost", "space_id": SpaceId("b" * 24)} | poison))
    world.feed.version += 1
    world.feed.queue.put_nowait(RouteChange("e1", world.feed.version, "bad.localhost", bad))
    await world.settled()
    assert world.proxy.core.table.skipped == 1
    assert (await world.get()).status == 200
    assert (await world.get(host="bad.localhost")).status == 404
    assert 'space="a/b"' not in world.proxy.core.metrics()


@pytest.mark.parametrize("poison", [{"title": 5}, {"message": 5}, {"generation": "new"}, {"eta_s": float("nan")}, {"host": 5}], ids=str)
async def test_a_record_that_goes_bad_leaves_the_last_good_one_and_who_waits(world: World, poison: dict[str, object]) -> None:
    await world.put(state=RouteState.STARTING, endpoints=())
    held = asyncio.create_task(world.get())
    async with asyncio.timeout(60):
        while not world.proxy.core.activator.count:
            await asyncio.sleep(0.001)
    world.feed.version += 1
    bad = world.route(**({"state": RouteState.FAILED, "endpoints": ()} | poison))
    world.feed.queue.put_nowait(RouteChange("e1", world.feed.version, HOST, bad))
    await world.settled()
    assert not held.done()
    await world.put()
    assert (await held).status == 200


async def test_work_in_the_background_outlives_an_error_that_nobody_foresaw(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that was never applied again, or a clock that stands still, would be everybody's outage."""
    failed = asyncio.Event()

    def broken(*_args: object) -> bool:
        failed.set()
        raise TypeError("nobody foresaw this")

    with monkeypatch.context() as patched:
        patched.setattr(world.proxy.core.table, "apply", broken)
        patched.setattr(world.proxy.core.pools, "sweep", broken)
        world.feed.put(world.route(title="x"))
        async with asyncio.timeout(60):
            await failed.wait()
            failed.clear()
            await failed.wait()
    await world.put(title="y")
    entry = world.proxy.core.table.get(HOST)
    assert entry is not None and entry.route.title == "y"
    ticked = world.proxy.core.wall
    async with asyncio.timeout(60):
        while world.proxy.core.wall == ticked:
            await asyncio.sleep(0.01)


async def test_a_field_of_a_newer_publisher_is_left_out(world: World) -> None:
    payload = world.route(title="x").to_payload()
    newer = payload | {"colour": "red", "endpoints": [e | {"zone": "b"} for e in payload["endpoints"]]}
    assert Route.from_payload(newer) == Route.from_payload(payload)


async def test_a_gap_brings_a_fresh_table_and_a_removed_host_is_gone(world: World) -> None:
    world.feed.put(world.route(host="new.localhost", space_id=SpaceId("c" * 24)))
    world.feed.queue.get_nowait()  # the change is lost
    world.feed.version += 1
    world.feed.queue.put_nowait(RouteChange("e1", world.feed.version, HOST, world.route(title="x")))
    await world.settled()
    assert (await world.get(host="new.localhost")).status == 200
    world.feed.drop("new.localhost")
    await world.settled()
    assert (await world.get(host="new.localhost")).status == 404


async def test_a_restarted_proxy_serves_from_its_last_table(world: World, tmp_path: Path) -> None:
    class DeadFeed(MemoryFeed):
        async def updates(self):  # type: ignore[no-untyped-def, override]
            raise ConnectionError("nobody is up")
            yield RouteTable("", 0)

    file = tmp_path / "routes.json"
    config = ProxyConfig(port=0, api_address="127.0.0.1:1", access_log="", table_file=file)
    first = Proxy(config, world.feed, refused_authorize)
    first.core.table.apply(RouteTable("e9", 7, {HOST: world.route()}))
    first.core.table.save()
    body = json.loads(file.read_text())
    body["routes"]["broken.localhost"] = {"host": 5}
    file.write_text(json.dumps(body))
    second = Proxy(config, DeadFeed(), refused_authorize)
    await second.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", second.port)
    writer.write(b"GET /kept HTTP/1.1\r\nHost: alice-demo.localhost\r\nConnection: close\r\n\r\n")
    assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
    writer.close()
    await writer.wait_closed()
    assert second.core.table.version == 7
    await second.stop(0)


async def test_a_switch_sends_new_requests_to_the_new_replica_and_lets_old_sockets_live(world: World) -> None:
    world.app.script = accept_socket
    wire = await world.wire()
    await wire.send(UPGRADE)
    assert (await wire.head())[0] == 101
    new = App()
    async with await asyncio.start_server(new.serve, "127.0.0.1", 0) as server:
        new.port = server.sockets[0].getsockname()[1]
        await world.put(endpoints=(new.endpoint(),))
        assert (await world.get()).status == 200
        assert len(new.seen) == 1
        await wire.send(b"\x81\x80abcd")
        assert await wire.reader.readexactly(6) == b"\x81\x80abcd"
        core = world.proxy.core
        core.pools.sweep(core.clock() + 61, core.config.drain_s)
        assert await wire.eof() == b"\x88\x02\x03\xe9"
        await new.stop()


async def test_graceful_stop_finishes_exchanges_and_says_1001_to_sockets(world: World) -> None:
    go = asyncio.Event()

    async def script(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if "/ws" in seen.line:
            return await accept_socket(seen, reader, writer)
        await go.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")
        return True

    world.app.script = script
    socket, idle = await world.wire(), await world.wire()
    await socket.send(UPGRADE)
    await socket.head()
    await idle.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await idle.answer()).status == 200
    asking = asyncio.create_task(world.get("/slow"))
    async with asyncio.timeout(60):
        while len(world.app.seen) < 2:
            await asyncio.sleep(0.001)
    stopping = asyncio.create_task(world.proxy.stop(0.3))
    assert await idle.eof() == b""
    go.set()
    answer = await asking
    assert (answer.status, answer.body, answer.headers["connection"]) == (200, b"done", "close")
    assert await socket.eof() == b"\x88\x02\x03\xe9"
    await stopping


async def test_who_still_waits_when_a_process_leaves_is_told(world: World) -> None:
    await world.put(state=RouteState.STARTING, endpoints=())
    waiting = [asyncio.create_task(world.get("/", Accept=accept)) for accept in ("application/json", "*/*")]
    page = await world.wire()
    await page.send(f"GET /.well-known/vitrine/stages HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    assert (await page.head())[0] == 200
    async with asyncio.timeout(60):
        while world.proxy.core.activator.count < 2:
            await asyncio.sleep(0.001)
    await world.proxy.stop(0.1)
    for answer in await asyncio.gather(*waiting):
        assert (answer.status, answer.headers["x-vitrine-error"], answer.headers["retry-after"]) == (503, "DRAINING", "1")
        assert json.loads(answer.body)["code"] == "DRAINING"
    assert b"event: stage" in await page.eof()  # ends cleanly: the page opens the next one at the successor


async def test_sessions_stay_on_one_replica_with_and_without_cookies(world: World) -> None:
    others = [App(), App()]
    servers = []
    for other in others:
        server = await asyncio.start_server(other.serve, "127.0.0.1", 0)
        other.port = server.sockets[0].getsockname()[1]
        servers.append(server)
    apps = [world.app, *others]
    await world.put(endpoints=tuple(Endpoint(EndpointKind.TCP, f"127.0.0.1:{a.port}", ReplicaId(f"r{i}")) for i, a in enumerate(apps)))
    first = await world.get("/config")
    cookie = first.headers["set-cookie"].partition(";")[0]
    for _ in range(5):
        again = await world.get("/x", Cookie=f"own=1; {cookie}")
        assert "set-cookie" not in again.headers
    await world.get("/gradio_api/queue/join")
    await world.get("/gradio_api/queue/data?session_hash=abcdef")
    assert sorted(len(app.seen) for app in apps) == [0, 0, 8]
    for server, other in zip(servers, others, strict=True):
        server.close()
        await other.stop()


@pytest.mark.parametrize("config", [{"space_rate": 0.001, "space_burst": 2.0}])
async def test_a_space_has_a_rate_limit(world: World) -> None:
    statuses = [(await world.get()).status for _ in range(3)]
    assert statuses == [200, 200, 429]


@pytest.mark.parametrize("config", [{"header_timeout_s": 0.05}])
async def test_a_slow_head_is_a_408(world: World) -> None:
    wire = await world.wire()
    await wire.send(b"GET / HTTP/1.1\r\nHost: al")
    answer = await wire.answer()
    assert (answer.status, answer.headers["x-vitrine-error"]) == (408, "CLIENT_TIMEOUT")


@pytest.mark.parametrize("config", [{"app_timeout_s": 0.05}])
async def test_an_app_that_never_answers_is_a_504(world: World) -> None:
    async def script(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await reader.read()
        return False

    world.app.script = script
    answer = await world.get()
    assert (answer.status, answer.headers["x-vitrine-error"]) == (504, "APP_TIMEOUT")


@pytest.mark.parametrize("config", [{"max_body_bytes": 10}])
async def test_bodies_over_the_limit_are_413(world: World) -> None:
    for framing in (b"Content-Length: 11\r\n\r\n" + b"x" * 11, b"Transfer-Encoding: chunked\r\n\r\nb\r\n" + b"x" * 11 + b"\r\n0\r\n\r\n"):
        answer = await world.ask(b"POST / HTTP/1.1\r\nHost: alice-demo.localhost\r\n" + framing)
        assert (answer.status, answer.headers["x-vitrine-error"]) == (413, "BODY_TOO_LARGE")


@pytest.mark.parametrize("config", [{"max_connections": 2}])
async def test_connections_over_the_limit_are_refused(world: World) -> None:
    for _ in range(2):
        await world.wire()
    assert (await (await world.wire()).answer()).headers["x-vitrine-error"] == "TOO_MANY_CONNECTIONS"


@pytest.mark.parametrize("config", [{"metrics_token": "secret", "trusted_proxies": ("127.0.0.0/8",)}])
async def test_metrics_need_their_token_and_trusted_hops_are_believed(world: World) -> None:
    await world.get(X_Forwarded_For="6.6.6.6, 7.7.7.7, 127.0.0.9", X_Forwarded_Proto="https")
    assert world.app.seen[0].header("x-forwarded-for") == ["7.7.7.7"]
    assert world.app.seen[0].header("x-forwarded-proto") == ["https"]
    assert (await world.get("/-/proxy/metrics", host="localhost")).status == 404
    answer = await world.get("/-/proxy/metrics", host="localhost", Authorization="Bearer secret")
    assert b'vitrine_proxy_requests_total{space="alice/demo",class="2xx"} 1' in answer.body


@pytest.mark.parametrize(
    "config", [{"trusted_proxies": ("127.0.0.0/8",), "client_rate": 0.001, "client_burst": 2.0, "connections_per_client": 1}]
)
async def test_behind_a_balancer_limits_and_affinity_are_the_visitors(world: World) -> None:
    """The balancer's own address holds every connection, and must be nobody's limit."""
    kept = [await world.wire() for _ in range(3)]
    for visitor, statuses in (("7.7.7.7", [200, 200, 429]), ("8.8.8.8:4711", [200, 200, 429]), ("2001:db8::1", [200, 200])):
        assert [(await world.get(X_Forwarded_For=visitor)).status for _ in statuses] == statuses
    assert (await world.get(X_Forwarded_For="2001:db8::ffff")).headers["x-vitrine-error"] == "RATE_LIMITED"  # the same household
    assert [seen.header("x-forwarded-for")[0] for seen in world.app.seen[::2]] == ["7.7.7.7", "8.8.8.8", "2001:db8::1"]
    assert not any(wire.reader.at_eof() for wire in kept)


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("config", [{"host": "::", "trusted_proxies": ("127.0.0.0/8",), "client_rate": 0.001, "client_burst": 1.0}])
async def test_ipv4_visitors_of_an_ipv6_listener_are_themselves(world: World) -> None:
    """The kernel names them ::ffff:1.2.3.4, and all of those are in one /64."""
    await world.get()
    for visitor in ("::ffff:7.7.7.7", "8.8.8.8"):
        assert (await world.get(X_Forwarded_For=visitor)).status == 200
    assert (await world.get(X_Forwarded_For="7.7.7.7")).status == 429
    assert [seen.header("x-forwarded-for")[0] for seen in world.app.seen] == ["127.0.0.1", "7.7.7.7", "8.8.8.8"]


@pytest.mark.parametrize("config", [{"trusted_proxies": ("127.0.0.0/8",)}])
async def test_visitors_behind_a_balancer_are_spread_over_replicas(world: World) -> None:
    other = App()
    server = await asyncio.start_server(other.serve, "127.0.0.1", 0)
    other.port = server.sockets[0].getsockname()[1]
    await world.put(endpoints=(world.app.endpoint(), other.endpoint()))
    for number in range(40):
        await world.get(X_Forwarded_For=f"7.7.7.{number}")
    assert world.app.seen and other.seen
    server.close()
    await other.stop()


@pytest.mark.parametrize("config", [{"trusted_proxies": ("127.0.0.0/8",)}])
@pytest.mark.parametrize("hop", ["unknown", '7.7.7.7","status":200', "_hidden", "7.7.7", "", "localhost"])
async def test_a_hop_that_is_no_address_is_not_passed_on(world: World, hop: str) -> None:
    await world.get(X_Forwarded_For=f"6.6.6.6, {hop}" if hop else "")
    assert world.app.seen[0].header("x-forwarded-for") in (["127.0.0.1"], ["6.6.6.6"])
    assert not hop or world.app.seen[0].header("x-forwarded-for") == ["127.0.0.1"], "what stands left of it cannot be believed either"
