"""Quotas, usage and pools for operators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from control_plane.accounts import people, quotas
from control_plane.accounts.usage import UsageLine
from control_plane.accounts.usage import usage as usage_of
from control_plane.domain.accounts import Account
from control_plane.domain.capacity import Capacity, Node, NodePool
from control_plane.domain.hardware import Flavor
from control_plane.domain.ids import RepoId
from control_plane.domain.quotas import DEFAULT_QUOTAS, check_limit, limit_text, parse_key, parse_value
from control_plane.domain.replicas import ReplicaState
from control_plane.domain.spaces import Replica
from control_plane.ports.stores import UnitOfWork

if TYPE_CHECKING:
    from control_plane.api.admin import Door

DEFAULTS = "defaults"  # the subject of the platform's defaults in addresses; no account can have this name's meaning


class QuotaChange(BaseModel):
    """`limits`: key → a plain number or `unlimited`, as text; `unset`: keys to fall back to the default."""

    model_config = ConfigDict(extra="forbid")
    limits: dict[str, str] = Field(default_factory=dict)
    unset: list[str] = Field(default_factory=list)


def _use_json(use: quotas.QuotaUse) -> dict[str, Any]:
    return {
        "key": use.key,
        "limit": use.limit,
        "source": use.source,
        "used": round(use.used, 6),
        "over": use.is_over,
        "frees_at": f"{use.frees_at:%Y-%m-%dT%H:%M:%SZ}" if use.frees_at else None,
    }


def routes(api: APIRouter, door: Door) -> None:
    services, uow = door.services, door.services.uow

    def parsed(body: QuotaChange) -> tuple[dict[str, float | None], list[str]]:
        flavors = services.catalog.names
        limits = {parse_key(key, flavors): check_limit(key, parse_value(value)) for key, value in body.limits.items()}
        # A key of a flavor that left the catalogue may still be unset.
        return limits, [key if key.startswith("running.") else parse_key(key, flavors) for key in body.unset]

    async def uses(work: UnitOfWork, account: Account) -> list[dict[str, Any]]:
        return [_use_json(use) for use in await quotas.show(work, account, services.catalog, services.clock.now())]

    @api.get("/quotas")
    async def list_quotas(request: Request) -> JSONResponse:
        """Every own limit of every subject, with its use."""
        await door.admin(request)
        found = []
        async with uow.read() as work:
            for subject in await work.quotas.subjects():
                account = await work.accounts.by_name(subject)
                if account is not None:
                    found += [{"subject": account.name, **use} for use in await uses(work, account) if use["source"] == account.kind.value]
        return JSONResponse({"items": found})

    @api.get("/quotas/{subject:seg}")
    async def show_quota(request: Request, subject: str) -> dict[str, Any]:
        await door.admin(request)
        async with uow.read() as work:
            account = await people.find_account(work, subject)
            return {"subject": account.name, "kind": account.kind.value, "items": await uses(work, account)}

    @api.get("/quota-defaults")
    async def show_defaults(request: Request) -> dict[str, Any]:
        await door.admin(request)
        async with uow.read() as work:
            stored = await work.quotas.limits(quotas.PLATFORM)
        rows = [{"key": key, "limit": limit, "source": "built-in"} for key, limit in DEFAULT_QUOTAS.items() if key not in stored]
        return {
            "items": sorted([*rows, *({"key": k, "limit": v, "source": "default"} for k, v in stored.items())], key=lambda r: str(r["key"]))
        }

    async def change(request: Request, account: Account | None, body: QuotaChange, dry_run: bool) -> dict[str, Any]:
        """Lowering below use stops nothing: `over` lists who is above, and further use is refused."""
        actor = await door.admin(request)
        limits, unset = parsed(body)
        subject = account.name if account else quotas.PLATFORM
        over: list[dict[str, Any]] = []
        try:
            async with uow.write() as work:
                before = await work.quotas.limits(subject)
                for key, limit in limits.items():
                    await work.quotas.set_limit(subject, key, limit)
                for key in unset:
                    await work.quotas.unset_limit(subject, key)
                touched = {*limits, *unset}
                for one in [account] if account else await work.accounts.list():
                    rows = await uses(work, one)
                    over += [{"subject": one.name, **row} for row in rows if row["over"] and row["key"] in touched]
                if dry_run:
                    raise _DryRun
                facts = {key: {"before": _shown(before, key), "after": limit_text(limit)} for key, limit in limits.items()}
                facts |= {key: {"before": _shown(before, key), "after": "unset"} for key in unset}
                await door.note(work, actor, "quota.set", f"quota:{subject or DEFAULTS}", keys=facts)
        except _DryRun:
            pass
        return {"subject": subject or DEFAULTS, "dry_run": dry_run, "over": over}

    @api.patch("/quotas/{subject:seg}")
    async def change_quota(request: Request, subject: str, body: QuotaChange, dry_run: bool = False) -> dict[str, Any]:
        await door.admin(request)
        async with uow.read() as work:
            account = await people.find_account(work, subject)
        return await change(request, account, body, dry_run)

    @api.patch("/quota-defaults")
    async def change_defaults(request: Request, body: QuotaChange, dry_run: bool = False) -> dict[str, Any]:
        return await change(request, None, body, dry_run)

    @api.get("/usage")
    async def usage(request: Request, subject: str | None = None, since_s: int = 30 * 86400) -> JSONResponse:
        """Use per account, Space, key, flavor and day, what runs now included; cost from the flavor's price."""
        await door.admin(request)
        day = f"{services.clock.now() - timedelta(seconds=max(0, min(since_s, 3650 * 86400))):%Y-%m-%d}"
        async with uow.read() as work:
            account = await people.find_account(work, subject) if subject else None
            lines = await usage_of(work, services.catalog, services.clock.now(), since_day=day, account_id=account.id if account else None)
            return JSONResponse({"items": await _named(work, lines)})

    @api.get("/pools")
    async def list_pools(request: Request) -> JSONResponse:
        await door.admin(request)
        async with uow.read() as work:
            replicas = await work.deployments.open_replicas()
        hardware = services.pools()
        capacity = await door.capacity()
        rows = list(pool_rows(hardware.pools, hardware.catalog.flavors, capacity, replicas))
        refused = f"The hardware file was changed and is not in force: {hardware.refused}" if hardware.refused else ""
        warning = " ".join(filter(None, (refused, capacity.warning if capacity else "")))
        return JSONResponse({"items": rows, "warning": warning})


