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
        return ok({"token": app_access.issue(services.signing_key, services.clock, actor.user, space.id)})

    async def absent(word: str) -> Response:
        return plain(404, f"This platform offers no {word.replace('-', ' ').replace('_', ' ')}.")

    for path in ("/api/{word:absent}", "/api/{word:absent}/{rest:tail}"):
        api.add_api_route(path, absent, methods=["GET", "POST", "PUT", "DELETE"], include_in_schema=False, response_class=Response)
    return api
