"""The pages on which a person lets an app or a device act for them. The OAuth provider decides what is asked and what it means."""

from __future__ import annotations

from fastapi import Request, Response

from control_plane.http.consent import EVERYTHING, Question
from web import security
from web.page import Pages

POWERS = {
    EVERYTHING: "do everything that you can do here",
    "openid": "know who you are",
    "profile": "see your profile: name, picture, organisations",
    "email": "see your e-mail address",
    "read-repos": "read your private repositories",
    "contribute-repos": "add to your repositories",
    "write-repos": "change your repositories",
    "manage-repos": "create, change and delete your repositories",
    "write-discussions": "write in discussions in your name",
    "read-collections": "see your private collections",
    "write-collections": "change your collections",
    "webhooks": "manage your webhooks",
}


class WebConsent:
    """`control_plane.http.consent.ConsentPages` with our templates."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    async def ask(self, request: Request, question: Question) -> Response:
        visit = await self._pages.visit(request)
        powers = [POWERS.get(word, word) for word in question.powers]
        response = self._pages.page(visit, "consent.html", question=question, powers=powers)
        return await self._guarded(response, leads_to=question.leads_to)

    async def ask_code(self, request: Request) -> Response:
        return await self._guarded(self._pages.page(await self._pages.visit(request), "device_code.html"))

    async def decided(self, request: Request, *, allowed: bool) -> Response:
        return await self._guarded(self._pages.page(await self._pages.visit(request), "device_done.html", allowed=allowed))

    async def in_frame(self, request: Request, address: str) -> Response:
        """Shown inside our own Space page only, and able to do nothing but lead out of it."""
        response = await self._guarded(self._pages.page(await self._pages.visit(request), "in_frame.html", address=address))
        response.headers["Content-Security-Policy"] = response.headers["Content-Security-Policy"].replace(
            "frame-ancestors 'none'", "frame-ancestors 'self'"
        )
        response.headers["X-Frame-Options"] = "SAMEORIGIN"
        return response

    async def _guarded(self, response: Response, leads_to: str = "") -> Response:
        facts = await self._pages.backend.platform()
        for name, value in security.page_headers(facts.frame_source, https=self._pages.secure).items():
            response.headers[name] = value
        if leads_to:
            response.headers["Content-Security-Policy"] = response.headers["Content-Security-Policy"].replace(
                "form-action 'self'", f"form-action 'self' {leads_to}"
            )
        response.headers["Cache-Control"] = "no-store"
        return response
