"""Where replicas run. One adapter per place: process, docker, kubernetes; and a fake in tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from control_plane.domain.capacity import Capacity
from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.domain.replicas import ReplicaObservation, ReplicaSpec, ReplicaUsage


class Runtime(Protocol):
    """Runs, observes and stops replicas. Every call is safe to repeat. SDK exceptions stop here: `Unavailable` or `Broken`.

    A runtime reports READY only for what its own platform knows (Kubernetes readiness); the process and docker
    runtimes report STARTING while the process lives, and the scheduler's probe decides READY.
    """

    async def start(self) -> None:
        """Called once: clean up what a previous life left behind (processes, cgroups, sockets), begin watching."""

    async def apply(self, spec: ReplicaSpec) -> None:
        """Start this replica unless it runs already. Raises StaleGeneration, NoCapacity, Rejected (sandbox floor)."""

    async def observe(self, space_id: SpaceId) -> tuple[ReplicaObservation, ...]: ...

    async def observe_all(self) -> tuple[ReplicaObservation, ...]: ...

    async def stop(self, replica_id: ReplicaId, *, grace_s: float = 5.0) -> None:
        """TERM, wait up to `grace_s` seconds, then KILL everything of it; frees its resources. Unknown ids are fine."""

    async def remove_space(self, space_id: SpaceId, space_name: str) -> None:
        """Forget what outlives the replicas of a deleted Space (network, service, stored data). Unknown ids are fine."""

    async def capacity(self) -> Capacity: ...

    async def usage(self, replica_id: ReplicaId) -> ReplicaUsage | None: ...

    def changes(self) -> AsyncIterator[SpaceId]:
        """A hint whenever a replica of that Space changed by itself (exited, became ready, its node went)."""

    async def close(self) -> None:
        """Stop watching. With the embedded default this also stops every replica."""
