"""Hourly figures of Spaces. One writer adds (the scheduler), so reading and writing back inside its transaction is exact."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import delete, select

from control_plane.db.rows import Row, Rows
from control_plane.db.tables import space_hours
from control_plane.domain.ids import SpaceId
from control_plane.domain.traffic import Traffic


class SqlTrafficStore:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def add(self, space_id: SpaceId, hour: str, traffic: Traffic) -> None:
        known = await self._rows.one(select(space_hours).where(space_hours.c.space_id == space_id, space_hours.c.hour == hour))
        if known is not None:
            traffic = _traffic(known) + traffic
        await self._rows.put(space_hours, {"space_id": space_id, "hour": hour, **asdict(traffic)}, key=("space_id", "hour"))

    async def of_space(self, space_id: SpaceId, *, since_hour: str) -> tuple[tuple[str, Traffic], ...]:
        query = select(space_hours).where(space_hours.c.space_id == space_id, space_hours.c.hour >= since_hour).order_by(space_hours.c.hour)
        return tuple((row["hour"], _traffic(row)) for row in await self._rows.all(query))

    async def prune(self, before_hour: str) -> int:
        return await self._rows.run(delete(space_hours).where(space_hours.c.hour < before_hour))


def _traffic(row: Row) -> Traffic:
    return Traffic(
        row["requests"], row["latency"], row["bytes_in"], row["bytes_out"], row["wakes"], row["cpu_s"], row["memory_peak"],
        row["woken"], row["wake_s"],
    )  # fmt: skip
