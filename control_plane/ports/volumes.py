"""Where the persistent storage of Spaces lies. One adapter for directories of this machine, one for claims of a cluster."""

from __future__ import annotations

from typing import Protocol

from control_plane.domain.ids import SpaceId
from control_plane.domain.replicas import Mount
from control_plane.domain.spaces import Space


class Volumes(Protocol):
    def mounts_of(self, space: Space) -> tuple[Mount, ...]:
        """What a replica of this Space gets at `/data`; made when it is not there. Empty when the Space asked for nothing."""

    async def remove(self, space_id: SpaceId, space_name: str, key: str) -> None:
        """Remove one volume and all that it holds. Nothing uses it any more. Unknown ones are fine."""

    async def remove_all(self, space: Space, space_name: str) -> None:
        """Remove what a deleted Space had."""
