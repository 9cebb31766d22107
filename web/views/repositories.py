"""Repositories: files, source, history."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class RepoPage:
    """The head of a repository page. `kind`: space, model or dataset. `base` is its address on this site."""

    kind: str
    owner: str
    name: str
    base: str
    visibility: str
    likes: int
    liked: bool
    updated_at: datetime
    head: str
    can_write: bool
    can_admin: bool
    git_url: str
    tags: tuple[str, ...] = ()
    license: str = ""
    storage_bytes: int = 0
    can_read_code: bool = True
    can_read_files: bool = True
    gate: str = ""  # "", "auto" or "manual"
    request: str = ""  # the viewer's own: "", "pending", "accepted" or "rejected"
    requests: tuple[AccessRow, ...] = ()  # for the owner


@dataclass(frozen=True, slots=True)
class AccessRow:
    """Somebody's request to read the files. `status`: pending, accepted or rejected."""

    id: str
    user: str
    status: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RepoRow:
    kind: str
    owner: str
    name: str
    base: str
    likes: int
    updated_at: datetime
    visibility: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FileRow:
    name: str
    path: str
    is_dir: bool
    size: int
    lfs: bool = False
    note: str = ""  # "link", "submodule"
    commit: str = ""
    commit_title: str = ""
    commit_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class TreeView:
    """`is_branch`: files can be changed here. `readme` is Markdown text without its front matter."""

    rev: str
    sha: str
    path: str
    rows: tuple[FileRow, ...]
    is_branch: bool
    branches: tuple[str, ...] = ()
    readme: str = ""
    last: CommitRow | None = None
    commits: int = 0


@dataclass(frozen=True, slots=True)
class BlobView:
    """`text` is None for what is not shown as text (binary, LFS, larger than the page shows)."""

    rev: str
    sha: str
    path: str
    size: int
    text: str | None
    is_branch: bool
    lfs: bool = False
    lfs_oid: str = ""
    is_image: bool = False
    last: CommitRow | None = None


@dataclass(frozen=True, slots=True)
class CommitRow:
    sha: str
    title: str
    message: str
    author: str
    at: datetime
    is_live: bool = False
    can_deploy: bool = False


@dataclass(frozen=True, slots=True)
class CommitsView:
    rev: str
    rows: tuple[CommitRow, ...]
    total: int
    page: int
    has_next: bool


@dataclass(frozen=True, slots=True)
class CommitView:
    commit: CommitRow
    parent: str
    diff: str
