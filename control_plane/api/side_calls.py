"""Calls that clients make in passing and that must answer at once, and clear refusals for what is not offered."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.convertors import Convertor, register_url_convertor
from starlette.responses import JSONResponse, Response

from control_plane.api import app_access
from control_plane.api.deps import Hub, ok
from control_plane.domain.accounts import Action
from control_plane.http.error_map import plain

_ABSENT = ("jobs", "scheduled-jobs", "buckets", "papers", "daily_papers", "sandboxes", "kernels", "docs")


class _AbsentWord(Convertor[str]):
    """Rooms of the public service that this one does not have."""

    regex = f"(?:{'|'.join(_ABSENT)})"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("absent", _AbsentWord())


def router(hub: Hub) -> APIRouter:
    api = APIRouter(tags=["side calls"])
    services = hub.services

    @api.get("/api/agent-harnesses")
    async def harnesses() -> JSONResponse:
        return ok({"standardEnvVars": [], "harnesses": []})

    @api.head("/api/telemetry/{topic:tail}")
    @api.get("/api/telemetry/{topic:tail}")
    async def telemetry(topic: str) -> Response:
        """Counted nowhere: what people use stays theirs."""
        return Response(status_code=200)

    @api.get("/api/spaces/{ns:seg}/{name:seg}/jwt")
    async def jwt(request: Request, ns: str, name: str) -> JSONResponse:
        actor, _, space = await hub.space(request, ns, name, Action.USE_APP)
        return ok({"token": app_access.issue(services.signing_key, services.clock, actor, space.id)})

    @api.get("/avatars/{name:seg}", include_in_schema=False)
    async def avatar(name: str) -> Response:
        """The first letter of a name on a colour of its own; the same for every account that could have the name."""
        name = name.removesuffix(".svg")
        hue = sum(name.lower().encode()) * 47 % 360
        letter = next((c for c in name.upper() if c.isascii() and c.isalnum()), "?")
        drawing = (
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><rect width="64" height="64" rx="32" '
            f'fill="hsl({hue} 45% 45%)"/><text x="32" y="42" font-family="sans-serif" font-size="30" fill="#fff" '
            f'text-anchor="middle">{letter}</text></svg>'
        )
        return Response(drawing, media_type="image/svg+xml", headers={"Cache-Control": "public, max-age=86400"})

    async def absent(word: str) -> Response:
        return plain(404, f"This platform offers no {word.replace('-', ' ').replace('_', ' ')}.")

    async def attachment() -> Response:
        return plain(404, "This platform keeps no attachments of discussions; commit the picture to a repository and link to it.")

    api.add_api_route("/uploads", attachment, methods=["POST"], include_in_schema=False, response_class=Response)
    for path in ("/api/{word:absent}", "/api/{word:absent}/{rest:tail}"):
        api.add_api_route(path, absent, methods=["GET", "POST", "PUT", "DELETE"], include_in_schema=False, response_class=Response)
    return api
