"""A repository as Spaces mount one: plain files, a large one, a program, links that stay and links that would lead out."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pygit2

from control_plane.domain.ids import RepoId, Sha
from control_plane.git.lfs import FileLfsStore
from control_plane.git.repo_trees import RepoTrees
from control_plane.git.store import BareGitStore

REPO = RepoId("d" * 24)
WEIGHTS = bytes(range(256)) * 4096
OID = hashlib.sha256(WEIGHTS).hexdigest()
_POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize {len(WEIGHTS)}\n".encode()

# An app that tells what it finds at /data/model and /opt/part.txt, and whether it can change any of it.
READS = """
import os, pathlib
model, part = pathlib.Path("/data/model"), pathlib.Path("/opt/part.txt")
found = [(model / "config.json").read_text(), (model / "weights.bin").stat().st_size, part.read_text(), (model / "again").read_text()]
found.append(sorted(p.name for p in model.iterdir()))
for path in (model / "new", model / "config.json", model / "weights.bin", part):
    try:
        path.open("ab").close()
        found.append("WRITTEN")
    except OSError as error:
        found.append(error.errno in (1, 13, 30))
for change in (lambda: os.chmod(model / "weights.bin", 0o777), lambda: os.unlink(part), lambda: os.unlink(model / "config.json")):
    try:
        change()
        found.append("CHANGED")
    except OSError:
        found.append(True)
print(found, flush=True)
"""
READ = str(["plain", len(WEIGHTS), "x", "plain", ["again", "config.json", "deep", "run.sh", "weights.bin"], *[True] * 7])


async def repository_of(root: Path, *, max_bytes: int = 1 << 30) -> tuple[RepoTrees, RepoId, Sha]:
    lfs = FileLfsStore(root / "lfs")
    store = BareGitStore(root / "repos", lfs)
    await store.create(REPO)

    async def once() -> AsyncIterator[bytes]:
        yield WEIGHTS

    await lfs.put(REPO, OID, len(WEIGHTS), once())
    return RepoTrees(root / "volume-trees", store, lfs, max_bytes=max_bytes), REPO, _commit(Path(store.path(REPO)))


def _commit(place: Path) -> Sha:
    """With what no API of ours would make: an earlier version, or another program, may have."""
    git = pygit2.Repository(str(place))
    tree, deep = git.TreeBuilder(), git.TreeBuilder()
    deep.insert("part.txt", git.create_blob(b"x"), pygit2.enums.FileMode.BLOB)
    deep.insert("up", git.create_blob(b"../config.json"), pygit2.enums.FileMode.LINK)
    files = {"config.json": b"plain", "weights.bin": _POINTER}
    links = {"again": b"config.json", "escape": b"../../etc/passwd", "root": b"/etc/passwd"}
    for name, content in files.items():
        tree.insert(name, git.create_blob(content), pygit2.enums.FileMode.BLOB)
    for name, content in links.items():
        tree.insert(name, git.create_blob(content), pygit2.enums.FileMode.LINK)
    tree.insert("run.sh", git.create_blob(b"#!/bin/sh\n"), pygit2.enums.FileMode.BLOB_EXECUTABLE)
    tree.insert("deep", deep.write(), pygit2.enums.FileMode.TREE)
    who = pygit2.Signature("A", "a@example.org", 1_700_000_000, 0)
    return Sha(str(git.create_commit("refs/heads/main", who, who, "all", tree.write(), [])))
