"""Who is told what: comments and pull requests where people own or talk, and what went wrong with their Spaces.

Discussions tell in the transaction that changes them. What happens to Spaces is read from their story (`SpaceNotices`):
builder and scheduler write events and know nothing of readers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from control_plane.background import ended
from control_plane.domain.accounts import Account, AccountKind, OrgRole
from control_plane.domain.errors import VitrineError
from control_plane.domain.ids import AccountId, BuildId, RepoId
from control_plane.domain.notices import KEPT_DAYS, Notice, NoticeKind, discussion_topic, space_topic
from control_plane.domain.reasons import Reason
from control_plane.domain.spaces import Repo, SpaceEvent, Visibility
from control_plane.ports.clock import Clock
from control_plane.ports.signals import Signals
from control_plane.ports.stores import UnitOfWork, UnitOfWorkFactory

TOPIC = "notices"  # of `Signals`; the key is the account's id
_WORDS_MAX = 240
_MENTION = re.compile(r"(?<![\w@/.-])@([A-Za-z0-9][A-Za-z0-9_.-]{0,95})")
_MENTIONS_MAX = 10
_LOOK_S = 30.0  # a lost hint costs this long
_BATCH = 500
_CURSOR_KIND, _CURSOR_KEY = "notice-cursor", "events"
_DAY_S = 86400.0

log = logging.getLogger("vitrine.notices")


async def keepers(uow: UnitOfWork, repo: Repo) -> list[Account]:
    """Who looks after a repository: its owner, or the members of the organisation that may write there."""
    owner = await uow.accounts.get(repo.owner_id)
    if owner is None:
        return []
    if owner.kind is AccountKind.USER:
        return [owner]
    return [user for user, role in await uow.accounts.members(owner.id) if role.includes(OrgRole.WRITE)]


async def of_discussion(uow: UnitOfWork, signals: Signals, repo: Repo, notice: Notice, names: Iterable[str], text: str = "") -> None:
    """Tell the keepers, the people of the discussion (`names`), and who is mentioned in `text`; never the one who did it.

    `notice` holds what happened; its account is filled in here.
    """
    found = {user.id: user for user in await keepers(uow, repo)}
    mentioned: set[AccountId] = set()
    called = list(dict.fromkeys(name.rstrip(".-_") for name in _MENTION.findall(text)))[:_MENTIONS_MAX]
    for name in {*names, *called}:
        user = await uow.accounts.by_name(name)
        if user is not None and user.kind is AccountKind.USER and await _may_read(uow, user, repo):
            found[user.id] = user
            if name in called:
                mentioned.add(user.id)
    for user in found.values():
        if user.name != notice.actor and not user.is_suspended:
            kind = NoticeKind.MENTION if user.id in mentioned and notice.kind is NoticeKind.COMMENT else notice.kind
            await tell(uow, signals, replace(notice, account_id=user.id, kind=kind))


def discussion_notice(repo: Repo, number: int, title: str, kind: NoticeKind, actor: str, at: datetime, text: str = "") -> Notice:
    """For `of_discussion`: to nobody yet."""
    words = " ".join(text.split())[:_WORDS_MAX]
    return Notice(AccountId(""), discussion_topic(repo.id, number), kind, repo.id, at, actor, title, words, number)


async def of_asked(uow: UnitOfWork, signals: Signals, repo: Repo, asker: Account, at: datetime) -> None:
    """Somebody waits before the gate: tell its keepers."""
    kind = NoticeKind.ACCESS_ASKED
    for user in await keepers(uow, repo):
        if not user.is_suspended:
            await tell(uow, signals, Notice(user.id, space_topic(kind, repo.id), kind, repo.id, at, asker.name))


async def of_decided(uow: UnitOfWork, signals: Signals, repo: Repo, asker: AccountId, *, accepted: bool, reason: str, at: datetime) -> None:
    """Tell who asked. The authors speak as one, so no name of theirs is given."""
    kind = NoticeKind.ACCESS_ACCEPTED if accepted else NoticeKind.ACCESS_REJECTED
    words = " ".join(reason.split())[:_WORDS_MAX]
    await tell(uow, signals, Notice(asker, space_topic(kind, repo.id), kind, repo.id, at, words=words))


async def tell(uow: UnitOfWork, signals: Signals, notice: Notice) -> None:
    await uow.notices.tell(notice)
    uow.after_commit(lambda: signals.notify(TOPIC, notice.account_id))


async def _may_read(uow: UnitOfWork, user: Account, repo: Repo) -> bool:
    if repo.visibility is Visibility.PUBLIC or user.is_admin or repo.owner_id == user.id:
        return True
    return any(org.id == repo.owner_id for org, _ in await uow.accounts.memberships(user.id))


@dataclass
class SpaceNotices:
    """Turns the story of Spaces into notices for their keepers. Several processes may run it; each event is told once."""

    uow: UnitOfWorkFactory
    clock: Clock
    signals: Signals

    def __post_init__(self) -> None:
        self._after: int | None = None

    async def run(self) -> None:
        """Until cancelled: at once when something happened, else every half minute. Old notices go once a day."""
        news = asyncio.Event()
        listener = asyncio.create_task(self._listen(news))
        pruned = -_DAY_S
        try:
            while True:
                try:
                    await self.once()
                    if self.clock.monotonic() - pruned >= _DAY_S:
                        pruned = self.clock.monotonic()
                        async with self.uow.write() as uow:
                            await uow.notices.prune(self.clock.now() - timedelta(days=KEPT_DAYS))
                except VitrineError as error:
                    log.warning("notices.failed", extra={"error": error.code, "detail": error.message})
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), _LOOK_S)
                news.clear()
        finally:
            await ended(listener)

    async def _listen(self, news: asyncio.Event) -> None:
        async for _ in self.signals.subscribe("events", "builds"):
            news.set()

    async def once(self) -> int:
        """Everything that happened since the last time; gives how many notices were written. The first time only begins."""
        if self._after is None:
            self._after = await self._begin()
        told = 0
        while True:
            async with self.uow.read() as uow:
                events = await uow.events.since(self._after, _BATCH)
            if not events:
                return told
            worth = [event for event in events if _kind(event) is not None]
            if worth:
                told += await self._tell(worth, events[-1].id)
            self._after = events[-1].id

    async def _begin(self) -> int:
        async with self.uow.write() as uow:
            body = await uow.documents.get(_CURSOR_KIND, _CURSOR_KEY)
            if body is not None:
                return int(body["after"])
            newest = await uow.events.last_id()
            await uow.documents.put(_CURSOR_KIND, _CURSOR_KEY, "", {"after": newest})
        return newest

    async def _tell(self, events: Collection[SpaceEvent], last: int) -> int:
        told = 0
        async with self.uow.write() as uow:
            body = await uow.documents.get(_CURSOR_KIND, _CURSOR_KEY)
            done = int(body["after"]) if body else 0  # another process may have been faster
            for event in events:
                if event.id > done:
                    told += await self._tell_one(uow, event)
            await uow.documents.put(_CURSOR_KIND, _CURSOR_KEY, "", {"after": max(last, done)})
        return told

    async def _tell_one(self, uow: UnitOfWork, event: SpaceEvent) -> int:
        kind, repo = _kind(event), await uow.repos.get(RepoId(event.space_id))
        if kind is None or repo is None:
            return 0
        title = ""
        if kind is NoticeKind.BUILD_FAILED:
            build = await uow.builds.get(BuildId(str(event.facts.get("build_id", ""))))
            title = build.commit_title if build else ""
        reason = str(event.facts.get("reason", ""))
        words = str(event.facts.get("message", "")) or (Reason(reason).words if reason in set(Reason) else "")
        readers = await keepers(uow, repo)
        for user in readers:
            notice = Notice(user.id, space_topic(kind, repo.id), kind, repo.id, event.at, "", title, words[:_WORDS_MAX])
            await tell(uow, self.signals, notice)
        return len(readers)


_APP_REASONS = frozenset(r.value for r in Reason if r.value.startswith("APP_"))


def _kind(event: SpaceEvent) -> NoticeKind | None:
    """What an event is worth telling as; None for most. An app that is started again after its node went is not a failure."""
    reason = event.facts.get("reason")
    if event.kind == "build.failed":
        return NoticeKind.BUILD_FAILED
    if event.kind == "deploy.failed" or (event.kind == "replica.failed" and reason in _APP_REASONS):
        return NoticeKind.APP_FAILED
    if event.kind == "sleep" and reason == Reason.QUOTA.value:
        return NoticeKind.QUOTA
    return None
