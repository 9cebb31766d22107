"""The index of routes gives what asking every route in turn gives, on the routes of the whole API process."""

from __future__ import annotations

import random
import re
from pathlib import Path

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request
from starlette.routing import Match, Route

from control_plane.asgi import build_app
from control_plane.bootstrap import build_services
from control_plane.domain.errors import Rejected
from control_plane.http.error_map import install
from control_plane.http.route_index import RouteIndex, install_index, join
from control_plane.settings import Settings

WORDS = ("alice", "demo", "main", "spaces", "datasets", "models", "api", "settings", "resolve", "x.git", "1", "-", "a\x00b", "é", "")


def test_every_address_finds_the_route_that_comes_first(tmp_path: Path) -> None:
    app = build_app(build_services(Settings(data_dir=tmp_path)))
    index = app.router.middleware_stack
    assert isinstance(index, RouteIndex)
    draw = random.Random(7)
    routes = [route for route in app.router.routes if isinstance(route, Route)]
    assert len(routes) > 300
    for template in routes:
        for tail in ("", "/", "/more/of/it"):
            path = re.sub(r"\{[^}]+\}", lambda _: draw.choice(WORDS), template.path) + tail
            for method in ("GET", "POST"):
                scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}
                in_turn = next((one for one in app.router.routes if one.matches(dict(scope))[0] is Match.FULL), None)
                assert index.find(dict(scope))[0] is in_turn, (method, path)


async def test_what_runs_ahead_and_what_no_route_takes() -> None:
    asked: list[str] = []

    async def before(request: Request) -> None:
        asked.append(request.url.path)
        if request.method == "DELETE":
            raise Rejected("not now")

    part = APIRouter()

    @part.api_route("/things/{name}", methods=["GET", "DELETE"])
    async def thing(name: str) -> str:
        return name

    app = FastAPI()
    install(app)
    join(app, part)
    install_index(app, before)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/things/one")).json() == "one"
        assert (await client.delete("/things/one")).json() == {"error": "not now"}
        assert (await client.post("/things/one")).status_code == 405
        assert (await client.get("/things/one/")).status_code == 307
        assert (await client.get("/nothing")).status_code == 404
    assert asked == ["/things/one", "/things/one"]


@pytest.mark.parametrize("path", ["", "no-slash", "/" * 50, "/a" * 500])
def test_odd_addresses_find_nothing(path: str) -> None:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    join(app, APIRouter())
    index = RouteIndex(app.router, lambda request: None)  # type: ignore[arg-type, return-value]
    assert index.find({"type": "http", "method": "GET", "path": path, "root_path": "", "headers": []}) == (None, {})
