"""Raw bytes from a hostile client: the corpus, cut at awkward places, and a differential count of what upstreams see."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.functional.proxy.conftest import World
from tests.functional.proxy.corpus import BAD_CHUNKS, CASES, SMUGGLED, H

CODES = {400, 405, 408, 413, 414, 417, 421, 431, 505}


def test_the_corpus_is_as_large_as_promised() -> None:
    assert len(CASES) + len(BAD_CHUNKS) >= 250
    assert len({raw for _section, raw, _statuses in CASES}) == len(CASES)


async def _status(world: World, pieces: list[bytes]) -> int:
    """The status of the first answer; the connection must end after it."""
    wire = await world.wire()
    for piece in pieces:
        wire.writer.write(piece)
        if len(pieces) > 1:
            await asyncio.sleep(0)
    try:
        status, headers, _raw = await wire.head()
    except asyncio.IncompleteReadError:
        return 0
    assert headers["connection"] == "close"
    assert headers["x-vitrine-error"]
    await wire.eof()
    await wire.close()
    return status


async def test_no_malformed_request_reaches_an_upstream(world: World) -> None:
    wrong = []
    for section, raw, statuses in CASES:
        status = await _status(world, [raw])
        if status not in statuses:
            wrong.append((section, raw[:120], status))
    assert wrong == []
    assert world.app.seen == [] and world.api.seen == []


async def test_nor_when_it_comes_in_pieces(world: World) -> None:
    chance = random.Random(9112)
    wrong = []
    for section, raw, statuses in CASES:
        cuts = sorted(chance.sample(range(1, len(raw)), min(4, len(raw) - 1)))
        pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
        status = await _status(world, pieces)
        if status not in statuses:
            wrong.append((section, raw[:120], status))
    assert wrong == []
    assert world.app.seen == [] and world.api.seen == []


async def test_nor_behind_a_good_request_on_the_same_connection(world: World) -> None:
    for _section, raw, _statuses in CASES[::3]:
        wire = await world.wire()
        await wire.send(b"GET /good HTTP/1.1\r\n" + H + b"\r\n" + raw)
        assert (await wire.answer()).status == 200
        await wire.close()
    assert {seen.line for seen in world.app.seen} == {"GET /good HTTP/1.1"}
    assert len(world.app.seen) == len(CASES[::3])


@pytest.mark.parametrize("body", BAD_CHUNKS)
async def test_a_bad_chunk_ends_the_exchange_and_smuggles_nothing(world: World, body: bytes) -> None:
    wire = await world.wire()
    await wire.send(b"POST /first HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n" + body + SMUGGLED)
    status, headers, _ = await wire.head()
    assert (status, headers["connection"], headers["x-vitrine-error"]) == (400, "close", "BAD_CHUNK")
    await wire.eof()
    assert all(seen.line.startswith("POST /first") for seen in world.app.seen)


async def test_mutated_requests_never_make_an_upstream_see_more_than_we_sent(world: World) -> None:
    """Every request an app sees must carry a request id of ours, and each id at most once."""
    chance = random.Random(9110)
    seeds = [
        b"POST /a HTTP/1.1\r\n" + H + b"Content-Length: 5\r\n\r\nhello",
        b"POST /b HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"GET /c HTTP/1.1\r\n" + H + b"Connection: keep-alive\r\nX: y\r\n\r\n",
    ]
    bits = [
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b":",
        b"0",
        b"chunked",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"\t",
        b";",
        b"\xff",
        b"0\r\n\r\n",
    ]
    for _ in range(400):
        raw = bytearray(chance.choice(seeds))
        for _step in range(chance.randint(1, 3)):
            at = chance.randrange(len(raw))
            match chance.randrange(3):
                case 0:
                    raw[at:at] = chance.choice(bits)
                case 1:
                    del raw[at : at + chance.randint(1, 4)]
                case _:
                    raw[at] = chance.randrange(256)
        wire = await world.wire()
        wire.writer.write(bytes(raw) + SMUGGLED)
        wire.writer.write_eof()
        await wire.close()
    await world.get("/last")
    ids = [value for seen in world.app.seen for value in seen.header("x-vitrine-request-id")]
    assert len(ids) == len(world.app.seen) == len(set(ids))
    assert world.app.raw.count(b"X-Vitrine-Request-Id: ") == len(ids)
