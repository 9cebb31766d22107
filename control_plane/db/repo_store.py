"""Repositories, their old names and likes, and the gallery's queries.

Every sort of a listing walks an index in order and stops at the page's end, so its cost does not grow with the number
of Spaces; a filter or search that few rows meet starts from those rows instead. What everybody may see and what the
viewer owns are two such walks, merged; a viewer's query therefore never reads through other people's private rows.

`trending` is log2 of the likes, each worth half as much after `_HALF_LIFE_DAYS`, with the creation counted as a like.
As a logarithm it only moves when somebody likes: time passing keeps the order, so an index can hold it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    Table,
    delete,
    false,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    union,
    update,
)

from control_plane.db import mapping
from control_plane.db.rows import Rows
from control_plane.db.search import TRIGRAM, has_source, has_title, source_term, sources_with, titles_with, words_of
from control_plane.db.tables import accounts, likes, old_names, removed_repos, repo_tags, repo_texts, repos, spaces
from control_plane.domain.accounts import Account
from control_plane.domain.errors import NameTaken, Rejected
from control_plane.domain.ids import AccountId, RepoId
from control_plane.domain.spaces import DesiredState, Repo, RepoType, Visibility
from control_plane.ports.clock import Clock

_HALF_LIFE_DAYS = 7.0
_SORTS: dict[str, str] = {"trending": "trending", "likes": "likes", "created": "created_at", "updated": "updated_at"}
_SHORT_WALK = 1000
_FEW = 2000  # rows: a condition that leaves no more is answered from its own index
_MANY = 20_000  # repositories: so many that a word of every fourth one is not worth counting
_GLANCE = 25
_WINDOW = 2000  # rows from the head of an order that are looked at before every condition is asked for all its rows


def _weight(at: datetime) -> float:
    return at.timestamp() / (_HALF_LIFE_DAYS * 86400)


def _add_weights(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high + math.log2(1 + 2 ** (low - high))


class SqlRepoStore:
    def __init__(self, rows: Rows, clock: Clock, *, has_search_index: bool) -> None:
        self._rows = rows
        self._clock = clock
        self._has_search_index = has_search_index

    async def get(self, repo_id: RepoId) -> Repo | None:
        row = await self._rows.one(select(repos).where(repos.c.id == repo_id))
        return mapping.repo_to_domain(row) if row else None

    async def by_name(self, type: RepoType, owner: str, name: str) -> Repo | None:
        row = await self._rows.one(select(repos).where(*_named(repos, type, owner, name)))
        return mapping.repo_to_domain(row) if row else None

    async def moved_to(self, type: RepoType, owner: str, name: str) -> RepoId | None:
        found = await self._rows.value(select(old_names.c.repo_id).where(*_named(old_names, type, owner, name)))
        return RepoId(found) if found else None

    async def add(self, repo: Repo) -> None:
        row = mapping.repo_to_row(repo) | {"trending": _weight(repo.created_at) + math.log2(1 + repo.likes)}
        if not await self._rows.add(repos, row):
            raise NameTaken(f"{repo.type.value} '{repo.full_name}' exists already")
        # A new repository under an old name takes the name over; the redirect ends.
        await self._rows.run(delete(old_names).where(*_named(old_names, repo.type, repo.owner_name, repo.name)))
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
        row = await self._rows.one(select(removed_repos).where(removed_repos.c.repo_id == repo_id))
        return (AccountId(row["owner_id"]), row["full_name"]) if row else None

    async def remember_old_name(self, repo: Repo) -> None:
        row = {"type": repo.type.value, "owner_lower": repo.owner_name.lower(), "name_lower": repo.name.lower(), "repo_id": repo.id}
        await self._rows.put(old_names, row, key=("type", "owner_lower", "name_lower"))

    async def list(
        self,
        type: RepoType,
        *,
        viewer: AccountId | None = None,
        viewer_orgs: Sequence[AccountId] = (),
        see_all: bool = False,
        owner: str | None = None,
        search: str | None = None,
        sdk: Sequence[str] = (),
        tags: Sequence[str] = (),
        hardware: Sequence[str] = (),
        running_only: bool = False,
        gated: bool | None = None,
        sort: str = "trending",
        limit: int = 50,
        offset: int = 0,
    ) -> tuple[Repo, ...]:
        if sort not in _SORTS:
            raise Rejected(f"unknown sort '{sort}'; allowed: {', '.join(_SORTS)}")
        order = await self._order(
            type, viewer, viewer_orgs, see_all, owner, search, sdk, tags, hardware, running_only, gated, sort, limit, offset
        )
        found = {row["seq"]: row for row in await self._rows.all(select(repos).where(self._rows.among(repos.c.seq, order or ())))}
        return tuple(mapping.repo_to_domain(found[seq]) for seq in order or ())

    async def count_matching(
        self,
        type: RepoType,
        *,
        viewer: AccountId | None = None,
        viewer_orgs: Sequence[AccountId] = (),
        see_all: bool = False,
        owner: str | None = None,
        search: str | None = None,
        sdk: Sequence[str] = (),
        tags: Sequence[str] = (),
        hardware: Sequence[str] = (),
        running_only: bool = False,
        at_most: int = 1000,
    ) -> int | None:
        order = await self._order(
            type, viewer, viewer_orgs, see_all, owner, search, sdk, tags, hardware, running_only, None, "trending", at_most + 1, 0,
            is_count=True,
        )  # fmt: skip
        return None if order is None or len(order) > at_most else len(order)

    async def _order(
        self,
        type: RepoType,
        viewer: AccountId | None,
        viewer_orgs: Sequence[AccountId],
        see_all: bool,
        owner: str | None,
        search: str | None,
        sdk: Sequence[str],
        tags: Sequence[str],
        hardware: Sequence[str],
        running_only: bool,
        gated: bool | None,
        sort: str,
        limit: int,
        offset: int,
        *,
        is_count: bool = False,
    ) -> Sequence[int] | None:
        """The `seq` of one page, in order. `is_count`: None when words of the search are common, which nobody waits to count."""
        wanted: list[ColumnElement[bool]] = []
        mine = {str(account) for account in (viewer, *viewer_orgs) if account}
        if owner is not None:
            owner_id = await self._rows.value(select(accounts.c.id).where(accounts.c.name_lower == owner.lower()))
            if owner_id is None:
                return ()
            see_all = see_all or owner_id in mine
            mine = set()
            wanted.append(repos.c.owner_id == owner_id)
        elif type is RepoType.SPACE:
            wanted.append(repos.c.origin.not_like("%#%"))  # previews of pull requests (community.previews) stand with their owner only
        if gated is False:
            wanted.append(repos.c.gate == "")
        base = tuple(wanted)
        narrow = [*self._words(search), *_tagged(tags), *_of_space(sdk, hardware, running_only), *([_GATED] if gated else ())]
        column = repos.c[_SORTS[sort]]
        if owner is not None:
            # Without statistics SQLite would take the index of all public rows and look at each one's owner.
            walks = [() if see_all else (func.coalesce(repos.c.is_private, true()) == false(),)]
        else:
            walks = [()] if see_all else [(repos.c.is_private == false(),), *((repos.c.owner_id == account,) for account in sorted(mine))]
        typed = repos.c.type == type.value
        windows = [4 * (limit + offset), max(_WINDOW, 8 * (limit + offset))]
        order: Sequence[int] | None = None
        if narrow and not self._rows.is_sqlite and not is_count:
            # PostgreSQL puts together every hit of a word before it counts the first few: 20 ms for one that is everywhere.
            order = await self._page([typed, *base], narrow, walks, column, limit, offset, windows[:1])
            windows = windows[1:]
        rows: tuple[Sequence[int], _Narrow | None] | None = None
        if is_count and words_of(search) and await self._is_common([typed, *base], narrow, walks, column):
            return None
        if order is None:
            rows = await self._few(narrow)
        if is_count and rows is None and words_of(search):
            return None
        if order is None and rows is None and any(one.is_short for one in narrow):
            rows = await self._walk([typed, *base], walks, column, _SHORT_WALK, 0), None
        if order is None and rows is None:
            order = await self._page([typed, *base], narrow, walks, column, limit, offset, windows)
        if order is None:
            within, answered = rows or (None, None)
            among = repos.c.seq.in_(_all_of(narrow)) if within is None else self._rows.among(repos.c.seq, within)
            questions = [one.of_row for one in narrow if one is not answered and (rows or one.rows is None)]
            visible = [] if see_all else [or_(repos.c.is_private == false(), repos.c.owner_id.in_(sorted(mine)))]
            # Wrapped, so that no index but that of `seq` is chosen for so few rows.
            asked = [among, func.coalesce(repos.c.type, "") == type.value, *base, *visible, *questions]
            ordered = select(repos.c.seq).where(*asked).order_by(func.coalesce(column, column).desc(), repos.c.seq.desc())
            order = [row["seq"] for row in await self._rows.all(ordered.limit(limit).offset(offset))]
        return order

    async def _is_common(
        self,
        wanted: Sequence[ColumnElement[bool]],
        narrow: Sequence[_Narrow],
        walks: Sequence[tuple[ColumnElement[bool], ...]],
        rank: ColumnElement[Any],
    ) -> bool:
        """Whether a glance at the head of the order says so; of few repositories every hit is counted instead."""
        if self._rows.is_sqlite or (await self._rows.value(select(func.max(repos.c.seq))) or 0) < _MANY:
            return False
        head = await self._page(wanted, narrow, walks, rank, _GLANCE, 0, [4 * _GLANCE])
        return head is not None and len(head) == _GLANCE

    async def _few(self, narrow: Sequence[_Narrow]) -> tuple[Sequence[int], _Narrow] | None:
        """The rows that one of the conditions leaves, when they are few, and that condition; None when every one is common.

        A rare condition is cheapest from its own index, a common one by walking the order until the page is full; either way
        no more than about `_FEW` rows are looked at for one page, unless the order puts all that fit at its end.
        """
        for one in sorted(narrow, key=lambda one: -one.length):  # a long word is seldom a common one
            if one.rows is None:
                continue
            seen = 0
            for part in one.parts or (one.rows,):
                if seen <= _FEW:
                    seen += await self._rows.value(select(func.count()).select_from(part.limit(_FEW + 1).subquery()))
            if seen <= _FEW:
                return [row["seq"] for row in await self._rows.all(one.rows)], one
        return None

    async def _page(
        self,
        wanted: Sequence[ColumnElement[bool]],
        narrow: Sequence[_Narrow],
        walks: Sequence[tuple[ColumnElement[bool], ...]],
        rank: ColumnElement[Any],
        limit: int,
        offset: int,
        windows: Sequence[int],
    ) -> Sequence[int] | None:
        """One page from the head of the order, looked for in each of `windows` (rows) in turn.

        None when conditions that are common alone meet too seldom there to fill it.
        """
        if not narrow:
            return await self._walk(wanted, walks, rank, limit, offset)
        needed = limit + offset
        for size in windows:
            hits: dict[int, Any] = {}
            for walk in walks:
                ranked = select(repos.c.seq, rank.label("rank")).where(*wanted, *walk).order_by(rank.desc(), repos.c.seq.desc())
                window = ranked.limit(size).subquery()
                fits = select(window.c.seq, window.c.rank).join(repos, repos.c.seq == window.c.seq).where(*(one.of_row for one in narrow))
                found = await self._rows.all(fits.order_by(window.c.rank.desc(), window.c.seq.desc()).limit(needed))
                if len(found) < needed and await self._rows.value(select(func.count()).select_from(window)) == size:
                    break  # there may be more beyond the window
                hits |= {row["seq"]: row["rank"] for row in found}
            else:
                return sorted(hits, key=lambda seq: (hits[seq], seq), reverse=True)[offset:needed]
        return None

    async def _walk(
        self,
        wanted: Sequence[ColumnElement[bool]],
        walks: Sequence[tuple[ColumnElement[bool], ...]],
        rank: ColumnElement[Any],
        limit: int,
        offset: int,
    ) -> Sequence[int]:
        """The `seq` of one page, in order."""
        pages = [
            select(repos.c.seq, rank.label("rank")).where(*wanted, *walk).order_by(rank.desc(), repos.c.seq.desc()).limit(limit + offset)
            for walk in walks
        ]
        if len(pages) == 1:
            rows = await self._rows.all(pages[0].limit(limit).offset(offset))
        else:
            merged = union(*(select(page.subquery()) for page in pages)).subquery()
            query = select(merged.c.seq).order_by(merged.c.rank.desc(), merged.c.seq.desc()).limit(limit).offset(offset)
            rows = await self._rows.all(query)
        return [row["seq"] for row in rows]

    def _words(self, search: str | None) -> Sequence[_Narrow]:
        """Every word occurs somewhere in the name, the title, the description or a tag, or begins a word of README or source.

        No index knows words of one or two characters: alone they are looked for in the first `_SHORT_WALK` of the order.
        """
        found = []
        is_indexed = self._has_search_index or not self._rows.is_sqlite
        for word in words_of(search):
            term = source_term(self._rows, word) if is_indexed else ""
            of_row, rows = has_title(word), None
            parts: tuple[Select[Any], ...] = ()
            if is_indexed and len(word) >= TRIGRAM:
                rows = titles_with(self._rows, word)
                if term:
                    of_row = or_(of_row, has_source(self._rows, word, term))
                    inside = sources_with(self._rows, word, term)
                    # Counted a little too high: with what both know twice, and with hidden code.
                    parts = (rows, select(inside.subquery()))
                    open_source = select(repos.c.seq).where(
                        repos.c.seq.in_(select(inside.subquery().c.seq)), repos.c.visibility != Visibility.PROTECTED.value
                    )
                    rows = select(union(select(rows.subquery().c.seq), open_source).subquery().c.seq)
            found.append(_Narrow(of_row, rows, len(word) < TRIGRAM, len(word), parts))
        return found

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


def _named(table: Table, type: RepoType, owner: str, name: str) -> tuple[ColumnElement[bool], ...]:
    return table.c.type == type.value, table.c.owner_lower == owner.lower(), table.c.name_lower == name.lower()


@dataclass(frozen=True, slots=True)
class _Narrow:
    """One condition of a listing: as a question to one row, and as the rows that answer it (from an index), where there is one.

    The question is a scalar subquery rather than EXISTS or IN, which PostgreSQL would join with the whole table.
    """

    of_row: ColumnElement[bool]
    rows: Select[Any] | None = None
    is_short: bool = False
    length: int = 0  # of a word
    parts: tuple[Select[Any], ...] = ()  # `rows` in pieces that are quick to count up to a limit; () = `rows` itself is


# As a literal: PostgreSQL takes a partial index only for the words that the index was made with.
_HAS_GATE = repos.c.gate != literal_column("''")
_GATED = _Narrow(_HAS_GATE, select(repos.c.seq).where(_HAS_GATE))


def _all_of(narrow: Sequence[_Narrow]) -> Select[Any]:
    """The rows that meet every condition that has an index, whatever their number."""
    first, *rest = (one.rows.subquery() for one in narrow if one.rows is not None)
    return select(first.c.seq).where(*(first.c.seq.in_(select(one.c.seq)) for one in rest))


def _tagged(tags: Sequence[str]) -> Sequence[_Narrow]:
    found = []
    for tag in tags:
        mark = select(literal(1)).where(repo_tags.c.tag == tag, repo_tags.c.repo_id == repos.c.id).correlate(repos).scalar_subquery()
        rows = select(repos.c.seq).join(repo_tags, repo_tags.c.repo_id == repos.c.id).where(repo_tags.c.tag == tag)
        found.append(_Narrow(mark.is_not(None), rows, parts=(select(repo_tags.c.repo_id).where(repo_tags.c.tag == tag),)))
    return found


def _of_space(sdk: Sequence[str], hardware: Sequence[str], running_only: bool) -> Sequence[_Narrow]:
    wanted: list[tuple[ColumnElement[bool], ...]] = []
    if sdk:
        wanted.append((spaces.c.sdk.in_(list(sdk)),))
    if hardware:
        wanted.append((spaces.c.hardware.in_(list(hardware)),))
    if running_only:
        is_up = spaces.c.desired == DesiredState.RUNNING.value, spaces.c.live_generation > 0
        wanted.append((*is_up, spaces.c.asleep == false(), spaces.c.suspended == false()))
    found = []
    for conditions in wanted:
        mark = select(literal(1)).where(spaces.c.id == repos.c.id, *conditions).correlate(repos).scalar_subquery()
        rows = select(repos.c.seq).join(spaces, spaces.c.id == repos.c.id).where(*conditions)
        found.append(_Narrow(mark.is_not(None), rows, parts=(select(spaces.c.id).where(*conditions),)))
    return found
