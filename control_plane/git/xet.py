"""A content-addressed store for the Xet upload protocol, one per repository, that ends in ordinary LFS objects.

    root/<repo_id>/<xorb hash>        the chunks as they were sent
    root/<repo_id>/<xorb hash>.idx    48 bytes per chunk: hash, offset, packed length, unpacked length, scheme
    root/<repo_id>/generation         part of the store's address; it changes when xorbs are dropped

Clients remember what a store holds by its address, so xorbs are kept until `compact`, which moves the address. Every hash is
recomputed before anything becomes visible: chunks and xorb on arrival, ranges, file and sha256 when a file is put together.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import shutil
import struct
import time
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

from control_plane.domain.errors import Rejected
from control_plane.domain.ids import RepoId
from control_plane.git import xet_format as wire
from control_plane.git.lfs import FileLfsStore, sync_folder
from control_plane.git.names import check_repo_id
from control_plane.git.xet_format import Chunk, ShardFile

_INDEX = struct.Struct("<32sIIII")
_PIECE = 1 << 20


class XetStore:
    """Xorbs on disk. `lfs` receives the finished files."""

    def __init__(self, root: Path, lfs: FileLfsStore) -> None:
        self._root, self._lfs = root, lfs
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def generation(self, repo_id: RepoId) -> str:
        try:
            return (self._dir(repo_id) / "generation").read_text()
        except FileNotFoundError:
            return "1"

    async def compact(self, repo_id: RepoId) -> None:
        """Drop all xorbs (the LFS objects stay) and change the address, so that no client believes they are still here."""

        def run() -> None:
            following = str(int(self.generation(repo_id)) + 1)
            folder = self._dir(repo_id)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)
            _write_durably(folder / "generation", following.encode())

        await asyncio.to_thread(run)

    async def remove_repo(self, repo_id: RepoId) -> None:
        await asyncio.to_thread(shutil.rmtree, self._dir(repo_id), True)

    async def idle_s(self, repo_id: RepoId) -> float:
        """Seconds since a xorb came; 0 when there is none."""
        folder = self._dir(repo_id)

        def run() -> float:
            times = [p.stat().st_mtime for p in folder.glob("*.idx")] if folder.is_dir() else []
            return time.time() - max(times) if times else 0.0

        return await asyncio.to_thread(run)

    async def total_bytes(self, repo_id: RepoId) -> int:
        folder = self._dir(repo_id)
        return await asyncio.to_thread(lambda: sum(p.stat().st_size for p in folder.iterdir()) if folder.is_dir() else 0)

    async def has_xorb(self, repo_id: RepoId, name: str) -> bool:
        wire.hash_bytes(name)
        return await asyncio.to_thread((self._dir(repo_id) / f"{name}.idx").exists)

    async def put_xorb(self, repo_id: RepoId, name: str, chunks: AsyncIterator[bytes]) -> bool:
        """Keep a xorb after checking it; False when it was here already. Rejected when its content has another hash."""
        wanted, folder = wire.hash_bytes(name), self._dir(repo_id)
        draft = self._lfs.incoming()
        try:
            with draft.open("xb") as file:
                async for chunk in chunks:
                    await asyncio.to_thread(file.write, chunk)
            return await asyncio.to_thread(_adopt_xorb, draft, folder, name, wanted)
        finally:
            draft.unlink(missing_ok=True)

    async def register(self, repo_id: RepoId, file: ShardFile) -> bool:
        """Put one file together and give it to the repository as an LFS object; False when it was there already."""
        pieces = await asyncio.to_thread(self._pieces, repo_id, file)
        oid = file.sha256
        if oid is None:
            digest = sha256()
            async for piece in _content(pieces):
                digest.update(piece)
            oid = digest.hexdigest()
        if await self._lfs.has(repo_id, oid) == file.size:
            return False
        await self._lfs.put(repo_id, oid, file.size, _content(pieces))
        return True

    def _pieces(self, repo_id: RepoId, file: ShardFile) -> list[tuple[Path, tuple[Chunk, ...]]]:
        """Where the content of `file` lies. Checks term sizes, range hashes and the file hash; Rejected when one differs."""
        folder = self._dir(repo_id)
        indexes: dict[bytes, list[Chunk]] = {}
        pieces, hashes = [], []
        for number, term in enumerate(file.terms):
            path = folder / wire.hash_text(term.xorb)
            if term.xorb not in indexes:
                indexes[term.xorb] = _read_index(path.with_name(f"{path.name}.idx"))
            chunks = tuple(indexes[term.xorb][term.first : term.end])
            if len(chunks) != term.end - term.first or sum(c.size for c in chunks) != term.size:
                raise Rejected("a term of the shard does not fit its xorb", code="InvalidShard")
            if file.checks and wire.range_hash([c.hash for c in chunks]) != file.checks[number]:
                raise Rejected("a term of the shard has a wrong verification hash", code="InvalidShard")
            pieces.append((path, chunks))
            hashes += [(c.hash, c.size) for c in chunks]
        if wire.file_hash(hashes) != file.hash:
            raise Rejected("a file of the shard has a wrong hash", code="InvalidShard")
        return pieces

    def _dir(self, repo_id: str) -> Path:
        return self._root / check_repo_id(repo_id)


def _adopt_xorb(draft: Path, folder: Path, name: str, wanted: bytes) -> bool:
    if draft.stat().st_size == 0:
        raise Rejected("the xorb is empty", code="InvalidXorb")
    index, hashes = bytearray(), []
    with draft.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
        for offset, packed, scheme, size in wire.read_xorb(view):
            digest = wire.chunk_hash(wire.unpack(bytes(view[offset : offset + packed]), scheme, size))
            index += _INDEX.pack(digest, offset, packed, size, scheme)
            hashes.append((digest, size))
        if wire.root_hash(hashes) != wanted:
            raise Rejected("the content of the xorb has another hash", code="HashMismatch")
        os.fsync(file.fileno())
    folder.mkdir(exist_ok=True, mode=0o700)
    if (folder / f"{name}.idx").exists():
        return False
    os.replace(draft, folder / name)
    _write_durably(folder / f"{name}.idx", bytes(index))  # last: the xorb counts from here
    sync_folder(folder.parent)
    return True


def _write_durably(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    with draft.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
    sync_folder(path.parent)


def _read_index(path: Path) -> list[Chunk]:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise Rejected(f"the xorb {path.stem} was not uploaded to this repository", code="XorbMissing") from None
    return [Chunk(digest, offset, packed, scheme, size) for digest, offset, packed, size, scheme in _INDEX.iter_unpack(raw)]


async def _content(pieces: list[tuple[Path, tuple[Chunk, ...]]]) -> AsyncIterator[bytes]:
    for path, chunks in pieces:
        descriptor = await asyncio.to_thread(os.open, path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            at = 0
            while at < len(chunks):
                stop, total = at, 0
                while stop < len(chunks) and total < _PIECE:
                    total += chunks[stop].size
                    stop += 1
                yield await asyncio.to_thread(_unpacked, descriptor, chunks[at:stop])
                at = stop
        finally:
            os.close(descriptor)


def _unpacked(descriptor: int, chunks: tuple[Chunk, ...]) -> bytes:
    return b"".join(wire.unpack(os.pread(descriptor, c.packed, c.offset), c.scheme, c.size) for c in chunks)
