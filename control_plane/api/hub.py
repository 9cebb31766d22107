"""The Hub API as one router. Order matters where a fixed word could be read as a namespace."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from control_plane.api import (
    access_requests,
    agents,
    bare_names,
    catalogue,
    collections,
    commits,
    discussions,
    files,
    identity,
    internal,
    lfs_files,
    notifications,
    oauth,
    refs,
    repos,
    safetensors,
    side_calls,
    space_runtime,
    space_versions,
    space_volumes,
    streams,
    timeline,
    webhooks,
)
from control_plane.api.deps import Hub, Services
from control_plane.api.webhook_delivery import Deliveries
from control_plane.http import raw_path  # registers the path convertors that the routes name
from control_plane.http.consent import ConsentPages
from control_plane.http.error_map import plain
from control_plane.http.route_index import join

assert raw_path.SLASH


def hub_router(services: Services, consent: ConsentPages, deliveries: Deliveries | None = None) -> APIRouter:
    """Every public route of the Hub API. Mount it last but for the web pages: it takes `/{ns}/{name}/resolve/…`.

    `deliveries` fires webhooks; give the one that the git door uses too. `consent` draws what a person is asked at sign-in.
    """
    hub = Hub(services, deliveries)
    api = APIRouter()
    join(api, oauth.router(hub, consent))
    for room in (
        side_calls,
        access_requests,
        internal,
        identity,
        repos,
        space_runtime,
        space_volumes,
        space_versions,
        streams,
        timeline,
        refs,
        lfs_files,
        commits,
        discussions,
        webhooks,
        collections,
        notifications,
        catalogue,
        safetensors,
        agents,
        files,
        bare_names,
    ):
        join(api, room.router(hub))
    api.add_api_route("/api/{rest:tail}", _nothing_here, methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
    return api


async def _nothing_here(rest: str) -> Response:
    """Unknown API addresses are plain: a page or a repository of that name must never answer."""
    return plain(404, "There is nothing at this address of the API.")
