"""What nothing refers to any more, found by comparing folders with rows; deleted, or only told.

Young things are left alone: between a folder and the row that names it there is a moment in every build and push.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import httpx

from control_plane.accounts.storage import StorageRoom
from control_plane.api.deps import MountedTrees
from control_plane.api.registry_garbage import RegistryImages
from control_plane.domain.errors import Unavailable, VitrineError
from control_plane.domain.ids import BuildId, RepoId, SpaceId
from control_plane.http.long_work import Tell, nobody_listens
from control_plane.ports.clock import Clock
from control_plane.ports.git import LfsStore
from control_plane.ports.stores import UnitOfWork, UnitOfWorkFactory
from control_plane.spaces.mounted import mounted_trees
from control_plane.spaces.versions import versions_of

log = logging.getLogger("vitrine.garbage")

GRACE_S = 3600
KEPT_DEPLOYMENTS = 20  # a roll-back reaches this far
UNNAMED_S = 7 * 86400.0  # how long a large file may wait for the commit that names it
ENVIRONMENT_UNUSED_S = 7 * 86400.0
_ENVIRONMENT_MARK = ".vitrine-env.json"  # in every whole environment; its mtime is the last use


class Services(Protocol):
    @property
    def settings(self) -> Any: ...  # settings.Settings: data_dir, audit_keep_days, registry…
    @property
    def uow(self) -> UnitOfWorkFactory: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def git(self) -> Any: ...  # git.store.BareGitStore: lfs_in_use
    @property
    def lfs(self) -> LfsStore: ...
    @property
    def repo_trees(self) -> MountedTrees: ...
    @property
    def storage(self) -> StorageRoom: ...
    @property
    def registry_auth(self) -> httpx.Auth | None: ...
    @property
    def remove_environments(self) -> Callable[[Collection[str]], Awaitable[None]]: ...


async def collect_garbage(services: Services, *, dry_run: bool, tell: Tell = nobody_listens) -> list[dict[str, Any]]:
    """One entry per thing: kind, name, bytes, why. Sizes count blocks that deleting gives back."""
    data_dir: Path = services.settings.data_dir
    tell("looking at what is referred to", 0, None)
    async with services.uow.read() as work:
        known = set(await work.spaces.all_ids())
        kept, environments = await _named(work, known)
        found = [
            *_artifacts(data_dir / "bundles", "bundle", known, kept),
            *_artifacts(data_dir / "sites", "site", known, kept),
            *await _folders(work, data_dir / "repos", "repository", lambda name: name.removesuffix(".git")),
            *await _folders(work, data_dir / "lfs", "large files", lambda name: "" if name in ("objects", "incoming") else name),
            *await _logs(work, data_dir / "logs"),
        ]
    found += await asyncio.to_thread(_unowned_objects, data_dir / "lfs" / "objects")
    unused = await asyncio.to_thread(_unused_environments, data_dir / "envs", environments)
    verb = "measuring" if dry_run else "deleting"
    for number, entry in enumerate(everything := [*found, *unused]):
        tell(f"{verb}: {entry['kind']}", number, len(everything))
        path: Path = entry.pop("path")
        entry["bytes"] = await asyncio.to_thread(_size, path)
        if not dry_run and entry["kind"] != "environment":
            await asyncio.to_thread(_delete, path)
    if unused and not dry_run:
        await services.remove_environments(environments)
    if registry := services.settings.registry:
        tell("images in the registry", 0, None)
        try:
            found += await RegistryImages(registry, services.registry_auth).garbage(
                services.uow, services.clock, known, kept, dry_run=dry_run
            )
        except Unavailable as error:  # its images wait for the next time
            log.warning("garbage.registry", extra={"error": error.message})
    volumes = await _unmounted(services, dry_run)
    large = await _unnamed_large_files(services, data_dir / "lfs", dry_run, tell)
    if not dry_run:  # counts whose window is over: not worth a line
        async with services.uow.write() as work:
            await work.tries.prune(int(services.clock.now().timestamp()))
    return [*found, *unused, *volumes, *large, *await _old_audit(services, dry_run)]


async def collect_forever(services: Services, *, every_s: float = 6 * 3600.0) -> None:
    """The same by itself, so that no disk fills up with what nothing refers to. Several APIs do no harm to each other."""
    while True:
        await asyncio.sleep(every_s)
        try:
            found = await collect_garbage(services, dry_run=False)
        except VitrineError as error:
            log.warning("garbage.failed", extra={"error": error.message})
        except Exception:
            log.exception("garbage.failed")
        else:
            if found:
                log.info("garbage.collected", extra={"things": len(found), "bytes": sum(entry["bytes"] for entry in found)})


async def _named(work: UnitOfWork, known: set[SpaceId]) -> tuple[set[str], set[str]]:
    """Artifacts and environments that some Space can still come back to, or that a build is making."""
    artifacts: set[str] = set()
    environments: set[str] = set()
    for space_id in known:
        space = await work.spaces.get(space_id)
        deployments = list(await work.deployments.of_space(space_id, limit=KEPT_DEPLOYMENTS))
        live = await work.deployments.get(space_id, space.live_generation) if space else None
        rollbacks = await versions_of(work, space) if space else ()  # many restarts put them beyond the last deployments
        for deployment in [*deployments, *rollbacks, *([live] if live else [])]:
            artifacts.add(deployment.artifact.ref)
            environments.add(deployment.artifact.env_key)
        artifacts |= {f"{space_id}/{b.id}" for b in await work.builds.of_space(space_id, limit=5) if not b.status.is_terminal}
    return artifacts, environments - {""}


def _unused_environments(root: Path, kept: set[str]) -> list[dict[str, Any]]:
    found = []
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        mark = path / _ENVIRONMENT_MARK
        if path.name.startswith(".") or path.name in kept or not mark.is_file():
            continue
        if time.time() - mark.stat().st_mtime > ENVIRONMENT_UNUSED_S:
            found.append(_entry("environment", path, path.name[:16], "no deployment uses it"))
    return found


async def _unmounted(services: Services, dry_run: bool) -> list[dict[str, Any]]:
    """Copies of repositories that no Space mounts; large files in them are links and give nothing back."""
    async with services.uow.read() as work:
        in_use = await mounted_trees(work)
    found = []
    for path, size in await asyncio.to_thread(services.repo_trees.unused, in_use, older_than_s=GRACE_S):
        name = f"{path.parent.name}/{path.name[:12]}"
        found.append({"kind": "volume", "name": name, "why": "no Space mounts it", "bytes": size})
        if not dry_run:
            await asyncio.to_thread(services.repo_trees.remove, path)
    return found


async def _unnamed_large_files(services: Services, root: Path, dry_run: bool, tell: Tell) -> list[dict[str, Any]]:
    """Objects of repositories that exist, named by none of their commits: uploads whose push never came."""
    found: list[dict[str, Any]] = []
    limit = time.time() - UNNAMED_S
    folders = sorted(root.iterdir()) if root.is_dir() else []
    for number, folder in enumerate(folders):
        tell("large files of each repository", number, len(folders))
        repo_id = RepoId(folder.name)
        async with services.uow.read() as work:
            repo = await work.repos.get(repo_id) if folder.name not in ("objects", "incoming") else None
        if repo is None:
            continue
        named = await services.git.lfs_in_use(repo_id)
        lost = [(oid, size) for oid, size in await services.lfs.oids(repo_id) if oid not in named]
        lost = [(oid, size) for oid, size in lost if (folder / oid[:2] / oid[2:4] / oid).stat().st_mtime < limit]
        for oid, size in lost:
            found.append({"kind": "large file", "name": f"{repo.full_name} {oid[:12]}", "why": "no commit names it", "bytes": size})
            if not dry_run:
                await services.lfs.drop(repo_id, oid)
        if lost and not dry_run:
            await services.storage.settle(repo_id)
    return found


async def _old_audit(services: Services, dry_run: bool) -> list[dict[str, Any]]:
    """Audit rows older than the retention, where one is set. What stays can still be verified."""
    days = services.settings.audit_keep_days
    if not days:
        return []
    moment = services.clock.now() - timedelta(days=days)
    async with services.uow.read() as work:
        count = await work.audit.count_before(moment)
    if count and not dry_run:
        async with services.uow.write() as work:
            count = await work.audit.forget(moment)
    name = f"{count} events before {moment:%Y-%m-%d}"
    return [{"kind": "audit", "name": name, "why": f"older than {days} days", "bytes": 0}] if count else []


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


def _artifacts(root: Path, kind: str, known: set[SpaceId], kept: set[str]) -> list[dict[str, Any]]:
    found = []
    for of_space in _old(root):
        if SpaceId(of_space.name) not in known:
            found.append(_entry(kind, of_space, of_space.name, "its Space is gone"))
            continue
        for bundle in _old(of_space):
            name = f"{of_space.name}/{bundle.name}"
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
