"""Bare repositories, as use cases and API see them. Paths are posix, relative, without `.` or `..`; revs are resolved shas."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from control_plane.domain.ids import RepoId, Sha


@dataclass(frozen=True, slots=True)
class LfsPointer:
    oid: str  # 64 lower-case hex, sha256
    size: int
    pointer_size: int


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """`size` is the true size of the content (of the LFS object, not of its pointer). `oid` is the git sha1."""

    path: str
    is_dir: bool
    oid: str
    size: int = 0
    lfs: LfsPointer | None = None
    is_symlink: bool = False
    is_submodule: bool = False
    is_executable: bool = False


@dataclass(frozen=True, slots=True)
class Commit:
    sha: Sha
    title: str
    message: str
    author: str
    author_email: str
    at: datetime
    parents: tuple[Sha, ...] = ()


@dataclass(frozen=True, slots=True)
class Ref:
    name: str  # "main"
    ref: str  # "refs/heads/main"
    target: Sha


@dataclass(frozen=True, slots=True)
class RefMove:
    """A ref that leads elsewhere now."""

    ref: str
    old: Sha
    new: Sha


@dataclass(frozen=True, slots=True)
class FileChange:
    """One operation of a commit made by the API. Exactly one of `content`, `lfs` set for writes; neither = delete.

    `is_folder` deletes everything below `path`.
    """

    path: str
    content: bytes | None = None
    lfs: LfsPointer | None = None
    is_folder: bool = False


@dataclass(frozen=True, slots=True)
class CommitRequest:
    ref: str  # "refs/heads/main" or "refs/pr/N"
    message: str
    author: str
    author_email: str
    changes: Sequence[FileChange] = field(default_factory=tuple)
    parent: Sha | None = None  # expected head; StaleParent when it is not


class GitStore(Protocol):
    """All calls raise RevisionNotFound / EntryNotFound of domain.errors for what is not there.

    Objects are durable (fsync) before a ref moves. A commit is all or nothing.
    """

    async def create(self, repo_id: RepoId) -> None: ...
    async def remove(self, repo_id: RepoId) -> None: ...
    async def duplicate(self, source: RepoId, target: RepoId, ref: str = "refs/heads/main") -> None: ...  # that head and its LFS objects
    async def bring(self, source: RepoId, target: RepoId, ref: str) -> None: ...  # `ref` of source becomes main of target
    def path(self, repo_id: RepoId) -> str: ...
    async def resolve(self, repo_id: RepoId, rev: str) -> Sha: ...
    async def refs(self, repo_id: RepoId) -> tuple[Ref, ...]: ...
    async def commits(
        self, repo_id: RepoId, sha: Sha, *, limit: int = 50, offset: int = 0, path: str | None = None
    ) -> tuple[Commit, ...]: ...
    async def commit_count(self, repo_id: RepoId, sha: Sha) -> int: ...
    async def tree(self, repo_id: RepoId, sha: Sha, path: str = "", *, recursive: bool = False) -> tuple[TreeEntry, ...]: ...
    async def entry(self, repo_id: RepoId, sha: Sha, path: str) -> TreeEntry: ...
    async def last_commits(self, repo_id: RepoId, sha: Sha, paths: Sequence[str]) -> Mapping[str, Commit]: ...
    async def read(self, repo_id: RepoId, sha: Sha, path: str, *, max_bytes: int | None = None) -> bytes:
        """The blob as git has it (an LFS file gives its pointer text)."""

    async def diff(self, repo_id: RepoId, sha: Sha, *, base: Sha | None = None, max_bytes: int = 1 << 20) -> str: ...
    async def commit(self, repo_id: RepoId, request: CommitRequest) -> Sha: ...
    async def set_ref(self, repo_id: RepoId, ref: str, target: Sha | None, *, expected: Sha | None = None) -> None: ...
    async def squash(self, repo_id: RepoId, branch: str, message: str, author: str, author_email: str) -> Sha: ...
    async def empty_commit(self, repo_id: RepoId, message: str, author: str, author_email: str) -> Sha:
        """A commit without files or history, for a branch that begins anew; `set_ref` gives it a name."""

    async def lfs_paths(self, repo_id: RepoId) -> dict[str, str]: ...  # large file → a path it has or had
    async def forget_lfs(self, repo_id: RepoId, oids: frozenset[str]) -> tuple[RefMove, ...]:
        """Rewrite every ref's history so that these large files never were in it. The objects stay; StaleParent when a ref moved."""

    def archive(self, repo_id: RepoId, sha: Sha) -> AsyncIterator[bytes]:
        """The tree at `sha` as a tar stream, LFS pointers replaced by their content; no submodules, no escaping links."""

    async def size_bytes(self, repo_id: RepoId) -> int: ...


class LfsStore(Protocol):
    """Content-addressed large files, owned per repository (possession is per repository, bytes may be shared on disk)."""

    async def has(self, repo_id: RepoId, oid: str) -> int | None:
        """Its size in bytes when this repository owns it, else None."""

    async def put(self, repo_id: RepoId, oid: str, size: int, chunks: AsyncIterator[bytes]) -> None:
        """Hash while receiving; Rejected when sha256 or size differ. Nothing is visible before it is whole and synced."""

    async def link(self, source: RepoId, target: RepoId, oid: str) -> None: ...
    async def file_path(self, repo_id: RepoId, oid: str) -> str | None: ...
    async def total_bytes(self, repo_id: RepoId) -> int: ...
    async def oids(self, repo_id: RepoId) -> tuple[tuple[str, int], ...]: ...
    async def drop(self, repo_id: RepoId, oid: str) -> None: ...
    async def remove_repo(self, repo_id: RepoId) -> None: ...  # everything it owns; harmless when there is nothing
