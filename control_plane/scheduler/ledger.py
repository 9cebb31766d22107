"""Writing down what happened to replicas and deployments: state, history, metering, and the line in the app's log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from control_plane.domain.ids import ReplicaId, RepoId, SpaceId, new_id
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaState, advance_replica
from control_plane.domain.spaces import Deployment, Replica, Space
from control_plane.ports.log_store import LogLine
from control_plane.scheduler.deps import SchedulerDeps
from control_plane.scheduler.noted import note
from control_plane.scheduler.planning import Facts, FailDeployment, Mark

_WORDS_MAX = 2000


class Ledger:
    """`ended(replica_id)` is called once a replica is written down as stopped or failed."""

    def __init__(self, deps: SchedulerDeps, drain: timedelta, ended: Callable[[ReplicaId], None]) -> None:
        self._d, self._drain, self._ended = deps, drain, ended

    async def begin(self, space: Space, deployment: Deployment, restarts: int) -> None:
        """A new PENDING replica on today's hardware, unless the Space changed meanwhile.

        An older version that runs again, because the newest failed, gets what its owner asked for last: nobody else was asked for room.
        """
        now = self._d.clock.now()
        replica = Replica(
            id=ReplicaId(new_id()), space_id=space.id, generation=deployment.generation, state=ReplicaState.PENDING, created_at=now,
            hardware=space.hardware, restarts=restarts,
        )  # fmt: skip
        async with self._d.uow.write() as uow:
            fresh = await uow.spaces.get(space.id)
            if fresh is None or fresh.generation != space.generation or fresh.asleep != space.asleep:
                return
            await uow.deployments.save_replica(replica)
            await uow.events.add(space.id, now, "replica.pending", {"replica_id": replica.id, "generation": deployment.generation})

    async def advance(self, facts: Facts, mark: Mark, now: datetime) -> None:
        """A replica that goes on living has a new state."""
        seen = facts.observations.get(mark.replica.id)
        async with self._d.uow.write() as uow:
            replica = await uow.deployments.replica(mark.replica.id)
            if replica is None or replica.state is not mark.replica.state:
                return
            replica = replace(
                replica, state=advance_replica(replica.state, mark.state), reason=mark.reason, message=mark.message,
                endpoint=(seen.endpoint if seen else None) or replica.endpoint, node=(seen.node if seen else "") or replica.node,
                started_at=replica.started_at or (now if mark.state is ReplicaState.STARTING else None),
                ready_at=now if mark.state is ReplicaState.READY else replica.ready_at,
                drain_until=now + self._drain if mark.state is ReplicaState.DRAINING else replica.drain_until,
                queue_position=None, eta_s=None,
            )  # fmt: skip
            await uow.deployments.save_replica(replica)
            if mark.state in (ReplicaState.STARTING, ReplicaState.READY):
                facts_ = {"replica_id": replica.id, "generation": replica.generation}
                await uow.events.add(replica.space_id, now, f"replica.{mark.state.value}", facts_)
        await self._d.signals.notify("events", mark.replica.space_id)

    async def finish(self, replica: Replica, state: ReplicaState, reason: Reason | None, message: str) -> None:
        now, words = self._d.clock.now(), message[:_WORDS_MAX]
        async with self._d.uow.write() as uow:
            current = await uow.deployments.replica(replica.id)
            if current is None or current.state.is_terminal:
                return
            ended = replace(
                current, state=advance_replica(current.state, state), reason=reason, message=words, stopped_at=now, endpoint=None,
                queue_position=None, eta_s=None,
            )  # fmt: skip
            await uow.deployments.save_replica(ended)
            await self._d.meter(uow, await uow.repos.get(RepoId(replica.space_id)), ended, now)
            if state is ReplicaState.FAILED:
                told = {"replica_id": replica.id, "reason": reason.value if reason else "", "message": words}
                await uow.events.add(replica.space_id, now, "replica.failed", told)
        self._ended(replica.id)
        if state is ReplicaState.FAILED and reason is not None:
            line = LogLine(now, f"===== stopped: {message or reason.words} ({reason.value}) =====")
            await self._d.logs.append(f"run/{replica.space_id}", [line])
        await self._d.signals.notify("events", replica.space_id)

    async def waits(
        self, replica: Replica, reason: Reason | None, message: str, position: int | None = None, eta_s: float | None = None
    ) -> None:
        """Why a PENDING replica is not up yet; written only when it changed."""
        words = message[:_WORDS_MAX]
        if (replica.reason, replica.message, replica.queue_position, replica.eta_s) == (reason, words, position, eta_s):
            return
        async with self._d.uow.write() as uow:
            current = await uow.deployments.replica(replica.id)
            if current is not None and current.state is ReplicaState.PENDING:
                await uow.deployments.save_replica(replace(current, reason=reason, message=words, queue_position=position, eta_s=eta_s))
        await self._d.signals.notify("events", replica.space_id)

    async def promote(self, space_id: SpaceId, deployment: Deployment) -> bool:
        """This generation is the served one from now on; False when a newer one is already. Its route is published next."""
        async with self._d.uow.write() as uow:
            space = await uow.spaces.get(space_id)
            if space is None or (space.live_generation > deployment.generation and space.generation == space.live_generation):
                return False
            await uow.spaces.save(replace(space, live_generation=deployment.generation))
        return True

    async def is_live(self, space_id: SpaceId, deployment: Deployment, before: int, now: datetime) -> None:
        """It answers at its address; `before` is the generation that did until now. Told last, so that nobody comes too early."""
        async with self._d.uow.write() as uow:
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
            facts = {"before": before, "after": deployment.generation, "revision": deployment.revision}
            await note(uow, space_id, "spaces.live", facts, now)

    async def fail(self, facts: Facts, action: FailDeployment, now: datetime) -> None:
        """This generation does not come up; its last lines are kept with it."""
        tail = tuple(line.text for line in await self._d.logs.tail(f"run/{facts.space.id}", 20))
        async with self._d.uow.write() as uow:
            stored = await uow.deployments.get(facts.space.id, action.deployment.generation)
            if stored is None or stored.failed_reason is not None:
                return
            await uow.deployments.save(replace(stored, failed_reason=action.reason, failed_message=action.message, log_tail=tail))
            words = {"generation": stored.generation, "reason": action.reason.value, "message": action.message, "log_tail": list(tail)}
            await uow.events.add(facts.space.id, now, "deploy.failed", words)
            noted = {"generation": stored.generation, "revision": stored.revision, "reason": action.reason.value}
            await note(uow, facts.space.id, "spaces.deploy_failed", noted, now)
        await self._d.signals.notify("events", facts.space.id)