class _DryRun(Exception):
    """Rolls the change back after its effect was looked at."""


def _shown(before: Mapping[str, float | None], key: str) -> str:
    return limit_text(before[key]) if key in before else "unset"


async def _named(work: UnitOfWork, lines: Sequence[UsageLine]) -> list[dict[str, Any]]:
    accounts: dict[str, str] = {}
    spaces: dict[str, str] = {}
    for line in lines:
        if line.account_id not in accounts:
            account = await work.accounts.get(line.account_id)
            accounts[line.account_id] = account.name if account else line.account_id
        if line.space_id not in spaces:
            repo = await work.repos.get(RepoId(line.space_id))
            removed = None if repo else await work.repos.removed(RepoId(line.space_id))
            spaces[line.space_id] = repo.full_name if repo else removed[1] if removed else line.space_id
    return [
        {
            "day": line.day,
            "subject": accounts[line.account_id],
            "space": spaces[line.space_id],
            "key": line.key,
            "flavor": line.flavor,
            "amount": round(line.amount, 6),
            "cost_usd": round(line.cost_usd, 4) if line.cost_usd is not None else None,
        }
        for line in lines
    ]


def units(pool: NodePool, flavor: Flavor, node: Node, *, free: bool) -> int:
    """How many replicas of `flavor` this node holds in all, or still. Overcommit multiplies what a node has, not what is used."""
    used_vcpu, used_memory, used_gpus = (node.used_vcpu, node.used_memory_bytes, node.used_gpus) if free else (0.0, 0, 0)
    vcpu, memory = flavor.vcpu, flavor.memory_gb * (1 << 30)
    if pool.shrinks:  # a flavor larger than the machine gets the whole machine, so that is what one replica of it takes
        vcpu, memory = min(vcpu, node.vcpu), min(memory, node.memory_bytes)
    fits = [(node.vcpu * pool.overcommit - used_vcpu) / vcpu, (node.memory_bytes * pool.overcommit - used_memory) / memory]
    if flavor.gpu_count:
        fits.append((node.gpus - used_gpus) / flavor.gpu_count)
    return max(0, int(min(fits) + 1e-9))


def pool_rows(
    pools: Iterable[NodePool], flavors: Sequence[Flavor], capacity: Capacity | None, replicas: Sequence[Replica]
) -> Iterable[dict[str, Any]]:
    """One row per pool and flavor it serves. Amounts that only the runtime knows are None while it does not answer."""
    sizes = {f.name: f for f in flavors}
    nodes = [n for n in capacity.nodes if n.is_schedulable] if capacity else None
    pool_of = {n.name: n.pool for n in capacity.nodes} if capacity else {}
    counted: set[str] = set()  # flavors whose replicas on nodes we do not know were counted in the first pool of theirs
    for pool in capacity.pools if capacity and capacity.pools else pools:
        its = [n for n in nodes if n.pool == pool.name] if nodes is not None else None
        for name in pool.flavors:
            flavor = sizes.get(name)
            if flavor is None:
                continue
            default = pool.name if name not in counted else ""
            counted.add(name)
            used = sum(1 for r in replicas if r.hardware == name and r.state.holds_capacity and pool_of.get(r.node, default) == pool.name)
            free = total = None
            if its is not None:
                total = sum(units(pool, flavor, n, free=False) for n in its)
                free = sum(units(pool, flavor, n, free=True) for n in its)
            yield {
                "pool": pool.name,
                "flavor": name,
                "nodes": len(its) if its is not None else None,
                "total": total,
                "used": used,
                "free": free,
                "queued": sum(1 for r in replicas if r.hardware == name and r.state is ReplicaState.PENDING),
            }
