"""What the real backend is made of, and the steps that every family shares: find a repository, check a right."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from control_plane.accounts import policy
from control_plane.accounts.sign_in import Throttle
from control_plane.domain.accounts import Account, Action, Actor
from control_plane.domain.errors import RepoNotFound
from control_plane.domain.hardware import FlavorCatalog
from control_plane.domain.ids import RepoId, SpaceId
from control_plane.domain.spaces import Repo, RepoType, Space
from control_plane.ports.clock import Clock
from control_plane.ports.git import GitStore, LfsStore
from control_plane.ports.log_store import LogStore
from control_plane.ports.signals import Signals
from control_plane.ports.space_actions import SpaceActions
from control_plane.ports.stores import UnitOfWork, UnitOfWorkFactory
from web.backend import MovedTo


class OwnerActions(SpaceActions, Protocol):
    """The Space use cases, with going back to an earlier deployment."""

    async def rollback(self, actor: Actor, space: Space, generation: int) -> Space: ...


class DiscussionSteps(Protocol):
    """Discussions as the Hub API keeps them (its module of steps fits), so that both doors show the same ones."""

    async def find(self, uow: UnitOfWork, repo_id: RepoId, num: int | str) -> Any: ...
    async def of_repo(self, uow: UnitOfWork, repo_id: RepoId) -> list[Any]: ...
    async def create(
        self, uow: UnitOfWork, at: datetime, repo: Repo, user: Account, title: str, description: str, *, is_pull: bool
    ) -> Any: ...
    async def save(self, uow: UnitOfWork, discussion: Any) -> None: ...
    def comment_event(self, at: datetime, user: Account, text: str) -> Any: ...
    def plain_event(self, at: datetime, user: Account, type: str, data: dict[str, Any]) -> Any: ...
    def with_event(self, discussion: Any, event: Any, **changes: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class FlavorState:
    """How much of one flavor there is now: units of replicas that fit, and how many wait. `wait_s` for the next in line."""

    total: int
    free: int
    queued: int = 0
    wait_s: float | None = None


@dataclass(frozen=True, slots=True)
class QuotaUse:
    """One quota of one account, as the quota use cases count it."""

    key: str
    limit: float | None
    used: float
    source: str = ""
    frees_at: datetime | None = None


async def _no_states() -> Mapping[str, FlavorState]:
    return {}


async def _no_quotas(_uow: UnitOfWork, _account: Account) -> Sequence[QuotaUse]:
    return ()


async def _no_report(_actor: Actor) -> Sequence[Mapping[str, Any]]:
    return ()


async def _no_merge(_actor: Actor, _repo: Repo, _number: int) -> None:
    raise NotImplementedError


@dataclass(frozen=True)
class WebDeps:
    """`app_url`: subdomain → origin without a trailing slash. `frame_source`: CSP source that covers every app.

    `flavor_states` and `pool_rows` tell free units and pools (of `domain.capacity`); empty means that this platform
    does not count them. `merge_pull` merges a pull request into main.
    """

    uow: UnitOfWorkFactory
    clock: Clock
    git: GitStore
    lfs: LfsStore
    logs: LogStore
    signals: Signals
    actions: OwnerActions
    throttle: Throttle
    catalog: Callable[[], FlavorCatalog]
    app_url: Callable[[str], str]
    public_url: str
    frame_source: str
    discussions: DiscussionSteps
    sign_up_open: bool = True
    banner: Callable[[], str] = field(default=lambda: "")
    flavor_states: Callable[[], Awaitable[Mapping[str, FlavorState]]] = _no_states
    quota_uses: Callable[[UnitOfWork, Account], Awaitable[Sequence[QuotaUse]]] = _no_quotas
    pool_rows: Callable[[Actor], Awaitable[Sequence[Mapping[str, Any]]]] = _no_report
    merge_pull: Callable[[Actor, Repo, int], Awaitable[None]] | None = None


class Base:
    """Shared by the families of `ServicesBackend`."""

    def __init__(self, deps: WebDeps) -> None:
        self.d = deps

    async def find(self, uow: UnitOfWork, actor: Actor, kind: RepoType, owner: str, name: str, action: Action = Action.VIEW) -> Repo:
        """The repository when the actor may do `action`. MovedTo when it has another name now."""
        repo = await uow.repos.by_name(kind, owner, name)
        if repo is None:
            moved = await uow.repos.moved_to(kind, owner, name)
            target = await uow.repos.get(moved) if moved else None
            if target is not None and policy.allowed(actor, Action.VIEW, target):
                raise MovedTo((kind, owner, name), target.owner_name, target.name)
        return policy.require(actor, action, repo)

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

    def git_url(self, repo: Repo) -> str:
        return f"{self.d.public_url}{self.base(repo)}"
