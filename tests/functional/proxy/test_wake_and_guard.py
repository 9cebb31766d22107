# ruff: noqa: E501  (raw requests and config lines read best unbroken)
from __future__ import annotations

import asyncio
import json
from urllib.parse import urljoin

import pytest

from control_plane.domain.routes import RouteAccess, RouteState
from control_plane.proxy import activator
from control_plane.proxy.guard import GRACE_S
from tests.functional.proxy.conftest import HOST, SPACE, Answer, World

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


def told(answer: Answer, name: str) -> tuple[object, ...]:
    """All that a caller gets, but for what differs between any two answers and for the name it asked for."""
    own = ("date", "x-vitrine-request-id", "x-request-id")
    headers = {key: value.replace(name, "NAME") for key, value in answer.headers.items() if key.lower() not in own}
    body = answer.body.replace(name.encode(), b"NAME")
    for key in own:
        if value := answer.headers.get(key):
            body = body.replace(value.encode(), b"ID")
    return answer.status, headers, body


@pytest.mark.parametrize("state", [RouteState.READY, RouteState.ASLEEP, RouteState.FAILED])
@pytest.mark.parametrize("template", STRANGERS)
async def test_a_stranger_gets_no_byte_and_wakes_nothing(world: World, template: bytes, state: RouteState) -> None:
    await world.put(access=RouteAccess.PRIVATE, state=state, message="a private reason")
    request = template % b"Host: alice-demo.localhost\r\n"
    head_only = request.startswith(b"HEAD")
    private = await world.ask(request, head_only=head_only)
    absent = await world.ask(request.replace(b"alice-demo", b"nobody-nop"), head_only=head_only)
    assert private.status == 404 and told(private, "alice-demo") == told(absent, "nobody-nop")
    assert b"alice/demo" not in private.body and b"private reason" not in private.body
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


OWN = "http://alice-demo.localhost"
UPGRADE = {
    "Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13", "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
}  # fmt: skip


@pytest.mark.parametrize(
    ("method", "headers", "opens"),
    [
        ("GET", {}, True),  # no browser
        ("GET", {"Sec_Fetch_Site": "none", "Sec_Fetch_Mode": "navigate"}, True),
        ("GET", {"Sec_Fetch_Site": "same-origin", "Sec_Fetch_Mode": "cors"}, True),
        ("POST", {"Origin": OWN, "Content_Length": "0"}, True),
        ("POST", {"Origin": "null", "Sec_Fetch_Site": "same-origin", "Content_Length": "0"}, True),  # a form under no-referrer
        ("GET", {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"}, True),  # the Space page
        ("GET", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}, True),  # a link
        ("GET", {"Origin": OWN, **UPGRADE}, True),
        ("GET", {"Origin": "http://evil-space.localhost", **UPGRADE}, False),
        ("GET", {"Origin": "https://alice-demo.localhost:8443", **UPGRADE}, True),  # a balancer speaks TLS on a port of its own
        ("GET", {"Origin": "http://alice-demo.localhost.evil.example", **UPGRADE}, False),
        ("GET", {"Origin": "http://evil-space.localhost:1/alice-demo.localhost", **UPGRADE}, False),
        ("GET", {"Origin": "null", **UPGRADE}, False),
        ("GET", {"Origin": "http://evil-space.localhost"}, False),  # a script that sends credentials along
        ("OPTIONS", {"Origin": "http://evil-space.localhost"}, False),
        ("GET", {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "no-cors"}, False),  # a script or a picture of ours in their page
        ("GET", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}, False),
        ("POST", {"Origin": "http://evil-space.localhost", "Sec_Fetch_Mode": "navigate", "Content_Length": "0"}, False),  # a form of theirs
        ("POST", {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "navigate", "Content_Length": "0"}, False),
        ("POST", {"Origin": "null", "Content_Length": "0"}, False),
    ],
)
async def test_a_neighbours_page_cannot_use_the_visitors_cookie(world: World, method: str, headers: dict[str, str], opens: bool) -> None:
    """Spaces are each other's neighbours on one site, where browsers send the cookie along whoever's page asks."""
    world.allowed |= {"cookie": {"good"}, "token": {"hf_good"}}
    await world.put(access=RouteAccess.PRIVATE)
    answer = await world.get("/x", method=method, Cookie="vitrine_app=good", **headers)
    assert (answer.status == 200, bool(world.app.seen)) == (opens, opens)
    if not opens:
        assert answer.status == 404
        with_token = await world.get("/x", method=method, X_HF_Authorization="Bearer hf_good", **headers)
        assert with_token.status == 200, "what a script must know, and no browser attaches, is another matter"


async def test_a_token_for_nothing_takes_the_way_of_one_for_a_private_space(world: World) -> None:
    """Else the time that an answer takes, or an API that is away, would tell which names are taken."""
    await world.put(access=RouteAccess.PRIVATE)
    asked = []

    async def authorize(host: str, kind: str, credential: str) -> bool:
        asked.append(host)
        if credential == "hf_away":
            raise OSError("the API is away")
        return False

    world.proxy.core.guard._authorize = authorize
    for token in ("hf_wrong", "hf_away"):
        private, absent = [await world.get(host=host, Authorization=f"Bearer {token}") for host in (HOST, "nobody-nop.localhost")]
        assert private.status == (404 if token == "hf_wrong" else 503)
        assert told(private, HOST) == told(absent, "nobody-nop.localhost")
    assert asked == [HOST, "nobody-nop.localhost"] * 2


