"""Notices of people: one row per person and topic."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, func, select, update

from control_plane.db.ledger_tables import notices
from control_plane.db.rows import Row, Rows
from control_plane.domain.ids import AccountId, RepoId
from control_plane.domain.notices import Notice, NoticeKind


class SqlNoticeStore:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def tell(self, notice: Notice) -> None:
        same = (notices.c.account_id == notice.account_id) & (notices.c.topic == notice.topic)
        unread = await self._rows.value(select(notices.c.count).where(same, notices.c.read_at.is_(None)))
        row = {
            "account_id": notice.account_id,
            "topic": notice.topic,
            "kind": notice.kind.value,
            "repo_id": notice.repo_id,
            "at": notice.at,
            "actor": notice.actor,
            "title": notice.title,
            "words": notice.words,
            "number": notice.number,
            "count": notice.count + (unread or 0),
            "read_at": notice.read_at,
        }
        await self._rows.put(notices, row, key=("account_id", "topic"))

    async def get(self, account_id: AccountId, topic: str) -> Notice | None:
        row = await self._rows.one(select(notices).where(notices.c.account_id == account_id, notices.c.topic == topic))
        return _notice(row) if row is not None else None

    async def of_account(self, account_id: AccountId, *, unread_only: bool = False, limit: int = 50, offset: int = 0) -> tuple[Notice, ...]:
        query = select(notices).where(notices.c.account_id == account_id)
        if unread_only:
            query = query.where(notices.c.read_at.is_(None))
        query = query.order_by(notices.c.at.desc(), notices.c.topic).limit(limit).offset(offset)
        return tuple(_notice(row) for row in await self._rows.all(query))

    async def count(self, account_id: AccountId, *, unread_only: bool = False) -> int:
        query = select(func.count()).select_from(notices).where(notices.c.account_id == account_id)
        if unread_only:
            query = query.where(notices.c.read_at.is_(None))
        return int(await self._rows.value(query) or 0)

    async def mark(self, account_id: AccountId, read_at: datetime | None, topics: Sequence[str] | None = None) -> int:
        change = update(notices).where(notices.c.account_id == account_id)
        change = change.where(notices.c.read_at.is_(None) if read_at is not None else notices.c.read_at.is_not(None))
        if topics is not None:
            change = change.where(notices.c.topic.in_(topics))
        return await self._rows.run(change.values(read_at=read_at))

    async def prune(self, before: datetime) -> int:
        return await self._rows.run(delete(notices).where(notices.c.at < before))


def _notice(row: Row) -> Notice:
    return Notice(
        account_id=AccountId(row["account_id"]),
        topic=row["topic"],
        kind=NoticeKind(row["kind"]),
        repo_id=RepoId(row["repo_id"]),
        at=row["at"],
        actor=row["actor"],
        title=row["title"],
        words=row["words"],
        number=row["number"],
        count=row["count"],
        read_at=row["read_at"],
    )
