"""Repositories, their old names and likes; `repo_listing` has the gallery's queries.

`trending` is log2 of the likes, each worth half as much after `_HALF_LIFE_DAYS`, with the creation counted as a like.
As a logarithm it only moves when somebody likes: time passing keeps the order, so an index can hold it.
"""

from __future__ import annotations

import math
from datetime import datetime

from sqlalchemy import ColumnElement, Table, bindparam, delete, func, select, update

from control_plane.db import mapping
from control_plane.db.repo_listing import RepoListing
from control_plane.db.rows import Rows
from control_plane.db.tables import accounts, likes, old_names, removed_repos, repo_tags, repo_texts, repos
from control_plane.domain.accounts import Account
from control_plane.domain.errors import NameTaken
from control_plane.domain.ids import AccountId, RepoId
from control_plane.domain.repo_query import RepoQuery
from control_plane.domain.spaces import Repo, RepoType
from control_plane.ports.clock import Clock

_HALF_LIFE_DAYS = 7.0


def _weight(at: datetime) -> float:
    return at.timestamp() / (_HALF_LIFE_DAYS * 86400)


def _add_weights(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high + math.log2(1 + 2 ** (low - high))


def _names(type: RepoType, owner: str, name: str) -> dict[str, str]:
    return {"of_type": type.value, "owner": owner.lower(), "name": name.lower()}


def _named(table: Table) -> tuple[ColumnElement[bool], ...]:
    """Takes `_names`."""
    columns = table.c
    return columns.type == bindparam("of_type"), columns.owner_lower == bindparam("owner"), columns.name_lower == bindparam("name")


_BY_NAME = select(repos).where(*_named(repos))
_TODAY = select(repos.c.id).where(*_named(repos)).scalar_subquery()
_BEFORE = select(old_names.c.repo_id).where(*_named(old_names)).scalar_subquery()
_BY_ANY_NAME = select(repos).where(repos.c.id == func.coalesce(_TODAY, _BEFORE))


class SqlRepoStore:
    def __init__(self, rows: Rows, clock: Clock, *, has_search_index: bool) -> None:
        self._rows = rows
        self._clock = clock
        self._listing = RepoListing(rows, has_search_index=has_search_index)

    async def get(self, repo_id: RepoId) -> Repo | None:
        row = await self._rows.row(repos.c.id, repo_id)
        return mapping.repo_to_domain(row) if row else None

    async def by_name(self, type: RepoType, owner: str, name: str) -> Repo | None:
        row = await self._rows.one(_BY_NAME, _names(type, owner, name))
        return mapping.repo_to_domain(row) if row else None

    async def by_any_name(self, type: RepoType, owner: str, name: str) -> Repo | None:
        """Under this name or an old one. One statement whatever there is: how long it takes must not tell who asks."""
        row = await self._rows.one(_BY_ANY_NAME, _names(type, owner, name))
        return mapping.repo_to_domain(row) if row else None

    async def add(self, repo: Repo) -> None:
        row = mapping.repo_to_row(repo) | {"trending": _weight(repo.created_at) + math.log2(1 + repo.likes)}
        if not await self._rows.add(repos, row):
            raise NameTaken(f"{repo.type.value} '{repo.full_name}' exists already")
        # A new repository under an old name takes the name over; the redirect ends.
        await self._rows.run(delete(old_names).where(*_named(old_names)), _names(repo.type, repo.owner_name, repo.name))
        await self._tag(repo)

    async def save(self, repo: Repo) -> None:
        """The whole value, except `likes` of a row that exists: `like` alone counts those."""
        holder = await self.by_name(repo.type, repo.owner_name, repo.name)
        if holder is not None and holder.id != repo.id:
            raise NameTaken(f"{repo.type.value} '{repo.full_name}' exists already")
        row = mapping.repo_to_row(repo) | {"trending": _weight(repo.created_at)}
        await self._rows.put(repos, row, key=("id",), keep=("trending", "likes"))
        await self._rows.run(delete(repo_tags).where(repo_tags.c.repo_id == repo.id))
        await self._tag(repo)

    async def remove(self, repo_id: RepoId) -> None:
        """The Space of the same id stays: it is removed when nothing of it runs any more."""
        found = await self.get(repo_id)
        if found is not None:
            row = {"repo_id": repo_id, "owner_id": found.owner_id, "full_name": found.full_name, "removed_at": self._clock.now()}
            await self._rows.put(removed_repos, row, key=("repo_id",))
            await self._rows.run(delete(repos).where(repos.c.id == repo_id))

    async def removed(self, repo_id: RepoId) -> tuple[AccountId, str] | None:
        row = await self._rows.row(removed_repos.c.repo_id, repo_id)
        return (AccountId(row["owner_id"]), row["full_name"]) if row else None

    async def remember_old_name(self, repo: Repo) -> None:
        row = {"type": repo.type.value, "owner_lower": repo.owner_name.lower(), "name_lower": repo.name.lower(), "repo_id": repo.id}
        await self._rows.put(old_names, row, key=("type", "owner_lower", "name_lower"))

    async def list(self, query: RepoQuery, *, sort: str = "trending", limit: int = 50, offset: int = 0) -> tuple[Repo, ...]:
        order = await self._listing.order(query, sort, limit, offset)
        if not order:
            return ()
        found = {row["seq"]: row for row in await self._rows.all(select(repos).where(self._rows.among(repos.c.seq, order)))}
        return tuple(mapping.repo_to_domain(found[seq]) for seq in order)

    async def count_matching(self, query: RepoQuery, *, at_most: int = 1000) -> int | None:
        order = await self._listing.order(query, "trending", at_most + 1, 0, is_count=True)
        return None if order is None or len(order) > at_most else len(order)

    async def set_text(self, repo_id: RepoId, text: str) -> None:
        seq = await self._rows.value(select(repos.c.seq).where(repos.c.id == repo_id))
        if seq is not None:
            await self._rows.put(repo_texts, {"seq": seq, "body": text.replace("\x00", "")}, key=("seq",))

    async def count(self, type: RepoType, *, owner_id: AccountId | None = None) -> int:
        query = select(func.count()).select_from(repos).where(repos.c.type == type.value)
        if owner_id is not None:
            query = query.where(repos.c.owner_id == owner_id)
        return int(await self._rows.value(query))

    async def like(self, user_id: AccountId, repo_id: RepoId, liked: bool, at: datetime) -> bool:
        """Whether that changed anything. Safe to repeat; a second like keeps the time of the first."""
        if liked:
            if not await self._rows.add(likes, {"user_id": user_id, "repo_id": repo_id, "at": at}):
                return False
        elif not await self._rows.run(delete(likes).where(likes.c.user_id == user_id, likes.c.repo_id == repo_id)):
            return False
        repo = await self._rows.one(select(repos.c.trending, repos.c.created_at).where(repos.c.id == repo_id))
        if repo is None:
            return False
        if liked:
            trending = _add_weights(repo["trending"], _weight(at))
        else:
            trending = _weight(repo["created_at"])
            for row in await self._rows.all(select(likes.c.at).where(likes.c.repo_id == repo_id)):
                trending = _add_weights(trending, _weight(row["at"]))
        values = {"likes": repos.c.likes + (1 if liked else -1), "trending": trending}
        await self._rows.run(update(repos).where(repos.c.id == repo_id).values(values))
        return True

    async def likers(self, repo_id: RepoId) -> tuple[Account, ...]:
        query = select(accounts).join(likes, likes.c.user_id == accounts.c.id).where(likes.c.repo_id == repo_id)
        return tuple(mapping.account_to_domain(row) for row in await self._rows.all(query.order_by(likes.c.at, accounts.c.id)))

    async def liked_by(self, user_id: AccountId) -> tuple[tuple[Repo, datetime], ...]:
        """Newest like first."""
        query = select(repos, likes.c.at).join(likes, likes.c.repo_id == repos.c.id).where(likes.c.user_id == user_id)
        rows = await self._rows.all(query.order_by(likes.c.at.desc(), repos.c.seq.desc()))
        return tuple((mapping.repo_to_domain(row), row["at"]) for row in rows)

    async def _tag(self, repo: Repo) -> None:
        for tag in dict.fromkeys(repo.tags):
            await self._rows.add(repo_tags, {"tag": tag, "repo_id": repo.id})
