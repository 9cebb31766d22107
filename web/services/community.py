"""Discussions and pull requests, kept by the same steps that the Hub API uses: `community.discussions`, `.pulls`, `.previews`."""

from __future__ import annotations

from datetime import UTC, datetime

from control_plane.accounts import gates, policy
from control_plane.community import discussions
from control_plane.community.discussions import Desk, Discussion, Event
from control_plane.community.previews import Previews
from control_plane.community.pulls import MAIN, PullRequests
from control_plane.domain.accounts import Account, Action, Actor
from control_plane.domain.errors import Forbidden, Rejected, RevisionNotFound
from control_plane.domain.ids import SpaceId
from control_plane.domain.spaces import Repo, RepoType
from web.services.deps import Base
from web.services.stages import card
from web.views import DiscussionEntry, DiscussionPage, DiscussionRow, SpaceCard

OPEN = ("open", "draft")


class CommunityFamily(Base):
    @property
    def desk(self) -> Desk:
        return Desk(self.d.uow, self.d.clock, self.d.git, self.d.signals)

    @property
    def pulls(self) -> PullRequests:
        return PullRequests(self.desk, self.d.actions)

    @property
    def previews(self) -> Previews:
        return Previews(self.d.uow, self.d.git, self.d.actions)

    async def discussions(self, actor: Actor, kind: RepoType, owner: str, name: str) -> tuple[DiscussionRow, ...]:
        async with self.d.uow.read() as uow:
            repo = await self.find(uow, actor, kind, owner, name, Action.READ_CODE)
            return tuple(_row(d) for d in await discussions.of_repo(uow, repo.id))

    async def discussion(self, actor: Actor, kind: RepoType, owner: str, name: str, number: int) -> DiscussionPage:
        async with self.d.uow.read() as uow:
            repo = await self.find(uow, actor, kind, owner, name, Action.READ_CODE)
            asked = await gates.request_of(uow, actor, Action.READ_FILES, repo)
            found = await discussions.need(uow, repo.id, number)
            preview = await self.previews.find(uow, repo, number) if found.is_pull else None
        shows_files = policy.allowed(actor, Action.READ_FILES, repo, asked)
        diff, conflicts = await self._changes(repo, found) if shows_files else ("", ())
        may_write = policy.allowed(actor, Action.WRITE, repo)
        own = actor.user is not None and found.author == actor.user.name
        is_open = found.is_pull and found.status in OPEN
        return DiscussionPage(
            _row(found), tuple(e for e in map(_entry, found.events) if e is not None), policy.allowed(actor, Action.DISCUSS, repo),
            (may_write or own) and found.status != "merged", is_open and may_write and not conflicts, diff, conflicts,
            await self._preview_card(actor, preview) if preview else None,
            is_open and may_write and kind is RepoType.SPACE and preview is None,
        )  # fmt: skip

    async def _changes(self, repo: Repo, pull: Discussion) -> tuple[str, tuple[str, ...]]:
        """What an open pull request changes, and the files that main changed too. A merged one shows its commit's diff."""
        if not pull.is_pull:
            return "", ()
        try:
            if pull.status == "merged":
                return (
                    await self.d.git.diff(repo.id, await self.d.git.resolve(repo.id, pull.merge_commit)) if pull.merge_commit else ""
                ), ()
            return await self.pulls.diff(repo, pull), tuple((await self.pulls.plan(repo, pull))[1])
        except RevisionNotFound:  # its ref was deleted with git
            return "", ()

    async def _preview_card(self, actor: Actor, repo: Repo) -> SpaceCard | None:
        if not policy.allowed(actor, Action.VIEW, repo):
            return None
        async with self.d.uow.read() as uow:
            space = await uow.spaces.get(SpaceId(repo.id))
        return card(repo, space, await self.d.actions.runtime_view(space)) if space else None

    async def open_discussion(self, actor: Actor, kind: RepoType, owner: str, name: str, title: str, text: str) -> int:
        repo, _ = await self._speaker(actor, kind, owner, name)
        made = await self.desk.open(repo, actor, title, text)
        await self.d.discussed(repo, made, "create", None)
        return made.num

    async def comment(self, actor: Actor, kind: RepoType, owner: str, name: str, number: int, text: str) -> None:
        repo, _ = await self._speaker(actor, kind, owner, name)
        await self._say(repo, number, actor, text)

    async def _say(self, repo: Repo, number: int, actor: Actor, text: str) -> None:
        found, event = await self.desk.comment(repo, number, actor, text)
        await self.d.discussed(repo, found, "create", event)

    async def set_discussion_status(
        self, actor: Actor, kind: RepoType, owner: str, name: str, number: int, status: str, comment: str = ""
    ) -> None:
        if status == "merged":
            user = policy.require_user(actor, write=True)
            repo = await self.repo_for(actor, kind, owner, name, Action.WRITE)
            done = await self.pulls.merge(actor, user, repo, number, comment)
            await self.d.moved(repo, MAIN, done.before, done.commit)
            await self.d.discussed(repo, done.pull, "update", None)
        else:
            repo, user = await self._speaker(actor, kind, owner, name)
            async with self.d.uow.read() as uow:
                found = await discussions.need(uow, repo.id, number)
            if found.author != user.name and not policy.allowed(actor, Action.WRITE, repo):
                raise Forbidden("Only its author and people with write rights may close or open it.")
            if found.status == status:
                if comment.strip():
                    await self._say(repo, number, actor, comment)
                return
            changed, _ = await self.desk.set_status(repo, number, actor, status, comment)
            await self.d.discussed(repo, changed, "update", None)
        if status != "open":
            await self.previews.remove(actor, repo, number)

    async def _speaker(self, actor: Actor, kind: RepoType, owner: str, name: str) -> tuple[Repo, Account]:
        user = policy.require_user(actor, write=True)
        repo = await self.repo_for(actor, kind, owner, name, Action.DISCUSS)
        if repo.discussions_disabled:
            raise Rejected("Discussions are switched off for this repository.")
        return repo, user

    async def start_preview(self, actor: Actor, owner: str, name: str, number: int) -> None:
        repo = await self.repo_for(actor, RepoType.SPACE, owner, name, Action.WRITE)
        async with self.d.uow.read() as uow:
            pull = await discussions.need(uow, repo.id, number)
        await self.previews.start(actor, repo, pull)

    async def stop_preview(self, actor: Actor, owner: str, name: str, number: int) -> None:
        repo = await self.repo_for(actor, RepoType.SPACE, owner, name, Action.WRITE)
        await self.previews.remove(actor, repo, number)


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)


def _row(found: Discussion) -> DiscussionRow:
    comments = sum(e.type == "comment" for e in found.events)
    return DiscussionRow(found.num, found.title, found.author, found.status, found.is_pull, _at(found.created_at), comments)


def _entry(event: Event) -> DiscussionEntry | None:
    data, at = event.data, _at(event.created_at)
    if event.type == "comment":
        return DiscussionEntry("comment", event.author, at, str(data.get("latest", {}).get("raw", "")), bool(data.get("hidden")))
    if event.type == "status-change":
        status = str(data.get("status", ""))
        return DiscussionEntry("status", event.author, at, "reopened" if status == "open" else status)
    if event.type == "commit":
        return DiscussionEntry("commit", event.author, at, str(data.get("subject", "")))
    if event.type == "title-change":
        return DiscussionEntry("title", event.author, at, str(data.get("to", "")))
    return None
