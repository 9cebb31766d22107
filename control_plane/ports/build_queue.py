"""Handing a build to workers. The database row is the truth; the message is a hint that may be lost or doubled."""

from __future__ import annotations

from typing import Protocol

from control_plane.domain.builds import BuildRequest, BuildTry


class BuildQueue(Protocol):
    async def submit(self, request: BuildRequest) -> None:
        """Raises Unavailable when the broker does not answer; the periodic scan submits again."""

    async def waiting(self) -> frozenset[BuildTry]:
        """Those that were submitted and that no worker has taken. Raises Unavailable when the broker does not answer."""
