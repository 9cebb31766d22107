"""100,000 seeded events with faults through the whole scheduler: nothing is placed twice, and nobody passes a quota.

That these counts can be other than 0 is shown by worlds with one thing broken each.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from control_plane.accounts import quotas
from control_plane.accounts.quotas import month_start
from control_plane.db.engine import create_database
from control_plane.domain.accounts import Account, AccountKind
from control_plane.domain.hardware import FlavorCatalog
from control_plane.domain.replicas import ReplicaSpec
from control_plane.ports.stores import UnitOfWork
from control_plane.scheduler import planning
from tests.simulation import scheduler_sim
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.scheduler_sim import Size, World, simulate

pytestmark = pytest.mark.timeout(1800)  # half a minute of work for one core, whatever else that core has to do

SEED = 20_261
EVENTS = 100_000
SMALL = Size(events=1_600, nodes=22, accounts=20, spaces=260, quiet_s=0.0)


@pytest.fixture(scope="module")
def world() -> World:
    print(f"seed {SEED}, {EVENTS} events")
    logging.getLogger("vitrine.scheduler").setLevel(logging.ERROR)  # thousands of warnings about calls that fail as they should
    try:
        return simulate(SEED, Size(EVENTS))
    finally:
        logging.getLogger("vitrine.scheduler").setLevel(logging.NOTSET)


def test_no_double_placement_and_no_quota_overrun(world: World) -> None:
    print(world.story, world.cluster.truth)
    story, truth = world.story, world.cluster.truth
    assert (story.quota_overruns, truth.double_placements) == (0, 0), (story.first, truth.first)
    assert (truth.node_overruns, truth.served_twice, story.errors) == (0, 0, 0), (truth.first, story.first)
    assert world.unsettled() == [], "after the last fault each runs as often as it should, waits in line, or does not run"
    assert sum(story.done.values()) == EVENTS


def test_the_world_was_full_and_had_its_faults(world: World) -> None:
    story, truth = world.story, world.cluster.truth
    assert all(story.refused[key] > 20 for key in ("running", "running.cpu-basic", "running.t4-small", "vcpu", "memory-gb", "gpu-hours"))
    owners = [account.kind for account in world.rows.accounts_by_id.values()]
    assert {AccountKind.USER, AccountKind.ORG} == set(owners)
    assert min(truth.started, truth.crashed, truth.lost_nodes, truth.failed_calls) > 200
    assert story.schedulers == 9
    assert all(story.done[kind] > 100 for kind in scheduler_sim.KINDS), story.done


def test_what_was_metered_is_what_ran(world: World) -> None:
    now = world.clock.now()
    for account_id in world.rows.accounts_by_id:
        counted = sum(
            amount for (day, key), amount in world.rows.used[account_id].items() if key == "gpu-hours" and _is_this_month(day, now)
        )
        running = [replica for space_id in world.rows.spaces_of[account_id] for replica in world.rows.open[space_id].values()]
        for replica in running:
            if replica.started_at is not None:
                gpus = FlavorCatalog().find(replica.hardware)
                assert gpus is not None
                counted += (now - max(replica.started_at, month_start(now))).total_seconds() / 3600 * gpus.gpu_count
        assert counted == pytest.approx(world.uses.gpu_hours(account_id))


def _is_this_month(day: str, now: datetime) -> bool:
    return day.startswith(f"{now:%Y-%m}")


async def test_the_database_counts_as_the_tables_of_the_simulation_do(tmp_path: Path) -> None:
    """The world's rows, written into the real tables: every account holds the same there."""
    world = _simulated_elsewhere(SMALL)
    database = create_database(f"sqlite:///{tmp_path / 'v.db'}", clock=world.clock)
    await database.migrate()
    try:
        async with database.write() as work:
            for account in world.rows.accounts_by_id.values():
                await work.accounts.add(account)
            for repo in world.rows.repos_by_id.values():
                await work.repos.add(repo)
            for space in world.rows.spaces_by_id.values():
                await work.spaces.add(space)
                for generation in {space.generation, space.live_generation} - {0}:
                    await work.deployments.add(world.rows.deployments_by_key[space.id, generation])
                for replica in world.rows.open[space.id].values():
                    await work.deployments.save_replica(replica)
        async with database.read() as work:
            for account_id in world.rows.accounts_by_id:
                here, there = await world.rows.quotas.held(account_id), await work.quotas.held(account_id)
                assert (here.spaces, dict(here.running)) == (there.spaces, dict(there.running))
                assert sorted(here.open_since) == sorted(there.open_since)
            assert await work.spaces.unmet() == tuple(sorted(await world.rows.spaces.unmet()))
    finally:
        await database.close()


