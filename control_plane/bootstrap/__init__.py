"""The one place that picks adapters and builds the platform's services from the settings.

Imports of adapters are inside the functions that use them: each process loads only what it runs (a second start of the
whole platform has to be ready in under three seconds).
"""

from __future__ import annotations

from control_plane.bootstrap.building import run_builder
from control_plane.bootstrap.routing import run_proxy
from control_plane.bootstrap.runtimes import floor_warning
from control_plane.bootstrap.scheduling import run_scheduler
from control_plane.bootstrap.services import (
    API_SOCKET,
    BUS_SOCKET,
    PROXY_SOCKET,
    STATIC_SOCKET,
    Services,
    build_services,
    load_platform_keys,
)

__all__ = [
    "API_SOCKET",
    "BUS_SOCKET",
    "PROXY_SOCKET",
    "STATIC_SOCKET",
    "Services",
    "build_services",
    "floor_warning",
    "load_platform_keys",
    "run_builder",
    "run_proxy",
    "run_scheduler",
]
