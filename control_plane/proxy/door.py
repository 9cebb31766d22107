"""The guard's question to the API: `POST /internal/authorize` over its Unix socket or address, on one raw connection each.

Request: {"host", "kind", "credential"}. Answer: 200 with {"allowed": bool, "user": str} and optionally {"cookie", "max_age_s"}.
Anything else means that access cannot be checked, never that it is granted.
"""

from __future__ import annotations

import asyncio
import json

from control_plane.domain.routes import Endpoint, EndpointKind
from control_plane.net.dial import dial
from control_plane.proxy.guard import GuardUnavailable, Verdict

_MAX_ANSWER = 65_536


class ApiDoor:
    """An Authorize. `address` is a Unix socket path when it holds a slash, else "host:port"; `secret` opens the internal door."""

    def __init__(self, address: str, secret: str, *, timeout_s: float = 3.0) -> None:
        self._endpoint = Endpoint(EndpointKind.UNIX if "/" in address else EndpointKind.TCP, address)
        self._secret = secret
        self._timeout_s = timeout_s

    async def __call__(self, host: str, kind: str, credential: str) -> Verdict:
        """Raises GuardUnavailable when the API cannot be asked or answers something else."""
        body = json.dumps({"host": host, "kind": kind, "credential": credential}).encode()
        request = (
            b"POST /internal/authorize HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\nContent-Type: application/json\r\n"
            b"Accept: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (self._secret.encode(), len(body), body)
        )
        try:
            async with asyncio.timeout(self._timeout_s):
                head, _, answer = (await self._exchange(request)).partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                raise GuardUnavailable(f"the API answered {head[9:12].decode('latin-1') or 'nothing'}")
            # Content-Length is not needed: the API closes after this one answer. Chunked answers have their sizes around the object.
            fields = json.loads(answer[answer.index(b"{") : answer.rindex(b"}") + 1])
            allowed = fields["allowed"]
            if not isinstance(allowed, bool):
                raise ValueError("allowed is not a boolean")
            return Verdict(
                allowed, str(fields.get("user") or ""), cookie=str(fields.get("cookie") or ""), max_age_s=int(fields.get("max_age_s") or 0)
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise GuardUnavailable(str(error) or type(error).__name__) from error

    async def _exchange(self, request: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        sock = await dial(self._endpoint, self._timeout_s)
        try:
            await loop.sock_sendall(sock, request)
            answer = b""
            while data := await loop.sock_recv(sock, 16_384):
                answer += data
                if len(answer) > _MAX_ANSWER:
                    raise ValueError("the answer is too long")
            return answer
        finally:
            sock.close()
