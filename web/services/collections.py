"""Collections on pages: the same documents that the Hub API keeps (`community.collections`)."""

from __future__ import annotations

from datetime import datetime

from control_plane.accounts import people, policy
from control_plane.community import collections
from control_plane.community.collections import Collection
from control_plane.domain.accounts import Account, Action, Actor
from control_plane.domain.errors import Forbidden, NotFound, NotSignedIn
from control_plane.domain.ids import AccountId, RepoId
from control_plane.domain.spaces import RepoType
from control_plane.ports.stores import UnitOfWork
from web.services.gallery import GalleryFamily
from web.views import CollectionPage, CollectionRow


class CollectionsFamily(GalleryFamily):
    async def collections_of(self, actor: Actor, owner: str) -> tuple[CollectionRow, ...]:
        async with self.d.uow.read() as uow:
            account = await people.find_account(uow, owner)
            found = await collections.of_owner(uow, account)
        return tuple(_row(c, account) for c in found if not c.is_private or policy.is_member(actor, account))

    async def collection(self, actor: Actor, owner: str, slug: str) -> CollectionPage:
        async with self.d.uow.read() as uow:
            found, account = await self._visible(uow, actor, owner, slug)
            repos, items = [], {}
            for item in found.items:
                repo = await uow.repos.get(RepoId(item.target)) if item.type in set(RepoType) else None
                if repo is not None and policy.allowed(actor, Action.VIEW, repo):
                    repos.append(repo)
                    items[repo.full_name.lower()] = item.id
        cards = await self.cards([r for r in repos if r.type is RepoType.SPACE])
        rows = tuple(self.repo_row(r) for r in repos if r.type is not RepoType.SPACE)
        return CollectionPage(_row(found, account), cards, rows, self._may_edit(actor, account), items)

    async def collect(self, actor: Actor, kind: RepoType, owner: str, name: str, into: str, title: str) -> str:
        """Add a repository to the collection `into` ("OWNER/SLUG"), or to a new one of the caller's; gives "OWNER/SLUG"."""
        user = policy.require_user(actor, write=True)
        now = self.d.clock.now()
        async with self.d.uow.write() as uow:
            repo = await self.find(uow, actor, kind, owner, name)
            if into:
                found, account = await self._visible(uow, actor, *_halves(into))
                policy.require_curator(actor, account)
            else:
                found, account = await collections.create(uow, now, user, title, "", is_private=False), user
            kept = await collections.save(uow, collections.with_item(found, kind.value, repo.id, ""), now)
            item = f"{kind.value}:{repo.full_name}"
            await collections.noted(uow, actor, "add_item" if into else "create", account, kept, now, item=item)
        return f"{account.name}/{kept.name}"

    async def uncollect(self, actor: Actor, owner: str, slug: str, item_id: str) -> None:
        async with self.d.uow.write() as uow:
            found, account = await self._visible(uow, actor, owner, slug)
            policy.require_curator(actor, account)
            now = self.d.clock.now()
            await collections.save(uow, collections.without_item(found, item_id), now)
            await collections.noted(uow, actor, "remove_item", account, found, now, item=item_id)

    async def remove_collection(self, actor: Actor, owner: str, slug: str) -> None:
        async with self.d.uow.write() as uow:
            found, account = await self._visible(uow, actor, owner, slug)
            policy.require_curator(actor, account)
            await uow.documents.remove(collections.KIND, found.id)
            await collections.noted(uow, actor, "delete", account, found, self.d.clock.now(), items=len(found.items))

    async def _visible(self, uow: UnitOfWork, actor: Actor, owner: str, slug: str) -> tuple[Collection, Account]:
        found = await collections.find(uow, slug[-24:])
        account = await uow.accounts.get(AccountId(found.owner_id)) if found else None
        hidden = found is not None and found.is_private and account is not None and not policy.is_member(actor, account)
        if found is None or account is None or hidden or account.name.lower() != owner.lower():
            raise NotFound("There is no such collection.")
        return found, account

    def _may_edit(self, actor: Actor, account: Account) -> bool:
        if actor.user is None:
            return False
        try:
            policy.require_curator(actor, account)
        except (Forbidden, NotFound, NotSignedIn):
            return False
        return True


def _row(collection: Collection, owner: Account) -> CollectionRow:
    return CollectionRow(
        owner.name, collection.name, collection.title, collection.description, collection.is_private, collection.theme,
        len(collection.items), datetime.fromisoformat(collection.updated_at),
    )  # fmt: skip


def _halves(text: str) -> tuple[str, str]:
    owner, _, slug = text.partition("/")
    return owner, slug
