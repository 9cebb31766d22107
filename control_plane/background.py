"""Tasks that run until they are told to end."""

from __future__ import annotations

import asyncio
from typing import Any

AGAIN_S = 2.0


async def ended(*told: asyncio.Task[Any] | None) -> None:
    """Cancel them and return when all are over, whatever they raised.

    One that goes on is told again: before Python 3.12 `asyncio.wait_for`, through which the clients of Redis and of the
    database wait, loses a cancellation that comes in the moment in which what it waits for is there.
    """
    tasks, told_too = [task for task in told if task is not None], False
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        try:
            await asyncio.wait(pending, timeout=AGAIN_S)
        except asyncio.CancelledError:
            told_too = True  # whoever ends us waits for these as well
    for task in tasks:
        if not task.cancelled():
            task.exception()  # seen: nobody else will ask
    if told_too:
        raise asyncio.CancelledError
