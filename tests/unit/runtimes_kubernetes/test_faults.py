"""The runtime survives 409, 410, 429, broken connections and a silent server."""

from __future__ import annotations

import pytest

from control_plane.domain.errors import Broken, Unavailable
from control_plane.domain.replicas import ReplicaState
from control_plane.runtimes.kubernetes.manifests import ClusterOptions
from control_plane.runtimes.kubernetes.runtime import KubernetesRuntime
from tests.fakes.api_server import api_server
from tests.unit.runtimes_kubernetes.specs import REPLICA, spec
from tests.unit.runtimes_kubernetes.world import POOLS, World, world


async def test_broken_watches_resume_without_a_new_list() -> None:
    async with world() as w:
        await w.runtime.apply(spec(pool="cpu"))
        lists = [x.lists for x in w.runtime._watchers]
        w.server.drop_connections()
        await w.server.run_pod(w.server.pod_of(REPLICA), "node-1")
        await w.until_state(ReplicaState.READY)
        assert [x.lists for x in w.runtime._watchers] == lists


async def test_410_lists_again_and_forgets_what_is_gone() -> None:
    async with world() as w:
        await w.runtime.apply(spec(pool="cpu"))
        await w.server.run_pod(w.server.pod_of(REPLICA), "node-1")
        await w.until_state(ReplicaState.READY)
        w.server.drop_connections()
        await w.server.remove("deployments", "vitrine", f"replica-{REPLICA}")
        w.server.compact()
        await w.until(lambda: _gone(w), "the replica is forgotten")
        assert max(x.lists for x in w.runtime._watchers) >= 2


async def _gone(w: World) -> bool:
    return await w.one() is None


async def test_429_waits_and_goes_on() -> None:
    async with world() as w:
        w.server.deny("PATCH", "/deployments/", 429, times=2, Retry_After="0.01")
        await w.runtime.apply(spec(pool="cpu"))
        assert await w.one() is not None
        w.server.deny("GET", "/pods.*watch=true", 429, times=2, Retry_After="0.01")
        w.server.drop_connections()
        await w.server.run_pod(w.server.pod_of(REPLICA), "node-1")
        await w.until_state(ReplicaState.READY)


@pytest.mark.parametrize(("status", "error"), [(500, Unavailable), (503, Unavailable), (403, Broken), (422, Broken), (401, Broken)])
async def test_each_write_may_fail_once_and_a_second_pass_still_gets_there(status: int, error: type[Exception]) -> None:
    for plural in ("networkpolicies", "services", "secrets", "deployments"):
        async with world() as w:
            w.server.deny("PATCH", f"/{plural}/", status)
            with pytest.raises(error):
                await w.runtime.apply(spec(pool="cpu"))
            await w.runtime.apply(spec(pool="cpu"))
            assert await w.one() is not None


async def test_a_silent_server_is_unavailable() -> None:
    async with api_server() as server:
        server.deny("*", ".*", 503, times=10_000)
        runtime = KubernetesRuntime(server.api(), lambda: POOLS, ClusterOptions(), sync_timeout_s=0.2, first_wait_s=0.01)
        with pytest.raises(Unavailable):
            await runtime.start()
        await runtime.close()


async def test_paged_lists() -> None:
    async with api_server() as server:
        server.page = 7
        for number in range(40):
            await server.node(f"n{number}", labels={"pool": "cpu"})
        runtime = KubernetesRuntime(server.api(), lambda: POOLS, ClusterOptions(), first_wait_s=0.01)
        await runtime.start()
        assert len((await runtime.capacity()).nodes) == 40
        await runtime.close()
