"""What is asked of the placement and what it answers. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from control_plane.domain.hardware import Flavor
from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.scheduler.fair_queue import PriorityClass


@dataclass(frozen=True, slots=True)
class PlacementRequest:
    """One replica that needs a place. `owner` is the user or organisation the queue is fair between."""

    replica_id: ReplicaId
    space_id: SpaceId
    generation: int
    flavor: Flavor
    owner: str
    priority: PriorityClass = PriorityClass.NORMAL


@dataclass(frozen=True, slots=True)
class Placement:
    """`node` is "" when a cluster autoscaler has to bring a node of `pool` first."""

    replica_id: ReplicaId
    node: str
    pool: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """Not now, and why. `position` 1 = next. `eta_s` None = no estimate. `put_to_sleep`: idle Spaces to make room with."""

    replica_id: ReplicaId
    reason: Reason
    message: str
    position: int | None = None
    eta_s: float | None = None
    put_to_sleep: tuple[SpaceId, ...] = ()
