"""Copies of repositories that Spaces mount: whole or not there, closed to everybody, the repository's own bytes where that can be."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from control_plane.domain.errors import EntryNotFound, Rejected, TooLarge
from control_plane.git.repo_trees import RepoTrees
from tests.fakes.mounted_repo import OID, REPO, WEIGHTS, repository_of


async def fetched(trees: RepoTrees, path: str = "") -> tuple[Path, list[float]]:
    told: list[float] = []
    commit, oid = await trees.pin(REPO, "", path)
    await trees.fetch(REPO, commit, path, oid, told.append)
    place = await trees.at(REPO, oid)
    assert place is not None
    return Path(place), told


async def test_a_copy_holds_what_the_commit_does_and_nobody_can_write_it(tmp_path: Path) -> None:
    trees, repo_id, commit = await repository_of(tmp_path)
    assert await trees.at(repo_id, commit) is None
    place, told = await fetched(trees)
    assert sorted(str(p.relative_to(place)) for p in place.rglob("*")) == [
        "again", "config.json", "deep", "deep/part.txt", "deep/up", "run.sh", "weights.bin",
    ], "without the links that lead out"  # fmt: skip
    assert os.readlink(place / "deep/up") == "../config.json"
    assert (place / "weights.bin").read_bytes() == WEIGHTS
    assert {oct(p.lstat().st_mode & 0o777) for p in place.rglob("*") if p.is_file() and not p.is_symlink()} == {"0o444", "0o555"}
    assert (place.stat().st_mode & 0o777, (tmp_path / "volume-trees").stat().st_mode & 0o777) == (0o755, 0o700)
    owned = tmp_path / "lfs" / repo_id / OID[:2] / OID[2:4] / OID
    assert (place / "weights.bin").stat().st_ino == owned.stat().st_ino, "the repository's bytes, not a copy"
    assert trees.held_bytes() == len("plain") + len("x") + len("#!/bin/sh\n")
    assert told[-1] == 1.0
    assert told == sorted(told)


async def test_a_part_is_a_copy_of_its_own(tmp_path: Path) -> None:
    trees, repo_id, commit = await repository_of(tmp_path)
    folder, _ = await fetched(trees, "deep")
    assert sorted(p.name for p in folder.iterdir()) == ["part.txt"], "what leads out of the part is left out too"
    file, _ = await fetched(trees, "deep/part.txt")
    assert file.read_text() == "x"
    large, _ = await fetched(trees, "weights.bin")
    assert large.stat().st_size == len(WEIGHTS)
    assert (await trees.size(repo_id, commit, "weights.bin")).is_file
    assert (await trees.size(repo_id, commit, "")).total_bytes > len(WEIGHTS)
    for path in ("escape", "nothing"):
        with pytest.raises((Rejected, EntryNotFound)):
            await trees.size(repo_id, commit, path)
    with pytest.raises(EntryNotFound):
        await trees.at(repo_id, "../..")


async def test_two_at_once_leave_one(tmp_path: Path) -> None:
    trees, repo_id, commit = await repository_of(tmp_path)
    await asyncio.gather(*(trees.fetch(repo_id, commit, "", commit, lambda done: None) for _ in range(4)))
    assert [p.name for p in (tmp_path / "volume-trees" / repo_id).iterdir()] == [commit]
    assert list((tmp_path / "volume-trees/.drafts").iterdir()) == []


_KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from control_plane.git import repo_trees
from control_plane.git.lfs import FileLfsStore
from control_plane.git.store import BareGitStore

root, repo_id, commit = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
lfs = FileLfsStore(root / "lfs")
trees = repo_trees.RepoTrees(root / "volume-trees", BareGitStore(root / "repos", lfs), lfs, max_bytes=1 << 30)
asyncio.run(trees.fetch(repo_id, commit, "", commit, lambda done: os.kill(os.getpid(), signal.SIGKILL)))
"""


async def test_a_kill_half_way_leaves_nothing_that_is_seen(tmp_path: Path) -> None:
    trees, repo_id, commit = await repository_of(tmp_path)
    command = [sys.executable, "-c", _KILLED, str(tmp_path), repo_id, commit]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    drafts = tmp_path / "volume-trees/.drafts"
    assert len(list(drafts.iterdir())) == 2, "a half-made copy and its lock"
    assert await trees.at(repo_id, commit) is None
    assert trees.unused((), older_than_s=0) == []
    await fetched(trees)
    assert list(drafts.iterdir()) == [], "what the dead process left is gone"


async def test_what_cannot_be_linked_is_copied_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(source: object, target: object, **more: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    trees, repo_id, _ = await repository_of(tmp_path)
    monkeypatch.setattr("control_plane.git.repo_trees.os.link", refused)
    place, _ = await fetched(trees)
    assert (place / "weights.bin").read_bytes() == WEIGHTS
    assert (place / "weights.bin").stat().st_nlink == 1
    assert trees.held_bytes() > len(WEIGHTS)


async def test_all_copies_together_have_a_limit(tmp_path: Path) -> None:
    trees, repo_id, commit = await repository_of(tmp_path, max_bytes=20)
    await fetched(trees)
    with pytest.raises(TooLarge, match="left for all volumes"):
        await trees.fetch(repo_id, commit, "config.json", "f" * 40, lambda done: None)
    assert list((tmp_path / "volume-trees/.drafts").iterdir()) == []


async def test_only_what_nothing_mounts_goes(tmp_path: Path) -> None:
    trees, repo_id, commit = await repository_of(tmp_path)
    whole, _ = await fetched(trees)
    part, _ = await fetched(trees, "deep")
    assert trees.unused((), older_than_s=3600) == [], "young ones may be on their way into an app"
    for place in (whole, part):
        os.utime(place.parent, (1, 1))
    assert await trees.drop_unused({(repo_id, commit)}, older_than_s=3600) == 1
    assert (whole.is_dir(), part.exists()) == (True, False)
    assert await trees.drop_unused((), older_than_s=3600) > 0
    assert [p.name for p in (tmp_path / "volume-trees").iterdir()] == [".drafts"]
    owned = tmp_path / "lfs" / repo_id / OID[:2] / OID[2:4] / OID
    assert owned.read_bytes() == WEIGHTS
