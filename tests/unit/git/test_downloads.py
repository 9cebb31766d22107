from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from starlette.types import Message

from control_plane.git import downloads
from control_plane.git.downloads import PIECE_BYTES, FileStream, Turns, turns


async def never_leaves() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def sent(answer: FileStream) -> tuple[int, dict[str, str], bytes]:
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    await answer({"type": "http"}, never_leaves, send)
    head = {k.decode(): v.decode() for k, v in messages[0]["headers"]}
    return messages[0]["status"], head, b"".join(m.get("body", b"") for m in messages[1:])


@pytest.mark.parametrize("cached", [True, False], ids=["page cache", "disk"])
async def test_a_range_is_sent_in_pieces(tmp_path: Path, cached: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not cached:
        monkeypatch.setattr(downloads, "_cached", lambda *_: b"")
    data = os.urandom(3 * PIECE_BYTES + 17)
    (tmp_path / "f").write_bytes(data)
    status, head, body = await sent(FileStream(str(tmp_path / "f"), 5, len(data) - 9, 206, {"ETag": '"x"'}))
    assert (status, head["content-length"], head["etag"], body) == (206, str(len(data) - 9), '"x"', data[5:-4])
    assert await sent(FileStream(str(tmp_path / "f"), 0, len(data), 200, {}, is_head=True)) == (
        200,
        {"content-length": str(len(data))},
        b"",
    )


async def test_few_push_at_once_in_turn_and_a_slow_client_gives_its_turn_back() -> None:
    mine, running, most, order = Turns(2), 0, 0, []
    blocked = asyncio.Event()

    async def slow(message: Message) -> None:
        await blocked.wait()

    async def quick(message: Message) -> None:
        nonlocal running, most
        if "n" not in message:
            return
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        order.append(message["n"])
        running -= 1

    stuck = [asyncio.create_task(mine.send(slow, {})) for _ in range(50)]
    await asyncio.gather(*(mine.send(quick, {"n": n}) for n in range(20)))
    assert order == list(range(20)) and most <= 2 and not any(task.done() for task in stuck)
    blocked.set()
    await asyncio.gather(*stuck)


async def test_a_client_that_leaves_ends_the_reading(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(64 * PIECE_BYTES))
    left, pieces = asyncio.Event(), 0

    async def receive() -> Message:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal pieces
        pieces += 1
        if pieces == 3:
            left.set()
            await asyncio.Event().wait()

    before = len(os.listdir("/proc/self/fd"))
    await FileStream(str(tmp_path / "f"), 0, 64 * PIECE_BYTES, 200, {})({"type": "http"}, receive, send)
    assert pieces == 3 and len(os.listdir("/proc/self/fd")) == before and turns()._slots._value == downloads._AT_ONCE
