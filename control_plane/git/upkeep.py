"""What repositories need now and then: packs rolled together, history repacked, large files dropped that nothing names.

One process does it at a time, told by a lock on a file beside the repositories (any number of API processes may share
them). A pass is cheap where nothing was written; what it did is returned, so that `gc` can tell and tests can see.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from control_plane.domain.errors import RepoNotFound
from control_plane.domain.ids import RepoId
from control_plane.git.gitbin import GitFailed
from control_plane.git.lfs import FileLfsStore
from control_plane.git.store import BareGitStore
from control_plane.git.xet import XetStore

log = logging.getLogger(__name__)

_HOUR_S, _DAY_S = 3600.0, 86400.0


@dataclass(slots=True)
class Tidied:
    """What one pass did: repositories rolled or repacked, objects and files that went. `skipped`: another process is at it."""

    rolled: int = 0
    repacked: int = 0
    large_files: int = 0
    swept: int = 0
    chunk_stores: int = 0
    skipped: bool = False


@dataclass(frozen=True)
class Upkeep:
    """`repos` yields every repository; `measured` is told of one whose size changed. Times in seconds.

    `unnamed_s`: how long a large file, a git object or an uploaded chunk may lie there without any commit naming it.
    """

    store: BareGitStore
    lfs: FileLfsStore
    chunks: XetStore
    repos: Callable[[], AsyncIterator[RepoId]]
    measured: Callable[[RepoId], Awaitable[None]]
    repack_every_s: float = 7 * _DAY_S
    unnamed_s: float = 14 * _DAY_S

    async def forever(self, every_s: float = _HOUR_S) -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                done = await self.once()
                log.info("upkeep", extra={"done": str(done)})
            except Exception:
                log.exception("upkeep ended with an error")

    async def once(self, *, thorough: bool = False) -> Tidied:
        """One pass over everything. `thorough`: repack and look for unnamed files also where it is not due yet."""
        done = Tidied()
        with _alone(self.store.root / ".upkeep") as mine:
            if not mine:
                done.skipped = True
                return done
            async for repo_id in self.repos():
                try:
                    await self._one(repo_id, done, thorough)
                except RepoNotFound:
                    continue  # deleted since it was listed
                except GitFailed as error:
                    log.warning("upkeep.failed", extra={"repo_id": repo_id, "detail": str(error)})
            done.swept = await self.lfs.sweep()
        return done

    async def _one(self, repo_id: RepoId, done: Tidied, thorough: bool) -> None:
        if thorough or await self.store.maintained_ago_s(repo_id) > self.repack_every_s:
            await self.store.maintain(repo_id)
            done.repacked += 1
            used = await self.store.lfs_in_use(repo_id)
            done.large_files += await self.lfs.drop_unreferenced(repo_id, used, older_than_s=self.unnamed_s)
            # Chunks only save a second upload; after two quiet weeks the space is worth more.
            if await self.chunks.idle_s(repo_id) > self.unnamed_s:
                await self.chunks.compact(repo_id)
                done.chunk_stores += 1
            await self.measured(repo_id)
        elif await self.store.tidy(repo_id):
            done.rolled += 1
            await self.measured(repo_id)


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether this process holds the lock file; held until the block ends."""
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
