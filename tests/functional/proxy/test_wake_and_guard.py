# ruff: noqa: E501  (raw requests and config lines read best unbroken)
from __future__ import annotations

import asyncio
import json

import pytest

from control_plane.domain.routes import RouteAccess, RouteState
from tests.functional.proxy.conftest import HOST, SPACE, World

BROWSER = {"Accept": "text/html,*/*;q=0.8", "Sec_Fetch_Mode": "navigate"}
STRANGERS = [
    b"GET / HTTP/1.1\r\n%b\r\n",
    b"HEAD / HTTP/1.1\r\n%b\r\n",
    b"OPTIONS / HTTP/1.1\r\nOrigin: http://x\r\nAccess-Control-Request-Method: GET\r\n%b\r\n",
    b"GET /file HTTP/1.1\r\nRange: bytes=0-1\r\n%b\r\n",
    b"GET /gradio_api/queue/data?session_hash=abcdef HTTP/1.1\r\nAccept: text/event-stream\r\n%b\r\n",
    b"GET /ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%b\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n%b\r\n3\r\nabc\r\n0\r\n\r\n",
    b"PUT /%%66ile HTTP/1.1\r\nContent-Length: 1\r\n%b\r\nx",
    b"GET /.well-known/vitrine/status HTTP/1.1\r\n%b\r\n",
    b"DELETE /a/../b HTTP/1.1\r\n%b\r\n",
    b"GET http://alice-demo.localhost/ HTTP/1.1\r\n%b\r\n",
    b"GET /?__sign=wrong HTTP/1.1\r\n%b\r\n",
    b"GET / HTTP/1.1\r\nX-HF-Authorization: Bearer hf_wrong\r\n%b\r\n",
    b"GET / HTTP/1.1\r\nAuthorization: Bearer hf_wrong\r\n%b\r\n",
    b"GET / HTTP/1.1\r\nCookie: vitrine_app=wrong\r\n%b\r\n",
    b"PATCH / HTTP/1.1\r\nAuthorization: Basic eDp5\r\n%b\r\n",
]


@pytest.mark.parametrize("state", [RouteState.READY, RouteState.ASLEEP, RouteState.FAILED])
@pytest.mark.parametrize("template", STRANGERS)
async def test_a_stranger_gets_no_byte_and_wakes_nothing(world: World, template: bytes, state: RouteState) -> None:
    await world.put(access=RouteAccess.PRIVATE, state=state, message="a private reason")
    request = template % b"Host: alice-demo.localhost\r\n"
    head_only = request.startswith(b"HEAD")
    private = await world.ask(request, head_only=head_only)
    absent = await world.ask(request.replace(b"alice-demo", b"nobody-nop"), head_only=head_only)
    assert private.status == absent.status == 404
    assert private.headers.keys() == absent.headers.keys()
    assert b"alice" not in private.body and b"private reason" not in private.body
    assert world.app.seen == [] and world.feed.woken == []


@pytest.mark.parametrize(
    ("kind", "headers", "path"),
    [
        ("token", {"X_HF_Authorization": "Bearer hf_good"}, "/a?b=1"),
        ("token", {"Authorization": "Bearer hf_good"}, "/a?b=1"),
        ("sign", {}, "/a?b=1&__sign=hf_good"),
        ("cookie", {"Cookie": "own=1; vitrine_app=tossed; vitrine_app=hf_good"}, "/a?b=1"),
        ("cookie", {"Cookie": "own=1; __Host-vitrine_app=hf_good"}, "/a?b=1"),
    ],
)
async def test_each_credential_opens_the_door_and_stays_outside(world: World, kind: str, headers: dict[str, str], path: str) -> None:
    world.allowed[kind] = {"hf_good"}
    await world.put(access=RouteAccess.PRIVATE)
    answer = await world.get(path, **headers)
    assert answer.status == 200
    assert b"hf_good" not in world.app.raw and b"tossed" not in world.app.raw
    assert world.app.seen[0].line == "GET /a?b=1 HTTP/1.1"
    if "Cookie" in headers:
        assert world.app.seen[0].header("cookie") == ["own=1"]
    if kind == "sign":
        assert answer.headers["set-cookie"].startswith("vitrine_app=hf_good; Path=/; HttpOnly")


