"""The few statements that SQLite and PostgreSQL spell differently, behind one small class; every repository holds one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    CursorResult,
    Executable,
    RowMapping,
    Select,
    Table,
    any_,
    bindparam,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

Row = RowMapping | Mapping[str, Any]  # a row of a result, or one being made


class Rows:
    """Statements of one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self.is_sqlite = connection.dialect.name == "sqlite"

    async def all(self, statement: Executable) -> Sequence[RowMapping]:
        return (await self._connection.execute(statement)).mappings().all()

    async def one(self, statement: Executable, values: Mapping[str, Any] | None = None) -> RowMapping | None:
        """`values`: of the `bindparam`s of a statement that was put together once, which for a larger one takes longer than to run it."""
        return (await self._connection.execute(statement, values)).mappings().first()

    async def row(self, unique: Column[Any], value: Any) -> RowMapping | None:
        """The row whose `unique` column is `value`."""
        return await self.one(_row_of(unique), {"value": value})

    async def value(self, statement: Executable) -> Any:
        return (await self._connection.execute(statement)).scalar()

    async def run(self, statement: Executable, values: Mapping[str, Any] | None = None) -> int:
        """How many rows it touched."""
        result: CursorResult[Any] = await self._connection.execute(statement, values)
        return result.rowcount

    def among(self, column: ColumnElement[int], values: Sequence[int]) -> ColumnElement[bool]:
        """`column IN values`: as one parameter where there are arrays, since a thousand parameters cost more than the question."""
        if self.is_sqlite:
            return column.in_(values)
        return column == any_(bindparam(None, list(values), postgresql.ARRAY(BigInteger)))

    def among_rows(self, column: ColumnElement[Any], values: Select[Any]) -> ColumnElement[bool]:
        """`column IN values` of few rows: as an array where there are arrays, or PostgreSQL would join with the whole table."""
        if self.is_sqlite:
            return column.in_(values)
        return column == any_(func.array(values.scalar_subquery()))

    async def add(self, table: Table, row: Mapping[str, Any]) -> bool:
        """False when a unique key of the row exists already; the transaction goes on in that case."""
        # RETURNING, because a driver need not count the rows of an INSERT.
        statement = self.insert(table).values(**row).on_conflict_do_nothing().returning(literal_column("1"))
        return await self.value(statement) is not None

    async def put(self, table: Table, row: Mapping[str, Any], *, key: tuple[str, ...], keep: tuple[str, ...] = ()) -> None:
        """Insert, or replace every column of the row with the same `key` except those named in `keep`."""
        statement = self.insert(table).values(**row)
        changed = {name: statement.excluded[name] for name in row if name not in key and name not in keep}
        await self.run(statement.on_conflict_do_update(index_elements=list(key), set_=changed))

    async def increase(self, table: Table, row: Mapping[str, Any], *, key: tuple[str, ...], column: str) -> Any:
        """Insert, or add `row[column]` to what is stored; the new amount, atomically."""
        statement = self.insert(table).values(**row)
        total = table.c[column] + statement.excluded[column]
        return await self.value(statement.on_conflict_do_update(index_elements=list(key), set_={column: total}).returning(table.c[column]))

    def insert(self, table: Table) -> Any:
        """The dialect's own, which knows `on_conflict_…`."""
        # The two constructs have the same methods and no common type.
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)


@cache
def _row_of(unique: Column[Any]) -> Select[Any]:
    return select(unique.table).where(unique == bindparam("value"))
