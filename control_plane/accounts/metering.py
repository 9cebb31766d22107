"""Metered use: what ended is written down once, as an exact interval cut at UTC midnights.

Rows are kept per account, Space, flavor and day, so that a month, a bill and a chart are sums of the same figures.
Keys: `hours` (replica hours, every flavor: the base of cost), `gpu-hours` (hours times GPUs), `build-minutes`.
Call the meter in the transaction that writes the end: a replica or build ends once, so it is metered once.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from control_plane.domain.hardware import FlavorCatalog
from control_plane.domain.ids import AccountId, RepoId, SpaceId
from control_plane.domain.quotas import QuotaKey
from control_plane.domain.spaces import Build, Replica, Repo
from control_plane.ports.stores import UnitOfWork

HOURS = "hours"


def by_day(start: datetime, end: datetime) -> Iterator[tuple[str, float]]:
    """("YYYY-MM-DD", seconds) for each UTC day the interval touches; nothing when the clock went backwards."""
    start, end = start.astimezone(UTC), end.astimezone(UTC)
    while start < end:
        midnight = start.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        stop = min(midnight, end)
        yield f"{start:%Y-%m-%d}", (stop - start).total_seconds()
        start = stop


async def _owner(uow: UnitOfWork, repo: Repo | None, space_id: SpaceId) -> AccountId | None:
    """Also of a Space whose repository is deleted already: its last minutes are its owner's."""
    if repo is not None:
        return repo.owner_id
    removed = await uow.repos.removed(RepoId(space_id))
    return removed[0] if removed else None


async def meter_replica(uow: UnitOfWork, repo: Repo | None, replica: Replica, catalog: FlavorCatalog, now: datetime) -> None:
    """Meter a replica that just ended, from its process start. One that never started used nothing."""
    owner_id = await _owner(uow, repo, replica.space_id)
    if replica.started_at is None or owner_id is None:
        return
    flavor = catalog.find(replica.hardware)
    gpus = flavor.gpu_count if flavor else 0
    for day, seconds in by_day(replica.started_at, replica.stopped_at or now):
        for key, factor in ((HOURS, 1), (QuotaKey.GPU_HOURS.value, gpus)):
            if factor:
                await uow.quotas.add_usage(
                    account_id=owner_id,
                    space_id=replica.space_id,
                    key=key,
                    flavor=replica.hardware,
                    day=day,
                    amount=seconds / 3600 * factor,
                )


async def meter_build(uow: UnitOfWork, repo: Repo | None, build: Build, now: datetime) -> None:
    """Meter a build attempt that just ended: succeeded, failed, cancelled or superseded. One whose machine went away is nobody's bill."""
    owner_id = await _owner(uow, repo, build.space_id)
    if build.started_at is None or owner_id is None:
        return
    for day, seconds in by_day(build.started_at, build.finished_at or now):
        await uow.quotas.add_usage(
            account_id=owner_id,
            space_id=build.space_id,
            key=QuotaKey.BUILD_MINUTES.value,
            flavor="",
            day=day,
            amount=seconds / 60,
        )


async def meter_ended_build(uow: UnitOfWork, build: Build) -> None:
    """The same for a build that has its `finished_at`."""
    if build.finished_at is not None:
        await meter_build(uow, await uow.repos.get(RepoId(build.space_id)), build, build.finished_at)
