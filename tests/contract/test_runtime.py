"""What every `Runtime` keeps, on the fake and on each real adapter.

To add an adapter: a subclass of `Harness` and a row in `HARNESSES`. A harness knows how to make specs whose app stays or
exits, and how to make an app that stays exit by itself.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from control_plane.domain.builds import Artifact, ArtifactKind, LaunchPlan
from control_plane.domain.errors import StaleGeneration
from control_plane.domain.hardware import Flavor
from control_plane.domain.ids import ReplicaId, Sha, SpaceId, new_id
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaObservation, ReplicaSpec, ReplicaState
from control_plane.ports.runtime import Runtime
from control_plane.runtimes.process.floor import sandbox_report
from tests.fakes.memory_runtime import MemoryRuntime
from tests.functional.sandbox.places import Place

SMALL = Flavor("small", "Small", vcpu=1, memory_gb=0.25, disk_gb=1, price_per_hour=0, pids_max=64, open_files_max=512)

# Stays until somebody knocks on its port, then ends: nothing else can be told to an app from outside its sandbox.
STAYS = """
import socket, sys
print("ready", flush=True)
server = socket.create_server(("0.0.0.0", 7860))
client, _ = server.accept()
client.recv(1)
print("last words", flush=True)
sys.exit(3)
"""


class Harness(ABC):
    runtime: Runtime

    @abstractmethod
    def spec(self, *, space: str = "", generation: int = 1) -> ReplicaSpec: ...

    @abstractmethod
    async def make_it_exit(self, spec: ReplicaSpec) -> None:
        """The app ends by itself, with status 3."""

    async def close(self) -> None:
        await self.runtime.close()


class MemoryHarness(Harness):
    def __init__(self) -> None:
        self.memory = MemoryRuntime()
        self.runtime = self.memory

    def spec(self, *, space: str = "", generation: int = 1) -> ReplicaSpec:
        space_id = SpaceId(space or new_id())
        artifact = Artifact(ArtifactKind.BUNDLE, f"{space_id}/{new_id()}")
        return ReplicaSpec(
            ReplicaId(new_id()), space_id, "alice/demo", generation, Sha("0" * 40), artifact, LaunchPlan(("python", "app.py")), SMALL
        )

    async def make_it_exit(self, spec: ReplicaSpec) -> None:
        self.memory.exit(spec.replica_id, 3, tail=("last words",))


class ProcessHarness(Harness):
    def __init__(self) -> None:
        if not sandbox_report("contract").is_met:
            pytest.skip("this machine cannot isolate apps")
        self.place = Place()
        self.runtime = self.place.runtime

    def spec(self, *, space: str = "", generation: int = 1) -> ReplicaSpec:
        return self.place.spec(STAYS, space=space, generation=generation)

    async def make_it_exit(self, spec: ReplicaSpec) -> None:
        await self.place.poke(spec)

    async def close(self) -> None:
        await super().close()
        self.place.remove()


HARNESSES = {"memory": MemoryHarness, "process": ProcessHarness}


@pytest.fixture(params=list(HARNESSES))
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    made: Harness = HARNESSES[request.param]()
    await made.runtime.start()
    yield made
    await made.close()


async def only(harness: Harness, spec: ReplicaSpec) -> ReplicaObservation:
    (seen,) = await harness.runtime.observe(spec.space_id)
    return seen


async def test_an_applied_replica_is_observed(harness: Harness) -> None:
    spec = harness.spec()
    await harness.runtime.apply(spec)
    seen = await only(harness, spec)
    assert (seen.replica_id, seen.space_id, seen.generation) == (spec.replica_id, spec.space_id, 1)
    assert seen.state in (ReplicaState.PENDING, ReplicaState.STARTING, ReplicaState.READY)
    assert seen.started_at is None or seen.started_at.tzinfo is not None
    if seen.state is not ReplicaState.PENDING:
        assert seen.endpoint is not None
    # Between the two looks it may begin to listen.
    assert spec.replica_id in {one.replica_id for one in await harness.runtime.observe_all()}


async def test_apply_again_changes_nothing(harness: Harness) -> None:
    spec = harness.spec()
    await asyncio.gather(harness.runtime.apply(spec), harness.runtime.apply(spec))
    first = await only(harness, spec)
    await harness.runtime.apply(spec)
    assert (await only(harness, spec)).started_at == first.started_at


async def test_two_generations_run_side_by_side_and_an_older_one_is_refused(harness: Harness) -> None:
    first = harness.spec()
    second = harness.spec(space=first.space_id, generation=2)
    late = harness.spec(space=first.space_id, generation=1)
    await harness.runtime.apply(first)
    await harness.runtime.apply(second)
    assert {seen.generation for seen in await harness.runtime.observe(first.space_id)} == {1, 2}
    with pytest.raises(StaleGeneration):
        await harness.runtime.apply(late)
    await harness.runtime.apply(first)  # runs already: no error
    assert len(await harness.runtime.observe(first.space_id)) == 2


async def test_an_older_generation_starts_again_for_who_knows_of_the_newer_one(harness: Harness) -> None:
    """The newer one failed; a scheduler that never heard of it is refused all the same."""
    failed = harness.spec(generation=2)
    await harness.runtime.apply(failed)
    await harness.runtime.stop(failed.replica_id, grace_s=0)
    before = harness.spec(space=failed.space_id, generation=1)
    with pytest.raises(StaleGeneration):
        await harness.runtime.apply(before)
    await harness.runtime.apply(replace(before, newest=2))
    assert [seen.generation for seen in await harness.runtime.observe(failed.space_id)] == [1]


async def test_spaces_are_told_apart(harness: Harness) -> None:
    one, two = harness.spec(), harness.spec()
    await harness.runtime.apply(one)
    await harness.runtime.apply(two)
    assert [seen.replica_id for seen in await harness.runtime.observe(one.space_id)] == [one.replica_id]
    assert await harness.runtime.observe(SpaceId(new_id())) == ()


async def test_stop_frees_and_may_be_repeated(harness: Harness) -> None:
    spec = harness.spec()
    await harness.runtime.apply(spec)
    assert sum(node.used_vcpu for node in (await harness.runtime.capacity()).nodes) > 0
    await harness.runtime.stop(spec.replica_id, grace_s=0.5)
    await harness.runtime.stop(spec.replica_id, grace_s=0.5)
    await harness.runtime.stop(ReplicaId(new_id()))
    assert all(seen.state is ReplicaState.STOPPED for seen in await harness.runtime.observe(spec.space_id))
    assert sum(node.used_vcpu for node in (await harness.runtime.capacity()).nodes) == 0
    assert await harness.runtime.usage(spec.replica_id) is None


async def test_an_app_that_ends_is_failed_with_a_reason_and_its_last_words(harness: Harness) -> None:
    spec = harness.spec()
    await harness.runtime.apply(spec)
    changes = harness.runtime.changes()
    hint = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0)
    await harness.make_it_exit(spec)
    async with asyncio.timeout(60):
        assert await hint == spec.space_id
    seen = await only(harness, spec)
    assert (seen.state, seen.reason, seen.exit_code) == (ReplicaState.FAILED, Reason.APP_EXITED, 3)
    assert seen.endpoint is None
    assert seen.message
    assert seen.log_tail[-1] == "last words"
    await harness.runtime.stop(spec.replica_id)
    await changes.aclose()  # type: ignore[attr-defined]


async def test_usage_and_capacity_have_units_that_make_sense(harness: Harness) -> None:
    spec = harness.spec()
    await harness.runtime.apply(spec)
    usage = await harness.runtime.usage(spec.replica_id)
    assert usage is not None
    assert 0 <= usage.memory_bytes <= usage.memory_limit_bytes <= 256 << 20
    assert usage.cpu_cores >= 0
    capacity = await harness.runtime.capacity()
    assert {node.pool for node in capacity.nodes} <= {pool.name for pool in capacity.pools}
    assert all(node.vcpu > 0 and node.memory_bytes > 1 << 20 for node in capacity.nodes)


async def test_close_ends_changes(harness: Harness) -> None:
    changes = harness.runtime.changes()
    hint = asyncio.ensure_future(anext(changes, None))
    await asyncio.sleep(0)
    await harness.runtime.close()
    async with asyncio.timeout(60):
        assert await hint is None


async def test_a_new_replica_id_of_the_same_generation_may_start_after_a_failure(harness: Harness) -> None:
    spec = harness.spec()
    await harness.runtime.apply(spec)
    await harness.runtime.stop(spec.replica_id, grace_s=0.5)
    again = replace(spec, replica_id=ReplicaId(new_id()))
    await harness.runtime.apply(again)
    assert (await only(harness, again)).replica_id == again.replica_id
