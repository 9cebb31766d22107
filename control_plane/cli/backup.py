"""The receiving side of a backup, and the restore. Every file is hashed on its way and compared with the manifest."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import click

from control_plane.cli.progress import Advance, nobody_looks

MANIFEST = "manifest.json"
DATABASE = "vitrine.db"
_CHUNK = 1 << 20


class _Reader(io.RawIOBase):
    """The chunks of a download as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._left) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._left += chunk
        if size < 0:
            size = len(self._left)
        data, self._left = self._left[:size], self._left[size:]
        return data


def check_empty(folder: Path, what: str) -> None:
    """Makes the folder where it is missing."""
    if folder.exists() and any(folder.iterdir()):
        raise click.ClickException(f"{folder} is not empty; {what} needs a folder of its own")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def _place(folder: Path, name: str) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise click.ClickException(f"the backup holds a path that leads outside: {name!r}")
    return folder / path


def _copy(source: Any, target: Path, advance: Advance) -> tuple[str, int]:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    digest, size = hashlib.sha256(), 0
    with open(target, "xb", opener=lambda p, flags: os.open(p, flags, 0o600)) as out:
        while data := source.read(_CHUNK):
            digest.update(data)
            out.write(data)
            size += len(data)
            advance(len(data))
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest(), size


def receive(chunks: Iterator[bytes], folder: Path, advance: Advance = nobody_looks) -> dict[str, Any]:
    """Unpack a backup stream into `folder`; one clear failure when it broke off or a hash differs. `advance` is told of bytes."""
    check_empty(folder, "a backup")
    hashes: dict[str, str] = {}
    manifest: dict[str, Any] | None = None
    total = 0
    try:
        with tarfile.open(fileobj=_Reader(chunks), mode="r|") as tar:
            for member in tar:
                source = tar.extractfile(member) if member.isfile() else None
                if source is None:
                    raise click.ClickException(f"the backup holds something that is not a file: {member.name!r}")
                if member.name == MANIFEST:
                    raw = source.read()
                    manifest = json.loads(raw)
                    (folder / MANIFEST).write_bytes(raw)
                    continue
                hashes[member.name], size = _copy(source, _place(folder, member.name), advance)
                total += size
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise click.ClickException(f"the backup broke off; what is in {folder} cannot be used ({error})") from None
    if manifest is None:
        raise click.ClickException(f"the backup broke off; what is in {folder} cannot be used")
    if manifest["files"] != hashes:
        raise click.ClickException(f"a file of the backup differs from its hash; what is in {folder} cannot be used")
    for name in manifest["folders"]:
        _place(folder, name).mkdir(parents=True, exist_ok=True, mode=0o700)
    return {"folder": str(folder), "files": len(hashes), "bytes": total}


def bytes_of(folder: Path) -> int:
    """How much a restore copies."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)


def restore_into(folder: Path, into: Path, database_url: str | None, advance: Advance = nobody_looks) -> dict[str, Any]:
    """Copy a backup to a new data dir. Nothing is left there when a hash differs. `advance` is told of bytes."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files, folders = dict(manifest["files"]), list(manifest["folders"])
        version = manifest["version"]
    except (OSError, ValueError, KeyError, TypeError):
        raise click.ClickException(f"{folder} is not a backup: it has no readable {MANIFEST}") from None
    if version != 1:
        raise click.ClickException(f"{folder} was made by a newer version (format {version}, this one knows 1)")
    check_empty(into, "a restore")
    try:
        total = 0
        for name, digest in files.items():
            try:
                with open(_place(folder, name), "rb") as source:
                    found, size = _copy(source, _place(into, name), advance)
            except FileNotFoundError:
                raise click.ClickException(f"{name} is missing from the backup; nothing was restored") from None
            if found != digest:
                raise click.ClickException(f"{name} differs from its hash in the backup; nothing was restored")
            total += size
            _share(into, name)
        for name in folders:
            _place(into, name).mkdir(parents=True, exist_ok=True, mode=0o700)
        rows = _load(into / DATABASE, database_url) if database_url and not database_url.startswith("sqlite") else None
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        raise
    return {"folder": str(into), "files": len(files), "bytes": total, "rows": rows}


def _share(into: Path, name: str) -> None:
    """One copy on disk of a large file that several repositories own, as the LFS store keeps them."""
    parts = PurePosixPath(name).parts
    if parts[0] != "lfs" or len(parts) != 5:
        return
    shared = into.joinpath("lfs", "objects", *parts[2:])
    if shared.exists():
        (into / name).unlink()
        os.link(shared, into / name)
    else:
        shared.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.link(into / name, shared)


def _load(snapshot: Path, database_url: str) -> dict[str, int]:
    from control_plane.db.engine import create_database
    from control_plane.domain.errors import VitrineError

    async def load() -> dict[str, int]:
        database = create_database(database_url)
        try:
            await database.migrate()
            return await database.load_snapshot(snapshot)
        finally:
            await database.close()

    try:
        counts = asyncio.run(load())
    except VitrineError as error:
        raise click.ClickException(error.message) from None
    snapshot.unlink()
    return counts
