"""What the world is told about a Space: its runtime, in few queries for many Spaces at once."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from control_plane.domain.builds import BuildStatus
from control_plane.domain.hardware import FlavorCatalog
from control_plane.domain.reasons import Reason
from control_plane.domain.repo_volumes import is_same
from control_plane.domain.spaces import Build, Deployment, Replica, RepoVolume, Sdk, Space
from control_plane.domain.stage import derive_stage
from control_plane.ports.space_actions import RuntimeView
from control_plane.ports.stores import UnitOfWork


async def runtime_views(uow: UnitOfWork, catalog: FlavorCatalog, spaces: Sequence[Space]) -> dict[str, RuntimeView]:
    """By space id. Four queries however many Spaces are asked for (five when something is queued)."""
    ids = [str(s.id) for s in spaces]
    builds, replicas = await uow.builds.latest_many(ids), await uow.deployments.replicas_many(ids)
    pairs = {(str(s.id), g) for s in spaces for g in (s.generation, s.live_generation) if g}
    deployments = await uow.deployments.many(sorted(pairs))
    queue: tuple[Build, ...] = ()
    if any(b.status is BuildStatus.QUEUED for b in builds.values()):
        queue = tuple(b for b in await uow.builds.open() if b.status is BuildStatus.QUEUED)
    return {str(s.id): _view(catalog, s, builds.get(str(s.id)), deployments, replicas.get(str(s.id), ()), queue) for s in spaces}


def _view(
    catalog: FlavorCatalog, space: Space, build: Build | None, deployments: Mapping[tuple[str, int], Deployment],
    replicas: tuple[Replica, ...], queue: tuple[Build, ...],
) -> RuntimeView:  # fmt: skip
    newest = deployments.get((str(space.id), space.generation))
    live = deployments.get((str(space.id), space.live_generation))
    view = derive_stage(space, build, newest, live, replicas)
    flavor = catalog.find(space.hardware)
    is_static = space.sdk is Sdk.STATIC
    serving = [r for r in replicas if r.state.may_serve and r.generation == space.live_generation]
    sleep = space.sleep_after_s if space.sleep_after_s is not None else (flavor.default_sleep_s if flavor else None)
    position = view.position
    if view.reason is Reason.BUILD_QUEUED and build:
        position = next((i for i, b in enumerate(queue, 1) if b.id == build.id), None)
    return RuntimeView(
        stage=view.stage, requested_hardware=None if is_static else space.hardware,
        current_hardware=serving[0].hardware if serving and not is_static else None, sleep_after_s=sleep or None,
        requested_replicas=space.replicas, current_replicas=len(serving) or int(is_static and live is not None),
        storage_tier=space.storage_tier, volumes=_volumes(space, live if serving else None, newest), sha=view.revision, sdk=space.sdk,
        sdk_version=space.config.sdk_version, subdomain=space.subdomain,
        reason=view.reason, message=view.message, position=position, eta_s=view.eta_s,
        build_id=build.id if build else "", updated_at=space.updated_at,
    )  # fmt: skip


def _volumes(space: Space, *deployments: Deployment | None) -> tuple[RepoVolume, ...]:
    """What the Space asks for, with the commit of the first deployment that mounts the same."""
    pinned = [volume for deployment in deployments if deployment for volume in deployment.volumes if volume.commit]
    return tuple(next((one for one in pinned if is_same(one, volume)), volume) for volume in space.volumes)


async def usual_seconds(uow: UnitOfWork, space: Space) -> float | None:
    """How long this Space usually takes from push to live: the median of its last successful builds; None = no history."""
    durations = await uow.builds.recent_durations(space.id)
    return statistics.median(durations) if durations else None
