"""Names without a namespace, as the oldest models of the public service have them: legal for clients, and never a repository here.

Told so in the words that clients know, or they report a broken connection instead of a missing repository.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request
from starlette.convertors import Convertor, register_url_convertor
from starlette.responses import Response

from control_plane.api.deps import Hub, Services
from control_plane.domain.errors import RepoNotFound

_BELOW_API = (
    "branch", "commit", "commits", "discussions", "paths-info", "preupload", "revision", "safetensors-metadata", "super-squash", "tag",
    "tree", "xet-read-token", "xet-write-token",
)  # fmt: skip


class _Part(Convertor[str]):
    """What follows the name of a repository, and has something behind it, in addresses of the API."""

    regex = f"(?:{'|'.join(_BELOW_API)})"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("part", _Part())


def router(hub: Hub) -> APIRouter:
    """Of the API. `GET /api/{kind}/{name}` itself is the catalogue's."""
    api = APIRouter()
    absent = _absent(hub)
    address = "/api/{kind:kind}/{name:seg}/{part:part}/{rest:tail}"
    api.add_api_route(address, absent, methods=["GET", "POST", "DELETE"], include_in_schema=False, response_class=Response)
    return api


def file_router(services: Services) -> APIRouter:
    """Of files. Mount it behind everything: the pages of a repository that is called `resolve` come first."""
    api = APIRouter()
    absent = _absent(Hub(services))
    for word in ("resolve", "raw"):
        address = f"/{{name:seg}}/{word}/{{rev:seg}}/{{path:tail}}"
        api.add_api_route(address, absent, methods=["GET", "HEAD"], include_in_schema=False, response_class=Response)
    return api


def _absent(hub: Hub) -> Callable[[Request], Awaitable[Response]]:
    async def absent(request: Request) -> Response:
        await hub.actor(request)
        raise RepoNotFound()

    return absent
