"""One POST with a JSON body to the API's internal door, and the JSON answer. For the proxy process, which loads no HTTP client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from control_plane.domain.routes import Endpoint
from control_plane.net.dial import dial

_MAX_ANSWER = 1 << 20


async def post_json(
    api: Endpoint, path: str, secret: str, body: Mapping[str, object], *, timeout_s: float = 3.0
) -> tuple[int, dict[str, Any]]:
    """(status, object). Raises OSError or TimeoutError when nobody answers, ValueError when the answer is not JSON."""
    payload = json.dumps(dict(body)).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: internal\r\nAuthorization: Bearer {secret}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
    )
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(sock=await dial(api, timeout_s))
        try:
            writer.write(head.encode("ascii") + payload)
            await writer.drain()
            raw = await reader.read(_MAX_ANSWER)
            while chunk := await reader.read(_MAX_ANSWER):
                raw += chunk
        finally:
            writer.close()
    first, _, rest = raw.partition(b"\r\n\r\n")
    status = int(first.split(b" ", 2)[1])
    answer = json.loads(rest)
    if not isinstance(answer, dict):
        raise ValueError("not an object")
    return status, answer
