"""The outermost layer of the API process: request id, raw-path routing, CORS, and an answer for every crash."""

from __future__ import annotations

import logging
import re
import secrets
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from control_plane.http.error_map import plain
from control_plane.http.raw_path import routing_path

_log = logging.getLogger("vitrine.http")
_TRACE = re.compile(r"[A-Za-z0-9_=;.:-]{1,128}")

EXPOSED = (
    "X-Repo-Commit, X-Request-Id, X-Error-Code, X-Error-Message, X-Total-Count, ETag, Link, Accept-Ranges, Content-Range, "
    "Content-Length, X-Linked-Size, X-Linked-Etag"
)
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Range, If-None-Match, X-HF-Bill-To, X-Requested-With",
    "Access-Control-Max-Age": "86400",
    "Content-Length": "0",
}


class RequestContext:
    """ASGI middleware. CORS is open but without credentials: a page elsewhere may call the API with a token, never
    with a visitor's cookie.
    """

    def __init__(self, app: ASGIApp, *, crash_page: Any = None) -> None:
        self._app = app
        self._crash_page = crash_page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        trace = headers.get("x-vitrine-request-id") or headers.get("x-request-id") or headers.get("x-amzn-trace-id") or ""
        request_id = trace if _TRACE.fullmatch(trace) else f"Root=1-{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id
        has_origin = "origin" in headers
        started = False

        async def tagged(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                out = MutableHeaders(scope=message)
                out["X-Request-Id"] = request_id
                if has_origin:
                    out["Access-Control-Allow-Origin"] = "*"
                    out["Access-Control-Expose-Headers"] = EXPOSED
                    out.add_vary_header("Origin")
            await send(message)

        if scope["method"] == "OPTIONS" and has_origin and "access-control-request-method" in headers:
            await tagged(
                {"type": "http.response.start", "status": 204, "headers": [(k.encode(), v.encode()) for k, v in _PREFLIGHT.items()]}
            )
            await send({"type": "http.response.body", "body": b""})
            return
        path = routing_path(scope)
        if path is None:
            await plain(400, "the path of this address is not valid UTF-8 text")(scope, receive, tagged)
            return
        scope["path"] = path
        try:
            await self._app(scope, receive, tagged)
        except Exception as error:
            if started or self._crash_page is None:
                _log.error("response_broke_off", exc_info=error, extra={"request_id": request_id})
                raise
            response = await self._crash_page(Request(scope, receive), error)
            await response(scope, receive, tagged)


def install_context(app: FastAPI) -> None:
    """Wrap `app`; call after `error_map.install`."""
    app.add_middleware(RequestContext, crash_page=app.state.on_crash)
