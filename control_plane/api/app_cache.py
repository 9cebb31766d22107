"""Keeps the cache that apps share in step with what repositories are: who may see them, what they are called, which are wanted.

A Space's card may name models and datasets of this platform (`models`, `datasets`, `preload_from_hub`): their newest
revision is there before the app starts. A repository that is deleted, renamed or made private leaves the cache when
the signal of that change arrives; the look over everything that follows each (re)connection of the bus finds the rest.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Protocol

from control_plane.domain.errors import VitrineError
from control_plane.domain.ids import RepoId, Sha, SpaceId
from control_plane.domain.spaces import Repo, RepoType, SpaceConfig
from control_plane.ports.signals import Signals
from control_plane.ports.stores import UnitOfWorkFactory

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 600.0
_MAX_WANTED = 20  # repositories that one card can have prepared


class Cache(Protocol):
    def known(self) -> list[RepoId]: ...
    def knows(self, repo_id: str) -> bool: ...
    def is_current(self, repo: Repo | None) -> bool: ...
    async def keep_revision(self, repo: Repo, sha: Sha) -> None: ...
    async def forget(self, repo_id: RepoId) -> None: ...


@dataclass
class AppCacheKeeper:
    uow: UnitOfWorkFactory
    signals: Signals
    cache: Cache
    _prepared: set[tuple[str, str]] = field(default_factory=set)

    async def run(self) -> None:
        """Until cancelled: hear of changes, and look over everything now and then."""
        await asyncio.gather(self._hear(), self._look())

    async def _look(self) -> None:
        while True:
            for repo_id in await asyncio.to_thread(self.cache.known):
                await self.changed(repo_id)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _hear(self) -> None:
        async for _, key in self.signals.subscribe("access", "reconcile"):
            # "*" after a reconnection: hints may have been lost.
            for about in await asyncio.to_thread(self.cache.known) if key == "*" else (key,):
                await self.changed(about)

    async def changed(self, key: str) -> None:
        """Something about this repository or Space is different now."""
        try:
            async with self.uow.read() as uow:
                repo = await uow.repos.get(RepoId(key))
                space = await uow.spaces.get(SpaceId(key)) if repo and repo.type is RepoType.SPACE else None
            if self.cache.knows(key) and not self.cache.is_current(repo):
                await self.cache.forget(RepoId(key))
                self._prepared = {pair for pair in self._prepared if pair[0] != key}
            if space is not None:
                await self._prepare(space.config)
        except (VitrineError, OSError, ValueError) as error:
            log.warning("app_cache.failed", extra={"key": key[:64], "detail": str(error)[:300]})

    async def _prepare(self, config: SpaceConfig) -> None:
        wanted = [(kind, name) for kind, names in ((RepoType.MODEL, config.models), (RepoType.DATASET, config.datasets)) for name in names]
        wanted += [(RepoType.MODEL, line.split()[0]) for line in config.preload_from_hub if line.split()]
        for kind, name in list(dict.fromkeys(wanted))[:_MAX_WANTED]:
            owner, _, rest = name.partition("/")
            async with self.uow.read() as uow:
                repo = await uow.repos.by_name(kind, owner, rest) if owner and rest else None
            if repo is not None and repo.head and (repo.id, repo.head) not in self._prepared:
                await self.cache.keep_revision(repo, repo.head)
                self._prepared.add((repo.id, repo.head))
