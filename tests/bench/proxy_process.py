"""The proxy as one bench process: a fixed route, everything switched on. Prints its port, runs until SIGTERM."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import uvloop

from control_plane.domain.ids import SpaceId
from control_plane.domain.routes import ActivityReport, Endpoint, EndpointKind, Route, RouteAccess, RouteChange, RouteState, RouteTable
from control_plane.proxy.server import ProxyConfig, serve_proxy


class FixedFeed:
    """One public and one private Space, both on the same upstream."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def updates(self) -> AsyncIterator[RouteTable | RouteChange]:
        endpoints = (Endpoint(EndpointKind.TCP, self._address),)
        routes = {
            f"{name}.localhost": Route(
                f"{name}.localhost", SpaceId(name), f"bench/{name}", RouteState.READY, endpoints=endpoints, revision="0" * 40, access=access
            )
            for name, access in (("public", RouteAccess.PUBLIC), ("private", RouteAccess.PRIVATE))
        }
        yield RouteTable("bench", 1, routes)
        await asyncio.Event().wait()

    async def wake(self, space_id: SpaceId) -> None:
        return None

    async def report(self, reports: tuple[ActivityReport, ...]) -> None:
        return None

    async def subscribe(self, *topics: str) -> AsyncIterator[tuple[str, str]]:
        await asyncio.Event().wait()
        yield "", ""


async def _authorize(host: str, kind: str, credential: str) -> bool:
    return credential == "hf_bench"


def main(upstream: str, access_log: str) -> None:
    config = ProxyConfig(
        port=0, api_address=upstream, access_log=access_log, client_rate=1e7, client_burst=1e7, space_rate=1e7, space_burst=1e7
    )
    uvloop.run(serve_proxy(config, FixedFeed(upstream), _authorize, ready=lambda port: print(port, flush=True)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
