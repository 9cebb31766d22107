"""Where the persistent storage of Spaces lies. One adapter for directories of this machine, one for claims of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from control_plane.domain.ids import ReplicaId, RepoId, Sha, SpaceId
from control_plane.domain.replicas import Fetch, Mount
from control_plane.domain.spaces import Deployment, Space

TreeKey = tuple[RepoId, str]  # a repository and the oid of what is mounted of it


class Volumes(Protocol):
    def mounts_of(self, space: Space) -> tuple[Mount, ...]:
        """What a replica of this Space gets at `/data`; made when it is not there. Empty when the Space asked for nothing."""

    async def remove(self, space_id: SpaceId, space_name: str, key: str) -> None:
        """Remove one volume and all that it holds. Nothing uses it any more. Unknown ones are fine."""

    async def remove_all(self, space: Space, space_name: str) -> None:
        """Remove what a deleted Space had."""


@dataclass(frozen=True, slots=True)
class TreeSize:
    """What is mounted of a repository: bytes of its files, large ones included, and how many files there are."""

    total_bytes: int
    files: int
    is_file: bool = False


class RepoTrees(Protocol):
    """Read-only copies of what repositories hold at a commit, one for all that mount it. `path` "" = the whole tree.

    Raises RepoNotFound, RevisionNotFound, EntryNotFound, Rejected (TooLarge included) and OSError.
    """

    async def pin(self, repo_id: RepoId, revision: str, path: str) -> tuple[Sha, str]:
        """The commit that a revision is now, and the oid of what lies at `path` there."""

    async def size(self, repo_id: RepoId, commit: Sha, path: str) -> TreeSize: ...
    async def at(self, repo_id: RepoId, oid: str) -> str | None:
        """Where a whole copy lies on this machine, noted as used now; None = it has to be fetched."""

    async def fetch(self, repo_id: RepoId, commit: Sha, path: str, oid: str, tell: Callable[[float], None]) -> None:
        """Make the copy, visible when it is whole. `tell` hears how much is done, 0 to 1."""

    async def drop_unused(self, in_use: Collection[TreeKey], *, older_than_s: float) -> int: ...  # bytes that came free


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a replica gets: folders of this machine, or what its node fetches by itself. `waiting`: words, while it is not ready."""

    mounts: tuple[Mount, ...] = ()
    fetches: tuple[Fetch, ...] = ()
    waiting: str = ""


class RepoMounts(Protocol):
    async def prepare(self, space: Space, deployment: Deployment, replica_id: ReplicaId) -> Prepared:
        """Raises Rejected with a `reason` where a volume may not or cannot be mounted. Returns at once; ask again while it waits."""
