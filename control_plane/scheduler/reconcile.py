"""The loop that makes the desired state true. One function does the work, `reconcile_space(space_id)`: it takes an id and
nothing else, reads what is, plans, acts, and is safe to repeat after a kill at any point.

Woken by hints (bus), by the runtime's own changes, by the prober, and by timers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from control_plane.builds.record import build_request, repair_lost
from control_plane.domain.accounts import Account
from control_plane.domain.builds import BuildLimits, BuildStatus, SourceKind
from control_plane.domain.errors import NoCapacity, QuotaExceeded, Rejected, StaleGeneration, Unavailable, VitrineError
from control_plane.domain.hardware import Flavor, FlavorCatalog
from control_plane.domain.ids import ReplicaId, RepoId, SpaceId, new_id
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import Mount, ReplicaSpec, ReplicaState, advance_replica
from control_plane.domain.routes import ActivityReport, Endpoint, RouteState
from control_plane.domain.sensitive import Sensitive
from control_plane.domain.spaces import Deployment, DesiredState, Replica, Repo, Setting, Space
from control_plane.domain.stage import derive_stage
from control_plane.ports.build_queue import BuildQueue
from control_plane.ports.clock import Clock
from control_plane.ports.log_store import LogLine, LogStore
from control_plane.ports.runtime import Runtime
from control_plane.ports.signals import RouteStore, Signals
from control_plane.ports.stores import UnitOfWork, UnitOfWorkFactory
from control_plane.scheduler.autoscale import should_sleep
from control_plane.scheduler.environment import replica_environment
from control_plane.scheduler.planning import (
    Action,
    Apply,
    Facts,
    FailDeployment,
    Forget,
    Mark,
    Promote,
    Retry,
    Start,
    Stop,
    plan,
    target_of,
)  # fmt: skip
from control_plane.scheduler.prober import Prober
from control_plane.scheduler.routing import route_of

log = logging.getLogger("vitrine.scheduler")

_PASSES = 12  # steps of one reconcile before it goes back to the queue
_RESUBMIT_AFTER = timedelta(seconds=20)
_CAPACITY_RETRY = timedelta(seconds=3)
_CONCURRENCY = 8


@dataclass(frozen=True)
class SchedulerConfig:
    apps_domain: str
    app_host_port: Callable[[str], str]  # subdomain → "host[:port]" as browsers write it
    hub_endpoint: str  # what apps get as HF_ENDPOINT
    hub_upstream: str  # where the runtime connects such requests to
    hub_host: str
    static_site: Callable[[str], Endpoint]  # an artifact's ref → where the file server answers for it
    drain: timedelta = timedelta(seconds=60)
    start_timeout: timedelta = timedelta(seconds=1800)
    sleep_after_s: int = 0
    trusted: Callable[[Account], bool] = lambda owner: False  # whose apps may start where the floor is not met
    oauth_of: Callable[[SpaceId], tuple[str, str]] = lambda space_id: ("", "")
    volume_of: Callable[[Space], tuple[Mount, ...]] = lambda space: ()
    target: SourceKind = SourceKind.PROCESS
    limits: BuildLimits = field(default_factory=BuildLimits)


@dataclass(frozen=True)
class SchedulerDeps:
    uow: UnitOfWorkFactory
    clock: Clock
    runtime: Runtime
    routes: RouteStore
    signals: Signals
    queue: BuildQueue
    logs: LogStore
    prober: Prober
    catalog: Callable[[], FlavorCatalog]
    open_secret: Callable[[Setting], Sensitive]
    check_running_quota: Callable[[UnitOfWork, Repo, Space], Awaitable[None]]
    meter: Callable[[UnitOfWork, Repo | None, Replica, datetime], Awaitable[None]]
    discard: Callable[[Space], Awaitable[None]]  # artifacts and logs of a deleted Space


class Reconciler:
    def __init__(self, deps: SchedulerDeps, config: SchedulerConfig) -> None:
        self._d, self._c = deps, config
        self._wanted: dict[SpaceId, None] = {}  # insertion-ordered set
        self._busy: set[SpaceId] = set()
        self._wake = asyncio.Event()
        self._timers: dict[SpaceId, asyncio.TimerHandle] = {}
        self._used: dict[SpaceId, ActivityReport] = {}
        self._used_saved: dict[SpaceId, float] = {}
        self._hosts: dict[SpaceId, str] = {}

    # --- the queue -------------------------------------------------------------------------------------------------
    def request(self, space_id: SpaceId) -> None:
        self._wanted[space_id] = None
        self._wake.set()

    def request_at(self, space_id: SpaceId, at: datetime) -> None:
        delay = max(0.02, (at - self._d.clock.now()).total_seconds())
        loop = asyncio.get_running_loop()
        known = self._timers.get(space_id)
        if known is not None and known.when() <= loop.time() + delay and not known.cancelled():
            return
        if known is not None:
            known.cancel()
        self._timers[space_id] = loop.call_later(delay, self._timer, space_id)

    def _timer(self, space_id: SpaceId) -> None:
        self._timers.pop(space_id, None)
        self.request(space_id)

    async def _worker(self) -> None:
        while True:
            space_id = next((s for s in self._wanted if s not in self._busy), None)
            if space_id is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            del self._wanted[space_id]
            self._busy.add(space_id)
            try:
                await self.reconcile_space(space_id)
            except Unavailable as error:
                log.warning("reconcile.retry", extra={"space_id": space_id, "error": error.message})
                self.request_at(space_id, self._d.clock.now() + timedelta(seconds=1))
            except Exception:
                log.exception("reconcile.failed", extra={"space_id": space_id})
                self.request_at(space_id, self._d.clock.now() + timedelta(seconds=5))
            finally:
                self._busy.discard(space_id)
                self._wake.set()

    # --- life ------------------------------------------------------------------------------------------------------
    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Until cancelled. `ready` is called once every known Space has a route."""
        async with self._d.uow.read() as uow:
            known = await uow.spaces.all_ids()
        for space_id in known:
            self.request(space_id)
        async with asyncio.TaskGroup() as group:
            for _ in range(_CONCURRENCY):
                group.create_task(self._worker())
            group.create_task(self._hints())
            group.create_task(self._runtime_changes())
            group.create_task(self._proxies())
            group.create_task(self._every(2.0, self._repair_builds))
            group.create_task(self._every(1.0, self._put_to_sleep))
            group.create_task(self._every(10.0, self._sweep))
            while self._wanted or self._busy:
                await asyncio.sleep(0.02)
            ready()

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await work()
            except VitrineError as error:
                log.warning("scheduler.timer", extra={"work": work.__name__, "error": error.message})
            except Exception:
                log.exception("scheduler.timer", extra={"work": work.__name__})

    async def _hints(self) -> None:
        async for _, key in self._d.signals.subscribe("reconcile"):
            if key == "*":
                await self._sweep()
            else:
                self.request(SpaceId(key))

    async def _runtime_changes(self) -> None:
        async for space_id in self._d.runtime.changes():
            self.request(space_id)

    async def _proxies(self) -> None:
        async for item in self._d.routes.requests():
            if isinstance(item, ActivityReport):
                known = self._used.get(item.space_id)
                self._used[item.space_id] = replace(item, last_used_at=max(item.last_used_at, known.last_used_at if known else 0.0))
            else:
                try:
                    await self.wake(SpaceId(item))
                except VitrineError as error:
                    log.warning("wake.failed", extra={"space_id": item, "error": error.message})

    async def _sweep(self) -> None:
        """Truth for lost hints: every Space with something open is looked at again."""
        async with self._d.uow.read() as uow:
            spaces = {r.space_id for r in await uow.deployments.open_replicas()} | {b.space_id for b in await uow.builds.open()}
        for seen in await self._d.runtime.observe_all():
            spaces.add(seen.space_id)
        for space_id in spaces:
            self.request(space_id)

    async def _repair_builds(self) -> None:
        for space_id in await repair_lost(self._d.uow, self._d.clock, limit_s=self._c.limits.time_s):
            self.request(space_id)
            await self._d.signals.notify("events", space_id)

    # --- wake and sleep --------------------------------------------------------------------------------------------
    async def wake(self, space_id: SpaceId) -> None:
        """A visitor knocks. Only a sleeping Space that may run is woken; quotas of its owner decide."""
        now = self._d.clock.now()
        async with self._d.uow.write() as uow:
            space, repo = await uow.spaces.get(space_id), await uow.repos.get(RepoId(space_id))
            if space is None or repo is None or not space.asleep or space.desired is not DesiredState.RUNNING or space.suspended:
                return
            try:
                await self._d.check_running_quota(uow, repo, space)
            except QuotaExceeded as error:
                if (space.sleep_reason, space.sleep_message) != (Reason.QUOTA, error.message):
                    await uow.spaces.save(replace(space, sleep_reason=Reason.QUOTA, sleep_message=error.message))
                    await uow.events.add(space_id, now, "sleep", {"reason": Reason.QUOTA.value, "message": error.message})
                self.request(space_id)
                return
            await uow.spaces.save(replace(space, asleep=False, sleep_reason=None, sleep_message="", last_used_at=now))
            await uow.events.add(space_id, now, "wake", {})
        self._used[space_id] = ActivityReport(space_id, now.timestamp())
        self.request(space_id)
        await self._d.signals.notify("events", space_id)

    async def _put_to_sleep(self) -> None:
        now = self._d.clock.now()
        async with self._d.uow.read() as uow:
            running = {r.space_id for r in await uow.deployments.open_replicas() if r.state is ReplicaState.READY}
            spaces = await uow.spaces.get_many([str(s) for s in running])
            pairs = [(str(s.id), s.live_generation) for s in spaces]
            live = await uow.deployments.many(pairs)
        for space in spaces:
            flavor = self._d.catalog().find(space.hardware)
            if flavor is None:
                continue
            used = self._used.get(space.id)
            last = max(
                datetime.fromtimestamp(used.last_used_at, UTC) if used else datetime.fromtimestamp(0, UTC),
                space.last_used_at or datetime.fromtimestamp(0, UTC),
            )
            if should_sleep(
                space, live.get((str(space.id), space.live_generation)), flavor, last_used_at=last,
                open_sockets=used.open_sockets if used else 0, open_tabs=used.open_tabs if used else 0,
                now=now, platform_default_s=self._c.sleep_after_s,
            ):  # fmt: skip
                await self._sleep(space.id)
            elif used and used.last_used_at - self._used_saved.get(space.id, 0.0) > 60:
                self._used_saved[space.id] = used.last_used_at
                async with self._d.uow.write() as uow:
                    if fresh := await uow.spaces.get(space.id):
                        await uow.spaces.save(replace(fresh, last_used_at=last))

    async def _sleep(self, space_id: SpaceId) -> None:
        async with self._d.uow.write() as uow:
            space = await uow.spaces.get(space_id)
            if space is None or space.asleep:
                return
            await uow.spaces.save(replace(space, asleep=True, sleep_reason=Reason.IDLE, sleep_message=""))
            await uow.events.add(space_id, self._d.clock.now(), "sleep", {"reason": Reason.IDLE.value})
        self.request(space_id)
        await self._d.signals.notify("events", space_id)

    # --- one Space -------------------------------------------------------------------------------------------------
    async def reconcile_space(self, space_id: SpaceId) -> None:
        for _ in range(_PASSES):
            facts = await self._load(space_id)
            if facts is None:
                if host := self._hosts.pop(space_id, None):
                    await self._d.routes.withdraw(host)
                for seen in await self._d.runtime.observe(space_id):
                    await self._d.runtime.stop(seen.replica_id)
                return
            await self._submit(facts.space)
            await self._stop_strays(facts)
            actions = plan(facts, self._d.clock.now()).actions
            goes_on = False
            published = False
            for action in actions:
                if isinstance(action, Stop) and not published:
                    await self._publish(space_id)  # nobody is sent to a replica that is about to stop
                    published = True
                goes_on |= await self._act(facts, action)
            if not goes_on:
                break
        await self._publish(space_id)

    async def _load(self, space_id: SpaceId) -> Facts | None:
        async with self._d.uow.read() as uow:
            space = await uow.spaces.get(space_id)
            if space is None:
                return None
            newest = await uow.deployments.get(space_id, space.generation) if space.generation else None
            live = newest if space.live_generation == space.generation else await uow.deployments.get(space_id, space.live_generation)
            replicas = await uow.deployments.replicas(space_id)
            target = target_of(newest, live)
            failures = await uow.deployments.failures(space_id, target.generation) if target else ()
        observations = {o.replica_id: o for o in await self._d.runtime.observe(space_id)}
        by_generation = {d.generation: d for d in (newest, live) if d}
        for replica in replicas:
            seen = observations.get(replica.id)
            deployment = by_generation.get(replica.generation)
            if deployment is None or seen is None or seen.endpoint is None:
                continue
            if replica.state is ReplicaState.STARTING and seen.state is ReplicaState.STARTING:
                self._d.prober.watch(replica.id, space_id, seen.endpoint, self._c.app_host_port(space.subdomain))
                self.request_at(space_id, self._d.clock.now() + timedelta(seconds=min(5, deployment.config.startup_timeout_s)))
        return Facts(
            space=space, newest=newest, live=live, replicas=replicas, observations=observations, probes=dict(self._d.prober.results),
            failures=failures, drain=self._c.drain, start_timeout=self._c.start_timeout,
        )  # fmt: skip

    async def _stop_strays(self, facts: Facts) -> None:
        known = {r.id for r in facts.replicas}
        for replica_id in facts.observations:
            if replica_id not in known:
                await self._d.runtime.stop(replica_id, grace_s=1.0)

    async def _submit(self, space: Space) -> None:
        """Tell the queue about a build it has not heard of, or may have lost."""
        now = self._d.clock.now()
        async with self._d.uow.read() as uow:
            build = await uow.builds.latest(space.id)
            if build is None or build.status is not BuildStatus.QUEUED:
                return
            if build.submitted_at and now - build.submitted_at < _RESUBMIT_AFTER:
                return
            repo, settings = await uow.repos.get(RepoId(space.id)), await uow.spaces.settings(space.id)
        if repo is None:
            return
        request = build_request(build, repo, space, settings, target=self._c.target, limits=self._c.limits, catalog=self._d.catalog())
        async with self._d.uow.write() as uow:
            current = await uow.builds.get(build.id)
            if current is None or current.status is not BuildStatus.QUEUED or current.attempt != build.attempt:
                return
            await uow.builds.save(replace(current, submitted_at=now))
        await self._d.queue.submit(request)

    async def _act(self, facts: Facts, action: Action) -> bool:
        """Do one action. True: facts changed, plan again at once."""
        now = self._d.clock.now()
        space_id = facts.space.id
        match action:
            case Mark():
                return await self._mark(facts, action, now)
            case Start(deployment=deployment, restarts=restarts):
                replica = Replica(
                    id=ReplicaId(new_id()), space_id=space_id, generation=deployment.generation, state=ReplicaState.PENDING, created_at=now,
                    hardware=deployment.hardware, restarts=restarts,
                )  # fmt: skip
                async with self._d.uow.write() as uow:
                    fresh = await uow.spaces.get(space_id)
                    if fresh is None or fresh.generation != facts.space.generation or fresh.asleep != facts.space.asleep:
                        return True
                    await uow.deployments.save_replica(replica)
                    await uow.events.add(space_id, now, "replica.pending", {"replica_id": replica.id, "generation": deployment.generation})
                return True
            case Apply(replica=replica, deployment=deployment):
                return await self._apply(facts, replica, deployment)
            case Stop(replica=replica, reason=reason, grace_s=grace_s):
                self._d.prober.forget(replica.id)
                await self._d.runtime.stop(replica.id, grace_s=grace_s)
                await self._finish(replica, ReplicaState.STOPPED, reason, "")
                return True
            case Promote(deployment=deployment):
                await self._promote(space_id, deployment, now)
                return True
            case FailDeployment():
                await self._fail(facts, action, now)
                return True
            case Forget():
                await self._forget(facts.space)
                return False
            case Retry(at=at):
                self.request_at(space_id, at)
                return False

    async def _mark(self, facts: Facts, mark: Mark, now: datetime) -> bool:
        seen = facts.observations.get(mark.replica.id)
        if mark.state.is_terminal:
            self._d.prober.forget(mark.replica.id)
            await self._d.runtime.stop(mark.replica.id, grace_s=0.5)
            await self._finish(mark.replica, mark.state, mark.reason, mark.message)
            return True
        async with self._d.uow.write() as uow:
            replica = await uow.deployments.replica(mark.replica.id)
            if replica is None or replica.state is not mark.replica.state:
                return True
            replica = replace(
                replica, state=advance_replica(replica.state, mark.state), reason=mark.reason, message=mark.message,
                endpoint=(seen.endpoint if seen else None) or replica.endpoint, node=(seen.node if seen else "") or replica.node,
                started_at=replica.started_at or (now if mark.state is ReplicaState.STARTING else None),
                ready_at=now if mark.state is ReplicaState.READY else replica.ready_at,
                drain_until=now + self._c.drain if mark.state is ReplicaState.DRAINING else replica.drain_until,
            )  # fmt: skip
            await uow.deployments.save_replica(replica)
            if mark.state in (ReplicaState.STARTING, ReplicaState.READY):
                facts_ = {"replica_id": replica.id, "generation": replica.generation}
                await uow.events.add(replica.space_id, now, f"replica.{mark.state.value}", facts_)
        await self._d.signals.notify("events", mark.replica.space_id)
        return True

    async def _finish(self, replica: Replica, state: ReplicaState, reason: Reason | None, message: str) -> None:
        now = self._d.clock.now()
        async with self._d.uow.write() as uow:
            current = await uow.deployments.replica(replica.id)
            if current is None or current.state.is_terminal:
                return
            ended = replace(
                current, state=advance_replica(current.state, state), reason=reason, message=message[:2000], stopped_at=now, endpoint=None
            )
            await uow.deployments.save_replica(ended)
            await self._d.meter(uow, await uow.repos.get(RepoId(replica.space_id)), ended, now)
            if state is ReplicaState.FAILED:
                words = {"replica_id": replica.id, "reason": reason.value if reason else "", "message": message[:2000]}
                await uow.events.add(replica.space_id, now, "replica.failed", words)
        if state is ReplicaState.FAILED and reason is not None:
            line = LogLine(now, f"===== stopped: {message or reason.words} ({reason.value}) =====")
            await self._d.logs.append(f"run/{replica.space_id}", [line])
        await self._d.signals.notify("events", replica.space_id)

    async def _apply(self, facts: Facts, replica: Replica, deployment: Deployment) -> bool:
        flavor = self._d.catalog().find(deployment.hardware)
        async with self._d.uow.read() as uow:
            repo, settings = await uow.repos.get(RepoId(replica.space_id)), await uow.spaces.settings(replica.space_id)
            owner = await uow.accounts.get(repo.owner_id) if repo else None
        if repo is None or owner is None:
            return False
        if flavor is None:
            await self._finish(
                replica, ReplicaState.FAILED, Reason.UNSUPPORTED_HERE, f"hardware {deployment.hardware} is not offered any more"
            )
            return True
        try:
            await self._d.runtime.apply(self._spec(facts.space, repo, owner, replica, deployment, flavor, settings))
        except NoCapacity as error:
            await self._waits(replica, Reason.NO_CAPACITY, error.message)
            self.request_at(replica.space_id, self._d.clock.now() + _CAPACITY_RETRY)
            return False
        except StaleGeneration as error:
            await self._finish(replica, ReplicaState.STOPPED, Reason.REPLACED, error.message)
        except Rejected as error:
            named = str(error.facts.get("reason", ""))
            reason = Reason(named) if named in set(Reason) else Reason.UNSUPPORTED_HERE
            await self._finish(replica, ReplicaState.FAILED, reason, error.message)
        except Exception as error:
            # Ours, not the app's: recorded with a reason and tried again after a pause.
            log.exception("replica.apply", extra={"space_id": replica.space_id})
            await self._finish(replica, ReplicaState.FAILED, Reason.PLATFORM_ERROR, str(error))
        return True

    async def _waits(self, replica: Replica, reason: Reason, message: str) -> None:
        if (replica.reason, replica.message) == (reason, message):
            return
        async with self._d.uow.write() as uow:
            current = await uow.deployments.replica(replica.id)
            if current is not None and current.state is ReplicaState.PENDING:
                await uow.deployments.save_replica(replace(current, reason=reason, message=message))
        await self._d.signals.notify("events", replica.space_id)

    def _spec(
        self, space: Space, repo: Repo, owner: Account, replica: Replica, deployment: Deployment, flavor: Flavor,
        settings: tuple[Setting, ...],
    ) -> ReplicaSpec:  # fmt: skip
        secrets: Mapping[str, Sensitive] = {s.key: self._d.open_secret(s) for s in settings if s.is_secret}
        env = replica_environment(
            repo, space, deployment, flavor, host=self._c.app_host_port(space.subdomain), hub_endpoint=self._c.hub_endpoint,
            creator_id=repo.created_by, variables={s.key: s.value for s in settings if not s.is_secret}, secrets=secrets,
            oauth=self._c.oauth_of(space.id),
        )  # fmt: skip
        return ReplicaSpec(
            replica_id=replica.id, space_id=space.id, space_name=repo.full_name, generation=deployment.generation,
            revision=deployment.revision, artifact=deployment.artifact, launch=deployment.launch, flavor=flavor, env=env,
            mounts=self._c.volume_of(space), start_timeout_s=deployment.config.startup_timeout_s, trusted=self._c.trusted(owner),
            hub_upstream=self._c.hub_upstream, hub_host=self._c.hub_host,
        )  # fmt: skip

    async def _promote(self, space_id: SpaceId, deployment: Deployment, now: datetime) -> None:
        async with self._d.uow.write() as uow:
            space = await uow.spaces.get(space_id)
            if space is None or (space.live_generation > deployment.generation and space.generation == space.live_generation):
                return
            await uow.spaces.save(replace(space, live_generation=deployment.generation))
            stored = await uow.deployments.get(space_id, deployment.generation)
            if stored is not None and stored.live_at is None:
                await uow.deployments.save(replace(stored, live_at=now))
            build = await uow.builds.get(deployment.build_id)
            began = build.created_at if build and deployment.cause == "push" else deployment.created_at
            words = {
                "generation": deployment.generation,
                "revision": deployment.revision,
                "seconds": round((now - began).total_seconds(), 3),
            }
            await uow.events.add(space_id, now, "route.live", words)
        # Route first, then tell: whoever hears "live" finds it answering.
        await self._publish(space_id)
        await self._d.signals.notify("events", space_id)

    async def _fail(self, facts: Facts, action: FailDeployment, now: datetime) -> None:
        tail = tuple(line.text for line in await self._d.logs.tail(f"run/{facts.space.id}", 20))
        async with self._d.uow.write() as uow:
            stored = await uow.deployments.get(facts.space.id, action.deployment.generation)
            if stored is None or stored.failed_reason is not None:
                return
            await uow.deployments.save(replace(stored, failed_reason=action.reason, failed_message=action.message, log_tail=tail))
            words = {"generation": stored.generation, "reason": action.reason.value, "message": action.message, "log_tail": list(tail)}
            await uow.events.add(facts.space.id, now, "deploy.failed", words)
        await self._d.signals.notify("events", facts.space.id)

    async def _forget(self, space: Space) -> None:
        if host := self._hosts.pop(space.id, None):
            await self._d.routes.withdraw(host)
        await self._d.discard(space)
        async with self._d.uow.write() as uow:
            await uow.spaces.remove(space.id)
        await self._d.signals.notify("events", space.id)

    # --- routes ----------------------------------------------------------------------------------------------------
    async def _publish(self, space_id: SpaceId) -> None:
        async with self._d.uow.read() as uow:
            space, repo = await uow.spaces.get(space_id), await uow.repos.get(RepoId(space_id))
            if space is None or repo is None:
                if host := self._hosts.pop(space_id, None):
                    await self._d.routes.withdraw(host)
                return
            newest = await uow.deployments.get(space_id, space.generation) if space.generation else None
            live = newest if space.live_generation == space.generation else await uow.deployments.get(space_id, space.live_generation)
            replicas, build = await uow.deployments.replicas(space_id), await uow.builds.latest(space_id)
        view = derive_stage(space, build, newest, live, replicas)
        host = f"{space.subdomain}.{self._c.apps_domain}"
        route = route_of(repo, space, live, replicas, view, host=host, static_site=self._c.static_site)
        old = self._hosts.get(space_id)
        if old is not None and old != host:
            await self._d.routes.publish(replace(route, host=old, state=RouteState.EMPTY, endpoints=(), redirect_to=host))
        self._hosts[space_id] = host
        await self._d.routes.publish(route)

    async def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        with contextlib.suppress(Exception):
            await self._d.prober.close()
