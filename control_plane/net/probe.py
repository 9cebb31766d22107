"""Does an endpoint answer HTTP? The question the scheduler asks before a replica is routed, on the proxy's own path.

Any status below 500 counts: an app that answers 401 or 404 at `/` is alive. Only the head is read.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

from control_plane.domain.routes import Endpoint
from control_plane.net.dial import DialError, dial

_MAX_HEAD_BYTES = 65_536
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9]\d\d)[ \r]")
_UNSAFE = re.compile(r"[\x00-\x20\x7f-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """`status` is the HTTP status, or None when there was no answer; `error` is empty when `ok`."""

    ok: bool
    status: int | None = None
    error: str = ""


async def probe(endpoint: Endpoint, host: str, path: str = "/", timeout_s: float = 2.0) -> ProbeResult:
    """One GET over a fresh connection; never raises. `timeout_s` covers connect and the answer's head together."""
    if _UNSAFE.search(host) or _UNSAFE.search(path) or not path.startswith("/"):
        return ProbeResult(False, error="host or path is not a valid request target")
    try:
        async with asyncio.timeout(timeout_s):
            return await _ask(endpoint, host, path, timeout_s)
    except TimeoutError:
        return ProbeResult(False, error=f"no answer within {timeout_s:g} s")
    except (DialError, OSError) as error:
        return ProbeResult(False, error=str(error) or type(error).__name__)


async def _ask(endpoint: Endpoint, host: str, path: str, timeout_s: float) -> ProbeResult:
    loop = asyncio.get_running_loop()
    site = f"X-Vitrine-Site: {endpoint.site}\r\n" if endpoint.site else ""
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{site}User-Agent: vitrine-probe\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    sock = await dial(endpoint, timeout_s)
    try:
        await loop.sock_sendall(sock, request.encode("ascii"))
        head = b""
        while True:
            data = await loop.sock_recv(sock, 16_384)
            if not data:
                return ProbeResult(False, error="closed without an answer")
            head += data
            while head.startswith(b"HTTP/1.1 1") and b"\r\n\r\n" in head:  # interim answers come before the real one
                head = head.partition(b"\r\n\r\n")[2]
            if b"\r\n\r\n" in head:
                break
            if len(head) > _MAX_HEAD_BYTES:
                return ProbeResult(False, error="its head is too large")
        match = _STATUS_LINE.match(head)
        if match is None:
            return ProbeResult(False, error="answered something that is not HTTP/1.1")
        status = int(match[1])
        return ProbeResult(status < 500, status, "" if status < 500 else f"answered {status}")
    finally:
        sock.close()
