"""The repositories that a deployment mounts, made ready before a replica of it asks for a place.

Every start asks again whether each volume may be mounted. The first one of a deployment finds the commits, and all its replicas, also
those after a sleep or a crash, run with these. Where replicas see the platform's disk, one copy for all of them is made in the background;
where they do not, each downloads its own with a word that is good for that replica and nothing else.

What is said here can be read by everybody who sees the Space, so volumes go by where they lie, never by the repository's name.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace

from control_plane.domain.errors import NotFound, Rejected, VitrineError
from control_plane.domain.ids import ReplicaId, RepoId, Sha, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import Fetch, Mount
from control_plane.domain.sensitive import Sensitive
from control_plane.domain.spaces import Deployment, Repo, RepoVolume, Space
from control_plane.ports.stores import UnitOfWork, UnitOfWorkFactory
from control_plane.ports.volumes import Prepared, RepoTrees, TreeKey

log = logging.getLogger("vitrine.scheduler")

_YOUNG_S = 600.0  # a copy that was used this recently is kept, also when room is needed
_SWEEP_S = 1800.0
_UNUSED_S = 24 * 3600.0  # how long a copy that nothing mounts waits for the next start


@dataclass(frozen=True)
class VolumeDeps:
    """`grant` is given where replicas download by themselves: replica and number of the volume → address and token."""

    uow: UnitOfWorkFactory
    trees: RepoTrees
    may_mount: Callable[[UnitOfWork, Repo, RepoVolume], Awaitable[bool]]
    in_use: Callable[[UnitOfWork], Awaitable[Collection[TreeKey]]]
    grant: Callable[[ReplicaId, int], tuple[str, Sensitive]] | None = None


class _Making:
    """A copy that is being made."""

    def __init__(self) -> None:
        self.done = 0.0
        self.task: asyncio.Task[None] | None = None


class VolumePreparer:
    """`ports.volumes.RepoMounts`. `request(space_id)` asks for another look at a Space whose copy became ready."""

    def __init__(self, deps: VolumeDeps, request: Callable[[SpaceId], None]) -> None:
        self._d, self._request = deps, request
        self._making: dict[TreeKey, _Making] = {}

    async def prepare(self, space: Space, deployment: Deployment, replica_id: ReplicaId) -> Prepared:
        if not deployment.volumes:
            return Prepared()
        await self._check(space, deployment)
        volumes = deployment.volumes
        if not all(volume.oid for volume in volumes):
            volumes = await self._pin(deployment)
        if self._d.grant is not None:
            return Prepared(fetches=tuple([await self._fetch_of(replica_id, n, volume) for n, volume in enumerate(volumes)]))
        mounts, waiting = [], ""
        for volume in volumes:
            place = await self._d.trees.at(volume.repo_id, volume.oid)
            if place is None:
                waiting = waiting or await self._progress(space.id, volume)
            else:
                mounts.append(Mount(place, volume.mount_path))
        return Prepared(waiting=waiting) if waiting else Prepared(tuple(mounts))

    async def _check(self, space: Space, deployment: Deployment) -> None:
        async with self._d.uow.read() as uow:
            repo = await uow.repos.get(RepoId(space.id))
            lost = [v.mount_path for v in deployment.volumes if repo is None or not await self._d.may_mount(uow, repo, v)]
        if lost:
            raise _refused(
                f"What is mounted at {', '.join(lost)} cannot be read any more: it is gone or was closed, or who mounted it may "
                "not read it or change this Space now. Remove the volume, or set it again with a right of your own."
            )

    async def _pin(self, deployment: Deployment) -> tuple[RepoVolume, ...]:
        """The commits of today, written down before anything uses them, so that nobody throws their copies away."""
        found = []
        for volume in deployment.volumes:
            try:
                commit, oid = await self._d.trees.pin(volume.repo_id, volume.revision, volume.path)
            except NotFound:
                what = f"'{volume.path}' of the repository" if volume.path else "the repository"
                words = f"What is mounted at {volume.mount_path} is not there any more: {what} at {volume.revision or 'main'}."
                raise _refused(f"{words} Set the volume again.") from None
            found.append(replace(volume, commit=commit, oid=oid))
        async with self._d.uow.write() as uow:
            stored = await uow.deployments.get(deployment.space_id, deployment.generation)
            if stored is not None and not all(volume.oid for volume in stored.volumes):
                await uow.deployments.save(replace(stored, volumes=tuple(found)))
        return tuple(found)

    async def _fetch_of(self, replica_id: ReplicaId, number: int, volume: RepoVolume) -> Fetch:
        assert self._d.grant is not None
        try:
            size = await self._d.trees.size(volume.repo_id, Sha(volume.commit), volume.path)
        except Rejected as error:
            raise _refused(f"What is mounted at {volume.mount_path} cannot be used: {error.message}") from error
        url, token = self._d.grant(replica_id, number)
        return Fetch(url, token, volume.mount_path, size.total_bytes, size.files, size.is_file)

    async def _progress(self, space_id: SpaceId, volume: RepoVolume) -> str:
        """Words for a copy that is not there; begins to make it, once for all who want it. Raises what went wrong since the last look."""
        key = volume.repo_id, volume.oid
        making = self._making.get(key)
        if making is None:
            making = self._making[key] = _Making()
            making.task = asyncio.create_task(self._make(volume, making))
        task = making.task
        assert task is not None
        if task.done():
            del self._making[key]
            try:
                task.result()
            except NotFound as error:
                raise _refused(f"What is mounted at {volume.mount_path} is not there any more. Set the volume again.") from error
            except Rejected as error:
                raise _refused(f"What is mounted at {volume.mount_path} cannot be used: {error.message}") from error
        else:
            task.add_done_callback(lambda _: self._request(space_id))
        return f"Fetching what is mounted at {volume.mount_path}: {making.done:.0%}"

    async def _make(self, volume: RepoVolume, making: _Making) -> None:
        def tell(done: float) -> None:
            making.done = done

        async with self._d.uow.read() as uow:
            in_use = await self._d.in_use(uow)
        await self._d.trees.drop_unused(in_use, older_than_s=_UNUSED_S)
        try:
            await self._d.trees.fetch(volume.repo_id, Sha(volume.commit), volume.path, volume.oid, tell)
        except Rejected as error:
            if error.code != "TooLarge" or not await self._d.trees.drop_unused(in_use, older_than_s=_YOUNG_S):
                raise
            await self._d.trees.fetch(volume.repo_id, Sha(volume.commit), volume.path, volume.oid, tell)

    async def sweep_forever(self, *, every_s: float = _SWEEP_S) -> None:
        """Until cancelled: copies that nothing mounts any more leave the disk."""
        while True:
            await asyncio.sleep(every_s)
            try:
                async with self._d.uow.read() as uow:
                    in_use = await self._d.in_use(uow)
                await self._d.trees.drop_unused(in_use, older_than_s=_UNUSED_S)
            except (VitrineError, OSError) as error:
                log.warning("volume.not_swept", extra={"error": str(error)[:300]})

    async def close(self) -> None:
        """Copies that are half made are given up; the next start begins anew."""
        tasks = [making.task for making in self._making.values() if making.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _refused(words: str) -> Rejected:
    return Rejected(words, facts={"reason": Reason.VOLUME_UNAVAILABLE.value})
