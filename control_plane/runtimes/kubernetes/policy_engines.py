"""Who enforces NetworkPolicy on this cluster. Pure.

The API server stores policies whether or not anybody enforces them, and no field of any object says which it is. So: pods of engines
that we know speak for it, some distributions have one built in, and a connection that a policy should have stopped proves the contrary.
https://kubernetes.io/docs/concepts/services-networking/network-policies/#prerequisites
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_ENGINES: Mapping[tuple[str, str], str] = {
    ("k8s-app", "calico-node"): "Calico",
    ("k8s-app", "canal"): "Canal",
    ("k8s-app", "cilium"): "Cilium",
    ("app", "antrea"): "Antrea",
    ("k8s-app", "kube-router"): "kube-router",
    ("app", "kindnet"): "kindnet",
    ("name", "weave-net"): "Weave Net",
    ("app", "ovnkube-node"): "OVN-Kubernetes",
    ("app", "kube-ovn-cni"): "Kube-OVN",
    ("k8s-app", "kube-network-policies"): "kube-network-policies",
    ("app", "kube-network-policies"): "kube-network-policies",
    ("k8s-app", "azure-npm"): "Azure network policies",
}
_BUILT_IN = {"+k3s": "k3s", "+rke2": "RKE2"}

NOT_KNOWN = (
    "No NetworkPolicy engine that Vitrine knows was found on this cluster. Without one nothing keeps apps apart: they reach each other, "
    "the nodes and the cluster's services. `make test-cluster` tries it out."
)
IGNORED = (
    "This cluster's network plugin ignores NetworkPolicy: nothing keeps apps apart, they reach each other, the nodes and the cluster's "
    "services. Install a plugin that enforces it, such as Calico or Cilium, before strangers' apps run here."
)


def engine_of_pod(labels: Mapping[str, str]) -> str:
    """The engine whose agent this pod is; "" for any other pod."""
    return next((_ENGINES[pair] for pair in labels.items() if pair in _ENGINES), "")


def engine_of_nodes(nodes: Iterable[Mapping[str, Any]]) -> str:
    """A distribution that brings one with its kubelet; ""."""
    versions = [str((node.get("status") or {}).get("nodeInfo", {}).get("kubeletVersion", "")) for node in nodes]
    return next((name for mark, name in _BUILT_IN.items() if any(mark in version for version in versions)), "")


def label_selectors() -> tuple[str, ...]:
    """One selector per label key, to ask the API server for agents only."""
    keys = dict.fromkeys(key for key, _ in _ENGINES)
    return tuple(f"{key} in ({','.join(sorted(value for k, value in _ENGINES if k == key))})" for key in keys)
