"""What proxies and the runtime tell about each Space, summed up and written down by the hour (`domain.traffic`).

A kill loses what came in since the last write, ten seconds of figures at most; nothing else depends on them.
"""

from __future__ import annotations

from datetime import timedelta

from control_plane.domain.errors import Unavailable
from control_plane.domain.ids import SpaceId
from control_plane.domain.replicas import ReplicaState
from control_plane.domain.routes import ActivityReport
from control_plane.domain.traffic import KEPT_DAYS, Traffic, hour_of
from control_plane.scheduler.deps import SchedulerDeps

_LONGEST_S = 60.0  # between two samples; beyond it nothing is known about the processor


class TrafficMeter:
    def __init__(self, deps: SchedulerDeps) -> None:
        self._d = deps
        self._new: dict[SpaceId, Traffic] = {}
        self._sampled_at: float | None = None
        self._pruned = ""

    def note(self, report: ActivityReport) -> None:
        """A proxy tells what it saw since its last report."""
        if report.requests or report.bytes_in or report.bytes_out:
            self._add(
                report.space_id, Traffic(dict(report.requests), dict(report.latency_buckets), report.bytes_in, report.bytes_out)
            )  # fmt: skip
        if report.wake_s > 0:  # reports are seconds apart: no Space falls asleep and wakes twice in between
            self._add(report.space_id, Traffic(woken=1, wake_s=report.wake_s))

    def _add(self, space_id: SpaceId, traffic: Traffic) -> None:
        self._new[space_id] = self._new.get(space_id, Traffic()) + traffic

    async def write(self) -> None:
        """Sample what runs, then write what is new. Called on a timer."""
        await self._sample()
        new, self._new = self._new, {}
        hour = hour_of(self._d.clock.now())
        if not new and hour[:10] == self._pruned:
            return
        try:
            async with self._d.uow.write() as uow:
                for space_id, traffic in new.items():
                    await uow.traffic.add(space_id, hour, traffic)
                if hour[:10] != self._pruned:
                    await uow.traffic.prune(hour_of(self._d.clock.now() - timedelta(days=KEPT_DAYS)))
        except Unavailable:
            for space_id, traffic in new.items():
                self._add(space_id, traffic)
            raise
        self._pruned = hour[:10]

    async def _sample(self) -> None:
        now, before = self._d.clock.monotonic(), self._sampled_at
        self._sampled_at = now
        span = min(now - before, _LONGEST_S) if before is not None else 0.0
        async with self._d.uow.read() as uow:
            running = [r for r in await uow.deployments.open_replicas() if r.state is ReplicaState.READY]
        memory: dict[SpaceId, int] = {}
        for replica in running:
            usage = await self._d.runtime.usage(replica.id)
            if usage is None:
                continue
            memory[replica.space_id] = memory.get(replica.space_id, 0) + usage.memory_bytes
            self._add(replica.space_id, Traffic(cpu_s=usage.cpu_cores * span))
        for space_id, held in memory.items():
            self._add(space_id, Traffic(memory_peak=held))
