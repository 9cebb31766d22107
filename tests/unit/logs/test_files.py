"""Readers go on where they stopped: through growth, shortening, and lines that a dropped stretch stands for."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from control_plane.logs.files import FileLogStore, _Growth
from control_plane.ports.log_store import LogLine

NOW = datetime(2026, 8, 1, tzinfo=UTC)
STREAM = "run/" + "a" * 24


def lines(first: int, count: int, width: int = 1) -> list[LogLine]:
    return [LogLine(NOW, f"{n:06d}" * width) for n in range(first, first + count)]


async def test_a_reader_goes_on_where_it_stopped_and_gives_each_number_once(tmp_path: Path) -> None:
    logs = FileLogStore(tmp_path, max_bytes=40_000)
    reader = logs.reader(STREAM)
    assert await reader.read() == ()
    seen: list[str] = []
    for start in range(0, 4000, 500):  # the file is shortened on the way, more than once
        await logs.append(STREAM, lines(start, 500))
        while found := await reader.read(130):
            seen += [line.text for line in found]
    assert seen == [line.text for line in lines(0, 4000)]
    assert await logs.count(STREAM) == 4000


async def test_a_late_reader_gets_the_dropped_stretch_for_each_of_its_numbers(tmp_path: Path) -> None:
    logs = FileLogStore(tmp_path, max_bytes=20_000)
    await logs.append(STREAM, lines(0, 1500))
    reader = logs.reader(STREAM, after=100)
    seen: list[str] = []
    while found := await reader.read(77):
        seen += [line.text for line in found]
    assert len(seen) == 1400 and seen[-1] == "001499"
    assert "earlier lines were dropped" in seen[0]
    assert seen == [line.text for line in await logs.read(STREAM, after=100)]


async def test_a_record_that_is_still_being_written_is_left_for_later(tmp_path: Path) -> None:
    logs = FileLogStore(tmp_path)
    await logs.append(STREAM, lines(0, 1))
    reader = logs.reader(STREAM)
    with open(tmp_path / f"{STREAM}.log", "ab") as file:
        file.write(b"1.0\thal")
    assert [line.text for line in await reader.read()] == ["000000"]
    with open(tmp_path / f"{STREAM}.log", "ab") as file:
        file.write(b"f\n")
    assert [line.text for line in await reader.read()] == ["half"]


async def test_followers_are_woken_by_growth_and_nobody_looks_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs, growth = FileLogStore(tmp_path), _Growth()
    monkeypatch.setattr(logs, "_growth", growth)
    following = logs.follow(STREAM)
    first = asyncio.create_task(anext(following))
    await logs.append(STREAM, lines(0, 1))
    assert (await asyncio.wait_for(first, 30)).text == "000000"
    second = asyncio.create_task(anext(following))
    await logs.append(STREAM, lines(1, 1))
    assert (await asyncio.wait_for(second, 30)).text == "000001"
    await following.aclose()  # type: ignore[attr-defined]
    task = growth._task
    assert task is not None
    await asyncio.wait({task}, timeout=30)
    assert task.cancelled()
