"""What the real backend is made of, and the steps that every family shares: find a repository, check a right."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from control_plane.accounts import gates, policy, sign_in
from control_plane.accounts.throttle import Throttle
from control_plane.community.discussions import Discussion, Event
from control_plane.domain.accounts import Action, Actor
from control_plane.domain.errors import RepoNotFound
from control_plane.domain.hardware import FlavorCatalog
from control_plane.domain.ids import Sha, SpaceId
from control_plane.domain.spaces import Repo, RepoType, Space, Visibility
from control_plane.domain.storage import TIER_BYTES, StorageTier
from control_plane.ports.clock import Clock
from control_plane.ports.git import GitStore, LfsStore
from control_plane.ports.git_import import GitImport
from control_plane.ports.log_store import LogStore
from control_plane.ports.signals import Signals
from control_plane.ports.space_actions import SpaceActions
from control_plane.ports.stores import UnitOfWork, UnitOfWorkFactory
from web.backend import MovedTo
from web.services.pictures import Pictures


async def _not_told(repo: Repo, ref: str, old: Sha | None, new: Sha | None) -> None:
    return


async def _not_discussed(repo: Repo, item: Discussion, action: str, comment: Event | None) -> None:
    return


async def _no_pools() -> Sequence[Mapping[str, Any]]:
    return ()


@dataclass(frozen=True)
class WebDeps:
    """`app_url`: subdomain → origin without a trailing slash. `frame_source`: CSP source that covers every app.

    `pool_facts`: a row per pool and flavor with nodes, total, used, free (units of replicas, None while nobody counts) and
    queued, as the admin API gives them. Webhooks hear of what is done in the browser: `moved` of refs, `discussed` of discussions and
    comments (`create` or `update`).
    """

    uow: UnitOfWorkFactory
    clock: Clock
    git: GitStore
    lfs: LfsStore
    logs: LogStore
    signals: Signals
    actions: SpaceActions
    throttle: Throttle
    catalog: Callable[[], FlavorCatalog]
    app_url: Callable[[str], str]
    public_url: str
    frame_source: str
    sign_up_open: bool = True
    org_creation: bool = False  # whether people who are no administrators make organisations
    banner: Callable[[], str] = field(default=lambda: "")
    single_sign_on: str = ""  # label of the provider on the sign-in page, "" = none
    pool_facts: Callable[[], Awaitable[Sequence[Mapping[str, Any]]]] = _no_pools
    moved: Callable[[Repo, str, Sha | None, Sha | None], Awaitable[None]] = _not_told
    discussed: Callable[[Repo, Discussion, str, Event | None], Awaitable[None]] = _not_discussed
    tiers: Mapping[StorageTier, int] = field(default_factory=lambda: TIER_BYTES)  # persistent storage on offer, in bytes
    imports: GitImport | None = None  # new Spaces from another git server's address; None = not offered
    pictures: Pictures | None = None  # of running apps, on cards; None = cards show their emoji
    app_proof: Callable[[Actor, SpaceId], str] | None = None  # lets a browser into a private app for minutes


class Base:
    """Shared by the families of `ServicesBackend`."""

    def __init__(self, deps: WebDeps) -> None:
        self.d = deps

    async def still(self, actor: Actor) -> Actor:
        """Whose stream this is, with the rights of this moment. NotSignedIn once they signed out or were shut out."""
        return await sign_in.renewed(self.d.uow, self.d.clock, actor)

    async def find(self, uow: UnitOfWork, actor: Actor, kind: RepoType, owner: str, name: str, action: Action = Action.VIEW) -> Repo:
        """The repository when the actor may do `action`. MovedTo when it has another name now."""
        found = await uow.repos.by_any_name(kind, owner, name)
        is_renamed = found is not None and (found.owner_name.lower(), found.name.lower()) != (owner.lower(), name.lower())
        if found is not None and is_renamed and policy.allowed(actor, Action.VIEW, found):
            raise MovedTo((kind, owner, name), found.owner_name, found.name)
        return policy.require(actor, action, found, await gates.request_of(uow, actor, action, found))

    async def repo_for(self, actor: Actor, kind: RepoType, owner: str, name: str, action: Action) -> Repo:
        async with self.d.uow.read() as uow:
            return await self.find(uow, actor, kind, owner, name, action)

    async def space_for(self, actor: Actor, owner: str, name: str, action: Action) -> tuple[Repo, Space]:
        async with self.d.uow.read() as uow:
            repo = await self.find(uow, actor, RepoType.SPACE, owner, name, action)
            space = await uow.spaces.get(SpaceId(repo.id))
        if space is None:
            raise RepoNotFound()
        return repo, space

    def base(self, repo: Repo) -> str:
        return f"/{repo.type.url_prefix}{repo.full_name}"

    def thumbnail_of(self, repo: Repo) -> str:
        return self.d.pictures.address(repo.id) if self.d.pictures is not None and repo.visibility is Visibility.PUBLIC else ""

    def git_url(self, repo: Repo) -> str:
        return f"{self.d.public_url}{self.base(repo)}"
