"""Quota limits and metered usage, the audit chain, and keyed documents."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import and_, case, delete, false, func, or_, select

from control_plane.db.ledger_tables import audit, counters, documents, meta, quota_limits, usage
from control_plane.db.rows import Row, Rows
from control_plane.db.space_stores import OPEN_REPLICA
from control_plane.db.tables import deployments, replicas, repos, spaces
from control_plane.domain.ids import AccountId, SpaceId
from control_plane.domain.quotas import STORAGE_HOLD, Held
from control_plane.domain.spaces import DesiredState, RepoType, Sdk

GENESIS = "0" * 64  # `prev_hash` of the first audit row
_HEAD = "audit.head"
_BASE = "audit.base"  # the last row that retention took
_AUDIT_PAGE = 2000


class SqlQuotaStore:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def limits(self, subject: str) -> dict[str, float | None]:
        query = select(quota_limits).where(quota_limits.c.subject == subject.lower()).order_by(quota_limits.c.key)
        return {row["key"]: row["limit"] for row in await self._rows.all(query)}

    async def set_limit(self, subject: str, key: str, limit: float | None) -> None:
        await self._rows.put(quota_limits, {"subject": subject.lower(), "key": key, "limit": limit}, key=("subject", "key"))

    async def unset_limit(self, subject: str, key: str) -> None:
        await self._rows.run(delete(quota_limits).where(quota_limits.c.subject == subject.lower(), quota_limits.c.key == key))

    async def subjects(self) -> tuple[str, ...]:
        """Those with a limit of their own; the platform default "" is not among them."""
        query = select(quota_limits.c.subject).where(quota_limits.c.subject != "").distinct().order_by(quota_limits.c.subject)
        return tuple(row["subject"] for row in await self._rows.all(query))

    async def held(self, account_id: AccountId) -> Held:
        owned = repos.c.owner_id == account_id
        is_alive = or_(repos.c.type != RepoType.SPACE.value, spaces.c.desired.is_(None), spaces.c.desired != DesiredState.DELETED.value)
        is_space = case((repos.c.type == RepoType.SPACE.value, 1), else_=0)
        taken = repos.c.storage_bytes + func.coalesce(spaces.c.storage_bytes, 0)  # the repository, and the Space's volume
        totals = select(func.sum(is_space).label("spaces"), func.sum(taken).label("bytes"))
        total = await self._rows.one(totals.select_from(repos.outerjoin(spaces, spaces.c.id == repos.c.id)).where(owned, is_alive))
        running: dict[str, dict[str, int]] = {}
        # Let in: the owner wants it up and a version may still come up, whether a replica exists yet or not: the newest, and the one that
        # served last, to which it falls back when the newest fails.
        of_version = and_(
            deployments.c.space_id == spaces.c.id, deployments.c.generation.in_([spaces.c.generation, spaces.c.live_generation])
        )
        let_in = (
            select(spaces.c.id, spaces.c.hardware, spaces.c.replicas)
            .join(repos, repos.c.id == spaces.c.id)
            .join(deployments, of_version)
            .where(owned, spaces.c.sdk != Sdk.STATIC.value, spaces.c.desired == DesiredState.RUNNING.value, spaces.c.asleep == false())
            .where(spaces.c.suspended == false(), deployments.c.failed_reason.is_(None))
        )
        for row in await self._rows.all(let_in):
            running[row["id"]] = {row["hardware"]: row["replicas"]}
        exists = (
            select(replicas.c.space_id, replicas.c.hardware, replicas.c.generation, replicas.c.started_at)
            .join(spaces, spaces.c.id == replicas.c.space_id)
            .join(repos, repos.c.id == replicas.c.space_id)
            .where(owned, spaces.c.sdk != Sdk.STATIC.value, OPEN_REPLICA)
        )
        counts: Counter[tuple[str, str, int]] = Counter()
        since = []
        for row in await self._rows.all(exists):
            counts[row["space_id"], row["hardware"], row["generation"]] += 1
            if row["started_at"] is not None:
                since.append((row["hardware"], row["started_at"]))
        for (space_id, flavor, _), count in counts.items():
            # Two generations during a switch are one use of the quota: a limit of 1 must not stop a redeploy.
            of_space = running.setdefault(space_id, {})
            of_space[flavor] = max(of_space.get(flavor, 0), count)
        coming = select(documents.c.body).where(documents.c.kind == STORAGE_HOLD, documents.c.owner == account_id)
        reserved = sum(int(row["body"]["bytes"]) for row in await self._rows.all(coming))
        if total is None:
            return Held(0, reserved, running, tuple(since))
        return Held(int(total["spaces"] or 0), int(total["bytes"] or 0) + reserved, running, tuple(since))

    async def add_usage(self, *, account_id: AccountId, space_id: SpaceId, key: str, flavor: str, day: str, amount: float) -> None:
        row = {"account_id": account_id, "space_id": space_id, "key": key, "flavor": flavor, "day": day, "amount": amount}
        await self._rows.increase(usage, row, key=("account_id", "day", "space_id", "key", "flavor"), column="amount")

    async def usage(
        self, *, account_id: AccountId | None = None, since_day: str, until_day: str | None = None
    ) -> tuple[Mapping[str, Any], ...]:
        """Days are "YYYY-MM-DD" in UTC, both ends included. Rows: account_id, space_id, key, flavor, day, amount."""
        query = select(usage).where(usage.c.day >= since_day)
        if until_day is not None:
            query = query.where(usage.c.day <= until_day)
        if account_id is not None:
            query = query.where(usage.c.account_id == account_id)
        order = usage.c.day, usage.c.account_id, usage.c.space_id, usage.c.key, usage.c.flavor
        return tuple(dict(row) for row in await self._rows.all(query.order_by(*order)))


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def audit_hash(row: Row) -> str:
    """sha256 over the previous row's hash and the canonical JSON of this row; microseconds are part of the time."""
    body = {name: row[name] for name in ("actor", "action", "subject", "address", "facts")}
    body["at"] = row["at"].isoformat(timespec="microseconds")
    return hashlib.sha256((row["prev_hash"] + _canonical(body)).encode("utf-8", "surrogatepass")).hexdigest()


