"""Discussions and pull requests as documents: their typed face, and the steps that change them.

One document per discussion, with its events inside; numbers are shared by discussions and pull requests of a repository.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from control_plane.domain.accounts import Account
from control_plane.domain.errors import NotFound, Rejected
from control_plane.domain.ids import RepoId, Sha, new_id
from control_plane.domain.spaces import Repo
from control_plane.ports.clock import Clock
from control_plane.ports.git import GitStore
from control_plane.ports.stores import UnitOfWork, UnitOfWorkFactory

KIND = "discussion"
STATUSES = ("draft", "open", "closed", "merged")
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


async def create(
    uow: UnitOfWork, at: datetime, repo: Repo, user: Account, title: str, description: str, *, is_pull: bool, base: str = ""
) -> Discussion:
    """A pull request made by the API starts as a draft, a discussion open."""
    number = await uow.documents.next_number(KIND, repo.id)
    events = (comment_event(at, user, description),) if description.strip() else ()
    made = Discussion(
        repo.id, number, checked_title(title[:200]), "draft" if is_pull else "open", is_pull, user.name, stamp(at), base=base, events=events
    )
    await save(uow, made)
    return made


@dataclass(frozen=True, slots=True)
class Desk:
    """The ports that whole steps on discussions need."""

    uow: UnitOfWorkFactory
    clock: Clock
    git: GitStore

    async def open_pull(self, repo: Repo, user: Account, title: str, description: str, head: Sha) -> Discussion:
        """A pull request whose ref starts at `head`."""
        async with self.uow.write() as uow:
            pull = await create(uow, self.clock.now(), repo, user, title, description, is_pull=True, base=head)
        await self.git.set_ref(repo.id, pull.ref, head)
        return pull

    async def undo_pull(self, repo: Repo, num: int) -> None:
        """Take back a pull request whose first commit was refused."""
        await self.git.set_ref(repo.id, f"refs/pr/{num}", None)
        async with self.uow.write() as uow:
            await uow.documents.remove(KIND, _key(repo.id, num))

    async def note_commit(self, repo: Repo, num: int, user: Account, subject: str, oid: Sha) -> None:
        async with self.uow.write() as uow:
            found = await find(uow, repo.id, num)
            if found is not None:
                status = "open" if found.status == "draft" else found.status
                event = plain_event(self.clock.now(), user, "commit", {"subject": subject, "oid": oid})
                await save(uow, with_event(found, event, status=status))

    async def comment(self, repo: Repo, num: int, user: Account, text: str) -> tuple[Discussion, Event]:
        event = comment_event(self.clock.now(), user, text)
        return await self._add(repo, num, event)

    async def rename(self, repo: Repo, num: int, user: Account, title: str) -> tuple[Discussion, Event]:
        title = checked_title(title)
        async with self.uow.read() as uow:
            old = (await need(uow, repo.id, num)).title
        return await self._add(repo, num, plain_event(self.clock.now(), user, "title-change", {"from": old, "to": title}), title=title)

    async def set_status(self, repo: Repo, num: int, user: Account, status: str, comment: str = "") -> tuple[Discussion, Event]:
        """Open or close. A merged pull request stays merged."""
        if status not in ("open", "closed"):
            raise Rejected(f"status: '{status[:40]}' is not one of open, closed")
        async with self.uow.read() as uow:
            if (await need(uow, repo.id, num)).status == "merged":
                raise Rejected("this pull request is merged; open a new one for further changes")
        if comment.strip():
            await self.comment(repo, num, user, comment)
        return await self._add(repo, num, plain_event(self.clock.now(), user, "status-change", {"status": status}), status=status)

    async def _add(self, repo: Repo, num: int, event: Event, **changes: Any) -> tuple[Discussion, Event]:
        async with self.uow.write() as uow:
            changed = with_event(await need(uow, repo.id, num), event, **changes)
            await save(uow, changed)
        return changed, event

    async def change_comment(self, repo: Repo, num: int, user: Account, event_id: str, text: str | None) -> Event:
        """Edit a comment (`text`), or hide it for good (None). The caller has checked who may."""
        now = stamp(self.clock.now())
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
        return changed

    async def mark_merged(self, repo: Repo, num: int, user: Account, commit: Sha, comment: str = "") -> Discussion:
        if comment.strip():
            await self.comment(repo, num, user, comment)
        event = plain_event(self.clock.now(), user, "status-change", {"status": "merged"})
        return (await self._add(repo, num, event, status="merged", merge_commit=commit))[0]
