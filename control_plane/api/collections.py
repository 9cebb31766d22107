"""Collections over the API: named lists of Spaces, models, datasets and other collections."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from control_plane.accounts import policy
from control_plane.api import views
from control_plane.api.deps import Hub, find_repo, ok
from control_plane.community import collections
from control_plane.community.collections import Collection, Item
from control_plane.domain.accounts import Account, Action, Actor
from control_plane.domain.errors import NotFound, Rejected
from control_plane.domain.ids import AccountId, RepoId
from control_plane.domain.spaces import Repo, RepoType
from control_plane.http.addresses import base_url
from control_plane.http.pagination import next_link, page_bounds, values
from control_plane.ports.stores import UnitOfWork

_SORTS = ("lastModified", "trending", "upvotes")
_IN_LISTS = 4  # items of each collection that a listing shows


class CreateBody(BaseModel):
    title: str = Field(default="", max_length=1000)
    namespace: str | None = Field(default=None, max_length=96)
    description: str | None = Field(default=None, max_length=5000)
    private: bool = False


class UpdateBody(BaseModel):
    title: str | None = Field(default=None, max_length=1000)
    description: str | None = Field(default=None, max_length=5000)
    position: int | None = Field(default=None, ge=0, le=10**6)
    private: bool | None = None
    theme: str | None = Field(default=None, max_length=40)


class TargetBody(BaseModel):
    id: str = Field(max_length=300)
    type: str = Field(max_length=40)


class ItemBody(BaseModel):
    item: TargetBody
    note: str | None = Field(default=None, max_length=5000)


class ItemUpdateBody(BaseModel):
    note: str | None = Field(default=None, max_length=5000)
    position: int | None = Field(default=None, ge=0, le=10**6)


@dataclass(frozen=True, slots=True)
class Shown:
    """A collection as one reader sees it: its owner, and each visible item with its position and what it points at."""

    collection: Collection
    owner: Account
    items: tuple[tuple[Item, int, Repo | str], ...]  # a slug stands for a collection

    @property
    def slug(self) -> str:
        return f"{self.owner.name}/{self.collection.name}"


def item_json(item: Item, position: int, target: Repo | str) -> dict[str, Any]:
    body: dict[str, Any] = {"_id": item.id, "type": item.type, "position": position}
    if isinstance(target, str):
        body |= {"id": target, "slug": target}
    else:
        body |= {
            "id": target.full_name,
            "repoType": item.type,
            "author": target.owner_name,
            "likes": target.likes,
            "private": target.visibility.value == "private",
            "lastModified": views.when(target.updated_at),
        }
    if item.note:
        body["note"] = {"text": item.note}
    return body


def collection_json(seen: Shown, base: str, *, most: int | None = None) -> dict[str, Any]:
    """`most`: for listings, which also leave the position out: clients number the entries themselves."""
    collection = seen.collection
    body: dict[str, Any] = {
        "_id": collection.id,
        "slug": seen.slug,
        "title": collection.title,
        "description": collection.description,
        "owner": views.person_json(seen.owner, base),
        "items": [item_json(*i) for i in seen.items[:most]],
        "numItems": len(seen.items),
        "lastUpdated": views.when(datetime.fromisoformat(collection.updated_at)),
        "private": collection.is_private,
        "theme": collection.theme,
        "upvotes": 0,
        "isUpvotedByUser": False,
        "gating": False,
        "shareUrl": f"{base}/collections/{seen.slug}",
    }
    return body if most is not None else body | {"position": collection.position}


def router(hub: Hub) -> APIRouter:
    api = APIRouter(tags=["collections"])
    services = hub.services
    one = "/api/collections/{ns:seg}/{slug:seg}"

    async def answer(request: Request, uow: UnitOfWork, actor: Actor, collection: Collection, owner: Account) -> dict[str, Any]:
        return collection_json(await _shown(uow, actor, collection, owner), base_url(request))

    @api.get("/api/collections")
    async def listing(request: Request) -> JSONResponse:
        actor = await hub.actor(request)
        limit, offset = page_bounds(request)
        names, wanted = values(request, "owner"), values(request, "item")
        text = next(iter(values(request, "q")), "").lower()
        sort = next(iter(values(request, "sort")), "lastModified")
        if sort not in _SORTS:
            raise Rejected(f"sort: '{sort[:40]}' is not one of {', '.join(_SORTS)}")
        found: list[Shown] = []
        async with services.uow.read() as uow:
            owners = [await uow.accounts.by_name(name) for name in names if name]
            rows = [c for o in owners if o for c in await collections.of_owner(uow, o)] if owners else await collections.every(uow)
            targets = {t for text_id in wanted if (t := await _wanted(uow, actor, text_id))}
            for row in sorted(rows, key=lambda c: c.updated_at, reverse=True):
                owner = await _owner(uow, actor, row)
                if owner is None:
                    continue
                if text and text not in f"{row.title} {row.description}".lower():
                    continue
                if wanted and not targets & {(i.type, i.target) for i in row.items}:
                    continue
                if len(found) > offset + limit:
                    break
                found.append(await _shown(uow, actor, row, owner))
        base = base_url(request)
        page = [collection_json(c, base, most=_IN_LISTS) for c in found[offset : offset + limit]]
        return ok(page, next_link(request, offset + limit if len(found) > offset + limit else None))

    @api.post("/api/collections")
    async def create(request: Request, body: CreateBody) -> JSONResponse:
        actor, user = await hub.user(request)
        async with services.uow.write() as uow:
            owner = await uow.accounts.by_name(body.namespace) if body.namespace else user
            if owner is None:
                raise NotFound(f"there is no account '{body.namespace}'")
            policy.require_curator(actor, owner)
            now = services.clock.now()
            made = await collections.create(uow, now, owner, body.title, body.description or "", is_private=body.private)
            await collections.noted(uow, actor, "create", owner, made, now, private=made.is_private)
            return ok(await answer(request, uow, actor, made, owner))

    @api.get(one)
    async def details(request: Request, ns: str, slug: str) -> JSONResponse:
        actor = await hub.actor(request)
        async with services.uow.read() as uow:
            return ok(await answer(request, uow, actor, *await _visible(uow, actor, ns, slug)))

    @api.patch(one)
    async def update(request: Request, ns: str, slug: str, body: UpdateBody) -> JSONResponse:
        actor, _ = await hub.user(request)
        async with services.uow.write() as uow:
            old, owner = await _editable(uow, actor, ns, slug)
            if body.theme is not None and body.theme not in collections.THEMES:
                raise Rejected(f"theme: '{body.theme}' is not one of {', '.join(collections.THEMES)}")
            fresh = replace(
                old,
                title=old.title if body.title is None else collections.checked_title(body.title),
                description=old.description if body.description is None else collections.checked_description(body.description),
                is_private=old.is_private if body.private is None else body.private,
                theme=body.theme or old.theme,
            )
            now = services.clock.now()
            fresh = await collections.save(uow, fresh, now)
            if body.position is not None:
                fresh = await collections.move(uow, now, fresh, owner, body.position)
            if changes := collections.changes_of(old, fresh):
                await collections.noted(uow, actor, "update", owner, fresh, now, **changes)
            return ok({"success": True, "data": await answer(request, uow, actor, fresh, owner)})

    @api.delete(one)
    async def delete(request: Request, ns: str, slug: str) -> JSONResponse:
        actor, _ = await hub.user(request)
        async with services.uow.write() as uow:
            gone, owner = await _editable(uow, actor, ns, slug)
            await uow.documents.remove(collections.KIND, gone.id)
            await collections.noted(uow, actor, "delete", owner, gone, services.clock.now(), items=len(gone.items))
        return ok({"success": True})

    @api.post(one + "/items")
    async def add_item(request: Request, ns: str, slug: str, body: ItemBody) -> JSONResponse:
        actor, _ = await hub.user(request)
        async with services.uow.write() as uow:
            old, owner = await _editable(uow, actor, ns, slug)
            target = await _target(uow, actor, body.item.type, body.item.id)
            now = services.clock.now()
            fresh = await collections.save(uow, collections.with_item(old, body.item.type, target, body.note or ""), now)
            await collections.noted(uow, actor, "add_item", owner, fresh, now, item=f"{body.item.type}:{body.item.id}")
            return ok(await answer(request, uow, actor, fresh, owner))

    @api.patch(one + "/items/{item_id:seg}")
    async def update_item(request: Request, ns: str, slug: str, item_id: str, body: ItemUpdateBody) -> JSONResponse:
        actor, _ = await hub.user(request)
        async with services.uow.write() as uow:
            old, owner = await _editable(uow, actor, ns, slug)
            now = services.clock.now()
            fresh = collections.with_changed_item(old, item_id, note=body.note, position=body.position)
            changed = fresh.items != old.items
            fresh = await collections.save(uow, fresh, now)
            if changed:
                await collections.noted(uow, actor, "update_item", owner, fresh, now, item=item_id)
            return ok({"success": True, "data": await answer(request, uow, actor, fresh, owner)})

    @api.delete(one + "/items/{item_id:seg}")
    async def delete_item(request: Request, ns: str, slug: str, item_id: str) -> JSONResponse:
        actor, _ = await hub.user(request)
        async with services.uow.write() as uow:
            old, owner = await _editable(uow, actor, ns, slug)
            now = services.clock.now()
            await collections.save(uow, collections.without_item(old, item_id), now)
            await collections.noted(uow, actor, "remove_item", owner, old, now, item=item_id)
        return ok({"success": True})

    return api


async def _owner(uow: UnitOfWork, actor: Actor, found: Collection | None) -> Account | None:
    """The owner of a collection that the caller may see, else None."""
    owner = await uow.accounts.get(AccountId(found.owner_id)) if found else None
    return owner if found and owner and (not found.is_private or policy.is_member(actor, owner)) else None


async def _visible(uow: UnitOfWork, actor: Actor, namespace: str, name: str) -> tuple[Collection, Account]:
    """NotFound alike for what is absent and what the caller may not see."""
    found = await collections.find(uow, name[-24:])
    owner = await _owner(uow, actor, found)
    if found is None or owner is None or owner.name.lower() != namespace.lower():
        raise NotFound("there is no such collection")
    return found, owner


async def _editable(uow: UnitOfWork, actor: Actor, namespace: str, name: str) -> tuple[Collection, Account]:
    found, owner = await _visible(uow, actor, namespace, name)
    policy.require_curator(actor, owner)
    return found, owner


async def _shown(uow: UnitOfWork, actor: Actor, collection: Collection, owner: Account) -> Shown:
    items: list[tuple[Item, int, Repo | str]] = []
    for position, item in enumerate(collection.items):
        if item.type == "collection":
            other = await collections.find(uow, item.target)
            account = await _owner(uow, actor, other)
            if other and account:
                items.append((item, position, f"{account.name}/{other.name}"))
        else:
            repo = await uow.repos.get(RepoId(item.target))
            if repo is not None and policy.allowed(actor, Action.VIEW, repo):
                items.append((item, position, repo))
    return Shown(collection, owner, tuple(items))


async def _target(uow: UnitOfWork, actor: Actor, type: str, text: str) -> str:
    """What an item points at. NotFound when the caller cannot see it."""
    ns, _, name = text.partition("/")
    if type == "collection":
        return (await _visible(uow, actor, ns, name))[0].id
    if type not in set(RepoType):
        raise Rejected(f"item type '{type}' is not one of {', '.join(RepoType)}, collection")
    repo, _ = await find_repo(uow, RepoType(type), ns, name)
    if repo is None or not policy.allowed(actor, Action.VIEW, repo):
        raise NotFound(f"there is no {type} '{text[:200]}'")
    return repo.id


async def _wanted(uow: UnitOfWork, actor: Actor, text: str) -> tuple[str, str] | None:
    """The `item` of a listing, "spaces/NS/NAME"; None when there is nothing of that name to see."""
    plural, _, name = text.partition("/")
    kind = plural.removesuffix("s")
    try:
        return kind, await _target(uow, actor, kind, name)
    except (NotFound, Rejected):
        return None
