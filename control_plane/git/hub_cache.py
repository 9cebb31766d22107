"""The cache of downloaded revisions that all apps share: in the layout of the Hub's own client, over the platform's own bytes.

    root/hub/models--ns--name/blobs/<etag>                a hard link to the large file, or a copy of a small one
    root/hub/models--ns--name/snapshots/<commit>/<path>   → ../../blobs/<etag>
    root/known/<repo id>                                  the folder's name, to find it again when the repository changes

A runtime lays it below each app's own cache, read-only: the client finds the file there and downloads nothing, and whatever
the app writes stays its own. Only public repositories without a gate come in, by their own content; one that is deleted,
renamed, made private or gated goes out again. Large files cost nothing: they are the same bytes on disk as the repository's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from control_plane.domain.errors import NotFound
from control_plane.domain.ids import RepoId, Sha
from control_plane.domain.spaces import Repo, is_open
from control_plane.git.names import check_path, check_repo_id
from control_plane.git.store import BareGitStore
from control_plane.ports.git import LfsStore, TreeEntry

MAX_FILES = 5000  # of one revision that is taken in as a whole
_MAX_SMALL_BYTES = 16 << 20  # a file that git holds; larger ones are large files


class HubCache:
    """`hub` is the folder that runtimes mount. Safe in several processes: everything becomes visible by a rename or a link."""

    def __init__(self, root: Path, store: BareGitStore, lfs: LfsStore) -> None:
        self.hub, self._known, self._store, self._lfs = root / "hub", root / "known", store, lfs
        for folder in (self.hub, self._known):
            folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        self._tasks: set[asyncio.Task[None]] = set()

    def note(self, repo: Repo, sha: Sha, entry: TreeEntry) -> None:
        """An app downloads this file: have it here for the next one. Returns at once."""
        task = asyncio.create_task(self._quietly(repo, sha, (entry,)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _quietly(self, repo: Repo, sha: Sha, entries: Sequence[TreeEntry]) -> None:
        with contextlib.suppress(NotFound, OSError):  # a full disk or a vanished file costs the next app a download, no more
            await self.keep(repo, sha, entries)

    async def drain(self) -> None:
        """Waits for what `note` began."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def keep_revision(self, repo: Repo, sha: Sha) -> None:
        """All files of a commit; nothing when it has more than MAX_FILES."""
        entries = await self._store.tree(repo.id, sha, recursive=True)
        if len(entries) <= MAX_FILES:
            await self.keep(repo, sha, entries)

    async def keep(self, repo: Repo, sha: Sha, entries: Sequence[TreeEntry]) -> None:
        """Take files of one commit in. Repositories that not everybody may read are left out; so are links and submodules."""
        if not is_open(repo):
            return
        name = f"{repo.type.plural}--{repo.owner_name}--{repo.name}"
        await asyncio.to_thread(self._remember, repo.id, name)
        for entry in entries:
            if entry.is_dir or entry.is_submodule or entry.is_symlink:
                continue
            if entry.lfs is not None:
                source = await self._lfs.file_path(repo.id, entry.lfs.oid)
                if source is not None:
                    await asyncio.to_thread(_place, self.hub / name, sha, entry.path, entry.lfs.oid, Path(source), None)
            elif entry.size <= _MAX_SMALL_BYTES:
                data = await self._store.read(repo.id, sha, entry.path)
                await asyncio.to_thread(_place, self.hub / name, sha, entry.path, entry.oid, None, data)

    def known(self) -> list[RepoId]:
        """The repositories of which something is here."""
        return [RepoId(path.name) for path in self._known.iterdir() if not path.name.startswith(".")]

    def knows(self, repo_id: str) -> bool:
        return (self._known / check_repo_id(repo_id)).exists()

    def is_current(self, repo: Repo | None) -> bool:
        """Whether what is here of a repository may stay: it is there, open to all, and has the name it had."""
        if repo is None or not is_open(repo):
            return False
        with contextlib.suppress(FileNotFoundError):
            return (self._known / repo.id).read_text() == f"{repo.type.plural}--{repo.owner_name}--{repo.name}"
        return True

    async def forget(self, repo_id: RepoId) -> None:
        """Take a repository out; gone for every app at once. Harmless when nothing is here."""

        def run() -> None:
            mark = self._known / check_repo_id(repo_id)
            with contextlib.suppress(FileNotFoundError):
                doomed = self._known.parent / f".gone-{secrets.token_hex(8)}"
                with contextlib.suppress(FileNotFoundError):
                    (self.hub / mark.read_text()).rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)
                mark.unlink(missing_ok=True)

        await asyncio.to_thread(run)

    def _remember(self, repo_id: RepoId, name: str) -> None:
        mark = self._known / check_repo_id(repo_id)
        if not mark.exists():
            draft = mark.with_name(f".{mark.name}-{secrets.token_hex(4)}")
            draft.write_text(name)
            draft.rename(mark)


def _place(folder: Path, sha: str, path: str, etag: str, source: Path | None, data: bytes | None) -> None:
    blob = folder / "blobs" / etag
    if not blob.exists():
        blob.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        draft = blob.with_name(f".{etag}-{secrets.token_hex(4)}")
        if source is not None:
            os.link(source, draft)
        else:
            draft.write_bytes(data or b"")
        draft.rename(blob)
    pointer = folder / "snapshots" / sha / check_path(path)
    pointer.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    target = "/".join([*[".."] * (path.count("/") + 2), "blobs", etag])
    with contextlib.suppress(FileExistsError):
        pointer.symlink_to(target)
