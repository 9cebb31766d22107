# ruff: noqa: E501  (raw requests and config lines read best unbroken)
"""Apps are hostile too: what they answer cannot break framing, set cookies for others, or fill memory."""

from __future__ import annotations

import asyncio

import pytest

from tests.functional.proxy.conftest import Seen, World

OK = b"HTTP/1.1 200 OK\r\n"


def answer_with(world: World, reply: bytes) -> None:
    async def script(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(reply)
        await writer.drain()
        return False

    world.app.script = script


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (b"", "APP_RESET"),
        (b"garbage\r\n\r\n", "APP_BAD_ANSWER"),
        (b"HTTP/1.1\r\n\r\n", "APP_BAD_ANSWER"),
        (b"HTTP/2 200 OK\r\n\r\n", "APP_BAD_ANSWER"),
        (b"HTTP/1.1 20 OK\r\n\r\n", "APP_BAD_ANSWER"),
        (b"HTTP/1.1 099 OK\r\n\r\n", "APP_BAD_ANSWER"),
        (b"HTTP/1.1 200 O\x00K\r\n\r\n", "APP_BAD_ANSWER"),
        (OK + b"A : b\r\n\r\n", "APP_BAD_ANSWER"),
        (OK + b"A: b\r\n c\r\n\r\n", "APP_BAD_ANSWER"),
        (OK + b"A: b\nSet-Cookie: x=y\r\n\r\n", "APP_BAD_ANSWER"),
        (OK + b"A: b\rSet-Cookie: x=y\r\n\r\n", "APP_BAD_ANSWER"),
        (OK + b"A: \x00\r\n\r\n", "APP_BAD_ANSWER"),
        (OK + b"Content-Length: -1\r\n\r\n", "APP_BAD_ANSWER"),
        (OK + b"Content-Length: 5, 5\r\n\r\nhello", "APP_BAD_ANSWER"),
        (OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", "APP_BAD_ANSWER"),
        (OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "APP_BAD_ANSWER"),
        (OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", "APP_BAD_ANSWER"),
        (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n", "APP_BAD_ANSWER"),
        (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "APP_BAD_ANSWER"),
        (b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "APP_BAD_ANSWER"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "APP_BAD_ANSWER"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50, "APP_BAD_ANSWER"),
        (b"HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\nhello", "APP_BAD_ANSWER"),
        (OK + b"A: " + b"x" * 300_000, "APP_HEAD_TOO_LARGE"),
        (OK + b"A: b\r\n" * 40_000 + b"\r\n", "APP_HEAD_TOO_LARGE"),
    ],
)
async def test_an_answer_that_cannot_be_trusted_is_a_502(world: World, reply: bytes, code: str) -> None:
    answer_with(world, reply)
    answer = await world.get()
    if answer.status == 103:
        return  # hints that came before the limit were fine to pass on
    assert (answer.status, answer.headers["x-vitrine-error"]) == (502, code)


@pytest.mark.parametrize(
    ("cookie", "passes"),
    [
        (b"a=b", True),
        (b"a=b; Domain=alice-demo.localhost; Path=/", True),
        (b"a=b; domain=.ALICE-demo.localhost", True),
        (b"a=b; Domain=localhost", False),
        (b"a=b; Path=/;DOMAIN = .localhost ;Secure", False),
        (b"a=b; Domain=bob-demo.localhost", False),
        (b"a=b; Domain=example.com", False),
        (b"vitrine_session=x", False),
        (b"vitrine_app=x; Path=/", False),
        (b"__Host-vitrine_app=x; Path=/; Secure", False),
        (b" VITRINE_replica=x", False),
        (b"=vitrine_app=x", False),  # without a name it comes back as `vitrine_app=x`
        (b"= __Host-vitrine_app=x; Secure", False),
        (b"vitrine_app", False),
        (b"vitrine=x; Path=/", False),
        (b"__Host-vitrine-form=x; Path=/; Secure", False),
        (b"vitrines=x", True),
        (b"a=b; Domain=alice-demo.localhost; Domain=localhost", False),
    ],
)
async def test_cookies_for_others_are_dropped(world: World, cookie: bytes, passes: bool) -> None:
    answer_with(world, OK + b"Set-Cookie: " + cookie + b"\r\nSet-Cookie: kept=1\r\nContent-Length: 0\r\n\r\n")
    answer = await world.get()
    assert (cookie.strip() in answer.raw_head) is passes
    assert b"kept=1" in answer.raw_head


async def test_internal_and_hop_by_hop_headers_of_an_app_are_dropped_and_the_rest_passes(world: World) -> None:
    answer_with(
        world,
        OK
        + b"X-Vitrine-Revision: fake\r\nX-Vitrine-Error: fake\r\nX-Accel-Redirect: /etc\r\nX_Accel_Buffering: yes\r\nX-Accel-Buffering: no\r\nX-Sendfile: /etc/passwd\r\n"
        b"Connection: keep-alive, X-Gone\r\nX-Gone: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\n"
        b"Access-Control-Allow-Origin: *\r\nWWW-Authenticate: Basic\r\nContent-Security-Policy: default-src *\r\nContent-Length: 0\r\n\r\n",
    )
    answer = await world.get()
    assert set(answer.headers) == {
        "access-control-allow-origin", "www-authenticate", "content-security-policy", "content-length", "x-vitrine-revision",
        "x-vitrine-request-id", "x-accel-buffering",
    }  # fmt: skip
    assert answer.headers["x-vitrine-revision"] == "f" * 40


async def test_owner_headers_and_the_frame_rule_are_added(world: World) -> None:
    await world.put(allow_embedding=False, headers={"Cross-Origin-Opener-Policy": "same-origin"})
    answer = await world.get()
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["content-security-policy"] == "frame-ancestors 'self' http://localhost:7860"


@pytest.mark.parametrize(
    "reply",
    [
        OK + b"Content-Length: 10\r\n\r\nshort",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n",
    ],
)
async def test_a_cut_answer_is_never_taken_for_complete(world: World, reply: bytes) -> None:
    answer_with(world, reply)
    wire = await world.wire()
    await wire.send(b"GET / HTTP/1.1\r\nHost: alice-demo.localhost\r\n\r\n")
    try:
        await wire.answer()
    except (asyncio.IncompleteReadError, ConnectionResetError, ValueError):
        pass
    else:
        pytest.fail("a truncated answer looked whole")
    assert world.proxy.core.activity.refused["APP_CUT_SHORT"] == 1


async def test_bytes_after_an_answer_do_not_become_the_next_one(world: World) -> None:
    answer_with(world, OK + b"Content-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
    for _ in range(2):
        assert (await world.get()).body == b"ok"
    assert world.app.connections == 2


async def test_an_answer_before_the_upload_ended_closes_cleanly(world: World) -> None:
    answer_with(world, b"HTTP/1.1 413 No\r\nContent-Length: 3\r\n\r\nbig")
    wire = await world.wire()
    await wire.send(b"POST / HTTP/1.1\r\nHost: alice-demo.localhost\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 100_000)
    answer = await wire.answer()
    assert (answer.status, answer.body, answer.headers["connection"]) == (413, b"big", "close")
    assert await wire.eof() == b""
