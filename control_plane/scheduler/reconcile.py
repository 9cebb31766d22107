"""The loop that makes the desired state true. One function does the work, `reconcile_space(space_id)`: it takes an id and
nothing else, reads what is, plans, acts, and is safe to repeat after a kill at any point.

Woken by hints (bus), by the runtime's own changes, by the prober, and by timers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from control_plane.background import ended
from control_plane.builds.record import build_request, repair_lost, repair_unheard
from control_plane.domain.builds import BuildStatus
from control_plane.domain.errors import Unavailable, VitrineError
from control_plane.domain.hardware import Flavor
from control_plane.domain.ids import ReplicaId, RepoId, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaObservation, ReplicaState
from control_plane.domain.routes import ActivityReport
from control_plane.domain.spaces import Deployment, Replica, Space
from control_plane.scheduler.admission import Admission
from control_plane.scheduler.deps import SchedulerConfig, SchedulerDeps
from control_plane.scheduler.ledger import Ledger
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
    Wait,
    plan,
    target_of,
)  # fmt: skip
from control_plane.scheduler.publishing import RoutePublisher
from control_plane.scheduler.sleeping import Sleeper
from control_plane.scheduler.starting import Starter
from control_plane.scheduler.traffic import TrafficMeter
from control_plane.scheduler.work_queue import WorkQueue

log = logging.getLogger("vitrine.scheduler")

_PASSES = 12  # steps of one reconcile before it goes back to the queue
REPAIR_EVERY_S = 2.0  # between two looks for builds whose worker went silent, and for messages that nobody answered
_CONCURRENCY = 8


class Reconciler:
    def __init__(self, deps: SchedulerDeps, config: SchedulerConfig) -> None:
        self._d, self._c = deps, config
        self._work = WorkQueue(deps.clock, self.reconcile_space, deps.observe_look)
        self._admission = Admission(deps.runtime.capacity, self._work.request, deps.clock.monotonic)
        self._ledger = Ledger(deps, config.drain, self._admission.release)
        self._routes = RoutePublisher(deps, config)
        self._sleeper = Sleeper(deps, config, self._admission, self._work.request)
        self._starter = Starter(
            deps, config, self._admission, self._ledger, self._work.request_at, lambda s: self._sleeper.sleep(s, Reason.PREEMPTED)
        )
        self._traffic = TrafficMeter(deps)
        self.wake = self._sleeper.wake
        self.request = self._work.request
        self.request_at = self._work.request_at

    # --- life ------------------------------------------------------------------------------------------------------
    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Until cancelled. `ready` is called once every known Space has a route."""
        with contextlib.suppress(Unavailable):
            await self._admission.refresh()
            await self._rejoin()
        async with self._d.uow.read() as uow:
            known = await uow.spaces.all_ids()
        work = (
            *(self._work.worker() for _ in range(_CONCURRENCY)),
            self._hints(),
            self._runtime_changes(),
            self._proxies(),
            self._every(REPAIR_EVERY_S, self._repair_builds),
            self._every(REPAIR_EVERY_S, self._repair_messages),
            self._every(1.0, self._sleeper.look),
            self._every(1.0, self._look_for_room),
            self._every(10.0, self._sweep),
            self._every(10.0, self._traffic.write),
            self._first_look(known, ready),
        )
        tasks = [asyncio.create_task(one) for one in work]
        try:
            await asyncio.gather(*tasks)
        finally:
            await ended(*tasks)

    async def _first_look(self, known: Sequence[SpaceId], ready: Callable[[], None]) -> None:
        await self._work.looked_at(known)
        for space_id in known:
            if not self._routes.knows(space_id):  # its look failed: what is stored is the best there is
                await self._routes.publish(space_id)
        await self._d.routes.complete()
        ready()

    async def _rejoin(self) -> None:
        """The line as the scheduler before us left it. Replicas that the runtime has taken on wait for something else."""
        started = {seen.replica_id for seen in await self._d.runtime.observe_all()}
        async with self._d.uow.read() as uow:
            waited = [r for r in await uow.deployments.open_replicas() if r.state is ReplicaState.PENDING and r.id not in started]
            waited.sort(key=lambda replica: (replica.created_at, replica.id))
            spaces = {space.id: space for space in await uow.spaces.get_many([str(r.space_id) for r in waited])}
            line: list[tuple[Replica, Flavor, str, bool]] = []
            for replica in waited:
                space, flavor = spaces.get(replica.space_id), self._d.catalog().find(replica.hardware)
                repo = await uow.repos.get(RepoId(replica.space_id))
                if space is not None and repo is not None and flavor is not None:
                    is_urgent = bool(replica.restarts) and space.live_generation == replica.generation
                    line.append((replica, flavor, repo.owner_name, is_urgent))
        self._admission.rejoin(line)

    async def _look_for_room(self) -> None:
        """Nodes may come and go, and others' pods end, without a word about any Space of ours: matters while somebody waits."""
        if self._admission.has_waiting:
            await self._admission.refresh()

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
                await self._readmit(SpaceId(key))

    async def _readmit(self, space_id: SpaceId) -> None:
        if self._d.is_leading():
            try:
                await self._routes.readmit(space_id)
            except VitrineError as error:  # the look that was asked for publishes it too
                log.warning("readmit.failed", extra={"space_id": space_id, "error": error.message})

    async def _runtime_changes(self) -> None:
        async for space_id in self._d.runtime.changes():
            self.request(space_id)

    async def _proxies(self) -> None:
        async for item in self._d.routes.requests():
            if isinstance(item, ActivityReport):
                self._sleeper.note(item)
                self._traffic.note(item)
            else:
                try:
                    await self.wake(SpaceId(item))
                except VitrineError as error:
                    log.warning("wake.failed", extra={"space_id": item, "error": error.message})

    async def _sweep(self) -> None:
        """Truth for lost hints: every Space with something open, or with nothing where something should be, is looked at again."""
        async with self._d.uow.read() as uow:
            spaces = {r.space_id for r in await uow.deployments.open_replicas()} | {b.space_id for b in await uow.builds.open()}
            spaces.update(await uow.spaces.unmet())
        for seen in await self._d.runtime.observe_all():
            spaces.add(seen.space_id)
        for space_id in spaces:
            self.request(space_id)

    async def _repair_builds(self) -> None:
        for space_id in await repair_lost(self._d.uow, self._d.clock, limit_s=self._c.limits.time_s):
            self.request(space_id)
            await self._d.signals.notify("events", space_id)

    async def _repair_messages(self) -> None:
        for space_id in await repair_unheard(self._d.uow, self._d.clock, self._d.queue.waiting):
            self.request(space_id)

    # --- one Space -------------------------------------------------------------------------------------------------
    async def reconcile_space(self, space_id: SpaceId) -> None:
        """Raises Unavailable while another scheduler leads, or when the runtime or database does not answer."""
        if not self._d.is_leading():
            raise Unavailable("this scheduler does not lead")
        for _ in range(_PASSES):
            facts = await self._load(space_id)
            if facts is None:
                await self._routes.withdraw(space_id)
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
                    await self._routes.publish(space_id)  # nobody is sent to a replica that is about to stop
                    published = True
                goes_on |= await self._act(facts, action)
            if not goes_on:
                break
        await self._routes.publish(space_id)

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
        await self._note_places(replicas, observations)
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
        """Tell the queue about a build it has not heard of, or has lost (`repair_unheard`)."""
        now = self._d.clock.now()
        async with self._d.uow.read() as uow:
            build = await uow.builds.latest(space.id)
            if build is None or build.status is not BuildStatus.QUEUED or build.submitted_at:
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

    async def _note_places(self, replicas: tuple[Replica, ...], observations: dict[ReplicaId, ReplicaObservation]) -> None:
        """Replicas whose node the admission does not know: started by an earlier scheduler, or bound elsewhere by the cluster."""
        placed = [replace(r, node=seen.node) for r in replicas if (seen := observations.get(r.id)) and seen.node]
        for replica in placed:
            flavor = self._d.catalog().find(replica.hardware)
            if flavor is None or self._admission.knows(replica):
                continue
            async with self._d.uow.read() as uow:
                repo = await uow.repos.get(RepoId(replica.space_id))
            if repo is not None:
                self._admission.running(replica, flavor, repo.owner_name)

    async def _act(self, facts: Facts, action: Action) -> bool:
        """Do one action. True: facts changed, plan again at once."""
        now = self._d.clock.now()
        space_id = facts.space.id
        match action:
            case Mark(replica=replica, state=state) if state.is_terminal:
                self._d.prober.forget(replica.id)
                await self._d.runtime.stop(replica.id, grace_s=0.5)
                await self._ledger.finish(replica, state, action.reason, action.message)
                await self._routes.publish(space_id)  # requests wait for the next replica instead of meeting one that is gone
            case Mark():
                await self._ledger.advance(facts, action, now)
            case Wait(replica=replica):
                await self._ledger.waits(replica, action.reason, action.message)
                return False
            case Start(deployment=deployment, restarts=restarts):
                await self._ledger.begin(facts.space, deployment, restarts)
            case Apply(replica=replica, deployment=deployment):
                return await self._starter.apply(facts, replica, deployment)
            case Stop(replica=replica, reason=reason, grace_s=grace_s):
                self._d.prober.forget(replica.id)
                await self._d.runtime.stop(replica.id, grace_s=grace_s)
                await self._ledger.finish(replica, ReplicaState.STOPPED, reason, "")
            case Promote(deployment=deployment):
                await self._promote(facts.space, deployment, now)
            case FailDeployment():
                await self._ledger.fail(facts, action, now)
            case Forget():
                await self._forget(facts.space)
                return False
            case Retry(at=at):
                self.request_at(space_id, at)
                return False
        return True

    async def _promote(self, space: Space, deployment: Deployment, now: datetime) -> None:
        if await self._ledger.promote(space.id, deployment):
            # Route first, then tell: whoever hears "live" finds it answering.
            await self._routes.publish(space.id)
            await self._ledger.is_live(space.id, deployment, space.live_generation, now)
            await self._d.signals.notify("events", space.id)

    async def _forget(self, space: Space) -> None:
        await self._routes.withdraw(space.id)
        async with self._d.uow.read() as uow:
            repo = await uow.repos.get(RepoId(space.id))
        await self._d.discard(space, repo)
        async with self._d.uow.write() as uow:
            await uow.spaces.remove(space.id)
        await self._d.signals.notify("events", space.id)

    async def close(self) -> None:
        self._work.close()
        with contextlib.suppress(Exception):
            await self._d.prober.close()
