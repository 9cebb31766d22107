"""Cards, lists, profiles, likes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from control_plane.accounts import people, policy
from control_plane.community import likes
from control_plane.domain.accounts import AccountKind, Action, Actor
from control_plane.domain.errors import NotFound
from control_plane.domain.ids import RepoId
from control_plane.domain.repo_query import RepoQuery
from control_plane.domain.spaces import Repo, RepoType
from control_plane.ports.stores import UnitOfWork
from web.services.deps import Base, WebDeps
from web.services.stages import cards
from web.views import Gallery, GalleryQuery, Profile, RepoRow, SpaceCard

LIST_PAGE = 30
COUNT_LIFE_S = 5.0  # how old the figures under the heading may be
MATCHES_LIFE_S = 30.0
MOST_MATCHES = 1000  # searches whose figures are kept
COUNTED = 1000


@dataclass(slots=True)
class _Counts:
    at: float = -1e9
    total: int = 0
    running: int = 0


class GalleryFamily(Base):
    def __init__(self, deps: WebDeps) -> None:
        super().__init__(deps)
        self._counts = _Counts()
        self._matches: dict[RepoQuery, tuple[float, int | None]] = {}

    async def _seen_by(self, uow: UnitOfWork, actor: Actor, asked: RepoQuery) -> RepoQuery:
        """The same question from the person who looks."""
        if actor.user is None:
            return asked
        orgs = tuple(org.id for org, _ in await uow.accounts.memberships(actor.user.id)) if actor.roles else ()
        return replace(asked, viewer=actor.user.id, viewer_orgs=orgs, see_all=actor.is_admin)

    async def gallery(self, actor: Actor, query: GalleryQuery) -> Gallery:
        async with self.d.uow.read() as uow:
            asked = RepoQuery(
                RepoType.SPACE, owner=query.owner or None, search=query.q or None, sdk=tuple(query.sdk), tags=tuple(query.tag),
                hardware=tuple(query.hardware), running_only=query.running,
            )  # fmt: skip
            asked = await self._seen_by(uow, actor, asked)
            offset = (query.page - 1) * query.page_size
            found = await uow.repos.list(asked, sort=query.sort, limit=query.page_size + 1, offset=offset)
            counts, matching = await self._figures(uow), offset + len(found)
            has_next = len(found) > query.page_size
            is_filtered = query.q or query.sdk or query.hardware or query.tag or query.owner or query.running
            is_exact = not has_next and bool(found or not offset)
            if is_filtered and not is_exact:
                counted = await self._matching(uow, asked)
                matching, is_exact = (max(counted, matching) if found else counted, True) if counted is not None else (matching, False)
        shown = await self.cards(found[: query.page_size])
        if not is_filtered:
            return Gallery(shown, has_next, counts.total, counts.running, self.d.catalog().names)
        total = matching if is_exact else max(0, matching - 1)  # the one beyond the page was not shown yet
        return Gallery(shown, has_next, total, counts.running, self.d.catalog().names, is_exact)

    async def _matching(self, uow: UnitOfWork, asked: RepoQuery) -> int | None:
        """How many Spaces meet the filters, at most `MATCHES_LIFE_S` old: the same for every page and sort of one search."""
        now = self.d.clock.monotonic()
        at, known = self._matches.get(asked, (-1e9, None))
        if now - at > MATCHES_LIFE_S:
            if len(self._matches) >= MOST_MATCHES:
                self._matches.clear()
            known = await uow.repos.count_matching(asked, at_most=COUNTED)
            self._matches[asked] = now, known
        return known

    async def thumbnail(self, actor: Actor, space_id: str) -> bytes:
        """The picture of a Space's app as a WebP. NotFound when there is none or it is not for everyone (any more)."""
        async with self.d.uow.read() as uow:
            repo = policy.require(actor, Action.VIEW, await uow.repos.get(RepoId(space_id)))
        found = self.d.pictures.read(repo.id) if self.d.pictures is not None and self.thumbnail_of(repo) else None
        if found is None:
            raise NotFound("There is no picture of this Space.")
        return found

    async def cards(self, repos: Sequence[Repo]) -> tuple[SpaceCard, ...]:
        async with self.d.uow.read() as uow:
            spaces = await uow.spaces.get_many([r.id for r in repos])
        return cards(repos, spaces, await self.d.actions.runtime_views(spaces), self.thumbnail_of)

    async def _figures(self, uow: UnitOfWork) -> _Counts:
        now = self.d.clock.monotonic()
        if now - self._counts.at > COUNT_LIFE_S:
            running = await uow.repos.list(RepoQuery(RepoType.SPACE, running_only=True), limit=COUNTED)
            self._counts = _Counts(now, await uow.repos.count(RepoType.SPACE), len(running))
        return self._counts

    async def repo_list(self, actor: Actor, kind: RepoType, q: str, sort: str, page: int) -> tuple[tuple[RepoRow, ...], bool]:
        async with self.d.uow.read() as uow:
            asked = await self._seen_by(uow, actor, RepoQuery(kind, search=q or None))
            found = await uow.repos.list(asked, sort=sort, limit=LIST_PAGE + 1, offset=(page - 1) * LIST_PAGE)
        return tuple(self.repo_row(r) for r in found[:LIST_PAGE]), len(found) > LIST_PAGE

    def repo_row(self, repo: Repo) -> RepoRow:
        return RepoRow(
            repo.type.value, repo.owner_name, repo.name, self.base(repo), repo.likes, repo.updated_at, repo.visibility.value, repo.tags
        )

    async def profile(self, actor: Actor, name: str) -> Profile:
        async with self.d.uow.read() as uow:
            account = await people.find_account(uow, name)
            is_org = account.kind is AccountKind.ORG
            lists = {
                kind: await uow.repos.list(await self._seen_by(uow, actor, RepoQuery(kind, owner=account.name)), sort="updated", limit=60)
                for kind in RepoType
            }
            groups = await (uow.accounts.members(account.id) if is_org else uow.accounts.memberships(account.id))
            liked = [r for r, _ in await uow.repos.liked_by(account.id)] if not is_org else []
        liked = [r for r in liked if r.type is RepoType.SPACE and policy.allowed(actor, Action.VIEW, r)][:12]
        return Profile(
            account.name, account.fullname, account.kind.value, account.created_at, await self.cards(lists[RepoType.SPACE]),
            tuple(self.repo_row(r) for r in (*lists[RepoType.MODEL], *lists[RepoType.DATASET])),
            tuple((who.name, role.value) for who, role in groups), await self.cards(liked),
        )  # fmt: skip

    async def like(self, actor: Actor, kind: RepoType, owner: str, name: str, liked: bool) -> None:
        user = policy.require_user(actor, write=True)
        async with self.d.uow.write() as uow:
            repo = await self.find(uow, actor, kind, owner, name)
            await likes.like(uow, actor, user, repo, liked, self.d.clock.now())
