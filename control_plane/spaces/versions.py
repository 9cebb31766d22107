"""Which earlier artifacts of a Space are kept for going back: also the registry's garbage collection goes by this list."""

from __future__ import annotations

from control_plane.domain.spaces import Deployment, Space
from control_plane.ports.stores import UnitOfWork

KEPT_VERSIONS = 5
_LOOK_BACK = 200  # restarts and settings make deployments of the same artifact


async def versions_of(uow: UnitOfWork, space: Space) -> tuple[Deployment, ...]:
    """The newest deployment of each of the last `KEPT_VERSIONS` artifacts that could serve, newest first, and always the live one."""
    found: dict[str, Deployment] = {}
    for one in await uow.deployments.of_space(space.id, _LOOK_BACK):
        is_live = one.generation == space.live_generation
        if one.failed_reason is not None and one.live_at is None:
            continue
        if is_live or (one.artifact.ref not in found and len(found) < KEPT_VERSIONS):
            found[one.artifact.ref] = one
    return tuple(sorted(found.values(), key=lambda one: one.generation, reverse=True))