async def test_the_apps_own_authorization_passes(world: World) -> None:
    await world.get(Authorization="Basic eDp5")
    await world.get(Authorization="Bearer app-token")
    assert [seen.header("authorization") for seen in world.app.seen] == [["Basic eDp5"], ["Bearer app-token"]]


async def test_a_browser_is_sent_to_sign_in_and_comes_back_with_a_cookie(world: World) -> None:
    world.allowed["sign"] = {"good"}
    await world.put(access=RouteAccess.PRIVATE)
    answer = await world.get("/a?b=1", **BROWSER)
    assert answer.status == 302
    assert answer.headers["location"] == "http://localhost:7860/oauth/app-access?host=alice-demo.localhost&next=%2Fa%3Fb%3D1"
    back = await world.get("/a?b=1&__sign=good", **BROWSER)
    assert (back.status, back.headers["location"]) == (302, "/a?b=1")
    assert "SameSite=None; Partitioned" in back.headers["set-cookie"]
    framed = await world.get("/a?__sign=good", **BROWSER, Sec_Fetch_Dest="iframe")
    assert framed.status == 200
    assert framed.headers["set-cookie"].startswith("vitrine_app=good")


async def test_api_clients_are_held_and_one_start_serves_all(world: World) -> None:
    await world.put(state=RouteState.ASLEEP, endpoints=())
    asking = [asyncio.create_task(world.get(f"/config?{i}")) for i in range(50)]
    async with asyncio.timeout(60):
        while world.proxy.core.activator.count < 50:
            await asyncio.sleep(0.001)
    await world.put(state=RouteState.STARTING, endpoints=())
    assert not any(task.done() for task in asking)
    await world.put(state=RouteState.READY)
    assert {answer.status for answer in await asyncio.gather(*asking)} == {200}
    assert world.feed.woken == [SPACE]


async def test_a_held_upload_is_not_read_and_arrives_whole(world: World) -> None:
    await world.put(state=RouteState.ASLEEP, endpoints=())
    wire = await world.wire()
    await wire.send(b"POST /up HTTP/1.1\r\nHost: alice-demo.localhost\r\nContent-Length: 40000000\r\n\r\n")
    async with asyncio.timeout(60):
        while world.proxy.core.activator.count < 1:
            await asyncio.sleep(0.001)
    sending = asyncio.create_task(wire.send(b"x" * 40_000_000))
    await asyncio.sleep(0.05)
    (connection,) = (c for c in world.proxy.core.connections if c.method == b"POST")
    assert len(connection._buffer) < 1_000_000
    await world.put(state=RouteState.READY)
    answer = await wire.answer()
    await sending
    assert json.loads(answer.body)["size"] == 40_000_000


async def test_browsers_get_a_progress_page_at_once(world: World) -> None:
    await world.put(state=RouteState.ASLEEP, endpoints=(), eta_s=4.2, title="<b>Marginalia</b>")
    answer = await world.get(**BROWSER)
    assert (answer.status, answer.headers["x-vitrine-error"], answer.headers["retry-after"]) == (503, "SPACE_STARTING", "4")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert b"&lt;b&gt;Marginalia" in answer.body and b"<b>M" not in answer.body
    status = await world.get("/.well-known/vitrine/status")
    assert json.loads(status.body) | {"state": "asleep", "ready": False, "eta_s": 4.2} == json.loads(status.body)
    assert world.feed.woken == [SPACE]


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (RouteState.PAUSED, "SPACE_PAUSED"),
        (RouteState.FAILED, "SPACE_FAILED"),
        (RouteState.EMPTY, "SPACE_EMPTY"),
        (RouteState.READY, "NO_REPLICA"),
    ],
)
async def test_states_without_an_app_are_coded(world: World, state: RouteState, code: str) -> None:
    await world.put(state=state, endpoints=(), message="Out of memory.")
    answer = await world.get()
    assert (answer.status, answer.headers["x-vitrine-error"]) == (503, code)
    assert json.loads(answer.body)["error"] == "Out of memory."
    page = await world.get(**BROWSER)
    assert page.headers["content-type"].startswith("text/html") and b"Out of memory." in page.body
    assert world.feed.woken == []


