"""What a restored backup lacks: artifacts are not in it, they are made again from the repositories."""

from __future__ import annotations

from collections.abc import Callable

from control_plane.domain.builds import Artifact
from control_plane.domain.errors import QuotaExceeded
from control_plane.domain.ids import RepoId, SpaceId
from control_plane.domain.spaces import DesiredState
from control_plane.spaces.configure import queue_build
from control_plane.spaces.deps import SpaceDeps


async def rebuild_lost(deps: SpaceDeps, is_here: Callable[[Artifact], bool]) -> tuple[SpaceId, ...]:
    """Queue a build for each Space whose newest artifact is not where it should be. Safe to repeat: an open build is enough."""
    async with deps.uow.read() as uow:
        every = await uow.spaces.all_ids()
    queued = []
    for space_id in every:
        async with deps.uow.read() as uow:
            space = await uow.spaces.get(space_id)
            newest = await uow.deployments.get(space_id, space.generation) if space and space.generation else None
        if newest is None or is_here(newest.artifact):
            continue
        async with deps.uow.write() as uow:
            repo, space = await uow.repos.get(RepoId(space_id)), await uow.spaces.get(space_id)
            latest = await uow.builds.latest(space_id)
            if repo is None or space is None or not repo.head or space.desired is DesiredState.DELETED or space.config_error:
                continue
            if latest is not None and not latest.status.is_terminal:
                continue
            try:
                await queue_build(deps, uow, repo, space, revision=repo.head, author="vitrine", title="made again: its files were not here")
            except QuotaExceeded:
                continue  # the owner's month is used up; a restart asks again
            queued.append(space_id)
        await deps.signals.notify("reconcile", space_id)
    return tuple(queued)