async def test_who_was_let_in_stays_in_while_nobody_can_say(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.allowed["token"] = {"hf_good"}
    await world.put(access=RouteAccess.PRIVATE)
    core = world.proxy.core
    assert (await world.get(Authorization="Bearer hf_good")).status == 200

    async def away(host: str, kind: str, credential: str) -> bool:
        raise KeyError("whatever it is")

    async def later(seconds: float) -> int:
        core.guard._known = {key: (until - seconds, verdict) for key, (until, verdict) in core.guard._known.items()}
        core.guard._away_until = 0.0
        return (await world.get(Authorization="Bearer hf_good")).status

    with monkeypatch.context() as patched:
        patched.setattr(core.guard, "_authorize", away)
        assert [await later(30), await later(30)] == [200, 200]
        assert (await world.get(Authorization="Bearer hf_other")).headers["x-vitrine-error"] == "GUARD_UNAVAILABLE"
        assert await later(GRACE_S) == 503, "not for ever"
    assert await later(0) == 200
    world.allowed["token"].clear()
    assert await later(2) == 404, "who answers is believed at once"
    world.allowed["token"] = {"hf_good"}
    assert await later(2) == 200
    with monkeypatch.context() as patched:
        patched.setattr(core.guard, "_authorize", away)
        core.guard.forget()  # the bus says that rights have changed
        assert await later(2) == 503


@pytest.mark.parametrize(
    "path", ["/gradio_api/heartbeat/abc123", "/demo/gradio_api/heartbeat/abc123", "/_stcore/health", "/app/_stcore/host-config", "/healthz"]
)
async def test_what_is_no_use_wakes_nobody(world: World, path: str) -> None:
    """A tab that was left open asks on and on."""
    await world.put(state=RouteState.ASLEEP, endpoints=())
    answer = await world.get(path)
    assert (answer.status, answer.headers["x-vitrine-error"]) == (503, "SPACE_ASLEEP")
    assert int(answer.headers["retry-after"]) > 0
    assert world.feed.woken == []


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
    for name in (
        b"vitrine_app_local=good; Path=/; HttpOnly; SameSite=Lax\r",
        b"vitrine_app=good; Path=/; HttpOnly; Secure; SameSite=None;",
    ):
        assert (
            b"\nSet-Cookie: " + name in back.raw_head
        )  # one for browsers, frames included, and one for clients that know no secure *.localhost
    world.allowed["cookie"] = {"good"}
    assert (await world.get("/a", **BROWSER, Cookie="vitrine_app_local=good")).status == 200
    ended = await world.get("/a", **BROWSER, Cookie="vitrine_app=ended")
    assert (ended.status, ended.headers["location"].partition("?")[0]) == (302, "http://localhost:7860/oauth/app-access")
    assert (await world.get("/a?__sign=bad", **BROWSER, Cookie="vitrine_app=ended")).status == 404, "not in circles"
    for elsewhere in ("//evil.example/x", "/\\evil.example/x"):
        back = await world.get(f"{elsewhere}?__sign=good", **BROWSER)
        assert urljoin(f"http://{HOST}/", back.headers["location"]).startswith(f"http://{HOST}/")
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
    assert (answer.status, answer.headers["x-vitrine-error"]) == (503, "WAKE_TIMEOUT")
    assert int(answer.headers["retry-after"]) > 0 and json.loads(answer.body)["code"] == "WAKE_TIMEOUT"


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


async def test_a_quota_that_keeps_a_sleeper_down_is_said_at_once_and_asked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activator, "_QUOTA_ASK_AGAIN_S", 60.0)  # the second visitor comes so soon that nobody is asked again yet
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
    await world.put(state=RouteState.ASLEEP, endpoints=(), reason="QUOTA", message="said to the first")
    assert world.proxy.core.activator.count == 1, "an old answer is not one to who came after it"
    await world.put(state=RouteState.STARTING, endpoints=())
    await world.put()
    assert (await again).status == 200


async def test_who_came_while_a_sleeper_was_asked_for_hears_of_its_quota_soon(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activator, "_ASK_AGAIN_S", 60.0)
    monkeypatch.setattr(activator, "_QUOTA_ASK_AGAIN_S", 60.0)
    await world.put(state=RouteState.ASLEEP, endpoints=())
    visits = []
    for n in (1, 2):  # the second comes after the question was sent
        visits.append(asyncio.create_task(world.get()))
        async with asyncio.timeout(60):
            while world.proxy.core.activator.count < n:
                await asyncio.sleep(0.001)
    await world.put(state=RouteState.ASLEEP, endpoints=(), reason="QUOTA")
    async with asyncio.timeout(world.proxy.core.config.wake_timeout_s - 1):
        answers = await asyncio.gather(*visits)
    assert {answer.headers["x-vitrine-error"] for answer in answers} == {"WAKE_REFUSED"}


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
