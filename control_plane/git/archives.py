"""A tree as a tar stream for the builder: large files inlined, nothing that points out of the tree."""

from __future__ import annotations

import asyncio
import posixpath
import tarfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from control_plane.domain.errors import Broken, Rejected
from control_plane.domain.ids import RepoId
from control_plane.git.gitbin import GitBinary, end
from control_plane.ports.git import LfsStore, TreeEntry

_CHUNK = 1 << 18
_BLOCK = 512


def leaves_tree(path: str, target: str) -> bool:
    """Would the symbolic link at `path` point outside of the tree, or into git's own folder? Pure."""
    if not target or target.startswith("/") or "\0" in target or "\\" in target:
        return True
    depth = len(path.split("/")) - 1
    # Walk the target step by step: `a/../../b` may never stand above the root, not even on its way.
    for part in target.split("/"):
        if part == "..":
            depth -= 1
        elif part not in ("", "."):
            depth += 1
        if depth < 0:
            return True
    return ".git" in posixpath.normpath(posixpath.join(posixpath.dirname(path), target)).lower().split("/")


async def stream(
    git: GitBinary, repo: Path, repo_id: RepoId, lfs: LfsStore, entries: Sequence[TreeEntry], *, drops_escaping: bool = False
) -> AsyncIterator[bytes]:
    """`drops_escaping`: a link that leaves the tree is left out, instead of refusing it all."""
    process = await git.spawn(repo, "cat-file", "--batch", stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        files: dict[str, str] = {}
        links: dict[str, str] = {}
        for entry in entries:
            if entry.lfs is not None:
                found = await lfs.file_path(repo_id, entry.lfs.oid)
                if found is None or await lfs.has(repo_id, entry.lfs.oid) != entry.lfs.size:
                    raise Rejected(
                        f"the large file {entry.path} is not in this repository's store",
                        hint="Push it again with `git lfs push --all origin`.",
                    )
                files[entry.path] = found
            elif entry.is_symlink:
                target = b"".join([chunk async for chunk in blob(process, entry)]).decode(errors="replace")
                if leaves_tree(entry.path, target):
                    if drops_escaping:
                        continue
                    raise Rejected(f"the symbolic link {entry.path} points outside of the repository", facts={"path": entry.path})
                links[entry.path] = target
        for entry in entries:
            if entry.is_submodule or (entry.is_symlink and entry.path not in links):
                continue
            yield _header(entry, links.get(entry.path))
            if entry.is_dir or entry.is_symlink:
                continue
            async for chunk in _file(files[entry.path]) if entry.path in files else blob(process, entry):
                yield chunk
            if padding := -entry.size % _BLOCK:
                yield bytes(padding)
        yield bytes(2 * _BLOCK)
    finally:
        await end(process)


def _header(entry: TreeEntry, target: str | None) -> bytes:
    info = tarfile.TarInfo(entry.path)
    info.mode = 0o755 if entry.is_dir or entry.is_executable else 0o644
    if entry.is_dir:
        info.type = tarfile.DIRTYPE
    elif target is not None:
        info.type, info.linkname = tarfile.SYMTYPE, target
    else:
        info.size = entry.size
    return info.tobuf(tarfile.PAX_FORMAT)


async def blob(process: asyncio.subprocess.Process, entry: TreeEntry) -> AsyncIterator[bytes]:
    """The bytes of one object, by a `git cat-file --batch` that is asked for nothing else meanwhile."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{entry.oid}\n".encode())
    await process.stdin.drain()
    facts = (await process.stdout.readline()).split()
    if len(facts) != 3 or facts[1] != b"blob":
        raise Broken(f"object {entry.oid} cannot be read")
    left = int(facts[2])
    while left:
        chunk = await process.stdout.read(min(left, _CHUNK))
        if not chunk:
            raise Broken(f"object {entry.oid} ended early")
        left -= len(chunk)
        yield chunk
    await process.stdout.readexactly(1)


async def _file(path: str) -> AsyncIterator[bytes]:
    with open(path, "rb") as file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK * 4):
            yield chunk
