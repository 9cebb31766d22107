"""Discussions and pull requests as documents: their typed face, and the steps that change them.

One document per discussion, with its events inside; numbers are shared by discussions and pull requests of a repository.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from control_plane.community import notices
from control_plane.community.noted import note, repo_subject
from control_plane.domain.accounts import Account, Actor
from control_plane.domain.errors import NotFound, NotSignedIn, Rejected
from control_plane.domain.ids import RepoId, Sha, new_id
from control_plane.domain.notices import NoticeKind
from control_plane.domain.spaces import Repo
from control_plane.ports.clock import Clock
from control_plane.ports.git import GitStore
from control_plane.ports.signals import Signals
from control_plane.ports.stores import UnitOfWork, UnitOfWorkFactory

KIND = "discussion"
_MAX_EVENTS = 5000
_MAX_TEXT = 65_536


@dataclass(frozen=True, slots=True)
class Event:
    """`type`: comment, status-change, commit, title-change. `data` is as the wire contract has it."""

    id: str
    type: str
    created_at: str
    author: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Discussion:
    repo_id: str
    num: int
    title: str
    status: str
    is_pull: bool
    author: str
    created_at: str
    base: str = ""
    merge_commit: str = ""
    events: tuple[Event, ...] = field(default_factory=tuple)

    @property
    def ref(self) -> str:
        return f"refs/pr/{self.num}"


def _key(repo_id: str, num: int | str) -> str:
    return f"{repo_id}/{num}"


def _load(body: dict[str, Any]) -> Discussion:
    return Discussion(**{**body, "events": tuple(Event(**e) for e in body["events"])})


def stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


async def find(uow: UnitOfWork, repo_id: RepoId, num: int | str) -> Discussion | None:
    body = await uow.documents.get(KIND, _key(repo_id, num)) if str(num).isascii() and str(num).isdigit() else None
    return _load(body) if body else None


async def need(uow: UnitOfWork, repo_id: RepoId, num: int) -> Discussion:
    found = await find(uow, repo_id, num)
    if found is None:
        raise NotFound(f"there is no discussion #{num} in this repository")
    return found


async def of_repo(uow: UnitOfWork, repo_id: RepoId) -> list[Discussion]:
    """Newest first."""
    return sorted((_load(b) for b in await uow.documents.list(KIND, repo_id)), key=lambda d: -d.num)


async def save(uow: UnitOfWork, discussion: Discussion) -> None:
    body = asdict(discussion)
    body["events"] = [asdict(e) for e in discussion.events]
    await uow.documents.put(KIND, _key(discussion.repo_id, discussion.num), discussion.repo_id, body)


def checked_title(title: str) -> str:
    title = title.strip()
    if not 0 < len(title) <= 200:
        raise Rejected("a title has 1 to 200 characters")
    return title


def comment_event(at: datetime, user: Account, text: str) -> Event:
    if not text.strip() or len(text) > _MAX_TEXT:
        raise Rejected(f"a comment has 1 to {_MAX_TEXT} characters")
    when = stamp(at)
    latest = {"raw": text, "html": "", "updatedAt": when, "author": {"name": user.name}}
    return Event(new_id(), "comment", when, user.name, {"edited": False, "hidden": False, "latest": latest, "history": []})


def plain_event(at: datetime, user: Account, type: str, data: dict[str, Any]) -> Event:
    return Event(new_id(), type, stamp(at), user.name, data)


def with_event(discussion: Discussion, event: Event, **changes: Any) -> Discussion:
    if len(discussion.events) >= _MAX_EVENTS:
        raise Rejected(f"this discussion has {_MAX_EVENTS} entries already; open a new one")
    return replace(discussion, events=(*discussion.events, event), **changes)


def _person(actor: Actor) -> Account:
    if actor.user is None:
        raise NotSignedIn()
    return actor.user


async def create(
    uow: UnitOfWork,
    at: datetime,
    repo: Repo,
    actor: Actor,
    title: str,
    description: str,
    *,
    is_pull: bool,
    base: str = "",
    with_commit: bool = False,
) -> Discussion:
    """A pull request made by the API starts as a draft, a discussion open.

    `with_commit`: a commit to its ref is made by the same request, and the audit line of that commit tells of both.
    """
    user = _person(actor)
    number = await uow.documents.next_number(KIND, repo.id)
    events = (comment_event(at, user, description),) if description.strip() else ()
    made = Discussion(
        repo.id, number, checked_title(title[:200]), "draft" if is_pull else "open", is_pull, user.name, stamp(at), base=base, events=events
    )
    await save(uow, made)
    if not with_commit:
        await note(uow, actor, "discussion.create", repo_subject(repo), {"num": number, "pull_request": is_pull, "title": made.title}, at)
    return made


@dataclass(frozen=True, slots=True)
class Desk:
    """The ports that whole steps on discussions need."""

    uow: UnitOfWorkFactory
    clock: Clock
    git: GitStore
    signals: Signals

    async def open(self, repo: Repo, actor: Actor, title: str, text: str) -> Discussion:
        now = self.clock.now()
        async with self.uow.write() as uow:
            made = await create(uow, now, repo, actor, title, text, is_pull=False)
            await self._tell(uow, repo, made, NoticeKind.DISCUSSION_OPENED, actor, now, text)
        return made

    async def _tell(
        self, uow: UnitOfWork, repo: Repo, about: Discussion, kind: NoticeKind, actor: Actor, at: datetime, text: str = ""
    ) -> None:
        """Those who own the repository or talk here, in the transaction of the change."""
        notice = notices.discussion_notice(repo, about.num, about.title, kind, actor.name, at, text)
        await notices.of_discussion(uow, self.signals, repo, notice, {about.author, *(e.author for e in about.events)}, text)

    async def open_pull(
        self, repo: Repo, actor: Actor, title: str, description: str, head: Sha, *, with_commit: bool = False
    ) -> Discussion:
        """A pull request whose ref starts at `head`. `with_commit`: see `create`."""
        now = self.clock.now()
        async with self.uow.write() as uow:
            pull = await create(uow, now, repo, actor, title, description, is_pull=True, base=head, with_commit=with_commit)
            if not with_commit:  # else its first commit tells; it may be refused yet
                await self._tell(uow, repo, pull, NoticeKind.PULL_OPENED, actor, now, description)
        await self.git.set_ref(repo.id, pull.ref, head)
        return pull

    async def undo_pull(self, repo: Repo, num: int) -> None:
        """Take back a pull request whose first commit was refused."""
        await self.git.set_ref(repo.id, f"refs/pr/{num}", None)
        async with self.uow.write() as uow:
            await uow.documents.remove(KIND, _key(repo.id, num))

    async def note_commit(self, repo: Repo, num: int, actor: Actor, subject: str, oid: Sha) -> None:
        now = self.clock.now()
        async with self.uow.write() as uow:
            found = await find(uow, repo.id, num)
            if found is not None:
                status = "open" if found.status == "draft" else found.status
                event = plain_event(now, _person(actor), "commit", {"subject": subject, "oid": oid})
                await save(uow, with_event(found, event, status=status))
                if found.status == "draft":
                    await self._tell(uow, repo, found, NoticeKind.PULL_OPENED, actor, now)

    async def comment(self, repo: Repo, num: int, actor: Actor, text: str) -> tuple[Discussion, Event]:
        now = self.clock.now()
        event = comment_event(now, _person(actor), text)
        async with self.uow.write() as uow:
            changed = with_event(await need(uow, repo.id, num), event)
            await save(uow, changed)
            await note(uow, actor, "discussion.comment", repo_subject(repo), {"num": num, "comment": event.id}, now)
            await self._tell(uow, repo, changed, NoticeKind.COMMENT, actor, now, text)
        return changed, event

    async def rename(self, repo: Repo, num: int, actor: Actor, title: str) -> tuple[Discussion, Event]:
        now, title = self.clock.now(), checked_title(title)
        async with self.uow.write() as uow:
            old = await need(uow, repo.id, num)
            event = plain_event(now, _person(actor), "title-change", {"from": old.title, "to": title})
            changed = with_event(old, event, title=title)
            await save(uow, changed)
            await note(uow, actor, "discussion.rename", repo_subject(repo), {"num": num, "before": old.title, "after": title}, now)
        return changed, event

    async def set_status(self, repo: Repo, num: int, actor: Actor, status: str, comment: str = "") -> tuple[Discussion, Event]:
        """Open or close, with a comment before it when there is one. A merged pull request stays merged."""
        if status not in ("open", "closed"):
            raise Rejected(f"status: '{status[:40]}' is not one of open, closed")
        async with self.uow.write() as uow:
            if (await need(uow, repo.id, num)).status == "merged":
                raise Rejected("this pull request is merged; open a new one for further changes")
            return await self._turn(uow, repo, num, actor, status, comment)

    async def _turn(
        self, uow: UnitOfWork, repo: Repo, num: int, actor: Actor, status: str, comment: str, *, audited: bool = True, **changes: Any
    ) -> tuple[Discussion, Event]:
        now, user, old = self.clock.now(), _person(actor), await need(uow, repo.id, num)
        changed = with_event(old, comment_event(now, user, comment)) if comment.strip() else old
        event = plain_event(now, user, "status-change", {"status": status})
        changed = with_event(changed, event, status=status, **changes)
        await save(uow, changed)
        if audited:
            await note(uow, actor, "discussion.status", repo_subject(repo), {"num": num, "before": old.status, "after": status}, now)
        kind = {"merged": NoticeKind.MERGED, "closed": NoticeKind.CLOSED}.get(status, NoticeKind.REOPENED)
        await self._tell(uow, repo, changed, kind, actor, now, comment)
        return changed, event

    async def change_comment(self, repo: Repo, num: int, actor: Actor, event_id: str, text: str | None) -> Event:
        """Edit a comment (`text`), or hide it for good (None). The caller has checked who may."""
        user, at = _person(actor), self.clock.now()
        now = stamp(at)
        async with self.uow.write() as uow:
            discussion = await need(uow, repo.id, num)
            found = next((e for e in discussion.events if e.id == event_id and e.type == "comment"), None)
            if found is None:
                raise NotFound("there is no such comment in this discussion")
            if found.data.get("hidden"):
                raise Rejected("this comment is hidden and cannot be changed")
            if text is not None and (not text.strip() or len(text) > _MAX_TEXT):
                raise Rejected(f"a comment has 1 to {_MAX_TEXT} characters")
            latest = {"raw": text if text is not None else "This comment has been hidden", "html": "", "updatedAt": now}
            data = dict(found.data) | {"latest": latest | {"author": {"name": user.name}}}
            if text is not None:
                data |= {"edited": True, "history": [*found.data.get("history", []), found.data["latest"]][-50:]}
            else:
                data |= {"hidden": True, "hiddenBy": user.name, "history": []}
            changed = replace(found, data=data)
            await save(uow, replace(discussion, events=tuple(changed if e.id == event_id else e for e in discussion.events)))
            verb = "discussion.edit_comment" if text is not None else "discussion.hide_comment"
            await note(uow, actor, verb, repo_subject(repo), {"num": num, "comment": event_id, "author": found.author}, at)
        return changed

    async def mark_merged(self, repo: Repo, num: int, actor: Actor, commit: Sha, comment: str = "", *, moved: bool) -> Discussion:
        """`moved`: main moved by this merge, and the audit line of that tells of it."""
        async with self.uow.write() as uow:
            return (await self._turn(uow, repo, num, actor, "merged", comment, audited=not moved, merge_commit=commit))[0]