def _simulated_elsewhere(size: Size) -> World:
    """A test that is a coroutine has a loop of its own: the virtual one runs in another thread."""
    with ThreadPoolExecutor(1) as other:
        return other.submit(simulate, SEED, size).result()


Check = Callable[..., Awaitable[None]]


def _forgets(key: str) -> Check:
    """An admission that does not look at one key."""

    async def check(uow: UnitOfWork, account: Account, asked_for: str, asked: float, **more: Any) -> None:
        try:
            await quotas.check(uow, account, asked_for, asked, **more)
        except quotas.QuotaExceeded as error:
            if error.facts["key"] != key:
                raise

    return check


async def _looks_too_early(uow: UnitOfWork, account: Account, key: str, asked: float, **more: Any) -> None:
    """An admission that counts what others held a moment ago: the classic race of a count outside the transaction."""
    held = uow.quotas.held
    stale = _STALE.setdefault(account.id, await held(account.id))

    class Stale:
        limits, usage = uow.quotas.limits, uow.quotas.usage

        async def held(self, _: str) -> Any:
            return stale

    class Late:
        quotas = Stale()

    await quotas.check(Late(), account, key, asked, **more)  # type: ignore[arg-type]


_STALE: dict[str, Any] = {}


@pytest.mark.parametrize("key", ["running", "running.cpu-basic", "vcpu", "memory-gb", "gpu-hours"])
def test_an_admission_that_forgets_a_key_is_caught(key: str) -> None:
    world = simulate(SEED, SMALL, _forgets(key))
    assert world.story.quota_overruns > 0
    assert f" {key}: " in world.story.first


def test_an_admission_that_counts_too_early_is_caught() -> None:
    _STALE.clear()
    assert simulate(SEED, SMALL, _looks_too_early).story.quota_overruns > 0


def test_a_planner_that_starts_one_too_many_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = planning.plan

    def one_more(facts: planning.Facts, now: datetime) -> planning.Plan:
        return right(replace(facts, space=replace(facts.space, replicas=facts.space.replicas + 1)), now)

    monkeypatch.setattr("control_plane.scheduler.reconcile.plan", one_more)
    assert simulate(SEED, SMALL).cluster.truth.double_placements > 0


def test_a_placer_that_forgets_what_it_gave_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control_plane.scheduler.capacity_index.CapacityIndex.claim", lambda self, claim: None)
    world = simulate(SEED, SMALL)
    assert world.cluster.truth.node_overruns > 0


def test_a_runtime_that_is_asked_for_another_node_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    apply = SimulatedCluster.apply

    async def twice(self: SimulatedCluster, spec: ReplicaSpec) -> None:
        await apply(self, spec)
        await apply(self, replace(spec, node="elsewhere"))

    monkeypatch.setattr(SimulatedCluster, "apply", twice)
    assert simulate(SEED, SMALL).cluster.truth.double_placements > 0


def test_the_same_seed_tells_the_same_story(monkeypatch: pytest.MonkeyPatch) -> None:
    stories = []
    for _ in range(2):
        numbers = iter(range(10**9))
        monkeypatch.setattr("control_plane.scheduler.ledger.new_id", lambda numbers=numbers: f"{next(numbers):024x}")
        world = simulate(7, SMALL)
        stories.append((world.story, world.cluster.truth, sorted(world.cluster.pods)))
    assert stories[0] == stories[1]
