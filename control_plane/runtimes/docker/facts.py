"""What the engine says about a container becomes an observation. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaObservation, ReplicaState, ReplicaUsage
from control_plane.domain.routes import Endpoint, EndpointKind
from control_plane.runtimes.docker import manifests

Item = Mapping[str, Any]


def replica_of(labels: Mapping[str, str]) -> tuple[ReplicaId, SpaceId, int]:
    """Raises KeyError or ValueError for a container that is not a replica."""
    return ReplicaId(labels[manifests.REPLICA]), SpaceId(labels[manifests.SPACE]), int(labels[manifests.GENERATION])


def observation(
    inspected: Item, *, disk_full: bool = False, log_tail: tuple[str, ...] = (), ports: tuple[int, ...] = (), node: str = ""
) -> ReplicaObservation:
    """`inspected` is the answer of `GET /containers/{id}/json`. `disk_full`: we ended it for its disk use."""
    labels, state = inspected["Config"]["Labels"], inspected["State"]
    replica_id, space_id, generation = replica_of(labels)
    began = moment(state.get("StartedAt", ""))
    status = state.get("Status", "")
    if status in ("created", "restarting"):
        return ReplicaObservation(replica_id, space_id, generation, ReplicaState.PENDING, reason=Reason.STARTING, node=node)
    if status in ("running", "paused"):
        address = address_of(inspected)
        return ReplicaObservation(
            replica_id, space_id, generation, ReplicaState.STARTING,
            endpoint=Endpoint(EndpointKind.TCP, f"{address}:{labels[manifests.PORT]}", replica_id) if address else None,
            started_at=began, listening_ports=ports, node=node,
        )  # fmt: skip
    reason, words, code = ended(state, disk_full=disk_full)
    return ReplicaObservation(
        replica_id, space_id, generation, ReplicaState.FAILED, reason=reason, message=words, exit_code=code, log_tail=log_tail,
        started_at=began, node=node,
    )  # fmt: skip


def ended(state: Item, *, disk_full: bool = False) -> tuple[Reason, str, int | None]:
    """Why a container that does not run has ended: reason, words, exit code (None where there was no process)."""
    code = int(state.get("ExitCode", 0))
    if disk_full:
        return Reason.APP_DISK_FULL, Reason.APP_DISK_FULL.words, code
    if state.get("OOMKilled"):
        return Reason.APP_OUT_OF_MEMORY, Reason.APP_OUT_OF_MEMORY.words, code
    if error := str(state.get("Error", "")).strip():
        return Reason.APP_EXITED, f"The app could not be started: {error[:300]}", code
    if state.get("Dead"):
        return Reason.PLATFORM_ERROR, Reason.PLATFORM_ERROR.words, None
    return Reason.APP_EXITED, f"The app exited with code {code}.", code


def address_of(inspected: Item) -> str:
    """The container's address on its own network, "" while it has none."""
    networks = inspected.get("NetworkSettings", {}).get("Networks") or {}
    return next((str(one["IPAddress"]) for one in networks.values() if one.get("IPAddress")), "")


def moment(text: str) -> datetime | None:
    """The engine's time stamps; its zero time (year 1) means that it never was."""
    if not text or text.startswith("0001-"):
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def usage(replica_id: ReplicaId, now: Item, before: Item | None) -> ReplicaUsage | None:
    """From two looks of `GET /containers/{id}/stats` (`before` may be missing: the engine's own previous one is used)."""
    memory = now.get("memory_stats") or {}
    if "usage" not in memory:
        return None
    details = memory.get("stats") or {}
    # Page cache that can be dropped at once is not use (cgroup v2: inactive_file, v1: total_inactive_file).
    cache = int(details.get("inactive_file", details.get("total_inactive_file", 0)))
    earlier = (before or {}).get("cpu_stats") or now.get("precpu_stats") or {}
    used = _cpu_ns(now.get("cpu_stats") or {}) - _cpu_ns(earlier)
    then, at = moment(str((before or now).get("read" if before else "preread", ""))), moment(str(now.get("read", "")))
    passed = (at - then).total_seconds() if at and then else 0.0
    cores = max(used / 1e9 / passed, 0.0) if passed > 0 else 0.0
    traffic = (now.get("networks") or {}).values()
    return ReplicaUsage(
        replica_id, cores, max(int(memory["usage"]) - cache, 0), int(memory.get("limit", 0)),
        sum(int(one.get("rx_bytes", 0)) for one in traffic), sum(int(one.get("tx_bytes", 0)) for one in traffic),
    )  # fmt: skip


def _cpu_ns(stats: Item) -> int:
    return int((stats.get("cpu_usage") or {}).get("total_usage", 0))


def listening_ports(proc_net_tcp: str) -> tuple[int, ...]:
    """Ports in state LISTEN (0A) of a /proc/PID/net/tcp or tcp6 text (proc(5)). The engine's DNS answers on 127.0.0.11: not the app's."""
    found: set[int] = set()
    for line in proc_net_tcp.splitlines():
        parts = line.split()
        if len(parts) > 3 and parts[3] == "0A":
            address, _, port = parts[1].rpartition(":")
            if address != "0B00007F":
                found.add(int(port, 16))
    return tuple(sorted(found))
