"""The Hub API as one router. Order matters where a fixed word could be read as a namespace."""

from __future__ import annotations

from fastapi import APIRouter

from control_plane.api import (
    catalogue,
    commits,
    discussions,
    files,
    identity,
    internal,
    oauth,
    refs,
    repos,
    side_calls,
    space_runtime,
    streams,
    webhooks,
)
from control_plane.api.deps import Hub, Services
from control_plane.api.webhook_delivery import Deliveries
from control_plane.http import raw_path  # registers the path convertors that the routes name

assert raw_path.SLASH


def hub_router(services: Services, deliveries: Deliveries | None = None) -> APIRouter:
    """Every public route of the Hub API. Mount it last but for the web pages: it takes `/{ns}/{name}/resolve/…`.

    `deliveries` fires webhooks; give the one that the git door uses too.
    """
    hub = Hub(services, deliveries)
    api = APIRouter()
    for room in (
        side_calls,
        internal,
        oauth,
        identity,
        repos,
        space_runtime,
        streams,
        refs,
        commits,
        discussions,
        webhooks,
        catalogue,
        files,
    ):
        api.include_router(room.router(hub))
    return api
