"""Nodes without machines: objects with a heartbeat, and a stand-in for the kubelet that calls their pods running.

What the API server, the controllers and kube-scheduler do with them is real; only what happens inside a pod is not.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from control_plane.domain.errors import Broken, VitrineError
from control_plane.runtimes.kubernetes.api import KubeApi

_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_BEAT_S = 10.0
_LOOK_S = 0.5
# Keeps everybody else's pods away; the shipped GPU pools tolerate it.
TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
TOLERATION = {"key": TAINT["key"], "operator": "Exists", "effect": TAINT["effect"]}


def stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def ready() -> dict[str, str]:
    now = stamp()[:19] + "Z"
    return {"type": "Ready", "status": "True", "reason": "Made", "lastHeartbeatTime": now, "lastTransitionTime": now}


class MadeNodes:
    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._alive: dict[str, float] = {}  # node → when its last heartbeat was written
        self._made: list[str] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="made nodes", daemon=True)
        self._thread.start()

    def add(self, labels: dict[str, str], *, cpu: int, memory_gib: int, gpus: int = 0) -> str:
        """A ready node of this size. Skips the test where these credentials may not make nodes."""
        name = f"vitrine-test-{secrets.token_hex(4)}"
        amounts = {"cpu": str(cpu), "memory": f"{memory_gib}Gi", "ephemeral-storage": "8Ti", "pods": "110"}
        amounts |= {"nvidia.com/gpu": str(gpus)} if gpus else {}
        body = {
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": {"taints": [TAINT]},
            "status": {"capacity": amounts, "allocatable": amounts, "conditions": [ready()]},
        }  # fmt: skip
        try:
            self._api.create("/api/v1/nodes", body)
            self._made.append(name)
            lease = {
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": "kube-node-lease"},
                "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": stamp()},
            }  # fmt: skip
            self._api.create(_LEASES, lease)
        except Broken as error:
            pytest.skip(f"these credentials make no nodes: {error.message}")
        self.revive(name)
        return name

    def lose(self, name: str) -> None:
        """From now on silent: no heartbeat, and nobody there to stop its pods."""
        with self._lock:
            del self._alive[name]

    def revive(self, name: str) -> None:
        with self._lock:
            self._alive[name] = 0.0

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        for name in self._made:
            for pod in self._pods(name):
                self._api.delete(_path(pod), grace_s=0)
            self._api.delete(f"/api/v1/nodes/{name}")
            self._api.delete(f"{_LEASES}/{name}")

    def _run(self) -> None:
        while not self._over.wait(_LOOK_S):
            with self._lock:
                alive = list(self._alive.items())
            for name, last in alive:
                try:
                    if time.monotonic() - last >= _BEAT_S:
                        self._api.merge(f"{_LEASES}/{name}", {"spec": {"renewTime": stamp()}})
                        self._api.merge(f"/api/v1/nodes/{name}/status", {"status": {"conditions": [ready()]}})
                        with self._lock:
                            if name in self._alive:
                                self._alive[name] = time.monotonic()
                    for pod in self._pods(name):
                        self._tend(pod)
                except VitrineError:
                    continue  # changed meanwhile, or the server was busy: the next round sees it

    def _pods(self, node: str) -> list[dict[str, Any]]:
        return list(self._api.get("/api/v1/pods", {"fieldSelector": f"spec.nodeName={node}"}).get("items") or [])

    def _tend(self, pod: dict[str, Any]) -> None:
        if "deletionTimestamp" in pod["metadata"]:
            self._api.delete(_path(pod), grace_s=0)
            return
        if pod["status"].get("phase") == "Running":
            return
        now = stamp()[:19] + "Z"
        states = [
            {
                "name": container["name"], "image": container["image"], "imageID": container["image"], "ready": True, "started": True,
                "restartCount": 0, "state": {"running": {"startedAt": now}},
            }
            for container in pod["spec"]["containers"]
        ]  # fmt: skip
        kinds = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
        conditions = [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in kinds]
        status = {"phase": "Running", "podIP": "192.0.2.1", "startTime": now, "conditions": conditions, "containerStatuses": states}
        self._api.merge(f"{_path(pod)}/status", {"status": status})


def _path(pod: dict[str, Any]) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


@contextmanager
def made_nodes(api: KubeApi) -> Iterator[MadeNodes]:
    nodes = MadeNodes(api)
    try:
        yield nodes
    finally:
        nodes.close()
