"""The reconciler with a database and a runtime that is full: who starts, who waits with which words, who makes room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from control_plane.db.engine import Database, create_database
from control_plane.domain.accounts import Account
from control_plane.domain.capacity import Capacity, Node, NodePool
from control_plane.domain.errors import Unavailable
from control_plane.domain.hardware import Flavor, FlavorCatalog
from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaState
from control_plane.domain.routes import ActivityReport, Endpoint, EndpointKind, Route, RouteState
from control_plane.domain.sensitive import Sensitive
from control_plane.domain.spaces import DesiredState, Replica, Space
from control_plane.domain.stage import Stage
from control_plane.ports.log_store import LogLine
from control_plane.scheduler.deps import SchedulerConfig, SchedulerDeps
from control_plane.scheduler.planning import Probe
from control_plane.scheduler.prober import Prober
from control_plane.scheduler.reconcile import Reconciler
from control_plane.spaces.views import runtime_views
from tests.contract.stores.rows import deployment, repo, space, user
from tests.fakes.clock import FixedClock
from tests.fakes.memory_runtime import MemoryRuntime

CATALOG = FlavorCatalog((Flavor("cpu-basic", "CPU basic", vcpu=2, memory_gb=2, disk_gb=1, price_per_hour=0),))


class World:
    """One machine with room for two Spaces. `up` starts one and plays its app's part."""

    def __init__(self, db: Database, clock: Any, queue: Any = None) -> None:
        self.db, self.clock, self.queue, self.leads = db, clock, queue, True
        pool = NodePool("local", ("cpu-basic",), max_nodes=1)
        self.runtime = MemoryRuntime(Capacity((pool,), (Node("local", "local", 4, 64 << 30),)))
        self.routes: dict[str, Route] = {}
        self.forgotten: list[str] = []
        self.scheduler = self.made()

    def made(self) -> Reconciler:
        return Reconciler(
            SchedulerDeps(
                uow=self.db, clock=self.clock, runtime=self.runtime, routes=self, signals=self, logs=self,  # type: ignore[arg-type]
                queue=self.queue, catalog=lambda: CATALOG,
                prober=Prober(self._probe, lambda space_id: None), open_secret=lambda setting: Sensitive(""),
                check_running_quota=self._allowed, meter=self._metered, discard=self._discard, is_leading=lambda: self.leads,
            ),
            SchedulerConfig(
                apps_domain="apps", app_host_port=lambda sub: f"{sub}.apps", hub_endpoint="http://hub", hub_upstream="", hub_host="",
                static_site=lambda ref: Endpoint(EndpointKind.UNIX, "/s"), preempt_idle_s=60,
            ),
        )  # fmt: skip

    async def _probe(self, endpoint: Endpoint, host: str) -> Probe:
        return Probe(False)

    async def _allowed(self, *_: object) -> None:
        return

    async def _metered(self, *_: object) -> None:
        return

    async def _discard(self, space: Space, its_repo: object) -> None:
        self.forgotten.append(space.id)

    async def publish(self, route: Route) -> None:
        self.routes[route.space_id] = route

    async def withdraw(self, host: str) -> None:
        return

    async def complete(self) -> None:
        return

    async def notify(self, topic: str, key: str) -> None:
        return

    async def append(self, stream: str, lines: list[LogLine]) -> None:
        return

    async def tail(self, stream: str, count: int) -> tuple[LogLine, ...]:
        return ()

    async def make(self, owner: Account, name: str, *, generation: int = 1) -> SpaceId:
        its_repo = repo(owner, name)
        its = space(its_repo, subdomain=name, generation=generation, last_used_at=self.clock.now())
        async with self.db.write() as work:
            await work.repos.add(its_repo)
            await work.spaces.add(its)
            await work.deployments.add(deployment(its, generation))
        return its.id

    async def replicas(self, space_id: SpaceId) -> tuple[Replica, ...]:
        async with self.db.read() as work:
            return await work.deployments.replicas(space_id)

    async def turn(self, space_id: SpaceId) -> None:
        """As the running scheduler: while somebody waits, the runtime is asked what is free before anybody is looked at."""
        await self.scheduler._look_for_room()
        await self.scheduler.reconcile_space(space_id)

    async def up(self, space_id: SpaceId) -> None:
        await self.turn(space_id)
        (newest,) = [r for r in await self.replicas(space_id) if r.state is ReplicaState.STARTING]
        self.runtime.become(newest.id, ReplicaState.READY)
        await self.turn(space_id)

    async def view(self, space_id: SpaceId) -> tuple[Stage, Reason | None, int | None]:
        async with self.db.read() as work:
            (found,) = await work.spaces.get_many([str(space_id)])
            view = (await runtime_views(work, CATALOG, [found]))[str(space_id)]
        return view.stage, view.reason, view.position

    async def push(self, space_id: SpaceId, generation: int) -> None:
        async with self.db.write() as work:
            found = await work.spaces.get(space_id)
            assert found is not None
            await work.deployments.add(deployment(found, generation))
            await work.spaces.save(replace(found, generation=generation))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    clock = FixedClock()
    database = create_database(f"sqlite:///{tmp_path / 'v.db'}", clock=clock)
    await database.migrate()
    made = World(database, clock)
    yield made
    await made.scheduler.close()
    await database.close()