class SqlAuditStore:
    """Rows are chained in order of id; the write lock of a unit of work keeps two writers from forking the chain."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def append(self, *, at: datetime, actor: str, action: str, subject: str, address: str, facts: Mapping[str, object]) -> None:
        _, last = await self._head()
        row: dict[str, Any] = {"at": at.astimezone(UTC), "actor": actor, "action": action, "subject": subject, "address": address}
        row |= {"facts": _canonical(dict(facts)), "prev_hash": last}
        row["hash"] = audit_hash(row)
        new_id = await self._rows.value(audit.insert().values(**row).returning(audit.c.id))
        await self._rows.put(meta, {"key": _HEAD, "value": f"{new_id}:{row['hash']}"}, key=("key",))

    async def _head(self) -> tuple[int, str]:
        """Id and hash of the newest row, kept apart from the rows so that a cut-off end shows."""
        return await self._noted(_HEAD)

    async def _noted(self, key: str) -> tuple[int, str]:
        stored = await self._rows.value(select(meta.c.value).where(meta.c.key == key))
        if stored is None:
            return 0, GENESIS
        number, _, digest = str(stored).partition(":")
        return int(number), digest

    async def list(self, *, since: datetime | None = None, actor: str | None = None, limit: int = 1000) -> tuple[Mapping[str, Any], ...]:
        """Newest first."""
        query = select(audit).order_by(audit.c.id.desc()).limit(limit)
        if since is not None:
            query = query.where(audit.c.at >= since)
        if actor is not None:
            query = query.where(audit.c.actor == actor)
        return tuple({**row, "facts": json.loads(row["facts"])} for row in await self._rows.all(query))

    async def page(self, *, after_id: int = 0, limit: int = 1000) -> tuple[Mapping[str, Any], ...]:
        rows = await self._rows.all(select(audit).where(audit.c.id > after_id).order_by(audit.c.id).limit(limit))
        return tuple({**row, "facts": json.loads(row["facts"])} for row in rows)

    async def _last_before(self, moment: datetime) -> Row | None:
        """The newest row of those that lie before the first one that is young enough to stay: clocks may have jumped."""
        stays = await self._rows.value(select(func.min(audit.c.id)).where(audit.c.at >= moment))
        older = select(audit).order_by(audit.c.id.desc()).limit(1)
        return await self._rows.one(older if stays is None else older.where(audit.c.id < stays))

    async def count_before(self, moment: datetime) -> int:
        last = await self._last_before(moment)
        return int(await self._rows.value(select(func.count()).where(audit.c.id <= last["id"]))) if last else 0

    async def forget(self, moment: datetime) -> int:
        last = await self._last_before(moment)
        if last is None:
            return 0
        # What stays is chained to the last row that went; its number and hash are kept in its place.
        await self._rows.put(meta, {"key": _BASE, "value": f"{last['id']}:{last['hash']}"}, key=("key",))
        return await self._rows.run(delete(audit).where(audit.c.id <= last["id"]))

    async def verify(self, checked: Callable[[int], None] | None = None) -> int | None:
        seen, previous = await self._noted(_BASE)
        while True:
            page = await self._rows.all(select(audit).where(audit.c.id > seen).order_by(audit.c.id).limit(_AUDIT_PAGE))
            for row in page:
                if row["prev_hash"] != previous or row["hash"] != audit_hash(row):
                    return int(row["id"])
                previous, seen = row["hash"], row["id"]
            if checked is not None:
                checked(len(page))
            if len(page) < _AUDIT_PAGE:
                break
        newest, digest = await self._head()
        return None if (newest, digest) == (seen, previous) else max(newest, seen)


class SqlDocumentStore:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def get(self, kind: str, key: str) -> dict[str, Any] | None:
        body = await self._rows.value(select(documents.c.body).where(documents.c.kind == kind, documents.c.key == key))
        return dict(body) if body is not None else None

    async def put(self, kind: str, key: str, owner: str, body: Mapping[str, Any]) -> None:
        await self._rows.put(documents, {"kind": kind, "key": key, "owner": owner, "body": dict(body)}, key=("kind", "key"))

    async def remove(self, kind: str, key: str) -> None:
        await self._rows.run(delete(documents).where(documents.c.kind == kind, documents.c.key == key))

    async def list(self, kind: str, owner: str | None = None) -> tuple[dict[str, Any], ...]:
        """In order of first `put`."""
        query = select(documents.c.body).where(documents.c.kind == kind).order_by(documents.c.seq)
        if owner is not None:
            query = query.where(documents.c.owner == owner)
        return tuple(dict(row["body"]) for row in await self._rows.all(query))

    async def next_number(self, kind: str, owner: str) -> int:
        return int(await self._rows.increase(counters, {"kind": kind, "owner": owner, "value": 1}, key=("kind", "owner"), column="value"))
