"""One running copy of a Deployment, and what a runtime says about it.

ReplicaState:  PENDING ─▶ STARTING ─▶ READY ─▶ DRAINING ─▶ STOPPED
                  │           │          │
                  └───────────┴──────────┴─▶ FAILED (reason) ; every state ─▶ STOPPED
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from control_plane.domain.builds import Artifact, LaunchPlan
from control_plane.domain.errors import IllegalTransition
from control_plane.domain.hardware import Flavor
from control_plane.domain.ids import ReplicaId, Sha, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.routes import Endpoint
from control_plane.domain.sensitive import Sensitive


class ReplicaState(StrEnum):
    PENDING = "pending"  # accepted, waits for a place
    STARTING = "starting"  # its process runs, the probe has not passed
    READY = "ready"  # the probe passed; it may serve
    DRAINING = "draining"  # takes no new requests, finishes old ones
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def is_terminal(self) -> bool:
        return self in (ReplicaState.STOPPED, ReplicaState.FAILED)

    @property
    def may_serve(self) -> bool:
        return self is ReplicaState.READY

    @property
    def holds_capacity(self) -> bool:
        return self in (ReplicaState.STARTING, ReplicaState.READY, ReplicaState.DRAINING)


_ORDER = (ReplicaState.PENDING, ReplicaState.STARTING, ReplicaState.READY, ReplicaState.DRAINING, ReplicaState.STOPPED)


def advance_replica(state: ReplicaState, to: ReplicaState) -> ReplicaState:
    """`to`, when the drawing above has that arrow; raises IllegalTransition otherwise. Same state is allowed."""
    if state is to:
        return to
    if not state.is_terminal and (to is ReplicaState.FAILED or to is ReplicaState.STOPPED):
        return to
    if not state.is_terminal and to in _ORDER and _ORDER.index(to) == _ORDER.index(state) + 1:
        return to
    raise IllegalTransition(f"a replica that is {state.value} cannot become {to.value}")


HUB_HOST = "hub.vitrine.internal"  # the name by which apps in a sandbox reach the Hub

# Some client code asks the public Hub by name whatever HF_ENDPOINT says, and sends it the visitor's token of this platform:
# apps do not reach these names unless the operator opens them.
PUBLIC_HUB = ("huggingface.co", "hf.co")


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume inside the replica. `source` is understood by the runtime (a directory, a claim name).

    `size_bytes` above 0: the Space's own volume, which may hold that much.
    """

    source: str
    path: str
    read_only: bool = True
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Fetch:
    """A part of a repository that a replica's machine downloads before the app starts and mounts read-only at `path`.

    `url` answers with a tar of it for `token`, and for nothing else; the token is good for as long as that replica is.
    """

    url: str
    token: Sensitive
    path: str
    total_bytes: int
    files: int
    is_file: bool = False


@dataclass(frozen=True, slots=True)
class ReplicaSpec:
    """All that a runtime needs to start one replica. Made by the scheduler; a runtime has no choices left.

    `fence`: a runtime refuses a spec whose fence is below one that it has started for this Space. It is the newest generation that the
    scheduler knew of, which is above `generation` where that one failed and an older one runs again.
    `start_timeout_s` bounds STARTING. `trusted` allows the sandbox floor to be missed (documented opt-out).
    """

    replica_id: ReplicaId
    space_id: SpaceId
    space_name: str
    generation: int
    revision: Sha
    artifact: Artifact
    launch: LaunchPlan
    flavor: Flavor
    env: Mapping[str, str | Sensitive] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    fetches: tuple[Fetch, ...] = ()  # for runtimes whose machines do not see the platform's disk
    start_timeout_s: int = 1800
    node: str = ""
    pool: str = ""
    trusted: bool = False
    # "host:port" or socket path of the platform's listener that the app may reach as its Hub endpoint
    hub_upstream: str = ""
    hub_host: str = ""
    newest: int = 0  # the Space's newest generation; 0 = this one

    @property
    def fence(self) -> int:
        return max(self.generation, self.newest)


@dataclass(frozen=True, slots=True)
class ReplicaObservation:
    """What is true of one replica now, by the runtime's own look. `endpoint` is set from STARTING on.

    `listening_ports` is what the replica listens on inside its namespace, when the runtime can see it: the base of
    APP_WRONG_PORT. `log_tail` is set on FAILED: the last lines the app printed.
    """

    replica_id: ReplicaId
    space_id: SpaceId
    generation: int
    state: ReplicaState
    endpoint: Endpoint | None = None
    reason: Reason | None = None
    message: str = ""
    exit_code: int | None = None
    log_tail: tuple[str, ...] = ()
    started_at: datetime | None = None
    listening_ports: tuple[int, ...] = ()
    node: str = ""


@dataclass(frozen=True, slots=True)
class ReplicaUsage:
    """Live use of one replica. CPU in cores, memory and network in bytes (network since start)."""

    replica_id: ReplicaId
    cpu_cores: float
    memory_bytes: int
    memory_limit_bytes: int
    rx_bytes: int = 0
    tx_bytes: int = 0
