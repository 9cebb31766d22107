"""Answers the proxy gives itself: bytes ready to send, as JSON for clients and as a page for browsers that navigate."""

from __future__ import annotations

import json
import secrets
from email.utils import formatdate
from http import HTTPStatus

from control_plane.domain.routes import Route
from control_plane.proxy.errors import Code
from control_plane.proxy.pages import error_page, progress_page

_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}


def raw(status: int, content_type: str, body: bytes, *, headers: str = "", keep: bool, head_only: bool) -> bytes:
    """One complete response. `headers` are `Name: value\\r\\n` lines of ours."""
    head = (
        b"HTTP/1.1 %d %b\r\nDate: %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n"
        b"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n%b%b\r\n"
        % (
            status,
            _PHRASES.get(status, b"Error"),
            formatdate(usegmt=True).encode(),
            content_type.encode(),
            len(body),
            headers.encode("latin-1"),
            b"" if keep else b"Connection: close\r\n",
        )
    )
    return head if head_only else head + body


def refusal(
    code: Code,
    *,
    route: Route | None,
    page: bool,
    request_id: str,
    keep: bool,
    head_only: bool,
    hub: str,
    extra: str = "",
    words: str = "",
    language: str = "en",
) -> bytes:
    """A coded answer. Names of Spaces appear only when `route` is given: the caller has passed the guard by then."""
    answer = code.value
    message = words or (route.message if route is not None and route.message else answer.words)
    headers = f"X-Vitrine-Error: {code.name}\r\nX-Vitrine-Request-Id: {request_id}\r\n{extra}"
    if route is not None and route.revision:
        headers += f"X-Vitrine-Revision: {route.revision}\r\n"
    retry = answer.retry_after_s
    if route is not None and route.eta_s and retry:
        retry = max(1, min(60, round(route.eta_s)))
    if retry:
        headers += f"Retry-After: {retry}\r\n"
    if page:
        nonce = secrets.token_urlsafe(12)
        embed = "*" if route is None or route.allow_embedding else f"'self' {hub}"
        headers += (
            f"Content-Security-Policy: default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; "
            f"base-uri 'none'; form-action 'none'; frame-ancestors {embed}\r\nReferrer-Policy: no-referrer\r\n"
        )
        headers += "Vary: Accept, Accept-Language\r\n"
        if code is Code.SPACE_STARTING and route is not None:
            text = progress_page(route, nonce, hub, language)
        else:
            text = error_page(code, message, nonce, hub, request_id, route, language)
        return raw(answer.status, "text/html; charset=utf-8", text.encode(), headers=headers, keep=keep, head_only=head_only)
    body: dict[str, object] = {"error": message, "code": code.name, "request_id": request_id}
    if answer.fix:
        body["hint"] = answer.fix
    if route is not None:
        body |= {"space": route.space_name, "state": route.state.value}
        if route.reason:
            body["reason"] = route.reason
        if route.eta_s is not None:
            body["eta_s"] = route.eta_s
    headers += "Vary: Accept\r\n"
    if code is Code.METHOD_REFUSED:
        headers += "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"
    return raw(answer.status, "application/json", json.dumps(body).encode(), headers=headers, keep=keep, head_only=head_only)
