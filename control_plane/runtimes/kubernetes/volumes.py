"""Volumes of Spaces as PersistentVolumeClaims. The runtime makes them beside the first replica that needs one."""

from __future__ import annotations

from control_plane.domain.ids import SpaceId
from control_plane.domain.replicas import Mount
from control_plane.domain.spaces import Space
from control_plane.domain.storage import DATA_PATH
from control_plane.runtimes.kubernetes import names
from control_plane.runtimes.kubernetes.runtime import KubernetesRuntime


class Claims:
    def __init__(self, runtime: KubernetesRuntime) -> None:
        self._runtime = runtime

    def mounts_of(self, space: Space) -> tuple[Mount, ...]:
        if not space.storage_tier:
            return ()
        return (Mount(names.volume(space.storage_key), DATA_PATH, read_only=False, size_bytes=space.storage_bytes),)

    async def remove(self, space_id: SpaceId, space_name: str, key: str) -> None:
        await self._runtime.remove_volume(names.volume(key))

    async def remove_all(self, space: Space, space_name: str) -> None:
        if space.storage_key:
            await self.remove(space.id, space_name, space.storage_key)
