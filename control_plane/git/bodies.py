"""Request bodies as bounded streams, and files as ranged answers."""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from starlette.requests import Request

from control_plane.domain.errors import Rejected, TooLarge
from control_plane.git.downloads import FileStream

_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})", re.ASCII)


async def read_body(request: Request, limit: int, idle_s: float) -> AsyncIterator[bytes]:
    """The request body, unzipped when it is gzip. TooLarge after `limit` bytes, Rejected when nothing comes for `idle_s`."""
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", "gzip", "x-gzip", ""):
        raise Rejected(f"The content encoding '{encoding[:40]}' is not supported.")
    unzip: Unzip | None = zlib.decompressobj(31) if "gzip" in encoding else None
    total = 0
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(idle_s):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise ConnectionError(f"nothing came for {idle_s:g} s") from None
        if chunk is None:
            return
        # Unzipped in steps, so that a bomb is seen before it is in memory.
        left = chunk
        while left:
            part, left = (left, b"") if unzip is None else _step(unzip, left)
            total += len(part)
            if total > limit:
                raise TooLarge(f"the request has more than {limit} bytes")
            if part:
                yield part


def _step(unzip: Unzip, data: bytes) -> tuple[bytes, bytes]:
    try:
        part = unzip.decompress(data, 1 << 20)
    except zlib.error:
        raise Rejected("The body is not valid gzip.") from None
    return part, b"" if unzip.eof else unzip.unconsumed_tail


class Unzip(Protocol):
    """The part of zlib's decompressor that is used here."""

    def decompress(self, data: bytes, max_length: int = 0, /) -> bytes: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    @property
    def eof(self) -> bool: ...


async def read_json(request: Request, limit: int = 4 << 20) -> dict[str, Any]:
    """A JSON object from the body (an empty body is an empty object), or Rejected."""
    raw = b"".join([chunk async for chunk in read_body(request, limit, 60.0)])
    try:
        body = json.loads(raw or b"{}")
    except (ValueError, RecursionError):
        raise Rejected("The body is not valid JSON.", code="InvalidJson") from None
    if not isinstance(body, dict):
        raise Rejected("The body must be a JSON object.", code="InvalidJson")
    return body


class FileAnswer(FileStream):
    """A file, whole or one byte range of it (206). Several ranges at once are answered with the whole file."""

    def __init__(self, path: str, size: int, request: Request, headers: Mapping[str, str]) -> None:
        first, last, status = 0, size - 1, 200
        found = _RANGE.fullmatch(request.headers.get("range", "").strip())
        validator = request.headers.get("if-range")
        if found and (found[1] or found[2]) and (validator is None or validator == headers.get("ETag")):
            first, last = (int(found[1]), min(int(found[2] or size), size - 1)) if found[1] else (max(0, size - int(found[2])), size - 1)
            status = 206 if first <= last and (found[1] or found[2].strip("0")) else 416
        length = last - first + 1 if status != 416 else 0
        ranged = {"Content-Range": f"bytes {first}-{last}/{size}" if status == 206 else f"bytes */{size}"} if status != 200 else {}
        super().__init__(path, first, length, status, {"Accept-Ranges": "bytes", **headers, **ranged}, is_head=request.method == "HEAD")
