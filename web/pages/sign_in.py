"""Sign in, sign up, one-time links, sign out, and the choice of language."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from control_plane.domain.errors import Forbidden, NotSignedIn, Unavailable, VitrineError
from control_plane.http.addresses import caller_address
from control_plane.http.error_map import status_of
from web import security
from web.catalog import LANGUAGES
from web.page import LANGUAGE_COOKIE, Pages, Visit, error_view, page_route
from web.views import SignedIn


def sign_in_router(pages: Pages) -> APIRouter:
    router = APIRouter(route_class=page_route(pages), include_in_schema=False)
    backend = pages.backend

    def welcome(visit: Visit, signed_in: SignedIn) -> Response:
        response = pages.go(security.safe_next(visit.text("next")))
        response.set_cookie(
            security.session_cookie(pages.secure), signed_in.cookie, expires=signed_in.expires_at, path="/", secure=pages.secure,
            httponly=True, samesite="lax",
        )  # fmt: skip
        response.delete_cookie(security.form_cookie(pages.secure), path="/", secure=pages.secure, httponly=True, samesite="lax")
        return response

    def again(visit: Visit, template: str, error: VitrineError) -> Response:
        status = status_of(error, anonymous=False)
        response = pages.page(
            visit, template, status=status, error=error_view(error), name=visit.text("name")[:96], email=visit.text("email")[:254],
            next=security.safe_next(visit.text("next")),
        )  # fmt: skip
        if isinstance(error, Unavailable):
            response.headers["Retry-After"] = str(error.retry_after_s)
        return response

    @router.get("/sign-in")
    @router.get("/login")
    async def form(request: Request) -> Response:
        visit = await pages.visit(request)
        target = security.safe_next(request.query_params.get("next"))
        return pages.go(target) if visit.viewer.name else pages.page(visit, "sign_in.html", next=target, name="")

    @router.post("/sign-in")
    async def sign_in(request: Request) -> Response:
        visit = await pages.submitted(request)
        agent = request.headers.get("user-agent", "")
        password = visit.form.get("password")
        try:
            signed_in = await backend.sign_in(
                visit.text("name"), password if isinstance(password, str) else "", address=caller_address(request), user_agent=agent
            )
        except VitrineError as error:
            return again(visit, "sign_in.html", error)
        return welcome(visit, signed_in)

    @router.get("/sign-in/once")
    async def once(request: Request) -> Response:
        # The link only shows a button: mail scanners and previews open links, and must not use them up.
        visit = await pages.visit(request)
        token, target = request.query_params.get("token", "")[:200], security.safe_next(request.query_params.get("next"))
        return pages.page(visit, "once.html", token=token, next=target)

    @router.post("/sign-in/once")
    async def use_once(request: Request) -> Response:
        visit = await pages.submitted(request)
        agent = request.headers.get("user-agent", "")
        try:
            signed_in = await backend.sign_in_once(visit.text("token"), address=caller_address(request), user_agent=agent)
        except NotSignedIn as error:
            return again(visit, "sign_in.html", error)
        return welcome(visit, signed_in)

    @router.get("/sign-up")
    @router.get("/join")
    async def sign_up_form(request: Request) -> Response:
        visit = await pages.visit(request)
        if not visit.facts.sign_up_open:
            raise Forbidden("This platform does not take new accounts by itself; ask an operator.")
        return pages.page(visit, "sign_up.html", next=security.safe_next(request.query_params.get("next")), name="", email="")

    @router.post("/sign-up")
    async def sign_up(request: Request) -> Response:
        visit = await pages.submitted(request)
        if not visit.facts.sign_up_open:
            raise Forbidden("This platform does not take new accounts by itself; ask an operator.")
        password = visit.form.get("password")
        try:
            signed_in = await backend.sign_up(
                visit.text("name"), visit.text("email"), password if isinstance(password, str) else "",
                address=caller_address(request), user_agent=request.headers.get("user-agent", ""),
            )  # fmt: skip
        except VitrineError as error:
            return again(visit, "sign_up.html", error)
        return welcome(visit, signed_in)

    @router.post("/sign-out")
    async def sign_out(request: Request) -> Response:
        visit = await pages.submitted(request)
        await backend.sign_out(visit.actor)
        response = pages.go("/")
        response.delete_cookie(security.session_cookie(pages.secure), path="/", secure=pages.secure, httponly=True, samesite="lax")
        response.headers["Clear-Site-Data"] = '"cache"'
        return response

    @router.get("/-/language")
    async def language(request: Request) -> Response:
        response = pages.go(security.safe_next(request.query_params.get("next")))
        wanted = request.query_params.get("to")
        if wanted in {code for code, _ in LANGUAGES}:
            response.set_cookie(LANGUAGE_COOKIE, str(wanted), max_age=365 * 86400, path="/", secure=pages.secure, samesite="lax")
        return response

    return router
