"""Quota limits and metered usage, the audit chain, and keyed documents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, select

from control_plane.db.rows import Row, Rows
from control_plane.db.tables import audit, counters, documents, meta, quota_limits, usage
from control_plane.domain.ids import AccountId, SpaceId

GENESIS = "0" * 64  # `prev_hash` of the first audit row
_HEAD = "audit.head"
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
        stored = await self._rows.value(select(meta.c.value).where(meta.c.key == _HEAD))
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

    async def verify(self) -> int | None:
        previous, seen = GENESIS, 0
        while True:
            page = await self._rows.all(select(audit).where(audit.c.id > seen).order_by(audit.c.id).limit(_AUDIT_PAGE))
            for row in page:
                if row["prev_hash"] != previous or row["hash"] != audit_hash(row):
                    return int(row["id"])
                previous, seen = row["hash"], row["id"]
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
