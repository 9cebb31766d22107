"""What the cluster's objects mean to Vitrine: observations, reasons, nodes, amounts. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from control_plane.domain.capacity import Node, NodePool
from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaObservation, ReplicaState
from control_plane.domain.routes import Endpoint, EndpointKind
from control_plane.runtimes.kubernetes import fetched, names, volume_fetch

Item = dict[str, Any]

_QUANTITY = re.compile(r"([+-]?[0-9.]+)(?:([eE][+-]?[0-9]+)|([numkMGTPE]i?|Ki))?")
_SCALE = {
    "": 1.0, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip

# Waiting reasons of a container that end the replica's try; the others are on the way.
_CANNOT_PULL = {"ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable", "SignatureValidationFailed"}
_CANNOT_RUN = {"RunContainerError", "CreateContainerError", "CrashLoopBackOff"}
_FETCH_TRIES = 4  # of the container that fetches volumes; the kubelet pauses longer each time
_NODE_WENT = {"NodeLost", "NodeShutdown", "Shutdown", "Terminated", "NodeAffinity"}
_NO_ROOM = re.compile(r"^(OutOf|UnexpectedAdmissionError)")


def quantity(text: str | int | float | None) -> float:
    """A Kubernetes quantity in its base unit ("250m" → 0.25, "2Gi" → 2147483648). Unreadable = 0."""
    if text is None:
        return 0.0
    found = _QUANTITY.fullmatch(str(text))
    if found is None:
        return 0.0
    number, exponent, suffix = found.groups()
    try:
        return float(number + (exponent or "")) * _SCALE[suffix or ""]
    except ValueError:
        return 0.0


def parse_time(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None


# -- replicas


@dataclass(frozen=True, slots=True)
class Hint:
    """The newest event about a pod that says more than its status does."""

    reason: Reason
    message: str


def hint(event: Item) -> tuple[str, Hint] | None:
    """(pod name, what it means) for an event that an owner should know of; None for the rest."""
    about = event.get("involvedObject") or event.get("regarding") or {}
    if about.get("kind") != "Pod" or event.get("type") == "Normal":
        return None
    why, message = event.get("reason", ""), str(event.get("message") or event.get("note") or "")
    found: Reason | None = None
    if why == "FailedScheduling":
        found = Reason.NO_CAPACITY
    elif why in ("Failed", "BackOff") and "image" in message.lower() and "restarting" not in message:
        found = Reason.IMAGE_PULL_FAILED
    elif why == "Unhealthy":
        found = Reason.APP_NEVER_LISTENED if message.startswith("Startup probe") else Reason.APP_UNHEALTHY
    elif why == "Evicted":
        found = _eviction(message)
    elif why in ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"):
        found = Reason.PLATFORM_ERROR
    elif why == "Preempted":
        found = Reason.PREEMPTED
    return (str(about.get("name", "")), Hint(found, message[:500])) if found else None


def newest_pod(pods: Iterable[Item]) -> Item | None:
    """The pod that counts for a replica: one that is not being deleted, the youngest of them."""
    return max(
        pods,
        key=lambda p: (
            "deletionTimestamp" not in p["metadata"],
            p["metadata"].get("creationTimestamp", ""),
            p["metadata"].get("name", ""),
        ),
        default=None,
    )


def observation(
    deployment: Item, pod: Item | None, *, pod_hint: Hint | None, node_lost: bool, log_tail: tuple[str, ...]
) -> ReplicaObservation:
    """One replica as the port wants it."""
    labels = deployment["metadata"]["labels"]
    state, reason, message, code = _state(deployment, pod, pod_hint, node_lost)
    endpoint, started, node = None, None, ""
    if pod is not None:
        node = pod.get("spec", {}).get("nodeName", "")
        status = pod.get("status", {})
        address, port = status.get("podIP"), _port(deployment)
        if address and state in (ReplicaState.STARTING, ReplicaState.READY):
            host = f"[{address}]" if ":" in address else address
            endpoint = Endpoint(EndpointKind.TCP, f"{host}:{port}", ReplicaId(labels[names.REPLICA]))
        started = parse_time(status.get("startTime"))
    return ReplicaObservation(
        replica_id=ReplicaId(labels[names.REPLICA]),
        space_id=SpaceId(labels[names.SPACE]),
        generation=int(labels[names.GENERATION]),
        state=state,
        endpoint=endpoint,
        reason=reason,
        message=message,
        exit_code=code,
        log_tail=log_tail if state is ReplicaState.FAILED else (),
        started_at=started,
        node=node,
    )


_Found = tuple[ReplicaState, Reason | None, str, int | None]


def _state(deployment: Item, pod: Item | None, pod_hint: Hint | None, node_lost: bool) -> _Found:
    if pod is None:
        return _without_pod(deployment)
    if node_lost:
        return ReplicaState.FAILED, Reason.NODE_LOST, Reason.NODE_LOST.words, None
    status = pod.get("status", {})
    phase = status.get("phase", "Pending")
    if phase == "Failed" or "deletionTimestamp" in pod["metadata"]:
        return _ended(pod, status)
    container = next((c for c in status.get("containerStatuses") or [] if c.get("name") == names.CONTAINER), None)
    if container is None:
        return _not_started(status, pod_hint)
    if fetching := _fetching(status):
        return fetching
    return _by_container(container, pod_hint)


def _without_pod(deployment: Item) -> _Found:
    for condition in deployment.get("status", {}).get("conditions") or []:
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            message = str(condition.get("message", ""))
            reason = Reason.QUOTA if "quota" in message else Reason.PLATFORM_ERROR
            return ReplicaState.PENDING, reason, message[:500], None
    return ReplicaState.PENDING, Reason.STARTING, "", None


def _ended(pod: Item, status: Item) -> _Found:
    why, message = status.get("reason", ""), str(status.get("message", ""))
    disrupted: Item = next(
        (c for c in status.get("conditions") or [] if c.get("type") == "DisruptionTarget" and c.get("status") == "True"), {}
    )
    if why == "Evicted" or disrupted.get("reason") == "TerminationByKubelet":
        reason = _eviction(message or str(disrupted.get("message", "")))
    elif why.startswith("Preempt") or disrupted.get("reason") == "PreemptionByScheduler":
        reason = Reason.PREEMPTED
    elif _NO_ROOM.match(why):
        reason = Reason.NO_CAPACITY
    elif why in _NODE_WENT or disrupted or "deletionTimestamp" in pod["metadata"]:
        reason = Reason.NODE_LOST
    else:
        container: Item = next(iter(status.get("containerStatuses") or []), {})
        ended = (container.get("state") or {}).get("terminated")
        if ended:
            return _terminated(ended, None)
        reason = Reason.PLATFORM_ERROR
    return ReplicaState.FAILED, reason, message[:500] or reason.words, None


def _eviction(message: str) -> Reason:
    text = message.lower()
    if "ephemeral" in text or "emptydir" in text or "disk" in text:
        return Reason.APP_DISK_FULL
    if "memory" in text:
        return Reason.APP_OUT_OF_MEMORY
    return Reason.NODE_LOST


def _not_started(status: Item, pod_hint: Hint | None) -> _Found:
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return ReplicaState.PENDING, Reason.NO_CAPACITY, str(condition.get("message", ""))[:500], None
    if pod_hint is not None and pod_hint.reason is Reason.PLATFORM_ERROR:
        return ReplicaState.PENDING, pod_hint.reason, pod_hint.message, None
    return ReplicaState.PENDING, Reason.STARTING, "", None


def _fetching(status: Item) -> _Found | None:
    """While the container before the app fetches what that mounts, and when it cannot; None once it is done, or where there is none."""
    found = next((c for c in status.get("initContainerStatuses") or [] if c.get("name") == fetched.CONTAINER), None)
    if found is None:
        return None
    state, last = found.get("state") or {}, (found.get("lastState") or {}).get("terminated") or {}
    ended = state.get("terminated") or last
    code = ended.get("exitCode")
    if code == 0:
        return None
    if ended:
        said = str(ended.get("message", "")).strip().splitlines()
        words = f"What the app mounts could not be fetched. {said[-1][:300] if said else ''}".strip()
        is_final = code == volume_fetch.REFUSED or int(found.get("restartCount", 0)) >= _FETCH_TRIES
        reason = Reason.VOLUME_UNAVAILABLE if is_final else Reason.VOLUME_FETCHING
        return ReplicaState.FAILED if is_final else ReplicaState.PENDING, reason, words, code
    waiting = state.get("waiting") or {}
    if waiting.get("reason") in _CANNOT_PULL:
        words = f"The image in which nodes fetch volumes could not be pulled. {str(waiting.get('message', ''))[:400]}".strip()
        return ReplicaState.FAILED, Reason.IMAGE_PULL_FAILED, words, None
    return ReplicaState.PENDING, Reason.VOLUME_FETCHING if "running" in state else Reason.STARTING, "", None


def _by_container(container: Item, pod_hint: Hint | None) -> _Found:
    """STARTING begins when the process runs: pulling an image is not charged to the app's start-up time."""
    state = container.get("state") or {}
    last = (container.get("lastState") or {}).get("terminated")
    if ended := state.get("terminated") or last:
        return _terminated(ended, pod_hint)
    if waiting := state.get("waiting"):
        why, message = waiting.get("reason", ""), str(waiting.get("message", ""))[:500]
        if why in _CANNOT_PULL:
            return ReplicaState.FAILED, Reason.IMAGE_PULL_FAILED, message, None
        if why == "ErrImagePull":
            return ReplicaState.PENDING, Reason.IMAGE_PULL_FAILED, message, None
        if why in _CANNOT_RUN:
            return ReplicaState.FAILED, Reason.APP_EXITED, message, None
        if why == "CreateContainerConfigError":
            return ReplicaState.PENDING, Reason.PLATFORM_ERROR, message, None
        return ReplicaState.PENDING, Reason.STARTING, message, None
    if container.get("ready"):
        return ReplicaState.READY, None, "", None
    return ReplicaState.STARTING, Reason.STARTING, "", None