@pytest.fixture
async def ann(world: World) -> Account:
    account = user()
    async with world.db.write() as work:
        await work.accounts.add(account)
    return account


async def test_the_third_of_two_waits_with_its_place_and_starts_when_one_leaves(world: World, ann: Account) -> None:
    one, two, three, four = [await world.make(ann, name) for name in ("one", "two", "three", "four")]
    await world.up(one)
    await world.up(two)
    await world.turn(three)
    await world.turn(four)
    assert await world.view(three) == (Stage.APP_STARTING, Reason.NO_CAPACITY, 1)
    assert await world.view(four) == (Stage.APP_STARTING, Reason.NO_CAPACITY, 2)
    assert len(world.runtime.applied) == 2, "the runtime is not asked for what does not fit"
    async with world.db.write() as work:
        found = await work.spaces.get(one)
        assert found is not None
        await work.spaces.save(replace(found, desired=DesiredState.PAUSED))
    await world.turn(one)
    await world.up(three)
    assert await world.view(three) == (Stage.RUNNING, None, None)
    await world.turn(four)
    assert await world.view(four) == (Stage.APP_STARTING, Reason.NO_CAPACITY, 1)


async def test_the_line_is_as_it_was_after_a_restart_of_the_scheduler(world: World, ann: Account) -> None:
    names = ("one", "two", "three", "four", "five")
    one, two, three, four, five = [await world.make(ann, name) for name in names]
    for running in (one, two):
        await world.up(running)
    for waiting in (three, four, five):
        world.clock.advance(1)
        await world.turn(waiting)
    await world.scheduler.close()
    world.scheduler = world.made()
    await world.scheduler._admission.refresh()
    await world.scheduler._rejoin()
    for waiting in (five, four, three):  # whoever is looked at first gains nothing
        await world.turn(waiting)
    assert [(await world.view(each))[2] for each in (three, four, five)] == [1, 2, 3]

    async with world.db.write() as work:
        found = await work.spaces.get(one)
        assert found is not None
        await work.spaces.save(replace(found, desired=DesiredState.PAUSED))
    await world.turn(one)
    await world.scheduler.close()
    world.scheduler = world.made()
    await world.scheduler._admission.refresh()
    await world.scheduler._rejoin()
    await world.turn(five)
    assert (await world.view(five))[2] is not None, "what became free while nobody acted is not the first one's who asks"
    await world.up(three)


async def test_the_space_unused_for_longest_makes_room_and_is_told_why(world: World, ann: Account) -> None:
    one, two, three = [await world.make(ann, name) for name in ("one", "two", "three")]
    await world.up(one)
    await world.up(two)
    world.clock.advance(61)
    world.scheduler._sleeper.note(ActivityReport(one, world.clock.now().timestamp()))
    world.clock.advance(61)
    await world.scheduler._sleeper.look()
    await world.turn(three)
    await world.scheduler._sleeper.look()  # a look while the first is on its way out changes nothing
    await world.turn(three)
    await world.turn(two)
    assert (await world.view(two))[:2] == (Stage.SLEEPING, Reason.PREEMPTED)
    assert (await world.view(one))[0] is Stage.RUNNING, "one is enough"
    await world.up(three)
    assert (await world.view(three))[0] is Stage.RUNNING


