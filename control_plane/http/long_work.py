"""Long work over HTTP: who accepts `application/x-ndjson` hears how far it is, a JSON object a line; others get the answer when it is done.

    {"done": 3, "total": 10, "words": "repositories"}     now and then; total null = nobody knows
    {"result": {…}}                                       last, what the others get
    {"error": "…"}                                        last, when it failed after it had begun

It goes on to its end when nobody listens any more, as it does for those who get the answer alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

from fastapi import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from control_plane.domain.errors import VitrineError

log = logging.getLogger("vitrine.http")

MEDIA_TYPE = "application/x-ndjson"
_LINE_EVERY_S = 0.2
_ALIVE_S = 10.0  # without news the last line is said again: the caller's patience is a minute


class Tell(Protocol):
    """Told of each step. Cheap, and never waits."""

    def __call__(self, words: str, done: int, total: int | None) -> None: ...


def nobody_listens(words: str, done: int, total: int | None) -> None:
    """The `Tell` of work that nobody watches."""


async def follow(request: Request, work: Callable[[Tell], Awaitable[dict[str, Any]]]) -> Response:
    """The answer of `work`, with its progress where the caller wants it. What fails before the first step is an answer as always."""
    if MEDIA_TYPE not in request.headers.get("accept", ""):
        return JSONResponse(await work(nobody_listens))
    told = asyncio.Event()
    step: dict[str, Any] = {"words": "", "done": 0, "total": None}

    def tell(words: str, done: int, total: int | None) -> None:
        step.update(words=words, done=done, total=total)
        told.set()

    task = asyncio.ensure_future(work(tell))
    task.add_done_callback(lambda _: told.set())
    _RUNNING.add(task)
    task.add_done_callback(_ended)
    await _heard(told, _ALIVE_S)
    if task.done():
        task.result()
    return StreamingResponse(_lines(task, step, told), media_type=MEDIA_TYPE, headers={"X-Accel-Buffering": "no"})


async def _lines(task: asyncio.Future[dict[str, Any]], step: dict[str, Any], told: asyncio.Event) -> AsyncIterator[bytes]:
    while not task.done():
        yield _line(step)
        await asyncio.wait({task}, timeout=_LINE_EVERY_S)  # a thousand steps a second are not a thousand lines
        await _heard(told, _ALIVE_S)
    try:
        yield _line({"result": task.result()})
    except VitrineError as error:
        yield _line({"error": error.message})
    except Exception:
        yield _line({"error": "This failed; the log of the platform says why."})


async def _heard(told: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await told.wait()
    except TimeoutError:
        return
    told.clear()


def _line(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode() + b"\n"


_RUNNING: set[asyncio.Future[dict[str, Any]]] = set()  # the loop itself keeps no work alive


def _ended(task: asyncio.Future[dict[str, Any]]) -> None:
    _RUNNING.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, VitrineError):
        log.error("long_work.failed", exc_info=error)
