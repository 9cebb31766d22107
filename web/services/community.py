"""Discussions and pull requests, kept by the same steps that the Hub API uses."""

from __future__ import annotations

from datetime import UTC, datetime

from control_plane.accounts import policy
from control_plane.community import discussions
from control_plane.community.discussions import Discussion, Event
from control_plane.domain.accounts import Action, Actor
from control_plane.domain.errors import Forbidden, NotFound, Rejected
from control_plane.domain.spaces import RepoType
from web.services.deps import Base
from web.views import DiscussionEntry, DiscussionPage, DiscussionRow


class CommunityFamily(Base):
    async def discussions(self, actor: Actor, kind: RepoType, owner: str, name: str) -> tuple[DiscussionRow, ...]:
        async with self.d.uow.read() as uow:
            repo = await self.find(uow, actor, kind, owner, name, Action.READ_CODE)
            return tuple(_row(d) for d in await discussions.of_repo(uow, repo.id))

    async def discussion(self, actor: Actor, kind: RepoType, owner: str, name: str, number: int) -> DiscussionPage:
        async with self.d.uow.read() as uow:
            repo = await self.find(uow, actor, kind, owner, name, Action.READ_CODE)
            found = await discussions.find(uow, repo.id, number)
        if found is None:
            raise NotFound("there is no such discussion")
        diff = ""
        if found.is_pull and found.status != "merged" and policy.allowed(actor, Action.READ_CODE, repo):
            refs = {r.ref: r.target for r in await self.d.git.refs(repo.id)}
            head, main = refs.get(found.ref), refs.get("refs/heads/main")
            if head and main:
                diff = await self.d.git.diff(repo.id, head, base=main)
        may_write = policy.allowed(actor, Action.WRITE, repo)
        own = actor.user is not None and found.author == actor.user.name
        return DiscussionPage(
            _row(found), tuple(e for e in map(_entry, found.events) if e is not None), policy.allowed(actor, Action.DISCUSS, repo),
            may_write or own, found.is_pull and found.status in ("open", "draft") and may_write and self.d.merge_pull is not None, diff,
        )  # fmt: skip

    async def open_discussion(self, actor: Actor, kind: RepoType, owner: str, name: str, title: str, text: str) -> int:
        user = policy.require_user(actor, write=True)
        async with self.d.uow.write() as uow:
            repo = await self.find(uow, actor, kind, owner, name, Action.DISCUSS)
            if repo.discussions_disabled:
                raise Rejected("Discussions are switched off for this repository.")
            made = await discussions.create(uow, self.d.clock.now(), repo, user, title, text, is_pull=False)
        return int(made.num)

    async def comment(self, actor: Actor, kind: RepoType, owner: str, name: str, number: int, text: str) -> None:
        user = policy.require_user(actor, write=True)
        async with self.d.uow.write() as uow:
            repo = await self.find(uow, actor, kind, owner, name, Action.DISCUSS)
            found = await discussions.find(uow, repo.id, number)
            if found is None:
                raise NotFound("there is no such discussion")
            await discussions.save(uow, discussions.with_event(found, discussions.comment_event(self.d.clock.now(), user, text)))

    async def set_discussion_status(self, actor: Actor, kind: RepoType, owner: str, name: str, number: int, status: str) -> None:
        user = policy.require_user(actor, write=True)
        if status not in ("open", "closed", "merged"):
            raise Rejected("a discussion is open or closed; a pull request can also be merged")
        if status == "merged":
            repo = await self.repo_for(actor, kind, owner, name, Action.WRITE)
            if self.d.merge_pull is None:
                raise Rejected("Merge it with git: this platform does not merge in the browser.")
            await self.d.merge_pull(actor, repo, number)
            return
        async with self.d.uow.write() as uow:
            repo = await self.find(uow, actor, kind, owner, name, Action.DISCUSS)
            found = await discussions.find(uow, repo.id, number)
            if found is None:
                raise NotFound("there is no such discussion")
            if found.author != user.name and not policy.allowed(actor, Action.WRITE, repo):
                raise Forbidden("Only its author and people with write rights may close or open it.")
            if found.status == status or found.status == "merged":
                return
            event = discussions.plain_event(self.d.clock.now(), user, "status-change", {"status": status})
            await discussions.save(uow, discussions.with_event(found, event, status=status))


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
        return DiscussionEntry("status", event.author, at, str(data.get("status", "")))
    if event.type == "commit":
        return DiscussionEntry("commit", event.author, at, str(data.get("subject", "")))
    if event.type == "title-change":
        return DiscussionEntry("status", event.author, at, str(data.get("to", "")))
    return None