async def test_somebody_connected_is_never_put_to_sleep_for_another(world: World, ann: Account) -> None:
    one, two, three = [await world.make(ann, name) for name in ("one", "two", "three")]
    for each in (one, two):
        await world.up(each)
        world.scheduler._sleeper.note(ActivityReport(each, world.clock.now().timestamp(), open_sockets=1))
    world.clock.advance(600)
    await world.scheduler._sleeper.look()
    await world.turn(three)
    assert (await world.view(three))[1] is Reason.NO_CAPACITY
    assert {(await world.view(each))[0] for each in (one, two)} == {Stage.RUNNING}


async def test_a_new_version_on_hardware_full_of_the_old_one_takes_its_place(world: World, ann: Account) -> None:
    one, two = [await world.make(ann, name) for name in ("one", "two")]
    await world.up(one)
    await world.up(two)
    await world.push(one, 2)
    await world.up(one)
    assert [r.generation for r in await world.replicas(one)] == [2]
    assert (await world.view(one))[0] is Stage.RUNNING
    assert (await world.view(two))[0] is Stage.RUNNING


async def test_who_does_not_lead_does_nothing(world: World, ann: Account) -> None:
    one = await world.make(ann, "one")
    world.leads = False
    with pytest.raises(Unavailable):
        await world.turn(one)
    assert world.runtime.applied == []


async def test_a_silent_runtime_costs_the_replica_nothing(world: World, ann: Account) -> None:
    one = await world.make(ann, "one")
    await world.turn(SpaceId("f" * 24))
    world.runtime.fail_next(Unavailable("the cluster does not answer"))
    with pytest.raises(Unavailable):
        await world.turn(one)
    await world.up(one)
    assert (await world.view(one))[0] is Stage.RUNNING


async def test_visitors_of_a_paused_space_wait_from_the_restart_on(world: World, ann: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while what was paused is still ending, and nobody is sent to that."""
    one = await world.make(ann, "one")
    await world.up(one)
    stopping, may_end = asyncio.Event(), asyncio.Event()
    stop = world.runtime.stop

    async def slow(replica_id: ReplicaId, *, grace_s: float = 10.0) -> None:
        stopping.set()
        await may_end.wait()
        await stop(replica_id, grace_s=grace_s)

    async def wants(desired: DesiredState) -> None:
        async with world.db.write() as work:
            found = await work.spaces.get(one)
            assert found is not None
            await work.spaces.save(replace(found, desired=desired))

    monkeypatch.setattr(world.runtime, "stop", slow)
    await wants(DesiredState.PAUSED)
    look = asyncio.create_task(world.turn(one))
    try:
        await stopping.wait()
        assert world.routes[one].state is RouteState.PAUSED
        await world.scheduler._readmit(one)
        assert world.routes[one].state is RouteState.PAUSED, "nobody brought it back"
        await wants(DesiredState.RUNNING)
        await world.scheduler._readmit(one)
        assert (world.routes[one].state, world.routes[one].endpoints) == (RouteState.STARTING, ())
    finally:
        may_end.set()
        await look
    await world.up(one)
    assert world.routes[one].state is RouteState.READY


async def test_the_version_before_starts_again_after_a_newer_one_failed(world: World, ann: Account) -> None:
    """It sleeps, wakes, crashes and moves like any other, though the runtime has started a newer one of this Space before."""
    one = await world.make(ann, "one")
    await world.up(one)
    await world.push(one, 2)
    await world.turn(one)
    (broken,) = [r for r in await world.replicas(one) if r.generation == 2]
    world.runtime.exit(broken.id)
    await world.turn(one)
    (old,) = await world.replicas(one)
    assert (old.generation, old.state) == (1, ReplicaState.READY), "it serves on"
    world.runtime.exit(old.id, reason=Reason.NODE_LOST)
    await world.up(one)
    (again,) = await world.replicas(one)
    assert (again.generation, again.state) == (1, ReplicaState.READY)
    assert world.routes[one].state is RouteState.READY