def _terminated(ended: Item, pod_hint: Hint | None) -> _Found:
    code, why, message = ended.get("exitCode"), ended.get("reason", ""), str(ended.get("message", ""))
    if why == "OOMKilled":
        reason = Reason.APP_OUT_OF_MEMORY
    elif pod_hint is not None and pod_hint.reason is Reason.APP_NEVER_LISTENED and code in (0, 137, 143):
        reason = Reason.APP_NEVER_LISTENED
    else:
        reason = Reason.APP_EXITED
    words = f"The app exited with code {code}." if reason is Reason.APP_EXITED and code is not None else reason.words
    last = message.strip().splitlines()[-1][:300] if message.strip() else ""
    return ReplicaState.FAILED, reason, f"{words} {last}".strip(), code


def _port(deployment: Item) -> int:
    return int(deployment["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"])


# -- nodes


@dataclass(frozen=True, slots=True)
class PodUse:
    """What one pod takes on its node. `replica_id` is set for ours."""

    node: str
    vcpu: float
    memory_bytes: int
    extended: Mapping[str, int]
    replica_id: ReplicaId | None = None


def pod_use(pod: Item) -> PodUse | None:
    """None for a pod that is on no node or has ended. Ours count what was promised (limits), foreign ones what they request."""
    spec, node = pod.get("spec", {}), pod.get("spec", {}).get("nodeName")
    if not node or pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return None
    labels = pod["metadata"].get("labels") or {}
    if names.is_ours(labels):
        limits = spec["containers"][0].get("resources", {}).get("limits", {})
        return _use(node, limits, ReplicaId(labels[names.REPLICA]))
    total: dict[str, float] = {}
    for container in spec.get("containers") or []:
        for key, value in (container.get("resources", {}).get("requests") or {}).items():
            total[key] = total.get(key, 0.0) + quantity(value)
    for container in spec.get("initContainers") or []:
        always = container.get("restartPolicy") == "Always"  # a sidecar adds up; others run before and only raise the floor
        for key, value in (container.get("resources", {}).get("requests") or {}).items():
            total[key] = total.get(key, 0.0) + quantity(value) if always else max(total.get(key, 0.0), quantity(value))
    for key, value in (spec.get("overhead") or {}).items():
        total[key] = total.get(key, 0.0) + quantity(value)
    return _use(node, total, None)


