"""Consent pages without style: what is asked, as text."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from control_plane.http.consent import Question


class PlainConsent:
    async def ask(self, request: Request, question: Question) -> Response:
        return PlainTextResponse(
            f"{question.asker} asks {question.person} for {' '.join(question.powers)} {question.code}\n"
            f"{question.action} leads to {question.leads_to or 'here'}\n"
        )

    async def ask_code(self, request: Request) -> Response:
        return PlainTextResponse("which code?")

    async def decided(self, request: Request, *, allowed: bool) -> Response:
        return PlainTextResponse("allowed" if allowed else "denied")

    async def in_frame(self, request: Request, address: str) -> Response:
        return PlainTextResponse(f"go on at {address}")
