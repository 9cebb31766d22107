"""Notices on pages: the bell, the list, and the stream that keeps the bell's figure true."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from control_plane.accounts import policy
from control_plane.domain.accounts import Account, Action, Actor
from control_plane.domain.errors import NotFound
from control_plane.domain.notices import Notice, NoticeKind
from control_plane.domain.spaces import Repo
from control_plane.http.live import LOOK_EVERY, LiveHub, changed
from control_plane.ports.stores import UnitOfWork
from web.services.deps import Base
from web.views import NoticePage, NoticeRow

PAGE = 30

# kind → tone and sentence
SAYS: dict[NoticeKind, tuple[str, str]] = {
    NoticeKind.DISCUSSION_OPENED: ("run", "Discussion opened"),
    NoticeKind.PULL_OPENED: ("run", "Pull request opened"),
    NoticeKind.COMMENT: ("run", "New comment"),
    NoticeKind.MENTION: ("work", "You were mentioned"),
    NoticeKind.CLOSED: ("off", "Closed"),
    NoticeKind.REOPENED: ("run", "Opened again"),
    NoticeKind.MERGED: ("sleep", "Merged"),
    NoticeKind.BUILD_FAILED: ("fail", "Build failed"),
    NoticeKind.APP_FAILED: ("fail", "App failed"),
    NoticeKind.QUOTA: ("work", "Quota reached"),
    NoticeKind.ACCESS_ASKED: ("work", "Access requested"),
    NoticeKind.ACCESS_ACCEPTED: ("run", "Access granted"),
    NoticeKind.ACCESS_REJECTED: ("off", "Access rejected"),
}


class NoticesFamily(Base):
    live: LiveHub

    async def notices(self, actor: Actor, unread_only: bool, page: int) -> NoticePage:
        user = policy.require_user(actor)
        async with self.d.uow.read() as uow:
            found = await uow.notices.of_account(user.id, unread_only=unread_only, limit=PAGE + 1, offset=(page - 1) * PAGE)
            unread = await uow.notices.count(user.id, unread_only=True)
            rows = await self._rows(uow, actor, found[:PAGE])
        return NoticePage(rows, unread, page, len(found) > PAGE)

    async def _rows(self, uow: UnitOfWork, actor: Actor, found: Sequence[Notice]) -> tuple[NoticeRow, ...]:
        """Those whose repository the reader may still see."""
        rows = []
        for notice in found:
            repo = await uow.repos.get(notice.repo_id)
            if repo is not None and policy.allowed(actor, Action.VIEW, repo):
                rows.append(self._row(notice, repo))
        return tuple(rows)

    def _row(self, notice: Notice, repo: Repo) -> NoticeRow:
        tone, label = SAYS[notice.kind]
        return NoticeRow(
            notice.topic, tone, label, repo.full_name, self._leads(notice, repo), notice.at, notice.actor, notice.title, notice.words,
            notice.number, notice.count, notice.read_at is not None,
        )  # fmt: skip

    def _leads(self, notice: Notice, repo: Repo) -> str:
        if notice.number:
            return f"{self.base(repo)}/discussions/{notice.number}"
        tail = {
            NoticeKind.BUILD_FAILED: "/logs?which=build",
            NoticeKind.APP_FAILED: "/logs?which=run",
            NoticeKind.ACCESS_ASKED: "/settings#gate",
        }
        return self.base(repo) + tail.get(notice.kind, "")

    async def open_notice(self, actor: Actor, topic: str) -> str:
        """Read from now on; the address that it leads to."""
        user = policy.require_user(actor)
        async with self.d.uow.write() as uow:
            found = await uow.notices.get(user.id, topic)
            repo = await uow.repos.get(found.repo_id) if found else None
            if found is None or repo is None or not policy.allowed(actor, Action.VIEW, repo):
                raise NotFound("There is no such notification.")
            await self._mark(uow, user, [topic], read=True)
        return self._leads(found, repo)

    async def mark_notices(self, actor: Actor, topics: Sequence[str] | None, read: bool) -> None:
        user = policy.require_user(actor)
        async with self.d.uow.write() as uow:
            await self._mark(uow, user, topics, read=read)

    async def _mark(self, uow: UnitOfWork, user: Account, topics: Sequence[str] | None, *, read: bool) -> None:
        if await uow.notices.mark(user.id, self.d.clock.now() if read else None, topics):
            uow.after_commit(lambda: self.d.signals.notify("notices", user.id))

    async def unread_notices(self, actor: Actor) -> int:
        if actor.user is None:
            return 0
        async with self.d.uow.read() as uow:
            return await uow.notices.count(actor.user.id, unread_only=True)

    async def _is_signed_in(self, user: Account, actor: Actor) -> bool:
        if actor.session is None:
            return False
        async with self.d.uow.read() as uow:
            return any(s.id == actor.session.id for s in await uow.tokens.sessions_of(user.id))

    async def follow_notices(self, actor: Actor) -> AsyncIterator[int | None]:
        """How many are unread: at once, and again whenever it changes; None as a sign of life."""
        user = policy.require_user(actor)
        async with self.live.listener(user.id) as event:
            said = None
            while await self._is_signed_in(user, actor):
                unread = await self.unread_notices(actor)
                if unread != said:
                    said = unread
                    yield unread
                quiet = 0
                while not await changed(event):
                    yield None
                    quiet += 1
                    if quiet == LOOK_EVERY:
                        break
