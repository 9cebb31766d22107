"""Tokens, sessions, password: what belongs to the person who is signed in."""

from __future__ import annotations

from datetime import timedelta

from fastapi import APIRouter, Request, Response

from control_plane.domain.errors import NotSignedIn, Rejected, VitrineError
from control_plane.http.error_map import status_of
from web.page import Pages, Visit, error_view, page_route


def signed_in(visit: Visit) -> Visit:
    if not visit.viewer.name:
        raise NotSignedIn("Sign in first.")
    return visit


def account_router(pages: Pages) -> APIRouter:
    router = APIRouter(route_class=page_route(pages), include_in_schema=False)
    backend = pages.backend

    async def tokens_page(visit: Visit, *, fresh: str = "", error: VitrineError | None = None) -> Response:
        response = pages.page(
            visit, "tokens.html", status=status_of(error, anonymous=False) if error else 200, rows=await backend.tokens(visit.actor),
            fresh=fresh, error=error_view(error) if error else None,
        )  # fmt: skip
        if fresh:
            response.headers["Cache-Control"] = "no-store"
        return response

    @router.get("/settings/tokens")
    async def tokens(request: Request) -> Response:
        return await tokens_page(signed_in(await pages.visit(request)))

    @router.post("/settings/tokens")
    async def create(request: Request) -> Response:
        # Not redirected: the token is in this one answer and nowhere else.
        visit = signed_in(await pages.submitted(request))
        days = visit.text("days")
        expires = visit.now + timedelta(days=int(days)) if days.isascii() and days.isdigit() and len(days) < 5 else None
        try:
            fresh = await backend.create_token(visit.actor, visit.text("name"), visit.text("role"), expires)
        except Rejected as error:
            return await tokens_page(visit, error=error)
        return await tokens_page(visit, fresh=fresh)

    @router.post("/settings/tokens/revoke")
    async def revoke(request: Request) -> Response:
        visit = signed_in(await pages.submitted(request))
        await backend.revoke_token(visit.actor, visit.text("id"))
        return pages.go("/settings/tokens", "token")

    async def account_page(visit: Visit, error: VitrineError | None = None) -> Response:
        return pages.page(
            visit, "account.html", status=status_of(error, anonymous=False) if error else 200, sessions=await backend.sessions(visit.actor),
            quotas=await backend.own_quotas(visit.actor), orgs=(await backend.profile(visit.actor, visit.viewer.name)).groups,
            may_make_org=backend.may_make_org(visit.actor), error=error_view(error) if error else None,
        )  # fmt: skip

    @router.get("/settings")
    async def settings() -> Response:
        return pages.go("/settings/account")

    @router.get("/settings/account")
    async def account(request: Request) -> Response:
        return await account_page(signed_in(await pages.visit(request)))

    @router.post("/settings/sessions/end")
    async def end_session(request: Request) -> Response:
        visit = signed_in(await pages.submitted(request))
        await backend.end_session(visit.actor, visit.text("id") or None)
        return pages.go("/settings/account", "session")

    @router.post("/settings/password")
    async def password(request: Request) -> Response:
        visit = signed_in(await pages.submitted(request))
        old, new = visit.form.get("old"), visit.form.get("new")
        try:
            await backend.change_password(visit.actor, old if isinstance(old, str) else "", new if isinstance(new, str) else "")
        except VitrineError as error:
            return await account_page(visit, error)
        return pages.go("/sign-in", "password")

    return router
