"""Server-sent events: one line format, resumable, with a sign of life so that proxies keep the stream."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse

from control_plane.domain.errors import VitrineError

MAX_ID = 1 << 62


def event_bytes(kind: str, data: Any, event_id: int | None = None) -> bytes:
    """One event. JSON has no raw newline, so the data is one line."""
    head = f"id: {event_id}\n" if event_id is not None else ""
    return f"{head}event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


ALIVE = b": alive\n\n"


def resume_point(request: Request, name: str = "after") -> int | None:
    """Where to go on: the browser's Last-Event-ID, else the address, else None."""
    text = request.headers.get("last-event-id") or request.query_params.get(name) or ""
    return min(int(text), MAX_ID) if text.isascii() and text.isdigit() and len(text) < 20 else None


async def primed(stream: AsyncIterator[bytes]) -> StreamingResponse:
    """The response, once the first item is there: an error of the first step still becomes a proper answer."""
    first = await anext(stream, ALIVE)

    async def body() -> AsyncIterator[bytes]:
        yield first
        try:
            async for item in stream:
                yield item
        except VitrineError:
            return  # a right ended, or what was looked at is gone: so does the stream; the browser asks again and is told

    return StreamingResponse(body(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no", "Cache-Control": "no-store"})
