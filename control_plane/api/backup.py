"""A backup as one tar stream, made while the platform runs.

Order makes it consistent without stopping anybody: the database first, then of each repository its refs, then its
objects. Whatever a ref of the backup names was written before that ref, so it is there; a push that came in between is
found again at the next start, when heads are compared with rows. `manifest.json` comes last, with the sha256 of every
file: a stream without it broke off.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import stat
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO, Any, Protocol

FOLDERS = ("repos", "lfs", "xet")
FILES = ("vitrine.toml",)
DATABASE = "vitrine.db"
MANIFEST = "manifest.json"
SHARED = ("lfs/objects", "lfs/incoming")  # the same bytes as the repositories' own links, or not whole yet
VERSION = 1
_CHUNK = 1 << 18


class SnapshotSource(Protocol):
    """What the backup needs of the database."""

    async def snapshot(self, target: Path) -> None: ...


def expected_bytes(data_dir: Path) -> int:
    """About how much a backup will carry, for whoever shows how far it is. Blocking: one look at each file's size."""
    paths = [data_dir / name for name in (DATABASE, *FILES)]
    for name in FOLDERS:
        paths += [p for p in (data_dir / name).rglob("*") if not p.relative_to(data_dir).as_posix().startswith(SHARED)]
    total = 0
    for path in paths:
        with contextlib.suppress(OSError):
            found = path.lstat()
            total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return total


async def stream_backup(database: SnapshotSource, data_dir: Path) -> AsyncIterator[bytes]:
    with tempfile.TemporaryDirectory(prefix=".backup-", dir=data_dir) as folder:
        snapshot = Path(folder) / DATABASE
        await database.snapshot(snapshot)
        read_end, write_end = os.pipe()
        writing = asyncio.create_task(asyncio.to_thread(_write, write_end, snapshot, data_dir))
        try:
            with open(read_end, "rb", buffering=0) as pipe:
                while chunk := await asyncio.to_thread(pipe.read, _CHUNK):
                    yield chunk
        finally:
            # Closing our end breaks the writer's pipe when the caller left early.
            await asyncio.gather(writing, return_exceptions=True)
        writing.result()


def _write(pipe: int, snapshot: Path, data_dir: Path) -> None:
    with open(pipe, "wb") as out, tarfile.open(fileobj=out, mode="w|") as tar:
        hashes: dict[str, str] = {}
        folders: list[str] = []
        _add(tar, hashes, snapshot, DATABASE)
        for name in FILES:
            _add(tar, hashes, data_dir / name, name)
        for name in FOLDERS:
            for path in _in_order(data_dir / name):
                inner = path.relative_to(data_dir).as_posix()
                if inner.startswith(SHARED):
                    continue
                if path.is_dir():
                    folders.append(inner)
                elif inner not in hashes:
                    _add(tar, hashes, path, inner)
        body: dict[str, Any] = {"version": VERSION, "made_at": int(time.time()), "files": hashes, "folders": folders}
        raw = json.dumps(body, sort_keys=True).encode()
        info = tarfile.TarInfo(MANIFEST)
        info.size = len(raw)
        tar.addfile(info, io.BytesIO(raw))


def _in_order(root: Path) -> Iterator[Path]:
    """Everything below `root`; of a repository, loose refs, packed refs, the rest, and at last objects that came meanwhile."""
    if not root.is_dir():
        return
    for top in sorted(root.iterdir()):
        yield top
        if not (top / "HEAD").is_file():
            yield from sorted(top.rglob("*")) if top.is_dir() else ()
            continue
        yield from sorted((top / "refs").rglob("*"))
        yield top / "packed-refs"
        yield top / "refs"
        yield from (p for p in sorted(top.rglob("*")) if p.relative_to(top).parts[0] not in ("refs", "packed-refs", "objects"))
        for _ in range(2):
            yield from sorted((top / "objects").rglob("*"))
        yield top / "objects"


class _Hashing:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(count)
        self.sha256.update(data)
        return data


def _add(tar: tarfile.TarFile, hashes: dict[str, str], path: Path, name: str) -> None:
    """One regular file, skipped when it is gone already (a repack, a finished upload) or half-written (`*.lock`, `tmp_*`)."""
    if name.endswith(".lock") or path.name.startswith("tmp_") or path.is_symlink():
        return
    try:
        file = open(path, "rb")  # noqa: SIM115  # closed below; the try is for the opening only
    except (FileNotFoundError, IsADirectoryError):
        return
    with file:
        info = tarfile.TarInfo(name)
        info.size = os.fstat(file.fileno()).st_size
        info.mode = 0o600
        hashing = _Hashing(file)
        tar.addfile(info, hashing)
        hashes[name] = hashing.sha256.hexdigest()
