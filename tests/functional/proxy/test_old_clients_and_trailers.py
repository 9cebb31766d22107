"""HTTP/1.0 clients (RFC 9112 9.3, 6.1) and trailers (RFC 9112 7.1.2, RFC 9110 6.5)."""

from __future__ import annotations

import asyncio
import json

import pytest

from control_plane.domain.routes import RouteState
from tests.functional.proxy.conftest import Seen, World

OLD = b"GET /%d HTTP/1.0\r\nHost: alice-demo.localhost\r\nConnection: %b\r\n\r\n"
NEW = b"GET / HTTP/1.1\r\nHost: alice-demo.localhost\r\n%b\r\n"
TRAILED = (
    b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 900150983cd2\r\n"
    b"Set-Cookie: vitrine_app=stolen\r\nContent-Length: 5\r\ncontent_length: 5\r\nX-Vitrine-Revision: forged\r\n\r\n"
)


def answer_with(world: World, reply: bytes) -> None:
    async def script(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(reply)
        return False

    world.app.script = script


async def test_http_1_0_keeps_its_connection_when_it_asks(world: World) -> None:
    wire = await world.wire()
    for number in range(3):
        await wire.send(OLD % (number, b"Keep-Alive"))
        answer = await wire.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "keep-alive")
        assert json.loads(answer.body)["line"] == f"GET /{number} HTTP/1.0"
    await wire.send(OLD % (3, b"keep-alive, close"))
    assert (await wire.answer()).headers["connection"] == "close"
    assert await wire.eof() == b""


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nabcde",
    ],
    ids=["chunked", "until the app closes"],
)
async def test_an_answer_without_a_length_ends_an_old_connection_and_has_no_chunks(world: World, reply: bytes) -> None:
    answer_with(world, reply)
    answer = await world.ask(OLD % (0, b"keep-alive"))
    assert (answer.headers["connection"], answer.body) == ("close", b"abcde")
    assert "transfer-encoding" not in answer.headers


async def test_our_own_answers_to_old_clients_end_the_connection(world: World) -> None:
    await world.put(state=RouteState.PAUSED, endpoints=())
    wire = await world.wire()
    await wire.send(OLD % (0, b"keep-alive"))
    assert b"X-Vitrine-Error: SPACE_PAUSED" in (said := await wire.eof()) and b"Connection: close" in said


async def test_trailers_of_an_answer_pass_to_clients_that_take_them(world: World) -> None:
    answer_with(world, TRAILED)
    wire = await world.wire()
    await wire.send(NEW % b"TE: gzip;q=0.5, trailers\r\nConnection: close, TE\r\n")
    head, _, body = (await wire.eof()).partition(b"\r\n\r\n")
    assert body == b"3\r\nabc\r\n0\r\nX-Sum: 900150983cd2\r\n\r\n"
    assert world.app.seen[0].header("te") == []


@pytest.mark.parametrize("asked", [b"", b"TE: deflate\r\n", b"X-TE: trailers\r\n"])
async def test_and_to_nobody_else(world: World, asked: bytes) -> None:
    answer_with(world, TRAILED)
    wire = await world.wire()
    await wire.send(NEW % (asked + b"Connection: close\r\n"))
    assert (await wire.eof()).endswith(b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n")


async def test_trailers_of_a_request_are_read_and_discarded(world: World) -> None:
    wire = await world.wire()
    for _ in range(2):
        await wire.send(
            b"POST / HTTP/1.1\r\nHost: alice-demo.localhost\r\nTrailer: X-Forwarded-For\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n0\r\nX-Forwarded-For: 1.2.3.4\r\nX-Sum: 1\r\n\r\n"
        )
        assert json.loads((await wire.answer()).body)["size"] == 3
    assert [seen.header("trailer") for seen in world.app.seen] == [[], []]
    assert world.app.connections == 1  # nothing was left over that the next request could trip on


@pytest.mark.parametrize("line", [b" folded: 1", b"no colon", b"Bad Name: 1", b"X: a\0b"])
async def test_a_trailer_that_is_no_field_line_is_refused(world: World, line: bytes) -> None:
    answer = await world.ask(
        b"POST / HTTP/1.1\r\nHost: alice-demo.localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n%b\r\n\r\n" % line
    )
    assert (answer.status, answer.headers["x-vitrine-error"]) == (400, "BAD_CHUNK")
