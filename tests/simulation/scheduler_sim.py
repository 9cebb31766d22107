"""The whole scheduler in virtual time: the real use cases, quotas, ledger, planner and placer; only tables, machines and clock are made up.

Owners restart, push, pause, resize, scale and hand over their Spaces, often several at once; visitors come; operators change limits;
nodes are lost and return with what ran on them, calls fail before or after they did their work, hints are lost, apps crash, the
database is busy, the scheduler dies and another takes over. The world keeps accounts of its own, from what owners want and what really
runs, and asks nobody else whether a limit was passed.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from control_plane.accounts import quotas
from control_plane.accounts.metering import meter_replica
from control_plane.background import ended
from control_plane.builds.record import record_event
from control_plane.domain.accounts import Account, AccountKind, Actor, Via
from control_plane.domain.builds import (
    Artifact,
    ArtifactKind,
    BuildEvent,
    BuildEventKind,
    BuildLimits,
    BuildResult,
    BuildStatus,
    LaunchPlan,
)
from control_plane.domain.capacity import Node
from control_plane.domain.errors import NotFound, QuotaExceeded, Rejected, Unavailable
from control_plane.domain.hardware import DEFAULT_FLAVORS, FlavorCatalog
from control_plane.domain.ids import AccountId, BuildId, ReplicaId, RepoId, Sha, SpaceId
from control_plane.domain.replicas import ReplicaState
from control_plane.domain.routes import ActivityReport, Endpoint, EndpointKind, Route
from control_plane.domain.sensitive import Sensitive
from control_plane.domain.spaces import Build, DesiredState, Replica, Repo, RepoType, Sdk, Space, SpaceConfig, Visibility
from control_plane.ports.log_store import LogLine
from control_plane.scheduler.deps import SchedulerConfig, SchedulerDeps
from control_plane.scheduler.planning import Probe
from control_plane.scheduler.prober import Prober
from control_plane.scheduler.reconcile import Reconciler
from control_plane.spaces import configure, lifecycle
from control_plane.spaces.deps import SpaceDeps
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.cluster_sim import nodes, pools
from tests.simulation.rows import Rows
from tests.simulation.uses import Uses
from tests.simulation.virtual_time import LoopClock, VirtualLoop

CATALOG = FlavorCatalog()
WEIGHTS = (60, 10, 6, 4, 6, 4, 2, 2, 3, 2, 1)
EVENTS_PER_S = 400.0
BEGAN = datetime(2026, 8, 31, 23, 58, tzinfo=UTC)  # a month ends on the way
_REFUSALS = (QuotaExceeded, Rejected, NotFound, Unavailable)

Check = Callable[..., Awaitable[None]]


@dataclass
class Size:
    events: int
    nodes: int = 66
    accounts: int = 80
    spaces: int = 900
    quiet_s: float = 60.0  # after the last event, without faults


@dataclass
class Story:
    """What happened, and what must not have happened."""

    quota_overruns: int = 0
    errors: int = 0  # of the scheduler itself: what it logs as a fault
    refused: Counter[str] = field(default_factory=Counter)  # by quota key
    done: Counter[str] = field(default_factory=Counter)  # by event
    schedulers: int = 0
    first: str = ""


class World:
    """`check` is the admission under test: `accounts.quotas.check`, or a broken one that has to be caught."""

    def __init__(self, loop: VirtualLoop, seed: int, size: Size, check: Check = quotas.check) -> None:
        self.dice, self.size, self.story = random.Random(seed), size, Story()
        self.clock = LoopClock(loop, BEGAN)
        self.rows = Rows(random.Random(seed + 1), lambda space: self.uses.saved(space))
        self.uses = Uses(self.rows, self.clock, self._overrun)
        machines: dict[str, Node] = {node.name: node for node in nodes(size.nodes)}
        self.cluster = SimulatedCluster(random.Random(seed + 2), pools(), machines, self.uses.most_wanted, self.uses.changed)
        self.uses.cluster = self.cluster
        self._check = check
        self._hints: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self._said: asyncio.Queue[SpaceId | ActivityReport] = asyncio.Queue()
        self._lost_hints_share = 0.0
        self._builds = 0
        self.routes: dict[SpaceId, Route] = {}
        self._populate()
        self.actor = Actor(via=Via.TOKEN, user=next(iter(self.rows.accounts_by_id.values())))

    def _populate(self) -> None:
        for number in range(self.size.accounts):
            kind = AccountKind.ORG if number % 3 == 0 else AccountKind.USER
            account = Account(AccountId(f"{number:024x}"), kind, f"o{number}", "", BEGAN)
            self.rows.accounts_by_id[account.id] = account
            for key in ("running", "vcpu", "memory-gb", "gpu-hours", "running.cpu-basic", "running.t4-small", "running.a100-large"):
                if self.dice.random() < 0.6:
                    self.rows.limits_of[account.name][key] = self._some_limit(key)
        self.rows.limits_of[quotas.PLATFORM] = {"running": 9.0, "vcpu": 120.0, "gpu-hours": 1.0}
        owners = list(self.rows.accounts_by_id.values())
        for number in range(self.size.spaces):
            owner = owners[number % len(owners)]
            repo = Repo(
                RepoId(f"{number:024x}"), RepoType.SPACE, owner.id, owner.name, f"s{number}", Visibility.PUBLIC, BEGAN, BEGAN, owner.id
            )
            hardware = self.dice.choices(DEFAULT_FLAVORS, WEIGHTS)[0].name
            space = Space(SpaceId(repo.id), f"s{number}", Sdk.DOCKER, SpaceConfig(Sdk.DOCKER), hardware=hardware)
            self.rows.repos_by_id[repo.id] = repo
            self.rows.spaces_of[owner.id][space.id] = None
            self.rows.spaces_by_id[space.id] = space

    def _some_limit(self, key: str) -> float | None:
        if self.dice.random() < 0.05:
            return None
        if key == "gpu-hours" and self.dice.random() < 0.15:
            return 0.0
        least, most = {"vcpu": (4, 80), "memory-gb": (32, 400), "gpu-hours": (0, 2), "running": (1, 9)}.get(key, (0, 5))
        return round(self.dice.uniform(least, most), 2) if key in ("vcpu", "memory-gb", "gpu-hours") else self.dice.randint(least, most)

    # -- the platform under test

    def _space_deps(self) -> SpaceDeps:
        parts: dict[str, Any] = dict.fromkeys(SpaceDeps.__dataclass_fields__)  # what these use cases never touch is None
        parts |= {
            "uow": self.rows, "clock": self.clock, "signals": self, "catalog": lambda: CATALOG, "check_quota": self._check_quota,
            "meter_build": self._no_meter, "build_limits": BuildLimits(), "apps_domain": "apps",
        }  # fmt: skip
        return SpaceDeps(**parts)

    async def _check_quota(self, uow: Any, account: Account, key: str, asked: float, space_id: SpaceId | None = None) -> None:
        try:
            await self._check(uow, account, key, asked, catalog=CATALOG, now=self.clock.now(), space_id=space_id)
        except QuotaExceeded as error:
            self.story.refused[str(error.facts["key"])] += 1
            raise

    async def _check_running(self, uow: Any, repo: Repo, space: Space) -> None:
        await self._check_quota(uow, self.rows.accounts_by_id[repo.owner_id], f"running.{space.hardware}", space.replicas, space.id)

    async def _admit(self, uow: Any, space: Space) -> None:
        await self._check_running(uow, self.rows.repos_by_id[RepoId(space.id)], space)

    async def _no_meter(self, *_: object) -> None: ...

    async def _meter(self, uow: Any, repo: Repo | None, replica: Replica, now: datetime) -> None:
        await meter_replica(uow, repo, replica, CATALOG, now)

    def _scheduler(self) -> Reconciler:
        async def probe(endpoint: Endpoint, host: str) -> Probe:
            return Probe(False)

        async def discard(space: Space, repo: Repo | None) -> None: ...

        deps = SchedulerDeps(
            uow=self.rows, clock=self.clock, runtime=self.cluster, routes=self, signals=self, queue=self, logs=self,  # type: ignore[arg-type]
            prober=Prober(probe, lambda space_id: None), catalog=lambda: CATALOG, open_secret=lambda setting: Sensitive(""),
            check_running_quota=self._check_running, meter=self._meter, discard=discard,
        )  # fmt: skip
        config = SchedulerConfig(
            apps_domain="apps", app_host_port=lambda sub: f"{sub}.apps", hub_endpoint="http://hub", hub_upstream="", hub_host="",
            static_site=lambda ref: Endpoint(EndpointKind.UNIX, "/s"), drain=timedelta(seconds=2), sleep_after_s=40, preempt_idle_s=10,
        )  # fmt: skip
        return Reconciler(deps, config)

    # -- the ports that the scheduler is given: routes, signals, logs

    async def publish(self, route: Route) -> None:
        if len({endpoint.address for endpoint in route.endpoints}) != len(route.endpoints):
            self.cluster.truth.served_twice += 1
        for endpoint in route.endpoints:
            pod = self.cluster.of_space.get(route.space_id, {}).get(ReplicaId(endpoint.replica_id))
            if pod is not None and pod.was_lost and pod.generation != route.generation:
                self.cluster.truth.served_twice += 1
        self.routes[route.space_id] = route

    async def withdraw(self, host: str) -> None: ...

    async def complete(self) -> None: ...

    async def requests(self) -> AsyncIterator[SpaceId | ActivityReport]:
        while True:
            yield await self._said.get()

    async def notify(self, topic: str, key: str) -> None:
        if topic == "reconcile" and (not self._lost_hints_share or self.dice.random() >= self._lost_hints_share):
            self._hints.put_nowait((topic, key))

    async def subscribe(self, *_: str) -> AsyncIterator[tuple[str, str]]:
        while True:
            yield await self._hints.get()

    async def waiting(self) -> frozenset[Any]:
        return frozenset()

    async def append(self, stream: str, lines: list[LogLine]) -> None: ...

    async def tail(self, stream: str, count: int) -> tuple[LogLine, ...]:
        return ()

    def _overrun(self, what: str) -> None:
        self.story.quota_overruns += 1
        self.story.first = self.story.first or f"{self.clock.now()}: {what}"

    # -- what happens

    async def play(self) -> None:
        faults = _Faults()
        logger = logging.getLogger("vitrine.scheduler")
        logger.addHandler(faults)
        self._good_days(False)
        scheduler = self._start()
        doing: set[asyncio.Task[None]] = set()
        try:
            for number in range(self.size.events):
                await asyncio.sleep(self.dice.expovariate(EVENTS_PER_S))
                if number % (self.size.events // 8) == self.size.events // 9:
                    await ended(scheduler)
                    scheduler = self._start()
                task = asyncio.ensure_future(self._event())
                doing.add(task)
                task.add_done_callback(doing.discard)
            self._good_days(True)
            await asyncio.gather(*doing)
            await asyncio.sleep(self.size.quiet_s)
        finally:
            await ended(scheduler, *doing)
            logger.removeHandler(faults)
            self.story.errors = len(faults.seen)
            self.story.first = self.story.first or next(iter(faults.seen), "")

    def _start(self) -> asyncio.Task[None]:
        self.story.schedulers += 1
        scheduler = self._scheduler()

        async def live() -> None:
            try:
                await scheduler.run()
            finally:
                await scheduler.close()

        return asyncio.ensure_future(live())

    def _good_days(self, good: bool) -> None:
        self.cluster.failing_share = 0.0 if good else 0.004
        self.cluster.crash_share = 0.0 if good else 0.02
        self.rows.busy_share, self.rows.lost_share = (0.0, 0.0) if good else (0.002, 0.001)
        self._lost_hints_share = 0.0 if good else 0.05
        if good:
            while self.cluster.down:
                self.cluster.return_node(now=True)
            for name in self.cluster.nodes:
                self.cluster.cordon(name, True)

    async def _event(self) -> None:
        (what,) = self.dice.choices(_EVENTS, _SHARES)
        try:
            await getattr(self, f"_{what}")()
        except _REFUSALS:
            self.story.done["refused"] += 1
            return
        self.story.done[what] += 1

    def _some(self) -> Repo:
        return self.rows.repos_by_id[RepoId(f"{self.dice.randrange(self.size.spaces):024x}")]

    async def _visit(self) -> None:
        space = self.rows.spaces_by_id[SpaceId(self._some().id)]
        self._said.put_nowait(space.id if space.asleep else ActivityReport(space.id, self.clock.now().timestamp()))

    async def _restart(self) -> None:
        await configure.restart(self._space_deps(), self.actor, self._some())

    async def _crowd(self) -> None:
        """Everything that one owner has, at once."""
        owner = self._some().owner_id
        each = [self.rows.repos_by_id[RepoId(space_id)] for space_id in self.rows.spaces_of[owner]]
        deps = self._space_deps()
        await asyncio.gather(*(configure.restart(deps, self.actor, repo) for repo in each), return_exceptions=True)

    async def _pause(self) -> None:
        await configure.pause(self._space_deps(), self.actor, self._some())

    async def _hardware(self) -> None:
        flavor = self.dice.choices(DEFAULT_FLAVORS, WEIGHTS)[0].name
        await configure.request_hardware(self._space_deps(), self.actor, self._some(), flavor)

    async def _replicas(self) -> None:
        await configure.set_replicas(self._space_deps(), self.actor, self._some(), self.dice.choice((1, 1, 1, 2, 3)))

    async def _variable(self) -> None:
        await configure.put_variable(self._space_deps(), self.actor, self._some(), "V", "1")

    async def _rollback(self) -> None:
        repo = self._some()
        generation = self.rows.spaces_by_id[SpaceId(repo.id)].generation
        await configure.rollback(self._space_deps(), self.actor, repo, self.dice.randint(1, max(1, generation)))

    async def _transfer(self) -> None:
        repo = self._some()
        owner = self.dice.choice(list(self.rows.accounts_by_id.values()))
        await lifecycle.move_repo(self._space_deps(), self.actor, repo, owner, repo.name)

    async def _push(self) -> None:
        """A build ends well."""
        repo = self._some()
        self._builds += 1
        build_id, now = BuildId(f"b{self._builds}"), self.clock.now()
        build = Build(build_id, SpaceId(repo.id), Sha("a" * 40), BuildStatus.RUNNING, now, worker="w", started_at=now)
        async with self.rows.write() as uow:
            await uow.builds.add(build)
        result = BuildResult(Artifact(ArtifactKind.IMAGE, f"i{self._builds}"), LaunchPlan())
        event = BuildEvent(build_id, 1, BuildEventKind.SUCCEEDED, "w", result=result)
        await record_event(self.rows, self.clock, self, event, meter=self._no_meter, admit=self._admit)  # type: ignore[arg-type]

    async def _limit(self) -> None:
        account = self.dice.choice(list(self.rows.accounts_by_id.values()))
        key = self.dice.choice(("running", "vcpu", "memory-gb", "gpu-hours", "running.cpu-basic", "running.t4-small", "running.a100-large"))
        self.rows.limits_of[account.name][key] = self._some_limit(key)

    async def _crash(self) -> None:
        self.cluster.crash()

    async def _lose_node(self) -> None:
        self.cluster.lose_node()

    async def _return_node(self) -> None:
        self.cluster.return_node()

    async def _cordon(self) -> None:
        self.cluster.cordon(self.dice.choice(list(self.cluster.nodes)), self.dice.random() < 0.6)

    # -- when the bad days are over

    def unsettled(self) -> list[str]:
        """Spaces that are not as their owners and quotas want them: each runs as often as wanted, waits in the line, or does not run."""
        wrong = []
        for space in self.rows.spaces_by_id.values():
            pods = [pod for pod in self.cluster.of_space.get(space.id, {}).values() if pod.is_up]
            newest = self.rows.deployments_by_key.get((space.id, space.generation))
            rows = self.rows.open[space.id].values()
            live = self.rows.deployments_by_key.get((space.id, space.live_generation))
            target = next((d for d in (newest, live) if d is not None and d.failed_reason is None), None)
            if space.desired is not DesiredState.RUNNING or space.asleep or target is None:
                if pods or rows:
                    wrong.append(f"{space.id} should not run: {len(pods)} pods, {len(rows)} rows")
                continue
            ready = [pod for pod in pods if pod.seen.state is ReplicaState.READY and pod.generation == target.generation]
            waiting = [row for row in rows if row.state is ReplicaState.PENDING and row.queue_position is not None]
            if len(ready) + len(waiting) != space.replicas or (len(pods) != len(ready) and not waiting):
                there = [p.seen.state.value for p in pods], [(r.state.value, r.queue_position) for r in rows]
                wrong.append(f"{space.id} wants {space.replicas}: {there}")
        return wrong


KINDS = {
    "visit": 300, "restart": 120, "pause": 80, "hardware": 90, "replicas": 60, "push": 130, "variable": 40, "rollback": 20,
    "transfer": 12, "crowd": 6, "limit": 30, "crash": 60, "lose_node": 10, "return_node": 14, "cordon": 8,
}  # fmt: skip
_EVENTS, _SHARES = tuple(KINDS), tuple(KINDS.values())


class _Faults(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(f"{record.getMessage()} {record.__dict__.get('work', '')} {record.exc_info}")


def simulate(seed: int, size: Size, check: Check = quotas.check) -> World:
    """One run, from the first event to the quiet after the last. The seed decides all of it, with PYTHONHASHSEED the order within sets."""
    loop = VirtualLoop()
    try:
        asyncio.set_event_loop(loop)
        world = World(loop, seed, size, check)
        loop.run_until_complete(world.play())
        return world
    finally:
        with suppress(Exception):
            loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()
