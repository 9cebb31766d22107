"""The gallery's queries: which repositories a listing shows, in which order.

Every sort walks an index in order and stops at the page's end, so its cost does not grow with the number of repositories; a
filter or search that few rows meet starts from those rows instead. What everybody may see and what the viewer owns are two such
walks, merged; a viewer's query therefore never reads through other people's private rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Select, false, func, literal, literal_column, or_, select, true, union, union_all

from control_plane.db.rows import Rows
from control_plane.db.search import TRIGRAM, has_source, has_title, source_term, sources_with, titles_with, words_of
from control_plane.db.tables import accounts, repo_tags, repos, spaces
from control_plane.domain.errors import Rejected
from control_plane.domain.repo_query import RepoQuery
from control_plane.domain.spaces import DesiredState, RepoType, Visibility

_SORTS: dict[str, str] = {"trending": "trending", "likes": "likes", "created": "created_at", "updated": "updated_at"}
_SHORT_WALK = 600  # rows from the head of an order in which words that no index knows are looked for
_FEW = 2000  # rows: a condition that leaves no more is answered from its own index
_WINDOW = 2000  # rows from the head of an order that are looked at before every condition is asked for all its rows
_MANY = 20_000  # repositories: so many that a word of every fourth one is not worth counting
_GLANCE = 25


class RepoListing:
    """Over one transaction. `has_search_index`: whether this SQLite has the tables of words; PostgreSQL always has its own."""

    def __init__(self, rows: Rows, *, has_search_index: bool) -> None:
        self._rows = rows
        self._knows_words = has_search_index or not rows.is_sqlite

    async def order(self, query: RepoQuery, sort: str, limit: int, offset: int, *, is_count: bool = False) -> Sequence[int] | None:
        """The `seq` of one page, in order. `is_count`: None when words of the search are common, which nobody waits to count."""
        if sort not in _SORTS:
            raise Rejected(f"unknown sort '{sort}'; allowed: {', '.join(_SORTS)}")
        page = await self._asked(query, repos.c[_SORTS[sort]], limit, offset)
        if page is None:
            return ()
        narrow = [
            *self._words(query.search, query.tags), *_tagged(query.tags), *_of_space(query.sdk, query.hardware, query.running_only),
            *([_GATED] if query.gated else ()),
        ]  # fmt: skip
        if not narrow:
            return await self._walk(page)
        words = words_of(query.search)
        windows = [4 * page.needed, max(_WINDOW, 8 * page.needed)]
        if is_count and words and await self._is_common(page, narrow):
            return None
        if not self._rows.is_sqlite and not is_count:
            # PostgreSQL puts together every hit of a word before it counts the first few: 20 ms for one that is everywhere.
            if any(one.is_word and one.rows is not None for one in narrow):
                found = await self._in_windows(page, narrow, windows[:1])
                if found is not None:
                    return found
            windows = windows[1:]  # it stops in a window where the page is full, so a small one in advance saves nothing
        for one in sorted(narrow, key=lambda one: -one.length):  # a long word is seldom a common one
            among = await self._when_few(one)
            if among is not None:
                asked = [among, *one.besides, *(other.of_row for other in narrow if other is not one)]
                return await self._sorted(page, asked)
        if is_count and words:
            return None
        if any(one.is_word and one.length < TRIGRAM for one in narrow):
            return await self._in_windows(page, narrow, [_SHORT_WALK], is_enough=True)
        found = await self._in_windows(page, narrow, windows)
        return found if found is not None else await self._sorted(page, _all_of(narrow))

    async def _asked(self, query: RepoQuery, rank: ColumnElement[Any], limit: int, offset: int) -> _Page | None:
        """None when nothing can be found: the owner is nobody."""
        wanted: list[ColumnElement[bool]] = []
        mine = {str(account) for account in (query.viewer, *query.viewer_orgs) if account}
        see_all = query.see_all
        if query.owner is not None:
            owner_id = await self._rows.value(select(accounts.c.id).where(accounts.c.name_lower == query.owner.lower()))
            if owner_id is None:
                return None
            see_all, mine = see_all or owner_id in mine, set()
            wanted.append(repos.c.owner_id == owner_id)
        elif query.type is RepoType.SPACE:
            wanted.append(repos.c.origin.not_like("%#%"))  # previews of pull requests (community.previews) stand with their owner only
        if query.gated is False:
            wanted.append(repos.c.gate == "")
        walks: list[tuple[ColumnElement[bool], ...]]
        if see_all:
            walks = [()]
        elif query.owner is not None:
            # Without statistics SQLite would take the index of all public rows and look at each one's owner.
            walks = [(func.coalesce(repos.c.is_private, true()) == false(),)]
        else:
            walks = [(repos.c.is_private == false(),), *((repos.c.owner_id == account,) for account in sorted(mine))]
        visible = () if see_all else (or_(repos.c.is_private == false(), repos.c.owner_id.in_(sorted(mine))),)
        return _Page(query.type.value, tuple(wanted), tuple(walks), visible, rank, limit, offset)

    async def _is_common(self, page: _Page, narrow: Sequence[_Narrow]) -> bool:
        """Whether a glance at the head of the order says so; of few repositories every hit is counted instead."""
        if (await self._rows.value(select(func.max(repos.c.seq))) or 0) < _MANY:
            return False
        glance = replace(page, limit=_GLANCE, offset=0)
        head = await self._in_windows(glance, narrow, [4 * _GLANCE])
        return head is not None and len(head) == _GLANCE

    async def _when_few(self, one: _Narrow) -> ColumnElement[bool] | None:
        """The condition as "is among these rows", when they are few; None when it is common or has no index.

        A rare condition is cheapest from its own index, a common one by walking the order until the page is full; either way
        no more than about `_FEW` rows are looked at for one page, unless the order puts all that fit at its end.
        """
        if one.rows is None:
            return None
        if one.ids is not None:
            count = await self._rows.value(select(func.count()).select_from(one.ids.limit(_FEW + 1).subquery()))
            return self._rows.among_rows(repos.c.id, one.ids) if count <= _FEW else None
        hits = one.rows if one.hits is None else one.hits
        seqs = [row["seq"] for row in await self._rows.all(hits.limit(_FEW + 1))]
        return self._rows.among(repos.c.seq, seqs) if len(seqs) <= _FEW else None

    async def _sorted(self, page: _Page, asked: Sequence[ColumnElement[bool]]) -> Sequence[int]:
        """The page out of few rows. Wrapped, so that no index but that of `asked` is chosen for them."""
        of_type, rank = func.coalesce(repos.c.type, "") == page.type, func.coalesce(page.rank, page.rank)
        query = select(repos.c.seq).where(*asked, of_type, *page.wanted, *page.visible).order_by(rank.desc(), repos.c.seq.desc())
        return [row["seq"] for row in await self._rows.all(query.limit(page.limit).offset(page.offset))]

    async def _in_windows(
        self, page: _Page, narrow: Sequence[_Narrow], windows: Sequence[int], *, is_enough: bool = False
    ) -> Sequence[int] | None:
        """One page from the head of the order, looked for in each of `windows` (rows) in turn.

        None when conditions that are common alone meet too seldom there to fill it, unless what the windows hold `is_enough`.
        """
        for size in windows:
            hits: dict[int, Any] = {}
            for walk in page.walks:
                ranked = page.ranked(walk).add_columns(*(one.of_row.label(f"fits{i}") for i, one in enumerate(narrow)))
                window = ranked.limit(size).subquery()
                fits = select(window.c.seq, window.c.rank).where(*(window.c[f"fits{i}"] for i in range(len(narrow))))
                found = await self._rows.all(fits.order_by(window.c.rank.desc(), window.c.seq.desc()).limit(page.needed))
                if not is_enough and len(found) < page.needed and await self._reaches(page, walk, size):
                    break  # there may be more beyond the window
                hits |= {row["seq"]: row["rank"] for row in found}
            else:
                return sorted(hits, key=lambda seq: (hits[seq], seq), reverse=True)[page.offset : page.needed]
        return None

    async def _reaches(self, page: _Page, walk: tuple[ColumnElement[bool], ...], size: int) -> bool:
        """Whether the walk has more than `size` rows."""
        return await self._rows.value(page.ranked(walk).limit(1).offset(size)) is not None

    async def _walk(self, page: _Page) -> Sequence[int]:
        pages = [page.ranked(walk).limit(page.needed) for walk in page.walks]
        if len(pages) == 1:
            rows = await self._rows.all(pages[0].limit(page.limit).offset(page.offset))
        else:
            merged = union(*(select(part.subquery()) for part in pages)).subquery()
            query = select(merged.c.seq).order_by(merged.c.rank.desc(), merged.c.seq.desc())
            rows = await self._rows.all(query.limit(page.limit).offset(page.offset))
        return [row["seq"] for row in rows]

    def _words(self, search: str | None, tags: Sequence[str]) -> Sequence[_Narrow]:
        """Every word occurs somewhere in the name, the title, the description or a tag, or begins a word of README or source.

        No index knows words of one or two characters: alone they are looked for in the first `_SHORT_WALK` of the order. The rows of
        a word are narrowed by the `tags` that are asked for besides, where one index knows both.
        """
        found = []
        for word in words_of(search):
            if not self._knows_words or len(word) < TRIGRAM:
                found.append(_Narrow(has_title(word), is_word=True, length=len(word)))
                continue
            titles = titles_with(self._rows, word, tags)
            term = source_term(self._rows, word)
            if not term:
                found.append(_Narrow(has_title(word), titles, is_word=True, length=len(word)))
                continue
            inside = sources_with(self._rows, word, term)
            is_open = repos.c.visibility != Visibility.PROTECTED.value
            open_source = select(repos.c.seq).where(repos.c.seq.in_(select(inside.subquery().c.seq)), is_open)
            found.append(
                _Narrow(
                    or_(has_title(word), has_source(self._rows, word, term)),
                    select(union(select(titles.subquery().c.seq), open_source).subquery().c.seq),
                    is_word=True,
                    length=len(word),
                    hits=select(union_all(select(titles.subquery().c.seq), select(inside.subquery().c.seq)).subquery().c.seq),
                    besides=(or_(is_open, has_title(word)),),
                )
            )
        return found


@dataclass(frozen=True, slots=True)
class _Page:
    """What is asked for besides the conditions that narrow it."""

    type: str
    wanted: tuple[ColumnElement[bool], ...]
    walks: tuple[tuple[ColumnElement[bool], ...], ...]
    visible: tuple[ColumnElement[bool], ...]  # the walks as one condition
    rank: ColumnElement[Any]
    limit: int
    offset: int

    @property
    def needed(self) -> int:
        return self.limit + self.offset

    def ranked(self, walk: tuple[ColumnElement[bool], ...]) -> Select[Any]:
        rank = self.rank
        return (
            select(repos.c.seq, rank.label("rank"))
            .where(repos.c.type == self.type, *self.wanted, *walk)
            .order_by(rank.desc(), repos.c.seq.desc())
        )


@dataclass(frozen=True, slots=True)
class _Narrow:
    """One condition of a listing: as a question to one row, and as the rows that answer it (from an index), where there is one.

    The question is a scalar subquery rather than EXISTS or IN, which PostgreSQL would join with the whole table. `ids` are the rows'
    ids, cheaper to count; `hits` are the rows, some twice and some that `besides` must still refuse, cheaper to put together.
    """

    of_row: ColumnElement[bool]
    rows: Select[Any] | None = None
    is_word: bool = False
    length: int = 0
    ids: Select[Any] | None = None
    hits: Select[Any] | None = None
    besides: tuple[ColumnElement[bool], ...] = ()


# As a literal: PostgreSQL takes a partial index only for the words that the index was made with.
_HAS_GATE = repos.c.gate != literal_column("''")
_GATED = _Narrow(_HAS_GATE, select(repos.c.seq).where(_HAS_GATE))


def _all_of(narrow: Sequence[_Narrow]) -> Sequence[ColumnElement[bool]]:
    """Every condition, each from its index where it has one, whatever the number of its rows."""
    asked = [one.of_row for one in narrow if one.rows is None]
    indexed = [one.rows.subquery() for one in narrow if one.rows is not None]
    if indexed:
        first, *rest = indexed
        asked.append(repos.c.seq.in_(select(first.c.seq).where(*(first.c.seq.in_(select(one.c.seq)) for one in rest))))
    return asked


def _tagged(tags: Sequence[str]) -> Sequence[_Narrow]:
    found = []
    for tag in tags:
        mark = select(literal(1)).where(repo_tags.c.tag == tag, repo_tags.c.repo_id == repos.c.id).correlate(repos).scalar_subquery()
        rows = select(repos.c.seq).join(repo_tags, repo_tags.c.repo_id == repos.c.id).where(repo_tags.c.tag == tag)
        found.append(_Narrow(mark.is_not(None), rows, ids=select(repo_tags.c.repo_id).where(repo_tags.c.tag == tag)))
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
        found.append(_Narrow(mark.is_not(None), rows, ids=select(spaces.c.id).where(*conditions)))
    return found
