"""Read-only copies of what repositories hold at a commit: the folders that Spaces mount.

    root/<repo id>/<oid>/content       a folder, or one file; oid names the commit (all of it) or the git object of a part
    root/<repo id>/<oid>/about.json    the bytes that were copied for it
    root/.drafts/<random>              being made; held by a lock of the process that makes it

Large files are hard links to the repository's own bytes and cost a name each; files that git holds are copied. A copy becomes visible by a
rename, whole and synced, so that a process killed half way leaves a draft that the next one throws away. Nothing in a repository is
trusted: files are made before links, links that would lead out of the tree are left out, and so are submodules.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from control_plane.domain.errors import EntryNotFound, Rejected, TooLarge
from control_plane.domain.ids import RepoId, Sha
from control_plane.git.archives import blob, leaves_tree, stream
from control_plane.git.gitbin import end
from control_plane.git.names import check_path, check_repo_id
from control_plane.git.store import BareGitStore
from control_plane.ports.git import LfsStore, TreeEntry
from control_plane.ports.volumes import TreeKey, TreeSize

MAX_FILES = 200_000  # of one volume
_NO_LINK = (errno.EMLINK, errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.EACCES)
_FILE_MODE, _PROGRAM_MODE, _FOLDER_MODE = 0o444, 0o555, 0o755


class RepoTrees:
    """`ports.volumes.RepoTrees` on a local or shared file system. `max_bytes` bounds what is copied for all volumes together."""

    def __init__(self, root: Path, git: BareGitStore, lfs: LfsStore, *, max_bytes: int) -> None:
        self._root, self._git, self._lfs, self._max_bytes = root, git, lfs, max_bytes

    async def pin(self, repo_id: RepoId, revision: str, path: str) -> tuple[Sha, str]:
        sha = await self._git.resolve(repo_id, revision or "main")
        return sha, (await self._git.entry(repo_id, sha, path)).oid if path else str(sha)

    async def entries(self, repo_id: RepoId, commit: Sha, path: str) -> tuple[TreeEntry, ...]:
        """What a volume holds, with paths as they are inside it; a single file has its own name. Submodules are left out."""
        if path and not (one := await self._git.entry(repo_id, commit, path)).is_dir:
            if one.is_symlink or one.is_submodule:
                raise Rejected(f"'{path}' is a link, no folder or file")
            return (replace(one, path=path.rpartition("/")[2]),)
        found = [entry for entry in await self._git.tree(repo_id, commit, path, recursive=True) if not entry.is_submodule]
        if len(found) > MAX_FILES:
            raise TooLarge(f"it has {len(found)} files; a volume may have {MAX_FILES}")
        cut = len(path) + 1 if path else 0
        return tuple(replace(entry, path=check_path(entry.path[cut:])) for entry in found)

    async def size(self, repo_id: RepoId, commit: Sha, path: str) -> TreeSize:
        entries = await self.entries(repo_id, commit, path)
        is_file = bool(path) and not (await self._git.entry(repo_id, commit, path)).is_dir
        return TreeSize(sum(entry.size for entry in entries if not entry.is_dir), len(entries), is_file)

    async def tar(self, repo_id: RepoId, commit: Sha, path: str) -> AsyncIterator[bytes]:
        """The same as a tar stream, for machines that do not see this disk."""
        entries = await self.entries(repo_id, commit, path)
        place = Path(self._git.path(repo_id))
        async for chunk in stream(self._git.git, place, repo_id, self._lfs, entries, drops_escaping=True):
            yield chunk

    async def at(self, repo_id: RepoId, oid: str) -> str | None:
        def look() -> str | None:
            place = self._place(repo_id, oid)
            with contextlib.suppress(FileNotFoundError):
                os.utime(place)
                return str((place / "content").resolve(strict=True))
            return None

        return await asyncio.to_thread(look)

    async def fetch(self, repo_id: RepoId, commit: Sha, path: str, oid: str, tell: Callable[[float], None]) -> None:
        entries = await self.entries(repo_id, commit, path)
        large = {entry.path: await self._large(repo_id, entry) for entry in entries if entry.lfs is not None}
        small = sum(entry.size for entry in entries if not entry.is_dir and not entry.is_symlink and entry.lfs is None)
        held = await asyncio.to_thread(self.held_bytes)
        if held + small > self._max_bytes:
            raise TooLarge(
                f"its files need {small / 1e9:.2f} GB and {max(0, self._max_bytes - held) / 1e9:.2f} GB are left for all volumes of this "
                "platform; mount a part of the repository with `path`, keep large files in LFS, or ask an operator"
            )
        is_file = bool(path) and len(entries) == 1 and entries[0].path == path.rpartition("/")[2] and entries[0].oid == oid
        with self._draft() as draft:
            copied = await self._fill(draft / "content", repo_id, entries, large, is_file, tell)
            await asyncio.to_thread(self._publish, draft, self._place(repo_id, oid), copied)
        tell(1.0)

    async def _large(self, repo_id: RepoId, entry: TreeEntry) -> Path:
        assert entry.lfs is not None
        source = await self._lfs.file_path(repo_id, entry.lfs.oid)
        if source is None or await self._lfs.has(repo_id, entry.lfs.oid) != entry.lfs.size:
            raise Rejected(f"the large file {entry.path} is not in the repository's store; push it again with `git lfs push --all origin`")
        return Path(source)

    async def _fill(
        self, content: Path, repo_id: RepoId, entries: Sequence[TreeEntry], large: dict[str, Path], is_file: bool,
        tell: Callable[[float], None],
    ) -> int:  # fmt: skip
        """Bytes that were copied, not linked."""
        process = await self._git.git.spawn(
            Path(self._git.path(repo_id)), "cat-file", "--batch", stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        whole, done, copied = sum(entry.size for entry in entries) or 1, 0, 0
        links: list[tuple[Path, str]] = []
        try:
            if not is_file:
                await asyncio.to_thread(_make_folders, content, [entry.path for entry in entries if entry.is_dir])
            for entry in entries:
                target = content if is_file else content / entry.path
                if entry.is_dir:
                    continue
                if entry.path in large:
                    copied += await asyncio.to_thread(_link_or_copy, large[entry.path], target)
                elif entry.is_symlink:
                    text = b"".join([chunk async for chunk in blob(process, entry)]).decode(errors="replace")
                    if not leaves_tree(entry.path, text):
                        links.append((target, text))
                else:
                    with target.open("xb") as file:
                        async for chunk in blob(process, entry):
                            await asyncio.to_thread(file.write, chunk)
                        await asyncio.to_thread(_seal, file.fileno(), _PROGRAM_MODE if entry.is_executable else _FILE_MODE)
                    copied += entry.size
                done += entry.size
                tell(min(0.99, done / whole))
            for target, text in links:
                target.symlink_to(text)
        finally:
            await end(process)
        return copied

    def _publish(self, draft: Path, place: Path, copied: int) -> None:
        (draft / "about.json").write_text(json.dumps({"bytes": copied}), "utf-8")
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            draft.rename(place)
        except OSError:
            if not place.is_dir():
                raise  # else another process was faster with the same bytes
        for folder in (place, place.parent):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    @contextlib.contextmanager
    def _draft(self) -> Iterator[Path]:
        """A folder of our own; what processes that are gone left of theirs is removed first."""
        drafts = self._root / ".drafts"
        drafts.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._root.chmod(0o700)
        for left in drafts.glob("*.lock"):
            with contextlib.suppress(OSError), left.open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left.with_suffix(""), ignore_errors=True)
                left.unlink(missing_ok=True)
        draft = drafts / secrets.token_hex(8)
        mark = draft.with_suffix(".lock")
        with mark.open("xb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            draft.mkdir(mode=_FOLDER_MODE)
            draft.chmod(_FOLDER_MODE)
            try:
                yield draft
            finally:
                shutil.rmtree(draft, ignore_errors=True)
                mark.unlink(missing_ok=True)

    # -- what is kept

    def held_bytes(self) -> int:
        """Bytes that were copied for volumes; links cost nothing. Reads the disk."""
        return sum(_copied(place) for place in self._places())

    def unused(self, in_use: Collection[TreeKey], *, older_than_s: float) -> list[tuple[Path, int]]:
        """Copies that nothing mounts and that were not used for that long, with their bytes. Reads the disk."""
        limit, found = time.time() - older_than_s, []
        for place in self._places():
            with contextlib.suppress(FileNotFoundError):
                if (RepoId(place.parent.name), place.name) not in in_use and place.stat().st_mtime < limit:
                    found.append((place, _copied(place)))
        return found

    async def drop_unused(self, in_use: Collection[TreeKey], *, older_than_s: float) -> int:
        def run() -> int:
            freed = 0
            for place, size in self.unused(in_use, older_than_s=older_than_s):
                self.remove(place)
                freed += size
            return freed

        return await asyncio.to_thread(run)

    def remove(self, place: Path) -> None:
        """Gone at once for whoever looks for it. Blocking."""
        doomed = self._root / f".gone-{secrets.token_hex(8)}"
        with contextlib.suppress(FileNotFoundError):
            place.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
        with contextlib.suppress(OSError):
            place.parent.rmdir()  # the last one of its repository

    def _places(self) -> Iterator[Path]:
        for of_repo in self._root.iterdir() if self._root.is_dir() else ():
            if not of_repo.name.startswith("."):
                yield from of_repo.iterdir()

    def _place(self, repo_id: str, oid: str) -> Path:
        if not (oid.isascii() and oid.isalnum()):
            raise EntryNotFound(f"'{oid[:80]}' is no object of a repository")
        return self._root / check_repo_id(repo_id) / oid


def _copied(place: Path) -> int:
    try:
        return int(json.loads((place / "about.json").read_text("utf-8"))["bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _make_folders(content: Path, paths: Sequence[str]) -> None:
    for folder in (content, *(content / path for path in sorted(paths))):
        folder.mkdir(exist_ok=True)
        folder.chmod(_FOLDER_MODE)


def _seal(descriptor: int, mode: int) -> None:
    os.fchmod(descriptor, mode)
    os.fsync(descriptor)


def _link_or_copy(source: Path, target: Path) -> int:
    """Bytes that had to be copied. The link is readable for apps of any user; the store's own folders are closed to them."""
    try:
        os.chmod(source, _FILE_MODE)
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
    else:
        return 0
    with source.open("rb") as reader, target.open("xb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)
        writer.flush()
        _seal(writer.fileno(), _FILE_MODE)
        return writer.tell()
