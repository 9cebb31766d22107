"""What nothing refers to any more, found by comparing folders with rows; deleted, or only told.

Young things are left alone: between a folder and the row that names it there is a moment in every build and push.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from control_plane.domain.ids import BuildId, RepoId, SpaceId
from control_plane.ports.stores import UnitOfWork, UnitOfWorkFactory

GRACE_S = 3600
KEPT_DEPLOYMENTS = 20  # a roll-back reaches this far


class Services(Protocol):
    @property
    def uow(self) -> UnitOfWorkFactory: ...


async def collect_garbage(services: Services, data_dir: Path, *, dry_run: bool) -> list[dict[str, Any]]:
    """One entry per thing: kind, name, bytes, why. Sizes count blocks that deleting gives back."""
    async with services.uow.read() as work:
        known = set(await work.spaces.all_ids())
        found = [
            *await _artifacts(work, data_dir / "bundles", "bundle", known),
            *await _artifacts(work, data_dir / "sites", "site", known),
            *await _folders(work, data_dir / "repos", "repository", lambda name: name.removesuffix(".git")),
            *await _folders(work, data_dir / "lfs", "large files", lambda name: "" if name in ("objects", "incoming") else name),
            *await _logs(work, data_dir / "logs"),
        ]
    found += await asyncio.to_thread(_unowned_objects, data_dir / "lfs" / "objects")
    for entry in found:
        path: Path = entry.pop("path")
        entry["bytes"] = await asyncio.to_thread(_size, path)
        if not dry_run:
            await asyncio.to_thread(_delete, path)
    return found


def _entry(kind: str, path: Path, name: str, why: str) -> dict[str, Any]:
    return {"kind": kind, "name": name, "why": why, "path": path}


def _old(folder: Path) -> Iterable[Path]:
    """What lies in `folder` and is past its grace."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        try:
            if not path.name.startswith(".") and time.time() - path.stat().st_mtime > GRACE_S:
                yield path
        except FileNotFoundError:
            continue


async def _artifacts(work: UnitOfWork, root: Path, kind: str, known: set[SpaceId]) -> list[dict[str, Any]]:
    found = []
    for of_space in _old(root):
        space_id = SpaceId(of_space.name)
        if space_id not in known:
            found.append(_entry(kind, of_space, of_space.name, "its Space is gone"))
            continue
        kept = {d.artifact.ref for d in await work.deployments.of_space(space_id, limit=KEPT_DEPLOYMENTS)}
        space = await work.spaces.get(space_id)
        live = await work.deployments.get(space_id, space.live_generation) if space else None
        kept |= {live.artifact.ref} if live else set()
        kept |= {f"{space_id}/{b.id}" for b in await work.builds.of_space(space_id, limit=5) if not b.status.is_terminal}
        for bundle in _old(of_space):
            name = f"{space_id}/{bundle.name}"
            if name not in kept:
                found.append(_entry(kind, bundle, name, f"not among the last {KEPT_DEPLOYMENTS} deployments"))
    return found


async def _folders(work: UnitOfWork, root: Path, kind: str, id_of: Callable[[str], str]) -> list[dict[str, Any]]:
    found = []
    for path in _old(root):
        repo_id = id_of(path.name)
        if repo_id and path.is_dir() and await work.repos.get(RepoId(repo_id)) is None:
            found.append(_entry(kind, path, path.name, "its repository is gone"))
    return found


async def _logs(work: UnitOfWork, root: Path) -> list[dict[str, Any]]:
    found = []
    for path in _old(root / "build"):
        if await work.builds.get(BuildId(path.name.partition(".")[0])) is None:
            found.append(_entry("log", path, f"build/{path.name}", "its build is gone"))
    for path in _old(root / "run"):
        if await work.spaces.get(SpaceId(path.name.partition(".")[0])) is None:
            found.append(_entry("log", path, f"run/{path.name}", "its Space is gone"))
    return found


def _unowned_objects(root: Path) -> list[dict[str, Any]]:
    """Large files of which no repository holds a link any more."""
    found = []
    for path in sorted(root.glob("*/*/*")):
        about = path.stat()
        if about.st_nlink == 1 and time.time() - max(about.st_mtime, about.st_ctime) > GRACE_S:
            found.append(_entry("large file", path, path.name, "no repository owns it"))
    return found


def _size(path: Path) -> int:
    total = 0
    for one in [path, *(path.rglob("*") if path.is_dir() else ())]:
        try:
            about = os.lstat(one)
        except FileNotFoundError:
            continue
        total += about.st_blocks * 512 if about.st_nlink == 1 or one.is_dir() else 0
    return total


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