def _use(node: str, amounts: Mapping[str, Any], replica_id: ReplicaId | None) -> PodUse:
    extended = {key: int(quantity(value)) for key, value in amounts.items() if "/" in key}
    return PodUse(node, quantity(amounts.get("cpu")), int(quantity(amounts.get("memory"))), extended, replica_id)


def pool_of(node: Item, pools: Iterable[NodePool]) -> NodePool | None:
    """The first pool whose selector the node's labels meet."""
    labels = node["metadata"].get("labels") or {}
    return next((p for p in pools if p.node_selector.items() <= labels.items()), None)


def is_node_ready(node: Item) -> bool:
    conditions = node.get("status", {}).get("conditions") or []
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def node(item: Item, pool: NodePool, uses: Iterable[PodUse], *, lost: bool) -> Node:
    """A node with what is taken on it, in the units of `domain.capacity`; foreign requests count against overcommit in full."""
    allocatable = item.get("status", {}).get("allocatable") or {}
    vcpu, memory, gpus, replicas = 0.0, 0, 0, set()
    for use in uses:
        factor = 1.0 if use.replica_id else pool.overcommit
        vcpu += use.vcpu * factor
        memory += int(use.memory_bytes * factor)
        gpus += use.extended.get(pool.gpu_resource, 0)
        if use.replica_id:
            replicas.add(use.replica_id)
    return Node(
        name=item["metadata"]["name"],
        pool=pool.name,
        vcpu=quantity(allocatable.get("cpu")),
        memory_bytes=int(quantity(allocatable.get("memory"))),
        gpus=int(quantity(allocatable.get(pool.gpu_resource))),
        used_vcpu=round(vcpu, 6),
        used_memory_bytes=memory,
        used_gpus=gpus,
        is_schedulable=not lost and is_node_ready(item) and not item.get("spec", {}).get("unschedulable") and _tolerated(item, pool),
        labels=dict(item["metadata"].get("labels") or {}),
        replicas=frozenset(replicas),
    )


def _tolerated(item: Item, pool: NodePool) -> bool:
    taints = [t for t in item.get("spec", {}).get("taints") or [] if t.get("effect") in ("NoSchedule", "NoExecute")]
    return all(any(_tolerates(toleration, taint) for toleration in pool.tolerations) for taint in taints)


def _tolerates(toleration: Mapping[str, str], taint: Mapping[str, str]) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return not toleration.get("key") or toleration["key"] == taint.get("key")
    return toleration.get("key") == taint.get("key") and toleration.get("value", "") == taint.get("value", "")
