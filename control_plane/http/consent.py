"""What a person is asked before an app or a device may act in their name. The provider decides, the pages draw; neither knows the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

EVERYTHING = "everything"  # a power beside the scopes: what the person may do, the asker may do


@dataclass(frozen=True, slots=True)
class Question:
    """`powers`: scopes, or EVERYTHING. `fields` go back to `action` with the answer, which leads to the origin `leads_to` ("" = here)."""

    asker: str
    person: str
    powers: tuple[str, ...]
    action: str
    fields: Mapping[str, str]
    leads_to: str = ""
    code: str = ""  # what the device shows, "XXXX-XXXX"; "" when an app asks


class ConsentPages(Protocol):
    async def ask(self, request: Request, question: Question) -> Response: ...
    async def ask_code(self, request: Request) -> Response: ...
    async def decided(self, request: Request, *, allowed: bool) -> Response: ...
    async def in_frame(self, request: Request, address: str) -> Response: ...  # sign-in goes on in a tab of its own
