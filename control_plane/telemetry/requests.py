"""Each request of the API process: its duration in a bounded histogram, and one log line for what changes or fails."""

from __future__ import annotations

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from control_plane.telemetry.metrics import ApiMetrics

_log = logging.getLogger("vitrine.request")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def door_of(path: str) -> str:
    """A bounded word for an address: git, lfs, api, internal or page."""
    if path.startswith("/api/"):
        return "api"
    if path.startswith("/internal/"):
        return "internal"
    if path.startswith(("/_lfs/", "/_cas/")) or "/info/lfs" in path:
        return "lfs"
    if path.endswith(("/info/refs", "/git-upload-pack", "/git-receive-pack")):
        return "git"
    return "page"


class RequestMeter:
    """ASGI middleware, outside of everything that answers. The query is never logged: it may hold a signature."""

    def __init__(self, app: ASGIApp, metrics: ApiMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500
        path = scope["path"]

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, seen)
        finally:
            seconds = time.perf_counter() - began
            method = scope["method"] if scope["method"] in _METHODS else "other"
            door = door_of(path)
            self._metrics.request(door, method, status, seconds)
            changes = method not in ("GET", "HEAD", "OPTIONS") and door != "internal"
            level = logging.INFO if changes or status >= 500 else logging.DEBUG
            if _log.isEnabledFor(level):
                request_id = scope.get("state", {}).get("request_id", "")
                facts = {"request_id": request_id, "method": method, "path": path[:300], "status": status, "seconds": round(seconds, 4)}
                _log.log(level, "request", extra=facts)
