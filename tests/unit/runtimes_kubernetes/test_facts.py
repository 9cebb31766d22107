"""Amounts, taints and pods as the cluster writes them."""

from __future__ import annotations

import pytest

from control_plane.domain.capacity import NodePool
from control_plane.domain.reasons import Reason
from control_plane.runtimes.kubernetes import facts


@pytest.mark.parametrize(
    ("text", "value"),
    [("250m", 0.25), ("2", 2), ("1Gi", 2**30), ("129M", 129e6), ("1e3", 1000), ("128974848", 128974848), ("5n", 5e-9),
     ("1.5Gi", 1.5 * 2**30),
     ("1E", 1e18), ("", 0), (None, 0), ("x", 0), ("1.2.3", 0), (3, 3), ("100Ki", 102400)],
)  # fmt: skip
def test_quantity(text: str | int | None, value: float) -> None:
    assert facts.quantity(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("taints", "tolerations", "expected"),
    [
        ([], (), True),
        ([{"key": "gpu", "effect": "NoSchedule"}], (), False),
        ([{"key": "gpu", "effect": "PreferNoSchedule"}], (), True),
        ([{"key": "gpu", "effect": "NoSchedule"}], ({"key": "gpu", "operator": "Exists"},), True),
        ([{"key": "gpu", "effect": "NoSchedule"}], ({"operator": "Exists"},), True),
        ([{"key": "gpu", "value": "a", "effect": "NoSchedule"}], ({"key": "gpu", "value": "a"},), True),
        ([{"key": "gpu", "value": "a", "effect": "NoSchedule"}], ({"key": "gpu", "value": "b"},), False),
        ([{"key": "gpu", "effect": "NoExecute"}], ({"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},), False),
    ],
)
def test_taints(taints: list[dict[str, str]], tolerations: tuple[dict[str, str], ...], expected: bool) -> None:
    pool = NodePool("p", ("cpu-basic",), tolerations=tolerations)
    item = {
        "metadata": {"name": "n"}, "spec": {"taints": taints},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi"}, "conditions": [{"type": "Ready", "status": "True"}]},
    }  # fmt: skip
    assert facts.node(item, pool, (), lost=False).is_schedulable is expected


def test_foreign_pods_count_as_the_cluster_counts_them() -> None:
    def container(cpu: str, **more: str) -> dict[str, object]:
        return {"resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}, **more}

    pod = {
        "metadata": {"name": "p"}, "status": {"phase": "Running"},
        "spec": {"nodeName": "n", "overhead": {"cpu": "250m"}, "containers": [container("1"), container("500m")],
                 "initContainers": [container("3"), container("1", restartPolicy="Always")]},
    }  # fmt: skip
    use = facts.pod_use(pod)
    assert use is not None
    assert use.vcpu == 4.25
    assert facts.pod_use({**pod, "status": {"phase": "Succeeded"}}) is None
    assert facts.pod_use({**pod, "spec": {"containers": []}}) is None


def test_newest_pod_prefers_one_that_stays() -> None:
    old = {"metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"}}
    going = {"metadata": {"name": "b", "creationTimestamp": "2026-01-02T00:00:00Z", "deletionTimestamp": "x"}}
    assert facts.newest_pod([going, old]) is old
    assert facts.newest_pod([]) is None


@pytest.mark.parametrize(
    ("reason", "message", "expected"),
    [
        ("FailedScheduling", "0/3 nodes", Reason.NO_CAPACITY),
        ("Failed", "Failed to pull image x", Reason.IMAGE_PULL_FAILED),
        ("BackOff", "Back-off restarting failed container app", None),
        ("Unhealthy", "Readiness probe failed", Reason.APP_UNHEALTHY),
        ("Unhealthy", "Startup probe failed", Reason.APP_NEVER_LISTENED),
        ("Evicted", "low on resource: ephemeral-storage", Reason.APP_DISK_FULL),
        ("FailedMount", "secret not found", Reason.PLATFORM_ERROR),
        ("Whatever", "", None),
    ],
)
def test_events(reason: str, message: str, expected: Reason | None) -> None:
    found = facts.hint({"type": "Warning", "reason": reason, "message": message, "involvedObject": {"kind": "Pod", "name": "p"}})
    assert (found[1].reason if found else None) is expected
