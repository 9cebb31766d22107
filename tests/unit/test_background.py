"""Background tasks end when they are told to, also when a library below them loses the word."""

from __future__ import annotations

import asyncio

import pytest

from control_plane import background
from control_plane.background import ended


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "AGAIN_S", 0.01)


async def _deaf(times: int, begun: asyncio.Event) -> None:
    """Goes on `times` times although it was cancelled, as a loop over a client that swallows the cancellation does."""
    while True:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not times:
                raise
            times -= 1


async def _fails() -> None:
    raise ValueError("its own trouble")


async def test_one_that_goes_on_is_told_again() -> None:
    begun = asyncio.Event()
    deaf = asyncio.create_task(_deaf(2, begun))
    await begun.wait()
    failed = asyncio.create_task(_fails())
    await asyncio.wait({failed})
    await ended(deaf, failed, None)
    assert deaf.cancelled()


async def test_who_is_told_to_end_while_it_waits_still_waits_for_its_tasks() -> None:
    begun = asyncio.Event()
    deaf = asyncio.create_task(_deaf(3, begun))
    await begun.wait()
    waiting = asyncio.create_task(ended(deaf))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert deaf.cancelled()
