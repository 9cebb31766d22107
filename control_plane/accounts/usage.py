"""What accounts used and what it costs: metered rows, and with them what runs at this moment up to now.

One place gives the figures to the admin API, its exports and the pages. Cost is replica hours times the flavor's price,
US dollars; builds and storage are not charged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from control_plane.accounts.metering import HOURS, by_day
from control_plane.domain.hardware import FlavorCatalog
from control_plane.domain.ids import AccountId, RepoId, SpaceId
from control_plane.domain.quotas import QuotaKey
from control_plane.ports.stores import UnitOfWork


@dataclass(frozen=True, slots=True)
class UsageLine:
    """`amount` of `key` (hours, gpu-hours or build-minutes) on one UTC day. `cost_usd` only of hours."""

    day: str
    account_id: AccountId
    space_id: SpaceId
    key: str
    flavor: str
    amount: float
    cost_usd: float | None


async def usage(
    uow: UnitOfWork, catalog: FlavorCatalog, now: datetime, *, since_day: str, account_id: AccountId | None = None
) -> tuple[UsageLine, ...]:
    """Every day from `since_day` ("YYYY-MM-DD", UTC) on, by day, account, Space, key and flavor."""
    sums: dict[tuple[str, str, str, str, str], float] = {}
    for row in await uow.quotas.usage(account_id=account_id, since_day=since_day):
        index = row["day"], row["account_id"], row["space_id"], row["key"], row["flavor"]
        sums[index] = sums.get(index, 0.0) + row["amount"]
    for index, amount in await _running(uow, catalog, now):
        if index[0] >= since_day and account_id in (None, index[1]):
            sums[index] = sums.get(index, 0.0) + amount
    prices = {flavor.name: flavor.price_per_hour for flavor in catalog.flavors}
    return tuple(
        UsageLine(day, AccountId(account), SpaceId(space), key, flavor, amount, amount * prices.get(flavor, 0.0) if key == HOURS else None)
        for (day, account, space, key, flavor), amount in sorted(sums.items())
    )


async def _running(uow: UnitOfWork, catalog: FlavorCatalog, now: datetime) -> Sequence[tuple[tuple[str, str, str, str, str], float]]:
    """What replicas and builds that have not ended used until now; they are metered for good when they end."""
    owners: dict[str, str] = {}

    async def owner_of(space_id: SpaceId) -> str:
        if space_id not in owners:
            repo = await uow.repos.get(RepoId(space_id))
            removed = None if repo else await uow.repos.removed(RepoId(space_id))
            owners[space_id] = repo.owner_id if repo else removed[0] if removed else ""
        return owners[space_id]

    found = []
    for replica in await uow.deployments.open_replicas():
        owner = await owner_of(replica.space_id)
        flavor = catalog.find(replica.hardware)
        if replica.started_at is None or not owner:
            continue
        for day, seconds in by_day(replica.started_at, now):
            for key, factor in ((HOURS, 1), (QuotaKey.GPU_HOURS.value, flavor.gpu_count if flavor else 0)):
                if factor:
                    found.append(((day, owner, str(replica.space_id), key, replica.hardware), seconds / 3600 * factor))
    for build in await uow.builds.open():
        owner = await owner_of(build.space_id)
        if build.started_at is not None and owner:
            for day, seconds in by_day(build.started_at, now):
                found.append(((day, owner, str(build.space_id), QuotaKey.BUILD_MINUTES.value, ""), seconds / 60))
    return found
