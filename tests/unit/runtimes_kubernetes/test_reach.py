"""Which way the proxy gets to a pod."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from control_plane.domain.ids import ReplicaId
from control_plane.domain.routes import Endpoint, EndpointKind
from control_plane.runtimes.kubernetes.forward import Reach, has_own_route, is_reachable
from tests.fakes.api_server import api_server

ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
cni0\t00002A0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""
ROUTES6 = """fd420000000000000000000000000000 30 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     cni0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0
"""  # noqa: E501


@pytest.mark.parametrize(
    ("host", "expected"),
    [("10.42.0.7", True), ("10.42.1.7", False), ("8.8.8.8", False), ("127.0.0.1", True), ("fd42::7", True), ("fd43::7", False)],
)
def test_only_a_route_of_its_own_counts(tmp_path: Path, host: str, expected: bool) -> None:
    (tmp_path / "route").write_text(ROUTES)
    (tmp_path / "ipv6_route").write_text(ROUTES6)
    assert has_own_route(host, tmp_path) is expected


async def test_a_port_that_refuses_is_reachable_all_the_same() -> None:
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert await is_reachable(f"127.0.0.1:{port}")
    server.close()
    await server.wait_closed()
    assert await is_reachable(f"127.0.0.1:{port}")


POD = {"metadata": {"uid": "0123456789abcdef", "namespace": "apps", "name": "replica-x"}}


async def test_a_route_that_policy_does_not_give_is_not_tried_and_an_early_answer_is_not_kept(tmp_path: Path) -> None:
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    found = Endpoint(EndpointKind.TCP, f"127.0.0.1:{server.sockets[0].getsockname()[1]}", ReplicaId("r1"))
    async with api_server() as api:
        reach, stranger = (Reach(api.api(), "auto", tmp_path / str(is_let_in), is_let_in=is_let_in) for is_let_in in (True, False))
        try:
            through = await stranger.endpoint(found, POD)
            assert (through.kind, Path(through.address).parent) == (EndpointKind.UNIX, tmp_path / "False"), "open until somebody enforces"
            assert (await reach.endpoint(found, POD, is_final=False)).kind is EndpointKind.TCP
            server.close()
            await server.wait_closed()
            nowhere = replace(found, address="198.51.100.7:1")  # no route of its own
            there = await reach.endpoint(nowhere, POD)
            assert there.kind is EndpointKind.UNIX, "what was seen early is looked at again"
            assert await reach.endpoint(found, POD) == there, "a replica that is up does not change its address"
        finally:
            await reach.close()
            await stranger.close()
            server.close()
