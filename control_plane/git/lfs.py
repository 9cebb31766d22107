"""Large files on disk: bytes once, ownership per repository.

    root/objects/ab/cd/<oid>      the bytes, content-addressed
    root/<repo_id>/ab/cd/<oid>    a hard link: this repository owns the object
    root/incoming/<random>        being received

Owning is the link, so knowing an oid gives nothing: `put` hashes what it was sent even when the bytes are here already.
Order of writing: data → fsync → link into place → fsync of the folders; only then is the object visible.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Collection
from pathlib import Path

from control_plane.domain.errors import NotFound, Rejected, TooLarge
from control_plane.domain.ids import RepoId
from control_plane.git.names import OID, check_oid, check_repo_id

_FLUSH_BYTES = 1 << 20


class FileLfsStore:
    """LfsStore on a local or shared POSIX file system. `max_object_bytes` bounds one file."""

    def __init__(self, root: Path, *, max_object_bytes: int = 50 << 30) -> None:
        self._root = root
        self.max_object_bytes = max_object_bytes
        for name in ("objects", "incoming"):
            (root / name).mkdir(parents=True, exist_ok=True, mode=0o700)

    async def has(self, repo_id: RepoId, oid: str) -> int | None:
        return await asyncio.to_thread(_size, self._owned(repo_id, oid))

    async def file_path(self, repo_id: RepoId, oid: str) -> str | None:
        path = self._owned(repo_id, oid)
        return str(path) if await asyncio.to_thread(_size, path) is not None else None

    async def put(self, repo_id: RepoId, oid: str, size: int, chunks: AsyncIterator[bytes]) -> None:
        """Receive one object. Rejected (422 in HTTP) when the bytes are not what `oid` and `size` say; TooLarge over the limit."""
        target = self._owned(repo_id, oid)
        if size < 0:
            raise Rejected(f"the size of an object cannot be {size}", code="InvalidSize")
        if size > self.max_object_bytes:
            raise TooLarge(f"the object has {size} bytes; the limit for one file is {self.max_object_bytes} bytes")
        temporary = self._root / "incoming" / secrets.token_hex(16)
        try:
            digest, received = await _receive(temporary, size, chunks)
            if received != size:
                raise Rejected(f"{received} bytes came for object {oid}, {size} were announced", code="SizeMismatch")
            if digest != oid:
                raise Rejected(f"the bytes sent for object {oid} have the sha256 {digest}", code="HashMismatch")
            await asyncio.to_thread(self._adopt, temporary, oid, target)
        finally:
            await asyncio.to_thread(temporary.unlink, True)

    def incoming(self, name: str | None = None) -> Path:
        """A fresh name for a file that is being received (same disk, so that linking it into place is possible)."""
        return self._root / "incoming" / (name or secrets.token_hex(16))

    async def link(self, source: RepoId, target: RepoId, oid: str) -> None:
        owned, wanted = self._owned(source, oid), self._owned(target, oid)

        def run() -> None:
            if _size(owned) is None:
                raise NotFound(f"object {oid} is not in the source repository", code="ObjectNotFound")
            _link(owned, wanted)

        await asyncio.to_thread(run)

    async def total_bytes(self, repo_id: RepoId) -> int:
        return sum(size for _, size in await self.oids(repo_id))

    async def oids(self, repo_id: RepoId) -> tuple[tuple[str, int], ...]:
        base = self._root / check_repo_id(repo_id)
        return await asyncio.to_thread(
            lambda: tuple((p.name, p.stat().st_size) for p in sorted(base.glob("??/??/*")) if OID.fullmatch(p.name))
        )

    async def drop(self, repo_id: RepoId, oid: str) -> None:
        owned, shared = self._owned(repo_id, oid), self._shared(oid)

        def run() -> None:
            owned.unlink(missing_ok=True)
            _drop_if_alone(shared)

        await asyncio.to_thread(run)

    async def remove_repo(self, repo_id: RepoId) -> None:
        """Give up everything that this repository owns, at once for readers. Harmless when there is nothing."""
        doomed = self.incoming()

        def run() -> None:
            try:
                (self._root / check_repo_id(repo_id)).rename(doomed)
            except FileNotFoundError:
                return
            oids = [path.name for path in doomed.glob("??/??/*") if OID.fullmatch(path.name)]
            shutil.rmtree(doomed, ignore_errors=True)
            for oid in oids:
                _drop_if_alone(self._shared(oid))

        await asyncio.to_thread(run)

    async def drop_unreferenced(self, repo_id: RepoId, keep: Collection[str], *, older_than_s: float = 7 * 24 * 3600.0) -> int:
        """Give up objects that no commit names (`keep` = those that one does); how many. Young ones may wait for their commit."""
        limit, gone = time.time() - older_than_s, 0
        for oid, _ in await self.oids(repo_id):
            path = self._owned(repo_id, oid)
            if oid not in keep and path.stat().st_mtime < limit:
                await self.drop(repo_id, oid)
                gone += 1
        return gone

    async def sweep(self, *, older_than_s: float = 24 * 3600.0) -> int:
        """Remove abandoned uploads and bytes that nobody owns; how many files went."""

        def run() -> int:
            limit, gone = time.time() - older_than_s, 0
            for path in (self._root / "incoming").iterdir():
                if path.is_dir():  # a repository whose removal was cut short
                    shutil.rmtree(path, ignore_errors=True)
                elif path.stat().st_mtime < limit:
                    path.unlink(missing_ok=True)
                    gone += 1
            for path in (self._root / "objects").glob("??/??/*"):
                stat = path.stat()
                if stat.st_nlink == 1 and stat.st_mtime < limit:
                    path.unlink(missing_ok=True)
                    gone += 1
            return gone

        return await asyncio.to_thread(run)

    def _owned(self, repo_id: str, oid: str) -> Path:
        check_oid(oid)
        return self._root / check_repo_id(repo_id) / oid[:2] / oid[2:4] / oid

    def _shared(self, oid: str) -> Path:
        return self._root / "objects" / oid[:2] / oid[2:4] / oid

    def _adopt(self, temporary: Path, oid: str, target: Path) -> None:
        shared = self._shared(oid)
        for _ in range(5):
            _link(temporary, shared)
            try:
                _link(shared, target)
                os.utime(target)  # fresh again for `drop_unreferenced`
                return
            except FileNotFoundError:
                continue  # a drop of the last other owner came between; our own copy is still in `temporary`
        _link(temporary, target)


async def _receive(path: Path, limit: int, chunks: AsyncIterator[bytes]) -> tuple[str, int]:
    """Write a stream to a new file and sync it; its sha256 and length. Stops reading one flush after `limit` bytes."""
    digest, total, pending, waiting = hashlib.sha256(), 0, [], 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def flush(data: bytes) -> None:
        digest.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    try:
        async for chunk in chunks:
            pending.append(chunk)
            waiting += len(chunk)
            total += len(chunk)
            if total > limit:
                return digest.hexdigest(), total
            if waiting >= _FLUSH_BYTES:
                await asyncio.to_thread(flush, b"".join(pending))
                pending, waiting = [], 0
        await asyncio.to_thread(flush, b"".join(pending))
        await asyncio.to_thread(os.fsync, descriptor)
    finally:
        os.close(descriptor)
    return digest.hexdigest(), total


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def _link(source: Path, target: Path) -> None:
    """A hard link that is durable; harmless when it exists. Copies where the file system cannot link."""
    if target.exists():
        return
    _make_folders(target.parent)
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in (errno.EMLINK, errno.EPERM, errno.EXDEV, errno.ENOTSUP):
            raise
        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        shutil.copyfile(source, partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.rename(target)
    sync_folder(target.parent)


def _make_folders(folder: Path) -> None:
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True, mode=0o700)
        sync_folder(new.parent)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _drop_if_alone(shared: Path) -> None:
    try:
        if shared.stat().st_nlink == 1:
            shared.unlink()
    except FileNotFoundError:
        pass
