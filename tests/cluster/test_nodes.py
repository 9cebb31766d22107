"""Pools of the shipped file on a real scheduler, and a node that is lost and comes back. The nodes are made for the test."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from control_plane.domain.capacity import NodePool
from control_plane.domain.ids import ReplicaId, SpaceId, new_id
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaSpec, ReplicaState
from control_plane.domain.spaces import Replica
from control_plane.runtimes.kubernetes.runtime import KubernetesRuntime
from control_plane.scheduler.admission import Admission
from control_plane.scheduler.answers import Placement, Waiting
from control_plane.scheduler.pools import default_hardware
from tests.cluster.conftest import Cluster, clear, until, until_state
from tests.cluster.made_nodes import TOLERATION, MadeNodes, made_nodes

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

LABEL = "vitrine.dev/test-pool"


@pytest.fixture
def nodes(cluster: Cluster) -> Iterator[MadeNodes]:
    with made_nodes(cluster.api) as made:
        yield made


@asynccontextmanager
async def running(cluster: Cluster, *pools: NodePool) -> AsyncIterator[KubernetesRuntime]:
    runtime = cluster.runtime(*pools)
    await runtime.start()
    try:
        yield runtime
        await clear(runtime)
    finally:
        await runtime.close()


async def test_a_lost_nodes_replica_moves_and_a_returning_node_has_no_second_say(cluster: Cluster, nodes: MadeNodes) -> None:
    tag = secrets.token_hex(4)
    pool = NodePool("lost", ("tiny",), node_selector={LABEL: tag}, tolerations=(TOLERATION,))
    names = {nodes.add({LABEL: tag}, cpu=4, memory_gib=16) for _ in range(2)}
    async with running(cluster, pool) as runtime:
        await until(lambda: _schedulable(runtime, names), "both nodes are ready")
        spec = cluster.spec(pool=pool.name)
        await runtime.apply(spec)
        lost = (await until_state(runtime, spec, ReplicaState.READY)).node
        assert lost in names
        nodes.lose(lost)
        seen = await until_state(runtime, spec, ReplicaState.FAILED)
        assert seen.reason is Reason.NODE_LOST
        assert {n.name for n in (await runtime.capacity()).nodes if n.is_schedulable} == names - {lost}

        await runtime.stop(spec.replica_id, grace_s=1)
        (other,) = names - {lost}  # as placement says it: kube-scheduler learns of a silent node later
        successor = replace(spec, replica_id=ReplicaId(new_id()), node=other)
        await runtime.apply(successor)
        assert (await until_state(runtime, successor, ReplicaState.READY)).node == other
        nodes.revive(lost)

        async def alone() -> bool:
            return not runtime.cache.pods_of(spec.replica_id)

        await until(alone, "the returning node ends what it still held")
        assert [o.replica_id for o in await runtime.observe(spec.space_id)] == [successor.replica_id]
        await until(lambda: _schedulable(runtime, names), "the node serves again")


async def _schedulable(runtime: KubernetesRuntime, names: set[str]) -> bool:
    return {n.name for n in (await runtime.capacity()).nodes if n.is_schedulable} >= names


async def test_gpu_flavors_go_to_the_pools_of_the_shipped_file(cluster: Cluster, nodes: MadeNodes) -> None:
    """Decided by the placement, bound by kube-scheduler, counted from the watch; four A10G on one node stay placeable."""
    tag = secrets.token_hex(4)
    hardware = default_hardware()
    sizes = {"t4": 1, "a10g": 1, "a10g-x4": 4, "a100-x8": 8}
    pools = tuple(replace(p, node_selector={LABEL: f"{tag}-{p.name}"}) for p in hardware.pools if p.name in sizes)
    at = {pool.name: nodes.add(dict(pool.node_selector), cpu=192, memory_gib=2000, gpus=sizes[pool.name]) for pool in pools}
    granted: list[SpaceId] = []
    async with running(cluster, *pools) as runtime:
        await until(lambda: _schedulable(runtime, set(at.values())), "all nodes are ready")
        admission = Admission(runtime.capacity, granted.append)

        async def ask(flavor: str, spec: ReplicaSpec | None = None) -> tuple[ReplicaSpec, Placement | Waiting | None]:
            found = hardware.catalog.find(flavor)
            assert found is not None
            wanted = spec or cluster.spec(flavor=found)
            replica = Replica(wanted.replica_id, wanted.space_id, wanted.generation, ReplicaState.PENDING, datetime.now(UTC))
            return wanted, await admission.ask(replica, found, "alice")

        async def start(flavor: str, pool: str) -> ReplicaSpec:
            spec, place = await ask(flavor)
            assert isinstance(place, Placement), place
            assert (place.pool, place.node) == (pool, at[pool])
            spec = replace(spec, pool=place.pool, node=place.node)
            await runtime.apply(spec)
            ready = await until_state(runtime, spec, ReplicaState.READY)
            assert ready.node == at[pool]
            return spec

        await start("t4-small", "t4")
        await start("a10g-small", "a10g")
        four = await start("a10g-largex4", "a10g-x4")
        await start("a100x4", "a100-x8")
        await start("a100x4", "a100-x8")
        used = {n.name: n.used_gpus for n in (await runtime.capacity()).nodes}
        assert used == {at["t4"]: 1, at["a10g"]: 1, at["a10g-x4"]: 4, at["a100-x8"]: 8}

        waiting, place = await ask("a10g-large")
        assert isinstance(place, Waiting)
        assert (place.reason, place.position) == (Reason.NO_CAPACITY, 1)
        (_, other) = await ask("a100-large")
        assert isinstance(other, Waiting)
        await runtime.stop(four.replica_id, grace_s=1)
        admission.release(four.replica_id)

        async def placed() -> bool:
            await admission.refresh()
            return waiting.space_id in granted

        await until(placed, "what became free goes to the one that waited")
        _, place = await ask("a10g-large", waiting)
        assert isinstance(place, Placement)
        assert place.pool == "a10g-x4"
