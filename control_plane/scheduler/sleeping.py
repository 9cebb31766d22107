"""Sleep and wake: who is idle, who knocks, and who makes room for another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from control_plane.domain.errors import QuotaExceeded
from control_plane.domain.ids import RepoId, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaState
from control_plane.domain.routes import ActivityReport
from control_plane.domain.spaces import DesiredState, Space
from control_plane.domain.traffic import Traffic, hour_of
from control_plane.scheduler.admission import Admission
from control_plane.scheduler.autoscale import NEVER, should_sleep
from control_plane.scheduler.deps import SchedulerConfig, SchedulerDeps
from control_plane.scheduler.noted import note

_SAVE_USE_EVERY_S = 60
_NO_USE = datetime.fromtimestamp(0, UTC)


class Sleeper:
    """`changed(space_id)` brings a Space whose desired state changed to the reconciler."""

    def __init__(
        self, deps: SchedulerDeps, config: SchedulerConfig, admission: Admission, changed: Callable[[SpaceId], None]
    ) -> None:  # fmt: skip
        self._d, self._c, self._admission, self._changed = deps, config, admission, changed
        self._used: dict[SpaceId, ActivityReport] = {}
        self._used_saved: dict[SpaceId, float] = {}

    def note(self, report: ActivityReport) -> None:
        """A proxy tells of use."""
        known = self._used.get(report.space_id)
        self._used[report.space_id] = replace(report, last_used_at=max(report.last_used_at, known.last_used_at if known else 0.0))

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
                self._changed(space_id)
                return
            await uow.spaces.save(replace(space, asleep=False, sleep_reason=None, sleep_message="", last_used_at=now))
            await uow.events.add(space_id, now, "wake", {})
            await note(uow, space_id, "spaces.wake", {"before": "asleep", "after": "awake"}, now)
            await uow.traffic.add(space_id, hour_of(now), Traffic(wakes=1))
        self._used[space_id] = ActivityReport(space_id, now.timestamp())
        self._admission.mark_busy(space_id)
        self._changed(space_id)
        await self._d.signals.notify("events", space_id)

    async def sleep(self, space_id: SpaceId, reason: Reason = Reason.IDLE) -> None:
        """Put it to sleep now: IDLE by its own rule, PREEMPTED to make room for another."""
        async with self._d.uow.write() as uow:
            space = await uow.spaces.get(space_id)
            if space is None or space.asleep:
                return
            message = "" if reason is Reason.IDLE else "It slept to make room for another Space; a visit wakes it."
            await uow.spaces.save(replace(space, asleep=True, sleep_reason=reason, sleep_message=message))
            await uow.events.add(space_id, self._d.clock.now(), "sleep", {"reason": reason.value})
            facts = {"before": "awake", "after": "asleep", "reason": reason.value}
            await note(uow, space_id, "spaces.sleep", facts, self._d.clock.now())
        self._changed(space_id)
        await self._d.signals.notify("events", space_id)

    async def look(self) -> None:
        """Who has been idle long enough to sleep, and who long enough to make room when somebody else needs it."""
        now = self._d.clock.now()
        async with self._d.uow.read() as uow:
            running = {r.space_id for r in await uow.deployments.open_replicas() if r.state is ReplicaState.READY}
            spaces = await uow.spaces.get_many([str(s) for s in running])
            live = await uow.deployments.many([(str(s.id), s.live_generation) for s in spaces])
        for space in spaces:
            flavor = self._d.catalog().find(space.hardware)
            if flavor is None:
                continue
            used = self._used.get(space.id)
            last = max(datetime.fromtimestamp(used.last_used_at, UTC) if used else _NO_USE, space.last_used_at or _NO_USE)
            if should_sleep(
                space, live.get((str(space.id), space.live_generation)), flavor, last_used_at=last,
                open_sockets=used.open_sockets if used else 0, open_tabs=used.open_tabs if used else 0,
                now=now, platform_default_s=self._c.sleep_after_s,
            ):  # fmt: skip
                await self.sleep(space.id)
                continue
            if used and used.last_used_at - self._used_saved.get(space.id, 0.0) > _SAVE_USE_EVERY_S:
                self._used_saved[space.id] = used.last_used_at
                async with self._d.uow.write() as uow:
                    if fresh := await uow.spaces.get(space.id):
                        await uow.spaces.save(replace(fresh, last_used_at=last))
            if space.asleep:
                continue  # on its way out; somebody may wait for its very place, so it is neither idle nor busy
            if self._may_make_room(space, used, last, now):
                self._admission.mark_idle(space.id, last.timestamp())
            else:
                self._admission.mark_busy(space.id)

    def _may_make_room(self, space: Space, used: ActivityReport | None, last: datetime, now: datetime) -> bool:
        """Unused for a while, nobody connected, no newer version on its way, and its owner did not say "never sleep"."""
        if space.sleep_after_s == NEVER or space.live_generation != space.generation:
            return False
        if used is not None and (used.open_sockets or used.open_tabs):
            return False
        return now - last >= timedelta(seconds=self._c.preempt_idle_s)
