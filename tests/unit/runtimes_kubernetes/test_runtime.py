"""The runtime against an API server double: starts, observes, stops, survives 409, 410, 429 and broken connections."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import pytest

from control_plane.domain.capacity import NodePool
from control_plane.domain.errors import Broken, Rejected, StaleGeneration, Unavailable
from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import Mount, ReplicaObservation, ReplicaState
from control_plane.domain.spaces import Sdk, Space, SpaceConfig
from control_plane.ports.log_store import LogLine
from control_plane.runtimes.kubernetes.manifests import ClusterOptions
from control_plane.runtimes.kubernetes.runtime import KubernetesRuntime
from control_plane.runtimes.kubernetes.volumes import Claims
from tests.fakes.api_server import ApiServer, api_server
from tests.unit.runtimes_kubernetes.specs import REPLICA, SPACE, spec

POOLS = (
    NodePool("cpu", ("cpu-basic", "cpu-upgrade"), node_selector={"pool": "cpu"}, overcommit=2.0),
    NodePool("a10g-x4", ("a10g-largex4",), node_selector={"pool": "gpu"}, tolerations=({"key": "gpu", "operator": "Exists"},)),
)


@dataclass
class MemoryLog:
    lines: dict[str, list[str]] = field(default_factory=dict)

    async def take(self, space_id: str, replica_id: str, lines: Sequence[LogLine]) -> None:
        self.lines.setdefault(space_id, []).extend(line.text for line in lines)


@dataclass
class World:
    server: ApiServer
    runtime: KubernetesRuntime
    log: MemoryLog

    async def one(self, replica: str = REPLICA, space: str = SPACE) -> ReplicaObservation | None:
        return next((o for o in await self.runtime.observe(SpaceId(space)) if o.replica_id == replica), None)

    async def until(self, good: Callable[[], Awaitable[object]], what: str = "") -> None:
        """Wait for the watch: no fixed sleep, only turns of the loop, until the fact is there."""
        try:
            async with asyncio.timeout(60):
                while not await good():
                    await asyncio.sleep(0.005)
        except TimeoutError:
            pytest.fail(f"never became true: {what or good}")

    async def until_state(self, state: ReplicaState, reason: Reason | None = None, replica: str = REPLICA) -> ReplicaObservation:
        async def reached() -> bool:
            seen = await self.one(replica)
            return seen is not None and seen.state is state and (reason is None or seen.reason is reason)

        await self.until(reached, f"{state} {reason}, but it is {await self.one(replica)}")
        seen = await self.one(replica)
        assert seen is not None
        return seen


@asynccontextmanager
async def world(options: ClusterOptions | None = None) -> AsyncIterator[World]:
    async with api_server() as server:
        await server.node("node-1", labels={"pool": "cpu"})
        log = MemoryLog()
        runtime = KubernetesRuntime(server.api(), lambda: POOLS, options or ClusterOptions(), log=log.take, first_wait_s=0.01)
        await runtime.start()
        try:
            yield World(server, runtime, log)
        finally:
            await runtime.close()


async def test_from_apply_to_ready_to_gone() -> None:
    async with world() as w:
        before = len(w.server.requests)
        await w.runtime.apply(spec(pool="cpu"))
        assert len(w.server.requests) - before <= 8
        seen = await w.one()
        assert seen is not None
        assert seen.state is ReplicaState.PENDING
        pod = w.server.pod_of(REPLICA)
        await w.server.bind(pod, "node-1")
        await w.server.run_pod(pod, "node-1", ready=False)
        starting = await w.until_state(ReplicaState.STARTING)
        assert starting.endpoint is not None
        await w.server.run_pod(pod, "node-1")
        ready = await w.until_state(ReplicaState.READY)
        assert ready.endpoint is not None
        assert (ready.endpoint.address, ready.endpoint.replica_id, ready.node) == ("10.42.0.7:7860", REPLICA, "node-1")
        await w.runtime.stop(ReplicaId(REPLICA))
        assert await w.one() is None
        kinds = {key[0] for key in w.server.objects if key[1] == "vitrine"}
        assert kinds == {"networkpolicies", "services"}, (
            "pod and secret went with the deployment; the Space's own objects stay for its wake"
        )


async def test_the_same_apply_again_costs_nothing_and_a_wake_three_calls() -> None:
    async with world() as w:
        await w.runtime.apply(spec(pool="cpu"))
        before = len(w.server.requests)
        await w.runtime.apply(spec(pool="cpu"))
        assert len(w.server.requests) == before
        await w.runtime.stop(ReplicaId(REPLICA))
        before = sum(m == "PATCH" for m, _ in w.server.requests)
        await w.runtime.apply(spec(pool="cpu", replica="r2"))
        assert sum(m == "PATCH" for m, _ in w.server.requests) - before == 3


async def test_secret_belongs_to_its_deployment() -> None:
    async with world() as w:
        await w.runtime.apply(spec(pool="cpu"))
        secret = w.server.objects["secrets", "vitrine", f"replica-{REPLICA}"]
        assert (
            secret["metadata"]["ownerReferences"][0]["uid"]
            == w.server.objects["deployments", "vitrine", f"replica-{REPLICA}"]["metadata"]["uid"]
        )


async def test_an_older_generation_is_refused() -> None:
    async with world() as w:
        await w.runtime.apply(spec(pool="cpu", generation=5))
        with pytest.raises(StaleGeneration):
            await w.runtime.apply(spec(pool="cpu", generation=4, replica="old"))


async def test_an_older_generation_is_refused_by_the_next_scheduler_too() -> None:
    async with api_server() as server:
        first = KubernetesRuntime(server.api(), lambda: POOLS, ClusterOptions(), first_wait_s=0.01)
        await first.start()
        await first.apply(spec(pool="cpu", generation=5))
        await first.close()
        second = KubernetesRuntime(server.api(), lambda: POOLS, ClusterOptions(), first_wait_s=0.01)
        await second.start()
        try:
            with pytest.raises(StaleGeneration):
                await second.apply(spec(pool="cpu", generation=4, replica="old"))
            assert [o.generation for o in await second.observe_all()] == [5]
        finally:
            await second.close()


async def test_nothing_is_written_for_a_spec_that_is_refused() -> None:
    async with world() as w:
        before = len(w.server.requests)
        with pytest.raises(Rejected):
            await w.runtime.apply(spec(pool="cpu", env={"BAD=NAME": "x"}))
        assert len(w.server.requests) == before


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
        await w.until(lambda: _true(w.runtime.cache.hint_for(pod)), "the event arrives")
        await w.server.bind(pod, "node-1")
        await w.server.set_status(pod, containerStatuses=[{"name": "app", "state": {"terminated": {"exitCode": 137, "reason": "Error"}}}])
        await w.until_state(ReplicaState.FAILED, Reason.APP_NEVER_LISTENED)


async def _true(value: object) -> bool:
    return bool(value)


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
        await w.until(lambda: _true(seen))
        assert set(seen) == {SPACE}
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_broken_watches_resume_without_a_new_list() -> None:
    async with world() as w:
        await w.runtime.apply(spec(pool="cpu"))
        lists = [x.lists for x in w.runtime._watchers]
        w.server.drop_connections()
        await w.server.run_pod(w.server.pod_of(REPLICA), "node-1")
        await w.until_state(ReplicaState.READY)
        assert [x.lists for x in w.runtime._watchers] == lists


async def test_410_lists_again_and_forgets_what_is_gone() -> None:
    async with world() as w:
        await w.runtime.apply(spec(pool="cpu"))
        await w.server.run_pod(w.server.pod_of(REPLICA), "node-1")
        await w.until_state(ReplicaState.READY)
        w.server.drop_connections()
        await w.server.remove("deployments", "vitrine", f"replica-{REPLICA}")
        w.server.compact()
        await w.until(lambda: _gone(w), "the replica is forgotten")
        assert max(x.lists for x in w.runtime._watchers) >= 2


async def _gone(w: World) -> bool:
    return await w.one() is None


async def test_429_waits_and_goes_on() -> None:
    async with world() as w:
        w.server.deny("PATCH", "/deployments/", 429, times=2, Retry_After="0.01")
        await w.runtime.apply(spec(pool="cpu"))
        assert await w.one() is not None
        w.server.deny("GET", "/pods.*watch=true", 429, times=2, Retry_After="0.01")
        w.server.drop_connections()
        await w.server.run_pod(w.server.pod_of(REPLICA), "node-1")
        await w.until_state(ReplicaState.READY)


@pytest.mark.parametrize(("status", "error"), [(500, Unavailable), (503, Unavailable), (403, Broken), (422, Broken), (401, Broken)])
async def test_each_write_may_fail_once_and_a_second_pass_still_gets_there(status: int, error: type[Exception]) -> None:
    for plural in ("networkpolicies", "services", "secrets", "deployments"):
        async with world() as w:
            w.server.deny("PATCH", f"/{plural}/", status)
            with pytest.raises(error):
                await w.runtime.apply(spec(pool="cpu"))
            await w.runtime.apply(spec(pool="cpu"))
            assert await w.one() is not None


async def test_a_silent_server_is_unavailable() -> None:
    async with api_server() as server:
        server.deny("*", ".*", 503, times=10_000)
        runtime = KubernetesRuntime(server.api(), lambda: POOLS, ClusterOptions(), sync_timeout_s=0.2, first_wait_s=0.01)
        with pytest.raises(Unavailable):
            await runtime.start()
        await runtime.close()


async def test_an_environment_that_changed_between_two_tries_replaces_the_immutable_secret() -> None:
    async with world() as w:
        w.server.deny("PATCH", "/deployments/", 503)
        with pytest.raises(Unavailable):
            await w.runtime.apply(spec(pool="cpu"))
        await w.runtime.apply(spec(pool="cpu", env={"NEW": "x"}))
        data = w.server.objects["secrets", "vitrine", f"replica-{REPLICA}"]["data"]
        assert "NEW" in data
        assert "API_KEY" not in data


async def test_stop_of_the_unknown_and_stop_during_409() -> None:
    async with world() as w:
        await w.runtime.stop(ReplicaId("nobody"))
        await w.runtime.apply(spec(pool="cpu"))
        await w.until(lambda: _true(w.runtime.cache.pods_of(ReplicaId(REPLICA))))
        w.server.deny("DELETE", "/pods/", 409)
        await w.runtime.stop(ReplicaId(REPLICA))
        assert await w.one() is None


async def test_late_events_do_not_bring_a_stopped_replica_back() -> None:
    async with world() as w:
        await w.runtime.apply(spec(pool="cpu"))
        late = copy.deepcopy(w.server.objects["deployments", "vitrine", f"replica-{REPLICA}"])
        await w.runtime.stop(ReplicaId(REPLICA))
        w.runtime.cache._gone[ReplicaId(REPLICA)] = late["metadata"]["uid"]
        w.runtime.cache.deployments.upsert(late)
        assert await w.one() is None


async def test_logs_are_followed_and_kept_when_the_pod_is_gone() -> None:
    async with world() as w:
        await w.runtime.apply(spec(pool="cpu"))
        pod = w.server.pod_of(REPLICA)
        name = pod["metadata"]["name"]
        await w.server.say(name, "2026-01-01T00:00:01.000000001Z hello", "2026-01-01T00:00:01.000000002Z two words")
        await w.server.run_pod(pod, "node-1")
        await w.until(lambda: _has(w, "two words"))
        w.server.drop_connections()
        await w.server.say(name, "2026-01-01T00:00:02.000000001Z after the break")
        await w.until(lambda: _has(w, "after the break"))
        await w.server.set_status(pod, containerStatuses=[{"name": "app", "state": {"terminated": {"exitCode": 1}}}])
        failed = await w.until_state(ReplicaState.FAILED)
        assert failed.log_tail[-1] == "after the break"
        await w.runtime.stop(ReplicaId(REPLICA))
        lines = w.log.lines[SPACE]
        assert lines[:2] == ["hello", "two words"]


async def _has(w: World, text: str) -> bool:
    return text in w.log.lines.get(SPACE, [])


async def test_a_replica_that_ended_before_anybody_followed_still_has_last_words() -> None:
    async with world() as w:
        await w.runtime.apply(spec(pool="cpu"))
        pod = w.server.pod_of(REPLICA)
        w.runtime._followers._limit = 0
        await w.server.say(pod["metadata"]["name"], "Traceback", "ValueError: no")
        await w.server.bind(pod, "node-1")
        await w.server.set_status(pod, containerStatuses=[{"name": "app", "state": {"terminated": {"exitCode": 1}}}])
        await w.until(lambda: _true([p for p in w.runtime.cache.pods_of(ReplicaId(REPLICA)) if p["status"].get("containerStatuses")]))
        failed = await w.one()
        assert failed is not None
        assert (failed.state, failed.log_tail) == (ReplicaState.FAILED, ("Traceback", "ValueError: no"))
        await w.one()
        assert sum("tailLines" in path for _, path in w.server.requests) == 1


async def test_usage_is_one_request_for_all_and_none_without_metrics() -> None:
    async with world() as w:
        await w.runtime.apply(spec(pool="cpu"))
        await w.server.run_pod(w.server.pod_of(REPLICA), "node-1")
        await w.until_state(ReplicaState.READY)
        for _ in range(5):
            assert await w.runtime.usage(ReplicaId(REPLICA)) is None
        assert sum("metrics.k8s.io" in path for _, path in w.server.requests) == 1


async def test_usage_from_the_metrics_api() -> None:
    async with world() as w:
        await w.runtime.apply(spec(pool="cpu"))
        await w.server.run_pod(w.server.pod_of(REPLICA), "node-1")
        await w.until_state(ReplicaState.READY)
        name = w.server.pod_of(REPLICA)["metadata"]["name"]
        w.server.metrics = [{"metadata": {"name": name}, "containers": [{"name": "app", "usage": {"cpu": "250000000n", "memory": "1Mi"}}]}]
        usage = await w.runtime.usage(ReplicaId(REPLICA))
        assert usage is not None
        assert (usage.cpu_cores, usage.memory_bytes, usage.memory_limit_bytes) == (0.25, 1 << 20, 16 << 30)


async def test_one_namespace_per_owner() -> None:
    async with world(ClusterOptions(per_owner_namespaces=True)) as w:
        await w.runtime.apply(spec(pool="cpu"))
        (namespace,) = [k[2] for k in w.server.objects if k[0] == "namespaces"]
        assert namespace.startswith("vitrine-ann-")
        assert w.server.objects["namespaces", "", namespace]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
        assert ("networkpolicies", namespace, "default-deny") in w.server.objects
        assert await w.one() is not None


async def test_a_deleted_space_leaves_nothing_in_any_owners_namespace() -> None:
    """Its name is gone when its objects go, and it may have had another owner before."""
    options = ClusterOptions(per_owner_namespaces=True, storage_gib=5, account="vitrine-system/vitrine-scheduler")
    async with world(options) as w:
        await w.runtime.apply(spec(pool="cpu"))
        await w.runtime.stop(ReplicaId(REPLICA))
        await w.runtime.apply(replace(spec(pool="cpu", replica="r2"), space_name="Bob/hello"))
        await w.runtime.apply(replace(spec(pool="cpu", replica="r3"), space_id=SpaceId("other")))
        bindings = [found for key, found in w.server.objects.items() if key[0] == "rolebindings"]
        assert {(b["subjects"][0]["namespace"], b["subjects"][0]["name"]) for b in bindings} == {("vitrine-system", "vitrine-scheduler")}
        assert len(bindings) == 2, "rights in the two owners' namespaces, nowhere else"
        await w.runtime.remove_space(SPACE, "")
        kinds = ("services", "networkpolicies", "persistentvolumeclaims", "secrets", "deployments")
        left = {key[2] for key in w.server.objects if key[0] in kinds}
        assert left == {"default-deny", "space-other", "storage-other", "replica-r3"}


async def test_a_volume_is_found_in_whichever_namespace_it_is() -> None:
    async with world(ClusterOptions(per_owner_namespaces=True)) as w:
        mount = Mount("volume-k1", "/data", read_only=False, size_bytes=10**9)
        await w.runtime.apply(replace(spec(pool="cpu"), mounts=(mount,)))
        assert any(key[0] == "persistentvolumeclaims" for key in w.server.objects)
        await Claims(w.runtime).remove(SPACE, "", "k1")
        assert not any(key[0] == "persistentvolumeclaims" for key in w.server.objects)


async def test_a_namespace_that_is_not_restricted_is_refused() -> None:
    async with api_server() as server:
        await server.put("namespaces", {"metadata": {"name": "vitrine", "labels": {}}})
        server.deny("PATCH", r"/namespaces/vitrine\?", 403, times=5)
        runtime = KubernetesRuntime(server.api(), lambda: POOLS, ClusterOptions(), first_wait_s=0.01)
        with pytest.raises(Rejected, match="restricted"):
            await runtime.start()
        await runtime.close()


async def test_the_sweep_removes_a_secret_without_its_replica() -> None:
    async with api_server() as server:
        labels = {"app.kubernetes.io/managed-by": "vitrine", "vitrine.dev/replica": "x", "vitrine.dev/space": "y"}
        await server.put("secrets", {"metadata": {"name": "replica-x", "namespace": "vitrine", "labels": labels}})
        await server.put("secrets", {"metadata": {"name": "theirs", "namespace": "vitrine", "labels": {}}})
        runtime = KubernetesRuntime(server.api(), lambda: POOLS, ClusterOptions(), first_wait_s=0.01)
        await runtime.start()
        await runtime.close()
        assert [k[2] for k in server.objects if k[0] == "secrets"] == ["theirs"]


async def test_remove_space_takes_everything() -> None:
    async with world(ClusterOptions(storage_gib=5)) as w:
        await w.runtime.apply(spec(pool="cpu"))
        assert ("persistentvolumeclaims", "vitrine", f"storage-{SPACE}") in w.server.objects
        await w.runtime.remove_space(SPACE, "Ann/hello")
        assert {k[2] for k in w.server.objects if k[1] == "vitrine"} == {"default-deny"}


async def test_a_volume_that_was_asked_for_is_a_claim_of_its_own() -> None:
    space = Space(SPACE, "ann-hello", Sdk.GRADIO, SpaceConfig(Sdk.GRADIO), storage_tier="small", storage_key="k1", storage_bytes=20 * 10**9)
    async with world(ClusterOptions(storage_gib=5, storage_class="fast")) as w:
        claims = Claims(w.runtime)
        mounts = claims.mounts_of(space)
        assert claims.mounts_of(replace(space, storage_tier="")) == ()
        await w.runtime.apply(replace(spec(pool="cpu"), mounts=mounts))
        made = {name: found for (plural, _, name), found in w.server.objects.items() if plural == "persistentvolumeclaims"}
        assert list(made) == ["volume-k1"], "not beside the one that every Space gets"
        assert made["volume-k1"]["spec"]["resources"] == {"requests": {"storage": "19074Mi"}}
        assert made["volume-k1"]["spec"]["storageClassName"] == "fast"
        pod = next(d for (plural, _, _), d in w.server.objects.items() if plural == "deployments")["spec"]["template"]["spec"]
        assert [m for m in pod["containers"][0]["volumeMounts"] if m["mountPath"] == "/data"] == [
            {"name": "mount-0", "mountPath": "/data", "readOnly": False}
        ]
        await claims.remove_all(space, "Ann/hello")
        await claims.remove(space.id, "Ann/hello", "k0")
        assert not [key for key in w.server.objects if key[0] == "persistentvolumeclaims"]


async def test_paged_lists() -> None:
    async with api_server() as server:
        server.page = 7
        for number in range(40):
            await server.node(f"n{number}", labels={"pool": "cpu"})
        runtime = KubernetesRuntime(server.api(), lambda: POOLS, ClusterOptions(), first_wait_s=0.01)
        await runtime.start()
        assert len((await runtime.capacity()).nodes) == 40
        await runtime.close()


async def test_doing_nothing_costs_nothing() -> None:
    """A thousand replicas, then silence: only the watches that are open anyway."""
    async with world() as w:
        w.server.run_pods = False
        for number in range(1000):
            labels = {"app.kubernetes.io/managed-by": "vitrine", "vitrine.dev/space": f"s{number}", "vitrine.dev/generation": "1"}
            metadata = {"name": f"replica-r{number}", "namespace": "vitrine", "labels": {**labels, "vitrine.dev/replica": f"r{number}"}}
            template = {"spec": {"containers": [{"ports": [{"containerPort": 7860}]}]}}
            item = {"metadata": metadata, "spec": {"template": template}}
            await w.server.put("deployments", item)
        await w.until(lambda: _true(len(w.runtime.cache.deployments_now()) == 1000))
        before = len(w.server.requests)
        for _ in range(3):
            assert len(await w.runtime.observe_all()) == 1000
            await w.runtime.capacity()
        assert len(w.server.requests) == before
