"""One map from errors to answers: status, X-Error-Code, X-Error-Message and the JSON body that Hub clients read."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from control_plane.domain import errors as e

_log = logging.getLogger("vitrine.http")

# Most specific class first; the first match decides.
STATUS: tuple[tuple[type[e.VitrineError], int], ...] = (
    (e.NotSignedIn, 401),
    (e.QuotaExceeded, 403),
    (e.Forbidden, 403),
    (e.NotFound, 404),
    (e.NameTaken, 409),
    (e.TooLarge, 413),
    (e.StaleParent, 412),
    (e.Conflict, 409),
    (e.Rejected, 400),
    (e.RateLimited, 429),
    (e.Unavailable, 503),
    (e.VitrineError, 500),
)
# Codes that say more than their class does.
STATUS_OF_CODE = {"InvalidPath": 422, "InvalidObject": 422, "UnknownLfsObject": 422, "PaymentRequired": 402, "NotImplemented": 501}

HtmlPage = Callable[[Request, int, str], Awaitable[Response | None]]


class Moved(Exception):
    """The repository answers under another name: 307 with a relative Location."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.location = location


def status_of(error: e.VitrineError, *, anonymous: bool) -> int:
    """Absent and hidden repositories are 401 to anonymous callers, so that private names do not leak; 404 to others.

    A gate is 401 to anonymous callers too: signing in is their next step.
    """
    if isinstance(error, e.RepoNotFound):
        return 401 if anonymous else 404
    if isinstance(error, e.GatedRepo):
        return 401 if anonymous else 403
    if error.code in STATUS_OF_CODE:
        return STATUS_OF_CODE[error.code]
    return next(status for kind, status in STATUS if isinstance(error, kind))


def one_line(text: str) -> str:
    """`text` fit for a header: printable ASCII, one line, at most 1,000 characters."""
    flat = " ".join(text.split())[:1000]
    return "".join(c if " " <= c <= "~" else "?" for c in flat)


def headers_of(error: e.VitrineError, status: int) -> dict[str, str]:
    headers = {"X-Error-Message": one_line(error.message)}
    # The client reads a 401 with this exact message and no code as "the token is bad".
    if not (isinstance(error, e.NotSignedIn) and error.bad_credentials):
        headers["X-Error-Code"] = error.code
    if isinstance(error, e.EntryNotFound) and error.commit:
        headers["X-Repo-Commit"] = error.commit
    if isinstance(error, e.Unavailable):
        headers["Retry-After"] = str(max(1, int(error.retry_after_s)))
    return headers


def body_of(error: e.VitrineError) -> dict[str, Any]:
    body: dict[str, Any] = {k: v for k, v in error.facts.items() if v not in (None, [])}
    body["error"] = error.message
    if error.hint and error.hint not in error.message:
        body["error_description"] = error.hint
    return body


class _PlainJson(JSONResponse):
    """ASCII only: a message may quote text that is not valid Unicode, and must still be sent."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode()


def answer(error: e.VitrineError, *, anonymous: bool) -> JSONResponse:
    status = status_of(error, anonymous=anonymous)
    return _PlainJson(body_of(error), status_code=status, headers=headers_of(error, status))


def plain(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error that no `VitrineError` stands for; its code is the status in words."""
    words = {"X-Error-Code": HTTPStatus(status).phrase.title().replace(" ", ""), "X-Error-Message": one_line(message)}
    return _PlainJson({"error": message}, status_code=status, headers={**words, **(headers or {})})


def _is_anonymous(request: Request) -> bool:
    """Whether nobody is known to be behind this request; set by the door that authenticated it."""
    return bool(getattr(request.state, "anonymous", True))


def install(app: FastAPI, *, html: HtmlPage | None = None) -> None:
    """Exception handlers for the whole app. `html(request, status, message)` may render a page for browsers."""

    async def render(request: Request, status: int, message: str, response: Response) -> Response:
        wants_page = "text/html" in request.headers.get("accept", "") and not request.scope["path"].startswith(("/api/", "/internal/"))
        if html is not None and wants_page:
            page = await html(request, status, message)
            if page is not None:
                return page
        return response

    async def on_vitrine_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, e.VitrineError)
        response = answer(error, anonymous=_is_anonymous(request))
        if response.status_code >= 500 and not isinstance(error, e.Unavailable):
            _log.error("request_failed", exc_info=error, extra={"code": error.code})
        return await render(request, response.status_code, error.message, response)

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = "There is nothing at this address." if error.status_code == 404 else str(error.detail)
        return await render(request, error.status_code, message, plain(error.status_code, message, error.headers))

    async def on_bad_request(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        # Where and what is wrong, never the value itself: it may be a secret.
        problems = [f"{'.'.join(str(p) for p in item['loc'][1:]) or 'body'}: {item['msg']}" for item in error.errors()[:10]]
        message = "; ".join(problems) or "the request is not understood"
        body = {"error": problems or message}
        return _PlainJson(body, status_code=400, headers={"X-Error-Message": one_line(message), "X-Error-Code": "BadRequest"})

    async def on_moved(_: Request, error: Exception) -> Response:
        assert isinstance(error, Moved)
        return Response(status_code=307, headers={"Location": error.location})

    async def on_disconnect(_: Request, __: Exception) -> Response:
        return Response(status_code=400)

    async def on_anything(request: Request, error: Exception) -> Response:
        _log.error("request_crashed", exc_info=error)
        message = "The platform had a fault of its own; try again, and tell the operator the request id if it stays."
        response = plain(500, message, {"X-Error-Code": "Internal"})
        return await render(request, 500, message, response)

    app.add_exception_handler(e.VitrineError, on_vitrine_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_bad_request)
    app.add_exception_handler(Moved, on_moved)
    app.add_exception_handler(ClientDisconnect, on_disconnect)
    app.state.on_crash = on_anything
