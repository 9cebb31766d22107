"""Counted tries: one row per key, counted up in one statement."""

from __future__ import annotations

from sqlalchemy import and_, case, delete, or_, select, update

from control_plane.db.ledger_tables import tries
from control_plane.db.rows import Rows


class SqlTryStore:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def count(self, key: str, now: int) -> tuple[int, int]:
        row = await self._rows.one(select(tries).where(tries.c.key == key, tries.c.expires_at > now))
        return (row["count"], row["expires_at"]) if row is not None else (0, 0)

    async def add(self, key: str, now: int, life_s: int) -> tuple[int, int]:
        # What expires later than a fresh row would was written before the clock was set back.
        over = or_(tries.c.expires_at <= now, tries.c.expires_at > now + life_s)
        statement = self._rows.insert(tries).values(key=key, count=1, expires_at=now + life_s)
        changed = {
            "count": case((over, 1), else_=tries.c.count + 1),
            "expires_at": case((over, now + life_s), else_=tries.c.expires_at),
        }
        upsert = statement.on_conflict_do_update(index_elements=["key"], set_=changed)
        row = await self._rows.one(upsert.returning(tries.c.count, tries.c.expires_at))
        assert row is not None
        return row["count"], row["expires_at"]

    async def give_back(self, key: str, now: int) -> None:
        is_counted = and_(tries.c.key == key, tries.c.count > 0, tries.c.expires_at > now)
        await self._rows.run(update(tries).where(is_counted).values(count=tries.c.count - 1))

    async def mark(self, key: str, expires_at: int) -> None:
        await self._rows.put(tries, {"key": key, "count": 0, "expires_at": expires_at}, key=("key",))

    async def prune(self, now: int) -> int:
        return await self._rows.run(delete(tries).where(tries.c.expires_at <= now))
