"""What the suite asks of a cluster, looked at once before anything else. What is missing is said in words, and nothing runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control_plane.domain.errors import VitrineError
from control_plane.runtimes.kubernetes import facts
from control_plane.runtimes.kubernetes.api import KubeApi

_NEEDED = (  # verb, group, resource: as nobody in particular, in any namespace
    ("create", "", "namespaces"), ("delete", "", "namespaces"), ("list", "", "nodes"), ("watch", "", "nodes"), ("list", "", "pods"),
    ("watch", "", "pods"), ("create", "", "pods/portforward"), ("get", "", "pods/log"), ("patch", "apps", "deployments"),
    ("patch", "", "secrets"), ("patch", "", "services"), ("patch", "networking.k8s.io", "networkpolicies"),
)  # fmt: skip
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_POOL = "vitrine.dev/pool"
_HOSTNAME = "kubernetes.io/hostname"


class Missing(Exception):
    """What the operator of the suite has to bring."""


@dataclass(frozen=True)
class Choice:
    """A node that runs the suite's pods, by labels and tolerations, and what is free on it."""

    name: str
    selector: dict[str, str]
    tolerations: tuple[dict[str, str], ...]
    free_cores: float
    free_memory: float
    is_made_up: bool  # by its own words there is no kubelet behind it


def kubeconfig() -> str:
    """Absolute: the platforms that tests start work in another directory. Several files, divided as in PATH, are fine."""
    parts = [str(Path(part).expanduser().absolute()) for part in os.environ["KUBECONFIG"].split(os.pathsep) if part]
    return os.pathsep.join(parts)


def registry_login() -> tuple[str, str] | None:
    user = os.environ.get("VITRINE_REGISTRY_USER", "")
    return (user, os.environ.get("VITRINE_REGISTRY_PASSWORD", "")) if user else None


def check_rights(api: KubeApi) -> None:
    """Raises Missing with every right that these credentials lack."""
    lacking = [f"{verb} {resource}" for verb, group, resource in _NEEDED if not may(api, verb, group, resource)]
    if lacking:
        raise Missing(f"the credentials of KUBECONFIG may not: {', '.join(lacking)}")


def may(api: KubeApi, verb: str, group: str, resource: str) -> bool:
    name, _, sub = resource.partition("/")
    asked = {"verb": verb, "group": group, "resource": name, "subresource": sub, "namespace": ""}
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": asked}}
    return bool(api.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)["status"].get("allowed"))


def candidates(api: KubeApi) -> list[Choice]:
    """Nodes that should be able to run a pod of ours, best first: labelled for the pool `cpu` where any are, without taints, with the most
    room. Whether there is a kubelet behind one shows only when a pod runs. Raises Missing."""
    nodes = [node for node in api.get("/api/v1/nodes")["items"] if _is_usable(node)]
    if not nodes:
        raise Missing("no node is Ready, schedulable, Linux, and of this machine's processor architecture")
    labelled = [node for node in nodes if _labels(node).get(_POOL) == "cpu"]
    taken = _taken(api)
    choices = [_choice(node, taken.get(node["metadata"]["name"], (0.0, 0.0)), bool(labelled)) for node in labelled or nodes]
    roomy = [choice for choice in choices if choice.free_cores >= 0.9 and choice.free_memory >= 1.5 * (1 << 30)]
    if not roomy:
        most = max(choices, key=lambda choice: choice.free_cores)
        raise Missing(
            f"no node has a core and 1.5 GiB free beside what runs there; the most is {most.free_cores:.1f} cores and "
            f"{most.free_memory / (1 << 30):.1f} GiB on {most.name}"
        )
    return sorted(roomy, key=lambda choice: (choice.is_made_up, len(choice.tolerations), -choice.free_cores))


def ready_nodes_beside(api: KubeApi, name: str) -> list[Choice]:
    """Further nodes of the pool with a kubelet behind them; may be none."""
    try:
        return [choice for choice in candidates(api) if choice.name != name and not choice.is_made_up]
    except Missing:
        return []


