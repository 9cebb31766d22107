"""Unpacks the source tar into the bundle, and refuses what could reach outside of it.

Refused with words that name the entry: absolute paths and `..`, links that leave the tree, devices and fifos, more than
`MAX_FILES` entries or more bytes than the build's disk limit. Modes are reduced to 0644/0755, owners are dropped.
"""

from __future__ import annotations

import errno
import io
import os
import posixpath
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.errors import BuildFailed
from builder.reporter import CancelToken
from control_plane.domain.reasons import Reason

MAX_FILES = 100_000
MAX_DEPTH = 64
MAX_PATH_BYTES = 4096


@dataclass(frozen=True, slots=True)
class SourceTree:
    """An unpacked tree; `size_bytes` counts its files' contents."""

    root: Path
    files: int
    size_bytes: int

    def text(self, name: str, limit: int = 1 << 20) -> str | None:
        """A small text file at the root (or below, by relative path), None when absent. Raises BuildFailed when it is not text."""
        path = self.root / name
        if not path.is_file() or not path.resolve().is_relative_to(self.root.resolve()):
            return None
        if path.stat().st_size > limit:
            raise BuildFailed(Reason.SOURCE_REJECTED, f"{name} is larger than {limit >> 10} KiB.")
        try:
            return path.read_text("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BuildFailed(Reason.SOURCE_REJECTED, f"{name} is not UTF-8 text (byte {error.start}).") from error

    def has(self, name: str) -> bool:
        return (self.root / name).is_file()


class _StreamReader(io.RawIOBase):
    """File-like reading of an iterator of chunks, for tarfile's stream mode."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        parts, wanted = [self._rest], size - len(self._rest)
        self._rest = b""
        while size < 0 or wanted > 0:
            chunk = next(self._chunks, b"")
            if not chunk:
                break
            parts.append(chunk)
            wanted -= len(chunk)
        data = b"".join(parts)
        if size >= 0:
            data, self._rest = data[:size], data[size:]
        return data


def unpack(chunks: Iterator[bytes], into: Path, *, max_bytes: int, cancel: CancelToken | None = None) -> SourceTree:
    """Unpacks a tar stream (plain or gzip) into the existing empty folder `into`. Raises BuildFailed(SOURCE_REJECTED)."""
    files, total = 0, 0
    try:
        with tarfile.open(fileobj=_StreamReader(chunks), mode="r|*") as archive:
            for member in archive:
                if cancel is not None:
                    cancel.check()
                files += 1
                if files > MAX_FILES:
                    raise _refused(f"The repository has more than {MAX_FILES} files.")
                if member.isfile():
                    total += member.size
                if total > max_bytes:
                    raise BuildFailed(
                        Reason.BUILD_DISK, f"The repository is larger than the {max_bytes >> 20} MiB that this kind of build has room for."
                    )
                _check(member)
                _place(archive, member, into)
    except (tarfile.TarError, EOFError) as error:
        raise BuildFailed(Reason.PLATFORM_ERROR, f"The source could not be read completely: {error}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BuildFailed(
                Reason.BUILD_DISK, "The builder's disk is full; the build can be tried again when its operator made room."
            ) from error
        raise BuildFailed(Reason.SOURCE_REJECTED, f"The source cannot be unpacked: {error.strerror or error}") from error
    return SourceTree(into, files, total)


def _refused(message: str) -> BuildFailed:
    return BuildFailed(Reason.SOURCE_REJECTED, message)


def _check(member: tarfile.TarInfo) -> None:
    name = member.name
    if len(os.fsencode(name)) > MAX_PATH_BYTES or name.count("/") > MAX_DEPTH:
        raise _refused(f"The path {name[:200]!r} is too long or too deep.")
    if not (member.isfile() or member.isdir() or member.issym()):
        raise _refused(f"{name!r} is not a file, a folder or a symbolic link.")
    if name.startswith("/") or ".." in name.split("/"):
        raise _refused(f"The path {name!r} leaves the repository.")
    if member.issym():
        target = member.linkname
        landing = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
        if target.startswith("/") or landing == ".." or landing.startswith("../"):
            raise _refused(f"The symbolic link {name!r} points outside of the repository (to {target!r}).")


def _place(archive: tarfile.TarFile, member: tarfile.TarInfo, into: Path) -> None:
    """Write one checked entry. By hand: `tarfile`'s own filters came in Python 3.11.4, and Debian 12 has 3.11.2."""
    target = into / member.name
    if not target.parent.resolve().is_relative_to(into.resolve()):
        raise _refused(f"The path {member.name!r} goes through a link and leaves the repository.")
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    if member.isdir():
        target.mkdir(exist_ok=True, mode=0o755)
    elif member.issym():
        target.symlink_to(member.linkname)
    else:
        content = archive.extractfile(member)
        assert content is not None
        mode = 0o755 if member.mode & 0o100 else 0o644
        with content, open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), "wb") as file:
            os.fchmod(file.fileno(), mode)
            shutil.copyfileobj(content, file, 1 << 20)
