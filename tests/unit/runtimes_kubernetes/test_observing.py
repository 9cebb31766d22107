"""What the cluster says becomes observations, reasons and capacity."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaState
from tests.unit.runtimes_kubernetes.specs import REPLICA, SPACE, spec
from tests.unit.runtimes_kubernetes.world import World, is_true, world


def _app(**states: dict[str, object]) -> dict[str, object]:
    return {"containerStatuses": [{"name": "app", **states}]}


def _waits(reason: str) -> dict[str, object]:
    return _app(state={"waiting": {"reason": reason, "message": "words of the kubelet"}})


def _ended(code: int, reason: str) -> dict[str, object]:
    return _app(state={"terminated": {"exitCode": code, "reason": reason}})


def _failed(reason: str, message: str = "") -> dict[str, object]:
    return {"phase": "Failed", "reason": reason, "message": message}


def _condition(kind: str, status: str, reason: str) -> dict[str, object]:
    return {"conditions": [{"type": kind, "status": status, "reason": reason, "message": "words"}]}


@pytest.mark.parametrize(
    ("status", "state", "reason"),
    [
        (_waits("ImagePullBackOff"), "failed", Reason.IMAGE_PULL_FAILED),
        (_waits("InvalidImageName"), "failed", Reason.IMAGE_PULL_FAILED),
        (_waits("ErrImagePull"), "pending", Reason.IMAGE_PULL_FAILED),
        (_waits("ContainerCreating"), "pending", Reason.STARTING),
        (_waits("CreateContainerConfigError"), "pending", Reason.PLATFORM_ERROR),
        (_waits("RunContainerError"), "failed", Reason.APP_EXITED),
        (
            _app(state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState={"terminated": {"exitCode": 3}}),
            "failed",
            Reason.APP_EXITED,
        ),
        (_ended(137, "OOMKilled"), "failed", Reason.APP_OUT_OF_MEMORY),
        (_ended(1, "Error"), "failed", Reason.APP_EXITED),
        (_failed("Evicted", "Pod ephemeral local storage usage exceeds the total limit"), "failed", Reason.APP_DISK_FULL),
        (_failed("Evicted", "The node was low on resource: memory."), "failed", Reason.APP_OUT_OF_MEMORY),
        (_failed("NodeShutdown"), "failed", Reason.NODE_LOST),
        (_failed("OutOfcpu"), "failed", Reason.NO_CAPACITY),
        (_failed("Unknown"), "failed", Reason.PLATFORM_ERROR),
        ({**_failed(""), **_condition("DisruptionTarget", "True", "PreemptionByScheduler")}, "failed", Reason.PREEMPTED),
        ({**_failed(""), **_condition("DisruptionTarget", "True", "EvictionByEvictionAPI")}, "failed", Reason.NODE_LOST),
        (_condition("PodScheduled", "False", "Unschedulable"), "pending", Reason.NO_CAPACITY),
    ],
)
async def test_what_the_cluster_says_becomes_a_reason(status: dict[str, object], state: str, reason: Reason) -> None:
    async with world() as w:
        await w.runtime.apply(spec(pool="cpu"))
        await w.server.bind(w.server.pod_of(REPLICA), "node-1")
        await w.server.set_status(w.server.pod_of(REPLICA), **status)
        seen = await w.until_state(ReplicaState(state), reason)
        assert seen.message is not None


async def test_a_failed_startup_probe_means_it_never_listened() -> None:
    async with world() as w:
        await w.runtime.apply(spec(pool="cpu"))
        pod = w.server.pod_of(REPLICA)
        event = {
            "metadata": {"name": "e1", "namespace": "vitrine"},
            "type": "Warning",
            "reason": "Unhealthy",
            "message": "Startup probe failed: dial",
        }
        await w.server.put("events", {**event, "involvedObject": {"kind": "Pod", "name": pod["metadata"]["name"]}})
        await w.until(lambda: is_true(w.runtime.cache.hint_for(pod)), "the event arrives")
        await w.server.bind(pod, "node-1")
        await w.server.set_status(pod, containerStatuses=[{"name": "app", "state": {"terminated": {"exitCode": 137, "reason": "Error"}}}])
        await w.until_state(ReplicaState.FAILED, Reason.APP_NEVER_LISTENED)


async def test_a_lost_node_fails_its_replicas_and_a_return_does_not_bring_a_stopped_one_back() -> None:
    async with world() as w:
        await w.runtime.apply(spec(pool="cpu"))
        await w.server.run_pod(w.server.pod_of(REPLICA), "node-1")
        await w.until_state(ReplicaState.READY)
        await w.server.node("node-1", labels={"pool": "cpu"}, ready=False)
        lost = await w.until_state(ReplicaState.FAILED, Reason.NODE_LOST)
        assert lost.endpoint is None
        assert not (await w.runtime.capacity()).nodes[0].is_schedulable
        await w.runtime.stop(ReplicaId(REPLICA))
        await w.server.node("node-1", labels={"pool": "cpu"})
        await w.until(lambda: _schedulable(w))
        assert await w.runtime.observe_all() == ()


async def _schedulable(w: World) -> bool:
    return all(n.is_schedulable for n in (await w.runtime.capacity()).nodes)


async def test_ready_does_not_fall_back_to_starting() -> None:
    async with world() as w:
        await w.runtime.apply(spec(pool="cpu"))
        await w.server.run_pod(w.server.pod_of(REPLICA), "node-1")
        await w.until_state(ReplicaState.READY)
        await w.server.run_pod(w.server.pod_of(REPLICA), "node-1", ready=False)
        await w.until_state(ReplicaState.READY, Reason.APP_UNHEALTHY)


async def test_capacity_counts_our_pods_and_foreign_ones() -> None:
    async with world() as w:
        gpu = await w.server.node("node-2", labels={"pool": "gpu"}, nvidia_com__gpu="4")
        assert gpu["status"]["allocatable"]["nvidia.com/gpu"] == "4"
        await w.server.node("node-3", labels={"pool": "none"})
        foreign = {
            "containers": [{"name": "x", "resources": {"requests": {"cpu": "1500m", "memory": "1Gi", "nvidia.com/gpu": "1"}}}],
            "nodeName": "node-2",
        }
        await w.server.put("pods", {"metadata": {"name": "f", "namespace": "other"}, "spec": foreign, "status": {"phase": "Running"}})
        await w.runtime.apply(spec(pool="cpu"))
        await w.server.run_pod(w.server.pod_of(REPLICA), "node-1")

        async def counted() -> bool:
            nodes = {n.name: n for n in (await w.runtime.capacity()).nodes}
            if set(nodes) != {"node-1", "node-2"} or not nodes["node-1"].replicas or not nodes["node-2"].used_gpus:
                return False
            assert (nodes["node-1"].used_vcpu, nodes["node-1"].used_memory_bytes) == (2.0, 16 << 30)
            assert nodes["node-1"].replicas == {REPLICA}
            assert (nodes["node-2"].used_vcpu, nodes["node-2"].gpus, nodes["node-2"].used_gpus) == (1.5, 4, 1)
            return True

        await w.until(counted)
        await w.server.remove("pods", "other", "f")
        await w.until(lambda: _gpus_free(w))


async def _gpus_free(w: World) -> bool:
    return all(n.used_gpus == 0 for n in (await w.runtime.capacity()).nodes)


async def test_changes_name_the_space() -> None:
    async with world() as w:
        seen: list[SpaceId] = []

        async def listen() -> None:
            async for space_id in w.runtime.changes():
                seen.append(space_id)

        task = asyncio.create_task(listen())
        await asyncio.sleep(0)
        await w.runtime.apply(spec(pool="cpu"))
        await w.server.run_pod(w.server.pod_of(REPLICA), "node-1")
        await w.until(lambda: is_true(seen))
        assert set(seen) == {SPACE}
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
