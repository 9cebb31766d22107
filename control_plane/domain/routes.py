"""The routing table: public host → where its answers come from.

A table is a snapshot with a version; changes carry ordered versions of the same epoch. A reader that sees a gap or a
new epoch asks for a snapshot. A record that cannot be read is skipped and counted: it never affects another host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

from control_plane.domain.errors import Rejected
from control_plane.domain.ids import SpaceId


class EndpointKind(StrEnum):
    TCP = "tcp"  # address "10.0.0.7:7860"
    UNIX = "unix"  # address "/run/…/x.sock": a stream socket that speaks HTTP
    DOOR = "door"  # address "/run/…/door.sock": hands out sockets connected inside a namespace (SCM_RIGHTS)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One replica's address. `site` is set for static Spaces: the tree that the platform's file server answers from."""

    kind: EndpointKind
    address: str
    replica_id: str = ""  # a ReplicaId; "" for static Spaces
    site: str = ""


class RouteState(StrEnum):
    READY = "ready"  # `endpoints` serve
    ASLEEP = "asleep"  # a request wakes it
    STARTING = "starting"  # waking or first start: requests are held
    PAUSED = "paused"  # visits do not wake
    FAILED = "failed"  # nothing serves; `message` says why
    EMPTY = "empty"  # nothing was ever deployed

    @property
    def may_wake(self) -> bool:
        return self in (RouteState.ASLEEP, RouteState.STARTING)


class RouteAccess(StrEnum):
    PUBLIC = "public"
    PRIVATE = "private"  # every request is checked by the guard


class IdleRule(StrEnum):
    """What counts as use. Probes and Gradio heartbeats never do."""

    REQUESTS = "requests"
    MESSAGES = "messages"  # requests and real socket messages
    TABS = "tabs"  # any open tab (open stream or socket)


def _known(cls: type[Route] | type[Endpoint], body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: body[name] for each in fields(cls) if (name := each.name) in body}


@dataclass(frozen=True, slots=True)
class Route:
    """What the proxy knows of one Space. `host` is the full public host without port, lower case.

    `reason` and `message` are shown on pages and in coded answers when nothing serves; `eta_s` is the usual start time.
    `headers` are added to app answers (COEP, COOP, CORP, frame-ancestors policy), already validated.
    """

    host: str
    space_id: SpaceId
    space_name: str  # "ns/name"
    state: RouteState
    generation: int = 0
    revision: str = ""
    endpoints: tuple[Endpoint, ...] = ()
    access: RouteAccess = RouteAccess.PUBLIC
    idle_rule: IdleRule = IdleRule.MESSAGES
    allow_embedding: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)
    title: str = ""
    emoji: str = ""
    reason: str = ""
    message: str = ""
    eta_s: float | None = None
    redirect_to: str = ""  # a renamed Space's old host: full new host

    def to_payload(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_payload(cls, body: Mapping[str, Any]) -> Route:
        """Raises Rejected. Fields this version does not know are left out: a newer publisher must not empty an older table."""
        try:
            return cls(
                **{
                    **_known(cls, body),
                    "state": RouteState(body["state"]),
                    "access": RouteAccess(body.get("access", "public")),
                    "idle_rule": IdleRule(body.get("idle_rule", "messages")),
                    "endpoints": tuple(
                        Endpoint(**{**_known(Endpoint, e), "kind": EndpointKind(e["kind"])}) for e in body.get("endpoints", ())
                    ),
                    "headers": {str(k): str(v) for k, v in dict(body.get("headers", {})).items()},
                }
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Rejected(f"not a Route: {error}") from error


@dataclass(frozen=True, slots=True)
class RouteChange:
    """One step from `version - 1` to `version` of `epoch`: an upsert (`route` set) or a removal (`route` None)."""

    epoch: str
    version: int
    host: str
    route: Route | None


@dataclass(frozen=True, slots=True)
class RouteTable:
    """A snapshot. `epoch` changes when the publisher lost its memory; versions only compare within one epoch.

    `complete` is False while a publisher that has just started has not looked at every Space yet: a host that is not in
    `routes` may still have one, so readers keep what they know of it.
    """

    epoch: str
    version: int
    routes: Mapping[str, Route] = field(default_factory=dict)
    complete: bool = True


@dataclass(frozen=True, slots=True)
class ActivityReport:
    """What one proxy saw of one Space since its last report. Times are Unix seconds (UTC)."""

    space_id: SpaceId
    last_used_at: float
    open_sockets: int = 0
    open_tabs: int = 0
    requests: Mapping[str, int] = field(default_factory=dict)  # status class "2xx" → count
    latency_buckets: Mapping[str, int] = field(default_factory=dict)  # upper bound in seconds as text → count
    bytes_in: int = 0
    bytes_out: int = 0
    wakes: int = 0
    wake_s: float = 0.0  # from the visit that asked to the route that serves, summed over `wakes` that ended
