"""Discussions, pull requests with their previews, collections."""

from __future__ import annotations

from datetime import timedelta

from control_plane.domain.accounts import Actor
from control_plane.domain.errors import NotFound
from control_plane.domain.spaces import RepoType
from tests.fakes.web_backend.world import DIFF, World
from web.views import CollectionPage, CollectionRow, DiscussionEntry, DiscussionPage, DiscussionRow


class Community(World):
    def _row(self) -> DiscussionRow:
        return DiscussionRow(1, self.discussion_title, "mira", "open", False, self.now - timedelta(days=1), 2)

    async def discussions(self, actor: Actor, kind: RepoType, owner: str, name: str) -> tuple[DiscussionRow, ...]:
        return (self._row(), DiscussionRow(2, "Faster search", "bob", "open", True, self.now, 0))

    async def discussion(self, actor: Actor, kind: RepoType, owner: str, name: str, number: int) -> DiscussionPage:
        if number not in (1, 2):
            raise NotFound("no such discussion")
        row = self._row() if number == 1 else DiscussionRow(2, self.any_text or "Faster search", "bob", "open", True, self.now, 0)
        entries = (
            DiscussionEntry("comment", row.author, row.created_at, self.comment_text),
            DiscussionEntry("status", "alice", self.now, "closed"), DiscussionEntry("status", row.author, self.now, "reopened"),
        )  # fmt: skip
        is_pull, may = number == 2, actor.user is not None
        diff = DIFF + (f"+{self.any_text}\n" if self.any_text else "") if is_pull else ""
        return DiscussionPage(row, entries, may, may, is_pull, diff, preview=self._card("alice", "marginalia") if is_pull else None)

    async def open_discussion(self, actor: Actor, kind: RepoType, owner: str, name: str, title: str, text: str) -> int:
        return 1

    async def comment(self, actor: Actor, kind: RepoType, owner: str, name: str, number: int, text: str) -> None:
        self.calls.append(("comment", number, text))

    async def set_discussion_status(
        self, actor: Actor, kind: RepoType, owner: str, name: str, number: int, status: str, comment: str = ""
    ) -> None:
        self.calls.append(("status", number, status))

    async def start_preview(self, actor: Actor, owner: str, name: str, number: int) -> None:
        await self._note(actor, owner, name, "preview", number)

    async def stop_preview(self, actor: Actor, owner: str, name: str, number: int) -> None:
        await self._note(actor, owner, name, "no-preview", number)

    def _list(self) -> CollectionRow:
        words = self.any_text
        return CollectionRow("alice", "reading-room", words or "Reading room", words or "Demos that read", False, "orange", 2, self.now)

    async def collections_of(self, actor: Actor, owner: str) -> tuple[CollectionRow, ...]:
        return (self._list(),) if owner == "alice" else ()

    async def collection(self, actor: Actor, owner: str, slug: str) -> CollectionPage:
        if (owner, slug) != ("alice", "reading-room"):
            raise NotFound("There is no such collection.")
        cards = tuple(self.cards[:2])
        own = actor.user is not None and actor.user.name == owner
        return CollectionPage(self._list(), cards, (), own, {f"{c.owner}/{c.name}".lower(): c.name for c in cards})

    async def collect(self, actor: Actor, kind: RepoType, owner: str, name: str, into: str, title: str) -> str:
        self.calls.append(("collect", owner, name, into or title))
        return "alice/reading-room"

    async def uncollect(self, actor: Actor, owner: str, slug: str, item_id: str) -> None:
        self.calls.append(("uncollect", item_id))

    async def remove_collection(self, actor: Actor, owner: str, slug: str) -> None:
        self.calls.append(("remove-collection", slug))
