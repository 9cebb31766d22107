"""Quotas: what an account may use, what it uses, and the refusal that explains itself.

Nothing is counted up or down. Every check recounts from the rows inside the caller's write transaction, of which there
is one at a time, so a count can neither drift nor be overtaken by a parallel request.

A check of `running.FLAVOR` stands for everything that running on that flavor uses: `running`, `vcpu`, `memory-gb`, and
`gpu-hours` for a flavor with a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from control_plane.domain.accounts import Account, AccountKind
from control_plane.domain.errors import QuotaExceeded
from control_plane.domain.hardware import FlavorCatalog
from control_plane.domain.ids import AccountId, SpaceId
from control_plane.domain.quotas import DEFAULT_QUOTAS, Held, QuotaKey, QuotaValue
from control_plane.ports.stores import UnitOfWork

PLATFORM = ""  # the subject whose limits are everybody's defaults
_SLACK = 1e-9  # so that 0.1 + 0.2 fits into 0.3


@dataclass(frozen=True, slots=True)
class QuotaUse:
    """One line of `quota show`. `frees_at` is set for keys of a calendar month."""

    key: str
    limit: float | None
    source: str
    used: float
    frees_at: datetime | None

    @property
    def is_over(self) -> bool:
        return self.limit is not None and self.used > self.limit + _SLACK


def month_start(now: datetime) -> datetime:
    return now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def next_month(now: datetime) -> datetime:
    start = month_start(now)
    return start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)


def _is_monthly(key: str) -> bool:
    return key in (QuotaKey.GPU_HOURS, QuotaKey.BUILD_MINUTES)


async def effective(uow: UnitOfWork, account: Account) -> dict[str, QuotaValue]:
    """Every key that has a value for this account: its own limit, else the platform's default, else unlimited."""
    own, defaults = await uow.quotas.limits(account.name), await uow.quotas.limits(PLATFORM)
    found = {key: QuotaValue(key, limit, "built-in") for key, limit in DEFAULT_QUOTAS.items()}
    found |= {key: QuotaValue(key, limit, "default") for key, limit in defaults.items()}
    found |= {key: QuotaValue(key, limit, account.kind.value) for key, limit in own.items()}
    return found


def amount(
    held: Held, metered: Mapping[str, float], key: str, catalog: FlavorCatalog, now: datetime, *, without: str | None = None
) -> float:
    """How much of `key` is in use. `without` leaves one Space's running replicas out: it is about to change them."""
    match key:
        case QuotaKey.SPACES:
            return float(held.spaces)
        case QuotaKey.STORAGE_GB:
            return held.storage_bytes / 1e9
        case QuotaKey.GPU_HOURS:
            return metered.get(key, 0.0) + sum(_running_gpu_hours(catalog, name, start, now) for name, start in held.open_since)
        case QuotaKey.BUILD_MINUTES:
            return metered.get(key, 0.0)
    running = [flavors for space_id, flavors in held.running.items() if space_id != without]
    if key.startswith(f"{QuotaKey.RUNNING}."):
        return float(sum(flavors.get(key.partition(".")[2], 0) for flavors in running))
    return float(sum(max((count * _unit(key, catalog, name) for name, count in flavors.items()), default=0) for flavors in running))


def _unit(key: str, catalog: FlavorCatalog, flavor: str) -> float:
    """What one replica takes of `key`; a flavor that left the catalogue takes nothing but its place."""
    if key == QuotaKey.RUNNING:
        return 1.0
    found = catalog.find(flavor)
    if found is None:
        return 0.0
    return found.vcpu if key == QuotaKey.VCPU else found.memory_gb


def _running_gpu_hours(catalog: FlavorCatalog, flavor: str, start: datetime, now: datetime) -> float:
    found = catalog.find(flavor)
    seconds = (now - max(start, month_start(now))).total_seconds()
    return max(0.0, seconds) / 3600 * found.gpu_count if found else 0.0


async def metered_this_month(uow: UnitOfWork, account_id: AccountId, now: datetime) -> dict[str, float]:
    used: dict[str, float] = {}
    # Up to its end: what a clock that was ahead for a while wrote into later months is not this month's.
    since, until = month_start(now), next_month(now) - timedelta(days=1)
    for row in await uow.quotas.usage(account_id=account_id, since_day=f"{since:%Y-%m-%d}", until_day=f"{until:%Y-%m-%d}"):
        used[row["key"]] = used.get(row["key"], 0.0) + row["amount"]
    return used


async def show(uow: UnitOfWork, account: Account, catalog: FlavorCatalog, now: datetime) -> tuple[QuotaUse, ...]:
    """Every key with its effective limit, where that came from, and its use now."""
    held, metered = await uow.quotas.held(account.id), await metered_this_month(uow, account.id, now)
    return tuple(
        QuotaUse(q.key, q.limit, q.source, amount(held, metered, q.key, catalog, now), next_month(now) if _is_monthly(q.key) else None)
        for q in (await effective(uow, account)).values()
    )


async def check(
    uow: UnitOfWork, account: Account, key: str, asked: float, *, catalog: FlavorCatalog, now: datetime, space_id: SpaceId | None = None
) -> None:
    """Raises QuotaExceeded when `asked` more of `key` does not fit. Call it inside the write that uses the amount.

    With `asked` 0 it asks whether the key is used up (monthly keys) or forbidden (`running.FLAVOR` at 0). `space_id`
    names the Space that asks, when it may hold something already and would give that back.
    """
    limits = await effective(uow, account)
    wanted = [(key, asked)]
    if key.startswith(f"{QuotaKey.RUNNING}."):
        flavor = catalog.find(key.partition(".")[2])
        if flavor is not None:
            wanted += [(QuotaKey.RUNNING, asked), (QuotaKey.VCPU, asked * flavor.vcpu), (QuotaKey.MEMORY_GB, asked * flavor.memory_gb)]
            wanted += [(QuotaKey.GPU_HOURS, 0.0)] if flavor.has_gpu else []
    bounded = [(k, more, limit) for k, more in wanted if k in limits and (limit := limits[k].limit) is not None]
    if not bounded:
        return
    held, metered = await uow.quotas.held(account.id), await metered_this_month(uow, account.id, now)
    for name, more, limit in bounded:
        used = amount(held, metered, name, catalog, now, without=space_id)
        is_used_up = used >= limit if _is_monthly(name) else (limit == 0 and name.startswith(f"{QuotaKey.RUNNING}.") and more == 0)
        if is_used_up or (more > 0 and used + more > limit + _SLACK):
            raise QuotaExceeded(
                subject=account.name,
                key=str(name),
                limit=limit,
                used=round(used, 6),
                asked=round(more, 6),
                frees_at=next_month(now) if _is_monthly(name) else None,
                how=_how(account, name, limit),
            )


def _how(account: Account, key: str, limit: float) -> str:
    whose = "the organisation" if account.kind is AccountKind.ORG else "the account"
    raise_it = f"ask an operator to raise '{key}' of {account.name}."
    if limit == 0:
        return f"This is switched off for {whose}; choose something else or {raise_it}"
    if _is_monthly(key):
        return f"Wait for the new month or {raise_it}"
    if key == QuotaKey.SPACES:
        return f"Delete a Space or {raise_it}"
    if key == QuotaKey.STORAGE_GB:
        return f"Delete files or repositories or {raise_it}"
    return f"Pause a running Space or let one fall asleep, or {raise_it}"