@pytest.mark.parametrize("config", [{"wake_per_space": 2, "wake_total": 2}])
async def test_the_waiting_room_is_bounded(world: World) -> None:
    await world.put(state=RouteState.ASLEEP, endpoints=())
    first = [asyncio.create_task(world.get()) for _ in range(2)]
    async with asyncio.timeout(60):
        while world.proxy.core.activator.count < 2:
            await asyncio.sleep(0.001)
    answer = await world.get()
    assert (answer.status, answer.headers["x-vitrine-error"]) == (503, "WAKE_QUEUE_FULL")
    assert answer.headers["retry-after"]
    await world.put()
    await asyncio.gather(*first)


@pytest.mark.parametrize("config", [{"wake_timeout_s": 0.05}])
async def test_a_wait_has_an_end(world: World) -> None:
    await world.put(state=RouteState.ASLEEP, endpoints=())
    answer = await world.get()
    assert (answer.status, answer.headers["x-vitrine-error"]) == (504, "WAKE_TIMEOUT")


async def test_a_client_that_leaves_is_forgotten(world: World) -> None:
    await world.put(state=RouteState.ASLEEP, endpoints=())
    wire = await world.wire()
    await wire.send(b"GET / HTTP/1.1\r\nHost: alice-demo.localhost\r\n\r\n")
    async with asyncio.timeout(60):
        while world.proxy.core.activator.count < 1:
            await asyncio.sleep(0.001)
        await wire.close()
        while world.proxy.core.activator.count:
            await asyncio.sleep(0.001)


async def test_renamed_spaces_redirect(world: World) -> None:
    await world.put(redirect_to="alice-new.localhost")
    answer = await world.get("/x?y=1", host=f"{HOST}:7860")
    assert (answer.status, answer.headers["location"]) == (308, "http://alice-new.localhost:7860/x?y=1")


async def test_reports_say_what_was_used_and_heartbeats_do_not_count(world: World) -> None:
    await world.get("/gradio_api/heartbeat/abc")
    async with asyncio.timeout(60):
        while not world.feed.reports:
            await asyncio.sleep(0.005)
    assert world.feed.reports[-1].last_used_at == 0
    assert dict(world.feed.reports[-1].requests) == {"2xx": 1}
    world.feed.reports.clear()
    await world.get("/")
    async with asyncio.timeout(60):
        while not world.feed.reports:
            await asyncio.sleep(0.005)
    assert world.feed.reports[-1].last_used_at > 1e9
    assert "vitrine_proxy_requests_total" in world.proxy.core.metrics()


async def test_a_quota_that_keeps_a_sleeper_down_is_said_at_once_and_asked_again(world: World) -> None:
    await world.put(state=RouteState.ASLEEP, endpoints=())
    waiting = asyncio.create_task(world.get())
    async with asyncio.timeout(60):
        while world.proxy.core.activator.count < 1:
            await asyncio.sleep(0.001)
    await world.put(state=RouteState.ASLEEP, endpoints=(), reason="QUOTA")
    answer = await waiting
    assert (answer.status, answer.headers["x-vitrine-error"]) == (503, "WAKE_REFUSED")
    again = asyncio.create_task(world.get())
    async with asyncio.timeout(60):
        while world.proxy.core.activator.count < 1:
            await asyncio.sleep(0.001)
    await world.put(state=RouteState.STARTING, endpoints=())
    await world.put()
    assert (await again).status == 200


async def test_a_wake_is_reported_once_with_how_long_it_took(world: World) -> None:
    await world.put(state=RouteState.ASLEEP, endpoints=())
    held = asyncio.create_task(world.get("/api"))
    async with asyncio.timeout(60):
        while not world.proxy.core.activator.count:
            await asyncio.sleep(0.001)
    await world.put()
    assert (await held).status == 200
    async with asyncio.timeout(60):
        while not sum(report.wake_s for report in world.feed.reports):
            await asyncio.sleep(0.01)
    assert sum(report.wakes for report in world.feed.reports) == 1
    assert 0 < sum(report.wake_s for report in world.feed.reports) < 5
