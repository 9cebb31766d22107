"""Which parts of which repositories Spaces mount now: what must stay on disk for them."""

from __future__ import annotations

from control_plane.ports.stores import UnitOfWork
from control_plane.ports.volumes import TreeKey


async def mounted_trees(uow: UnitOfWork) -> frozenset[TreeKey]:
    """Of every Space's newest and live deployment, and of those that still have a replica."""
    pairs = {(str(replica.space_id), replica.generation) for replica in await uow.deployments.open_replicas()}
    for space in await uow.spaces.get_many([str(space_id) for space_id in await uow.spaces.all_ids()]):
        pairs |= {(str(space.id), generation) for generation in (space.generation, space.live_generation) if generation}
    deployments = await uow.deployments.many(sorted(pairs))
    return frozenset((volume.repo_id, volume.oid) for one in deployments.values() for volume in one.volumes if volume.oid)
