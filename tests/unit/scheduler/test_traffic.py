from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from control_plane.db.engine import create_database
from control_plane.domain.ids import SpaceId
from control_plane.domain.routes import ActivityReport
from control_plane.domain.traffic import hour_of
from control_plane.scheduler.deps import SchedulerDeps
from control_plane.scheduler.traffic import TrafficMeter
from tests.fakes.clock import FixedClock

SPACE = SpaceId("a" * 24)


async def test_what_proxies_report_is_written_by_the_hour_wakes_and_their_time_included(tmp_path: Path) -> None:
    database = create_database(f"sqlite:///{tmp_path / 'it.db'}")
    await database.migrate()
    clock = FixedClock()
    meter = TrafficMeter(cast(SchedulerDeps, SimpleNamespace(uow=database, clock=clock, runtime=None)))
    meter.note(ActivityReport(SPACE, 0.0, requests={"2xx": 2}, latency_buckets={"0.1": 2}, bytes_in=3, bytes_out=4, wakes=1))
    meter.note(ActivityReport(SPACE, 0.0, wake_s=2.5))  # the wake ended: no request was answered since
    meter.note(ActivityReport(SPACE, 0.0, wake_s=1.5))
    await meter.write()
    meter.note(ActivityReport(SPACE, 0.0, open_tabs=1))  # nothing to add
    await meter.write()
    async with database.read() as work:
        ((hour, kept),) = await work.traffic.of_space(SPACE, since_hour="")
    assert hour == hour_of(clock.now())
    assert (kept.total, kept.bytes_in, kept.bytes_out, kept.woken) == (2, 3, 4, 2)
    assert kept.wake_s == pytest.approx(4.0)
    assert kept.wakes == 0  # told to wake: the scheduler knows that itself
    await database.close()
