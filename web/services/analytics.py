"""Figures of a Space for its owner: what it was asked, how it answered, what it used and cost, over a day, a week or a month."""

from __future__ import annotations

from datetime import timedelta

from control_plane.accounts.usage import usage
from control_plane.domain.accounts import Action, Actor
from control_plane.domain.hardware import Flavor
from control_plane.domain.spaces import Sdk
from control_plane.domain.traffic import Traffic, hour_of
from control_plane.spaces.timeline import usual_seconds
from web.services.deps import Base
from web.services.history import happened
from web.views import AnalyticsView, HourBar, Measure
from web.words import size

RANGES = {"day": 24, "week": 7 * 24, "month": 30 * 24}  # hours
BARS = {"day": 1, "week": 6, "month": 24}  # hours of one bar


class AnalyticsFamily(Base):
    async def analytics(self, actor: Actor, owner: str, name: str, span: str) -> AnalyticsView:
        """`span`: day, week or month; anything else is a day."""
        span = span if span in RANGES else "day"
        repo, space = await self.space_for(actor, owner, name, Action.WRITE)
        now = self.d.clock.now()
        since = now - timedelta(hours=RANGES[span] - 1)
        async with self.d.uow.read() as uow:
            events = await uow.events.of_space(space.id, limit=100)
            builds = await uow.builds.of_space(space.id, 10)
            deployments = await uow.deployments.of_space(space.id, 10)
            hours = await uow.traffic.of_space(space.id, since_hour=hour_of(since))
            lines = await usage(uow, self.d.catalog(), now, since_day=f"{since:%Y-%m-%d}", account_id=repo.owner_id)
        live = await self.d.actions.usage(space.id)
        flavor = self.d.catalog().find(space.hardware)
        total = sum((t for _, t in hours), Traffic())
        cost = sum(line.cost_usd or 0.0 for line in lines if line.space_id == space.id)
        cores, memory = sum(u.cpu_cores for u in live), sum(u.memory_bytes for u in live)
        usual = usual_seconds(builds, deployments)
        measures = [
            Measure("Requests", f"{total.total:,}", _classes(total)),
            Measure("Median answer", _span(total.quantile(0.5))),
            Measure("99 of 100 within", _span(total.quantile(0.99))),
            Measure("Server errors", f"{total.errors:,}", f"{total.errors / total.total:.1%}" if total.total else ""),
            Measure("Sent", size(total.bytes_out), f"{size(total.bytes_in)} in"),
            Measure("Wake-ups", f"{total.wakes:,}"),
            Measure("Wake time", _span(total.wake_s / total.woken if total.woken else None)),
        ]
        if space.sdk is not Sdk.STATIC:
            measures += [
                Measure("Processor now", f"{cores:.2f}" if live else "", f"of {flavor.vcpu:g} vCPU" if flavor else ""),
                Measure("Processor hours", f"{total.cpu_s / 3600:.2f}"),
                Measure("Memory now", size(memory) if live else "", f"of {flavor.memory_gb:g} GB" if flavor else ""),
                Measure("Memory peak", size(total.memory_peak) if total.memory_peak else ""),
                *_gpu(flavor, sum(line.amount for line in lines if line.space_id == space.id and line.key == "gpu-hours")),
                Measure("Replicas", str(len(live))),
                Measure("Cost", f"${cost:.2f}", "since midnight UTC of the first day"),
            ]
        measures += [
            Measure("Push to live", f"{usual:.1f} s" if usual else "", "median of recent pushes"),
            Measure("Stored", size(repo.storage_bytes)),
        ]
        history = tuple((e.at, *happened(e)) for e in reversed(events) if e.kind != "build.phase")
        starts = [since + timedelta(hours=i) for i in range(RANGES[span])]
        by_hour = dict(hours)
        step = BARS[span]
        bars = []
        for i in range(0, len(starts), step):
            of_bar = sum((by_hour.get(hour_of(at), Traffic()) for at in starts[i : i + step]), Traffic())
            begin = starts[i].replace(minute=0, second=0, microsecond=0)
            bars.append(HourBar(begin, of_bar.total, of_bar.errors, of_bar.quantile(0.99)))
        return AnalyticsView(tuple(measures), history[:60], tuple(bars), span)


def _classes(total: Traffic) -> str:
    return " · ".join(f"{name} {count:,}" for name, count in sorted(total.requests.items()) if count)


def _span(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _gpu(flavor: Flavor | None, hours: float) -> tuple[Measure, ...]:
    if flavor is None or flavor.accelerator is None:
        return ()
    return (Measure("GPU hours", f"{hours:.2f}", f"{flavor.gpu_count}× {flavor.accelerator.model}"),)
