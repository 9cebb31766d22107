"""Whose right it is to have a repository mounted in a Space: asked when it is set, and again at every start.

Whoever sets a volume must be able to read the repository with the credential of that call. From then on it is the person who counts:
the volume can be mounted while they may read the repository and change the Space. So a repository of one owner never stays readable for
the code of another one because a Space changed hands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from control_plane.accounts import gates, policy
from control_plane.domain.accounts import Action, Actor, Via
from control_plane.domain.errors import EntryNotFound, GatedRepo, Rejected, RepoNotFound, RevisionNotFound
from control_plane.domain.ids import AccountId
from control_plane.domain.repo_volumes import HIDDEN_SOURCE, VolumeOrder
from control_plane.domain.spaces import Repo, RepoVolume
from control_plane.ports.git import GitStore
from control_plane.ports.stores import UnitOfWork, UnitOfWorkFactory


async def granted(uow_factory: UnitOfWorkFactory, git: GitStore, actor: Actor, orders: Sequence[VolumeOrder]) -> tuple[RepoVolume, ...]:
    """The volumes that were asked for, set by the caller. Raises RepoNotFound (absent and hidden are one answer), GatedRepo,
    RevisionNotFound, EntryNotFound and Rejected, each naming the volume."""
    user = policy.require_user(actor)
    found = []
    for number, order in enumerate(orders):
        repo = await _readable(uow_factory, actor, number, order)
        volume = RepoVolume(order.type, repo.id, repo.full_name, order.mount_path, user.id, order.revision, order.path)
        await _check_content(git, repo, number, volume)
        found.append(volume)
    return tuple(found)


async def _readable(uow_factory: UnitOfWorkFactory, actor: Actor, number: int, order: VolumeOrder) -> Repo:
    owner, _, name = order.source.partition("/")
    async with uow_factory.read() as uow:
        repo = await uow.repos.by_any_name(order.type, owner, name)
        asked = await gates.request_of(uow, actor, Action.READ_FILES, repo)
    words = f"volumes[{number}]: there is no {order.type.value} {order.source} here, or you may not read it"
    try:
        return policy.require(actor, Action.READ_FILES, repo, asked)
    except RepoNotFound:
        raise RepoNotFound(words) from None
    except GatedRepo as error:
        raise GatedRepo(f"volumes[{number}]: {error.message}") from None
    except Rejected as error:  # a protected Space: it can be seen, its files cannot
        raise type(error)(f"volumes[{number}]: {error.message}") from None


async def _check_content(git: GitStore, repo: Repo, number: int, volume: RepoVolume) -> None:
    try:
        sha = await git.resolve(repo.id, volume.revision or "main")
        entry = await git.entry(repo.id, sha, volume.path) if volume.path else None
    except RevisionNotFound:
        raise RevisionNotFound(f"volumes[{number}]: {repo.full_name} has no revision '{volume.revision or 'main'}'") from None
    except EntryNotFound as error:
        raise EntryNotFound(f"volumes[{number}]: {repo.full_name} has no '{volume.path}' there", commit=error.commit) from None
    if entry is not None and (entry.is_symlink or entry.is_submodule):
        raise Rejected(f"volumes[{number}]: '{volume.path}' is a link; name the folder or file that it leads to")


async def may_mount(uow: UnitOfWork, space: Repo, volume: RepoVolume) -> bool:
    """Whether who set it may still read it, and still change the Space."""
    repo = await uow.repos.get(volume.repo_id)
    actor = await _person(uow, volume.set_by)
    if repo is None or actor is None or repo.type is not volume.type:
        return False
    asked = await gates.request_of(uow, actor, Action.READ_FILES, repo)
    return policy.allowed(actor, Action.READ_FILES, repo, asked) and policy.allowed(actor, Action.WRITE, space)


async def _person(uow: UnitOfWork, user_id: AccountId) -> Actor | None:
    user = await uow.accounts.get(user_id)
    if user is None or user.is_suspended:
        return None
    roles = {org.name.lower(): role for org, role in await uow.accounts.memberships(user_id)}
    return Actor(via=Via.SESSION, user=user, roles=roles)


@dataclass(frozen=True, slots=True)
class ShownVolume:
    """A volume as one caller may see it. `source` is `HIDDEN_SOURCE` where the repository is absent or hidden from them."""

    volume: RepoVolume
    source: str

    @property
    def is_hidden(self) -> bool:
        return self.source == HIDDEN_SOURCE

    def wire(self) -> dict[str, object]:
        """As the Hub's clients read it; `sha` is the commit that runs."""
        body: dict[str, object] = {
            "type": self.volume.type.value, "source": self.source, "mountPath": self.volume.mount_path, "readOnly": True
        }  # fmt: skip
        optional = {"revision": self.volume.revision, "path": self.volume.path, "sha": self.volume.commit}
        return body if self.is_hidden else body | {key: value for key, value in optional.items() if value}


async def shown(uow: UnitOfWork, actor: Actor, volumes: Sequence[RepoVolume]) -> tuple[ShownVolume, ...]:
    """What this caller is told of a Space's volumes. Whoever set one sees the name they gave, also when it leads nowhere any more."""
    found = []
    for volume in volumes:
        repo = await uow.repos.get(volume.repo_id)
        if repo is not None and policy.allowed(actor, Action.VIEW, repo):
            found.append(ShownVolume(volume, repo.full_name))
        elif actor.user is not None and actor.user.id == volume.set_by:
            found.append(ShownVolume(volume, volume.source))
        else:
            found.append(ShownVolume(volume, HIDDEN_SOURCE))
    return tuple(found)