def gpu_node(api: KubeApi) -> Choice | None:
    """A Ready node with the extended resource; a status alone will do."""
    for node in api.get("/api/v1/nodes")["items"]:
        amount = facts.quantity(node["status"].get("allocatable", {}).get("nvidia.com/gpu"))
        if amount and facts.is_node_ready(node) and not node["spec"].get("unschedulable") and _labels(node):
            return _choice(node, (0.0, 0.0), labelled=False)
    return None


def _choice(node: dict[str, Any], taken: tuple[float, float], labelled: bool) -> Choice:
    labels, room = _labels(node), node["status"].get("allocatable", {})
    selector = {_HOSTNAME: labels[_HOSTNAME]} if _HOSTNAME in labels else dict(labels)
    version = str(node["status"].get("nodeInfo", {}).get("kubeletVersion", ""))
    taints = [taint for taint in node["spec"].get("taints") or [] if taint["effect"] != "PreferNoSchedule"]
    return Choice(
        node["metadata"]["name"],
        {_POOL: "cpu", **selector} if labelled else selector,
        tuple({"key": taint["key"], "operator": "Exists", "effect": taint["effect"]} for taint in taints),
        facts.quantity(room.get("cpu")) - taken[0],
        facts.quantity(room.get("memory")) - taken[1],
        not version or any(word in version for word in ("kwok", "fake")),
    )


def _is_usable(node: dict[str, Any]) -> bool:
    info = node["status"].get("nodeInfo", {})
    mine = _ARCHITECTURES.get(os.uname().machine, os.uname().machine)
    is_fitting = info.get("operatingSystem", "linux") == "linux" and info.get("architecture") in (mine, "", None)
    return is_fitting and facts.is_node_ready(node) and not node["spec"].get("unschedulable") and bool(_labels(node))


def _labels(node: dict[str, Any]) -> dict[str, str]:
    return dict(node["metadata"].get("labels") or {})


def _taken(api: KubeApi) -> dict[str, tuple[float, float]]:
    """What pods ask for, by node: cores and bytes. Those of another Vitrine are pods like any other here."""
    taken: dict[str, tuple[float, float]] = {}
    for pod in api.get("/api/v1/pods", timeout_s=60.0).get("items") or []:
        use = facts.pod_use({**pod, "metadata": {**pod["metadata"], "labels": {}}})
        if use is not None:
            cores, memory = taken.get(use.node, (0.0, 0.0))
            taken[use.node] = cores + use.vcpu, memory + use.memory_bytes
    return taken


def has_storage(api: KubeApi) -> bool:
    """Whether a claim that names no class gets a volume here."""
    mark = "storageclass.kubernetes.io/is-default-class"
    if not may(api, "list", "storage.k8s.io", "storageclasses") or not may(api, "list", "", "persistentvolumes"):
        return False
    classes = api.get("/apis/storage.k8s.io/v1/storageclasses").get("items") or []
    default = next((one for one in classes if (one["metadata"].get("annotations") or {}).get(mark) == "true"), None)
    if default is None or default["provisioner"] != "kubernetes.io/no-provisioner":
        return default is not None
    volumes = api.get("/api/v1/persistentvolumes").get("items") or []
    return any(one["spec"].get("storageClassName") == default["metadata"]["name"] for one in volumes)


def why_not_running(api: KubeApi, namespace: str, pod: str) -> str:
    """In the cluster's own words, why this pod does not run."""
    try:
        status = api.get(f"/api/v1/namespaces/{namespace}/pods/{pod}")["status"]
        events = api.get(f"/api/v1/namespaces/{namespace}/events", {"fieldSelector": f"involvedObject.name={pod}"}).get("items") or []
    except VitrineError as error:
        return error.message
    waiting = [(c.get("state") or {}).get("waiting") or {} for c in status.get("containerStatuses") or []]
    words = [f"{w['reason']}: {w.get('message', '')}" for w in waiting if w.get("reason")]
    words += [f"{e['reason']}: {e.get('message', '')}" for e in events if e.get("type") == "Warning"]
    words += [c.get("message", "") for c in status.get("conditions") or [] if c.get("status") == "False"]
    return "; ".join(dict.fromkeys(word.strip() for word in words if word.strip())) or f"it is {status.get('phase')}, without a word why"
