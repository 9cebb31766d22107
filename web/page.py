"""From a request to a page: who looks, in which language, with which form token; and from an error to words.

`Pages` is made once; `Visit` once per request. `PageRoute` puts the security headers on every answer and turns the
platform's errors into pages, so handlers hold no try blocks for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup
from starlette.datastructures import FormData, UploadFile

from control_plane.domain.accounts import Actor
from control_plane.domain.errors import Conflict, Forbidden, NotFound, NotSignedIn, QuotaExceeded, Rejected, Unavailable, VitrineError
from control_plane.http.addresses import base_url, caller_address
from control_plane.http.error_map import one_line, status_of
from control_plane.ports.clock import Clock
from web import ansi, markup, sayings, security, words
from web.backend import MovedTo, WebBackend
from web.catalog import LANGUAGES, Catalog, choose, figures, load
from web.views import PlatformFacts, Viewer

LANGUAGE_COOKIE = "vitrine-lang"
STATIC_FOLDER = Path(__file__).parent / "static"
_PALETTE = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")

# `?done=` codes of redirects after a form, and what they say. A code that is not here says nothing.
DONE: dict[str, str] = {
    "saved": "Saved.",
    "hardware": "Hardware requested. The running version keeps serving until the new one answers.",
    "sleep": "Sleep time saved.",
    "storage": "Storage is there; the app starts again with it at /data.",
    "storage-removed": "Storage deleted; the app starts again without it.",
    "volume": "Mounted; the app starts again with it.",
    "volume-removed": "Not mounted any more; the app starts again without it.",
    "replicas": "Number of replicas saved; more start, or some end, now.",
    "variable": "Variable saved. The app restarts with it.",
    "secret": "Secret saved. Nobody can read it here again; the app restarts with it.",
    "removed": "Removed.",
    "visibility": "Visibility changed.",
    "renamed": "Renamed. The old address leads here for now.",
    "paused": "Paused. Only a restart brings it back.",
    "restarted": "Restarting. Follow it below.",
    "rebuild": "Rebuilding from nothing. Follow it below.",
    "deploy": "That revision is being brought live. The current one serves until it answers.",
    "committed": "Committed.",
    "cancelled": "Build cancelled.",
    "deleted": "Deleted.",
    "token": "Token revoked.",
    "session": "Session ended.",
    "password": "Password changed.",
    "user": "User added.",
    "org": "Organisation made. Add its members below.",
    "left": "You are no longer a member.",
    "maintenance": "Saved. Everybody sees it on every page.",
    "comment": "Posted.",
    "collected": "Added to this collection.",
    "preview": "The preview is on its way; it follows every commit of this pull request.",
    "preview-end": "The preview is gone.",
    "asked": "Asked. You are let in at once or when its authors say so.",
    "proposed": "Your change stands here as a pull request.",
}


@dataclass(slots=True)
class Visit:
    """One request of one person. `form` is set on POST, after its token was checked."""

    request: Request
    actor: Actor
    viewer: Viewer
    facts: PlatformFacts
    t: Catalog
    csrf: str
    new_form_cookie: bool
    now: datetime
    form: Mapping[str, Any] = field(default_factory=dict)

    def text(self, name: str, default: str = "") -> str:
        """A text field of the form, trimmed; never an upload."""
        value = self.form.get(name, default)
        return value.strip() if isinstance(value, str) else default

    def uploads(self, name: str) -> list[UploadFile]:
        return [f for f in self.form.getlist(name) if isinstance(f, UploadFile)] if isinstance(self.form, FormData) else []

    @property
    def here(self) -> str:
        return self.request.url.path + (f"?{self.request.url.query}" if self.request.url.query else "")


class Pages:
    """Templates, catalogues and the backend. `clock` gives now; `secure` (https) decides names and flags of cookies."""

    def __init__(self, backend: WebBackend, clock: Clock, *, secure: bool) -> None:
        self.backend = backend
        self.clock = clock
        self.secure = secure
        self.env = Environment(
            loader=PackageLoader("web", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        self.env.filters.update(
            size=_filter(lambda value, t, _now: figures(words.size(value), t.language)),
            ansi=ansi.to_html,
            path=lambda p: quote(str(p)),
            rev=lambda r: quote(str(r), safe=""),
            plain=lambda v: "unlimited" if v is None else f"{v:g}",
            short=lambda sha: str(sha)[:7],
            tone=_tone,
            seconds=_filter(lambda value, t, _now: words.seconds(value, t)),
            ago=_filter(lambda value, t, now: words.ago(value, now, t)),
            price=_filter(lambda value, t, _now: words.price(value, t)),
            amount=_filter(lambda value, t, _now: words.amount(value, t)),
            iso=lambda at: at.isoformat(timespec="seconds") if at else "",
            day=_filter(lambda at, t, now: words.day(at, now, t)),
            moment=_filter(lambda at, t, _now: words.moment(at, t)),
            dated=_filter(lambda text, t, now: words.dated(str(text), now, t)),
        )
        self.env.globals.update(
            languages=LANGUAGES,
            static=f"/static/{_static_version()}",
            sandbox=security.FRAME_SANDBOX,
            frame_allow=security.FRAME_ALLOW,
            query=_query,
            say=_say,
        )

    async def visit(self, request: Request) -> Visit:
        """Who looks at a page."""
        actor = await self.backend.actor(request.cookies.get(security.session_cookie(self.secure)), caller_address(request))
        kept = request.cookies.get(security.form_cookie(self.secure))
        csrf, is_new = kept or "", False
        if actor.session is not None:
            csrf = actor.session.csrf
        elif not security.is_form_token(kept):
            csrf, is_new = security.new_form_token(), True
        language = choose(request.cookies.get(LANGUAGE_COOKIE), request.headers.get("accept-language", ""))
        viewer, facts = await self.backend.viewer(actor), await self.backend.platform()
        return Visit(request, actor, viewer, facts, load(language), csrf, is_new, self.clock.now())

    async def submitted(self, request: Request) -> Visit:
        """Who sends a form. Raises Forbidden when the form does not come from one of our own pages."""
        visit = await self.visit(request)
        if not security.is_same_origin(request.headers, (base_url(request), visit.facts.public_url)):
            raise Forbidden("This form was sent from another site, so nothing was done.", code="CrossOrigin")
        form = await request.form(max_files=200, max_fields=400, max_part_size=8 << 20)
        given = form.get(security.CSRF_FIELD)
        if visit.new_form_cookie or not isinstance(given, str) or not security.same_token(visit.csrf, given):
            raise Forbidden("This form is too old. Go back, load the page again and send it once more.", code="StaleForm")
        visit.form = form
        return visit

    def page(self, visit: Visit, template: str, *, status: int = 200, **values: Any) -> Response:
        html = self.fragment(visit, template, **values)
        response = HTMLResponse(html, status_code=status)
        if visit.new_form_cookie:
            response.set_cookie(
                security.form_cookie(self.secure), visit.csrf, max_age=86400, path="/", secure=self.secure, httponly=True, samesite="lax"
            )
        return response

    def fragment(self, visit: Visit, template: str, **values: Any) -> str:
        def md(text: str, file_base: str = "", raw_base: str = "", folder: str = "") -> Markup:
            return markup.markdown(text, file_base=file_base, raw_base=raw_base, folder=folder)

        context = {
            "t": visit.t,
            "now": visit.now,
            "viewer": visit.viewer,
            "facts": visit.facts,
            "csrf": visit.csrf,
            "here": visit.here,
            "here_path": visit.request.url.path,
            "done": DONE.get(visit.request.query_params.get("done", ""), ""),
            "markdown": md,
            "error": None,
            **values,
        }
        return self.env.get_template(template).render(context)

    def go(self, path: str, done: str = "") -> Response:
        """POST, redirect, GET. `path` is one of our own, already quoted."""
        if done:
            path, mark, fragment = path.partition("#")
            path += ("&" if "?" in path else "?") + f"done={done}" + mark + fragment
        return RedirectResponse(path, status_code=303)

    async def error(self, request: Request, error: VitrineError) -> Response:
        """An error in words: what happened, what is true now, what to do next."""
        visit = await self.visit(request)
        if isinstance(error, NotSignedIn) and request.method == "GET" and visit.actor.is_anonymous:
            return self.go(f"/sign-in?{urlencode({'next': visit.here})}")
        status = status_of(error, anonymous=False)
        response = self.page(visit, "error.html", status=status, failure=error_view(error), code=status)
        if isinstance(error, Unavailable):
            response.headers["Retry-After"] = str(error.retry_after_s)
        response.headers["X-Error-Code"] = error.code
        response.headers["X-Error-Message"] = one_line(error.message)
        return response


@dataclass(frozen=True, slots=True)
class ErrorView:
    """An error for a template. `kind`: missing, forbidden, quota, rejected, conflict, later or broken."""

    kind: str
    code: str
    message: str
    hint: str
    facts: tuple[tuple[str, str], ...] = ()


def error_view(error: VitrineError) -> ErrorView:
    kinds: tuple[tuple[type[VitrineError], str], ...] = (
        (NotFound, "missing"), (QuotaExceeded, "quota"), (Forbidden, "forbidden"), (NotSignedIn, "forbidden"),
        (Rejected, "rejected"), (Conflict, "conflict"), (Unavailable, "later"),
    )  # fmt: skip
    kind = next((name for cls, name in kinds if isinstance(error, cls)), "broken")
    if error.code in ("StaleForm", "CrossOrigin"):
        kind = "rejected"
    facts = tuple((k, str(v)) for k, v in error.facts.items() if isinstance(v, str | int | float) and v != "")
    message = error.message if kind != "broken" else ""
    return ErrorView(kind, error.code, message, error.hint or "", facts if kind == "quota" else ())


def moved_path(path: str, moved: MovedTo) -> str:
    """The same page of the repository under its new name."""
    kind, owner, name = moved.old
    head = f"{kind.url_prefix}{owner}/{name}".lower()
    before, found, _ = path.lower().partition(head)
    if not found:
        return "/"
    tail = path[len(before) + len(head) :]
    return quote(f"{path[: len(before)]}{kind.url_prefix}{moved.owner}/{moved.name}{tail}")


def page_route(pages: Pages) -> type[APIRoute]:
    """The route class of all pages."""

    class PageRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handler = super().get_route_handler()

            async def handle(request: Request) -> Response:
                try:
                    response = await handler(request)
                except MovedTo as moved:
                    response = pages.go(moved_path(request.url.path, moved))
                except VitrineError as error:
                    response = await pages.error(request, error)
                except RequestValidationError:
                    response = await pages.error(request, NotFound("There is no page at this address."))
                finally:
                    await request.close()  # uploaded files
                facts = await pages.backend.platform()
                for name, value in security.page_headers(facts.frame_source, https=pages.secure).items():
                    response.headers.setdefault(name, value)
                return response

            return handle

    return PageRoute


def _tone(name: str) -> str:
    """One of the eight colours for a name, always the same one."""
    return _PALETTE[hashlib.blake2s(name.lower().encode(), digest_size=1).digest()[0] % len(_PALETTE)]


def _query(base: Mapping[str, Any], **changes: Any) -> str:
    """`?a=1&b=2` from a mapping with some keys changed; empty values are left out."""
    merged = {k: v for k, v in {**base, **changes}.items() if v not in ("", None, (), [], False)}
    return f"?{urlencode(merged, doseq=True)}" if merged else "?"


def _filter(function: Callable[[Any, Catalog, datetime], str]) -> Callable[[Context, Any], str]:
    @pass_context
    def apply(context: Context, value: Any) -> str:
        return function(value, context["t"], context["now"])

    return apply


@pass_context
def _say(context: Context, words: str, code: str = "") -> sayings.Saying:
    return sayings.say(context["t"], words, code)


def _static_version() -> str:
    """Changes whenever a static file changes, so that browsers may keep them for ever."""
    digest = hashlib.blake2s(digest_size=6)
    for path in sorted(STATIC_FOLDER.rglob("*")):
        if path.is_file():
            digest.update(path.name.encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
