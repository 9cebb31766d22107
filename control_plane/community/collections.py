"""Collections: an account's named, ordered lists of repositories. One document each, with its items inside.

Items point at repositories by their id, so they follow renames, and vanish with what they point at. What a reader may not
see is left out for them.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from control_plane.community.noted import note
from control_plane.domain.accounts import Account, Actor
from control_plane.domain.errors import Conflict, NotFound, Rejected
from control_plane.domain.ids import new_id
from control_plane.ports.stores import UnitOfWork

KIND = "collection"
THEMES = ("orange", "blue", "green", "purple", "pink", "indigo")
MAX_PER_OWNER, MAX_ITEMS, MAX_NOTE = 1000, 1000, 500
_MAX_TITLE, _MAX_DESCRIPTION = 59, 150  # characters, as on the public service


@dataclass(frozen=True, slots=True)
class Item:
    """`target` is the id of a repository, or of a collection when `type` is "collection"."""

    id: str
    type: str
    target: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Collection:
    id: str
    owner_id: str
    title: str
    description: str
    is_private: bool
    theme: str
    position: int
    updated_at: str
    items: tuple[Item, ...] = field(default_factory=tuple)

    @property
    def name(self) -> str:
        """The second part of the slug; its last 24 characters alone find the collection."""
        words = re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")
        return f"{words}-{self.id}" if words else self.id


def _load(body: dict[str, Any]) -> Collection:
    return Collection(**{**body, "items": tuple(Item(**i) for i in body["items"])})


async def save(uow: UnitOfWork, collection: Collection, now: datetime) -> Collection:
    fresh = replace(collection, updated_at=now.isoformat())
    await uow.documents.put(KIND, fresh.id, fresh.owner_id, asdict(fresh))
    return fresh


async def of_owner(uow: UnitOfWork, owner: Account) -> list[Collection]:
    return sorted((_load(b) for b in await uow.documents.list(KIND, owner.id)), key=lambda c: c.position)


async def every(uow: UnitOfWork) -> list[Collection]:
    return [_load(b) for b in await uow.documents.list(KIND)]


async def find(uow: UnitOfWork, collection_id: str) -> Collection | None:
    body = await uow.documents.get(KIND, collection_id)
    return _load(body) if body else None


async def noted(uow: UnitOfWork, actor: Actor, verb: str, owner: Account, collection: Collection, now: datetime, **facts: object) -> None:
    """The audit line of a change: `verb` is create, update, delete, add_item, update_item or remove_item."""
    await note(uow, actor, f"collection.{verb}", f"collection:{owner.name}/{collection.name}", facts, now)


def changes_of(old: Collection, fresh: Collection) -> dict[str, object]:
    """What an edit changed, before and after."""
    pairs = {name: (getattr(old, name), getattr(fresh, name)) for name in ("title", "description", "is_private", "theme", "position")}
    return {name: {"before": before, "after": after} for name, (before, after) in pairs.items() if before != after}


def checked_title(title: str) -> str:
    title = title.strip()
    if not 0 < len(title) <= _MAX_TITLE or not title.isprintable():
        raise Rejected(f"the title of a collection has 1 to {_MAX_TITLE} characters")
    return title


def checked_description(text: str) -> str:
    if len(text) > _MAX_DESCRIPTION:
        raise Rejected(f"the description of a collection has at most {_MAX_DESCRIPTION} characters; this one has {len(text)}")
    return text


def checked_note(text: str) -> str:
    if len(text) > MAX_NOTE:
        raise Rejected(f"a note has at most {MAX_NOTE} characters; this one has {len(text)}")
    return text


async def create(uow: UnitOfWork, now: datetime, owner: Account, title: str, description: str, *, is_private: bool) -> Collection:
    """Conflict with `slug` among its facts when the owner has one of that title."""
    title, description = checked_title(title), checked_description(description)
    there = await of_owner(uow, owner)
    if same := next((c for c in there if c.title.lower() == title.lower()), None):
        raise Conflict("This collection exists already", facts={"slug": f"{owner.name}/{same.name}"})
    if len(there) >= MAX_PER_OWNER:
        raise Rejected(f"{owner.name} has {MAX_PER_OWNER} collections already; delete some first")
    made = Collection(new_id(), owner.id, title, description, is_private, THEMES[len(there) % len(THEMES)], len(there), now.isoformat())
    return await save(uow, made, now)


async def move(uow: UnitOfWork, now: datetime, collection: Collection, owner: Account, position: int) -> Collection:
    """To that place among the owner's collections; the others close up."""
    order = [c for c in await of_owner(uow, owner) if c.id != collection.id]
    order.insert(max(0, min(position, len(order))), collection)
    for place, one in enumerate(order):
        if one.id == collection.id:
            collection = await save(uow, replace(one, position=place), now)
        elif one.position != place:
            await uow.documents.put(KIND, one.id, one.owner_id, asdict(replace(one, position=place)))
    return collection


def with_item(collection: Collection, type: str, target: str, note: str) -> Collection:
    if any(i.type == type and i.target == target for i in collection.items):
        raise Conflict("This item is in the collection already")
    if len(collection.items) >= MAX_ITEMS:
        raise Rejected(f"a collection has at most {MAX_ITEMS} items")
    return replace(collection, items=(*collection.items, Item(new_id(), type, target, checked_note(note))))


def item_of(collection: Collection, item_id: str) -> Item:
    found = next((i for i in collection.items if i.id == item_id), None)
    if found is None:
        raise NotFound("there is no such item in this collection")
    return found


def with_changed_item(collection: Collection, item_id: str, *, note: str | None, position: int | None) -> Collection:
    old = item_of(collection, item_id)
    items = list(collection.items)
    at = items.index(old)
    items[at] = replace(old, note=checked_note(note)) if note is not None else old
    if position is not None:
        items.insert(max(0, min(position, len(items) - 1)), items.pop(at))
    return replace(collection, items=tuple(items))


def without_item(collection: Collection, item_id: str) -> Collection:
    gone = item_of(collection, item_id)
    return replace(collection, items=tuple(i for i in collection.items if i != gone))
