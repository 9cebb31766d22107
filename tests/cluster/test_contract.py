"""The runtime contract on a real cluster. Two of its tests look at a whole machine's use and have their own form here."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from control_plane.domain.replicas import ReplicaSpec, ReplicaState
from control_plane.runtimes.kubernetes.runtime import KubernetesRuntime
from tests.cluster.conftest import Cluster, clear, until, until_state
from tests.contract import test_runtime as suite

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

_OWN_FORM = {"test_stop_frees_and_may_be_repeated", "test_usage_and_capacity_have_units_that_make_sense"}


class ClusterHarness(suite.Harness):
    def __init__(self, cluster: Cluster, runtime: KubernetesRuntime) -> None:
        self.cluster, self.runtime = cluster, runtime

    def spec(self, *, space: str = "", generation: int = 1) -> ReplicaSpec:
        return self.cluster.spec(space=space, generation=generation)

    async def make_it_exit(self, spec: ReplicaSpec) -> None:
        runtime = self.runtime
        assert isinstance(runtime, KubernetesRuntime)
        (pod,) = runtime.cache.pods_of(spec.replica_id)
        await self.cluster.say(pod["metadata"]["name"], b"x")
        await until_state(runtime, spec, ReplicaState.FAILED)
        await until(lambda: _said(runtime, spec), "its last words arrive")


async def _said(runtime: KubernetesRuntime, spec: ReplicaSpec) -> bool:
    return runtime._followers.tail(spec.replica_id)[-1:] == ("last words",)


class _Settled(KubernetesRuntime):
    """Starts and waits: the suite looks right after `apply`."""

    async def apply(self, spec: ReplicaSpec) -> None:
        await super().apply(spec)
        await until_state(self, spec, ReplicaState.READY)


@pytest.fixture
async def harness(cluster: Cluster) -> AsyncIterator[ClusterHarness]:
    plain = cluster.runtime()
    plain.__class__ = _Settled
    made = ClusterHarness(cluster, plain)
    await plain.start()
    yield made
    if not plain._closing.is_set():
        await clear(plain)
    await made.close()


globals().update({name: test for name, test in vars(suite).items() if name.startswith("test_") and name not in _OWN_FORM})


async def test_stop_frees_and_may_be_repeated_here(cluster: Cluster, runtime: KubernetesRuntime) -> None:
    spec = cluster.spec()
    await runtime.apply(spec)
    ready = await until_state(runtime, spec, ReplicaState.READY)
    (node,) = [n for n in (await runtime.capacity()).nodes if n.name == ready.node]
    assert spec.replica_id in node.replicas
    assert node.used_vcpu >= 0.1
    await runtime.stop(spec.replica_id, grace_s=1)
    await runtime.stop(spec.replica_id, grace_s=1)
    assert await runtime.observe(spec.space_id) == ()

    async def freed() -> bool:
        return all(spec.replica_id not in n.replicas for n in (await runtime.capacity()).nodes)

    await until(freed, "its place is free")
