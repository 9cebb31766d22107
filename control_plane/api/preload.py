"""Models that a Space's card wants in its image (`preload_from_hub`), as a tar in the layout of the Hub client's own cache.

Only what everybody may read: an image is run by whoever may pull it.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from control_plane.domain.errors import NotFound, RevisionNotFound
from control_plane.domain.ids import Sha
from control_plane.domain.spaces import Repo, RepoType, is_open
from control_plane.ports.git import GitStore, TreeEntry
from control_plane.ports.stores import UnitOfWorkFactory

MAX_REPOSITORIES = 20
_CHUNK = 1 << 20


class Cache(Protocol):
    """git.hub_cache.HubCache."""

    @property
    def hub(self) -> Path: ...
    async def keep(self, repo: Repo, sha: Sha, entries: Sequence[TreeEntry]) -> None: ...


@dataclass(frozen=True, slots=True)
class Preloaded:
    """`files`: paths below the cache's folder. `missing`: a sentence for each line of the card that could not be followed."""

    files: tuple[Path, ...]
    missing: tuple[str, ...]


async def prepare(uow: UnitOfWorkFactory, git: GitStore, cache: Cache, lines: Sequence[str]) -> Preloaded:
    """Takes the wanted files into the cache. A line is "repo", "repo file1,file2" or "repo files revision"."""
    found: dict[Path, None] = {}
    missing: list[str] = []
    for line in lines[:MAX_REPOSITORIES]:
        name, *rest = line.split()
        wanted, revision = (rest[0].split(",") if rest else []), rest[1] if len(rest) > 1 else "main"
        owner, _, short = name.partition("/")
        async with uow.read() as work:
            repo = await work.repos.by_name(RepoType.MODEL, owner, short) if short else None
        if repo is None or not is_open(repo):
            missing.append(f"{name} is not a public model here; the app downloads it when it starts")
            continue
        try:
            sha = await git.resolve(repo.id, revision)
            entries = await git.tree(repo.id, sha, recursive=True)
        except (NotFound, RevisionNotFound):
            missing.append(f"{name} has no revision {revision[:60]}")
            continue
        chosen = [one for one in entries if not one.is_dir and (not wanted or one.path in wanted)]
        missing += [f"{name} has no file {path[:200]}" for path in wanted if path not in {one.path for one in chosen}]
        await cache.keep(repo, sha, chosen)
        folder = cache.hub / f"{repo.type.plural}--{repo.owner_name}--{repo.name}"
        for one in chosen:
            link = folder / "snapshots" / sha / one.path
            if link.is_symlink():
                found |= {link: None, Path(os.path.normpath(link.parent / os.readlink(link))): None}
    return Preloaded(tuple(path.relative_to(cache.hub) for path in found), tuple(missing))


def tar(root: Path, files: Sequence[Path]) -> Iterator[bytes]:
    """The files and links below `root`, piece by piece; what has vanished meanwhile is left out."""
    for name in files:
        path, info = root / name, tarfile.TarInfo(str(name))
        if path.is_symlink():
            info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)
            yield info.tobuf(tarfile.PAX_FORMAT)
            continue
        try:
            file = path.open("rb")
        except FileNotFoundError:
            continue
        with file:
            info.size = os.fstat(file.fileno()).st_size
            yield info.tobuf(tarfile.PAX_FORMAT)
            while chunk := file.read(_CHUNK):
                yield chunk
            yield bytes(-info.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)
