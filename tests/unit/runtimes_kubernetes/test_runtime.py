"""Starts and stops against an API server double: what is written, how often, and which generation may."""

from __future__ import annotations

import copy

import pytest

from control_plane.domain.errors import Rejected, StaleGeneration, Unavailable
from control_plane.domain.ids import ReplicaId
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaState
from control_plane.runtimes.kubernetes.manifests import ClusterOptions
from control_plane.runtimes.kubernetes.runtime import KubernetesRuntime
from tests.fakes.api_server import api_server
from tests.unit.runtimes_kubernetes.specs import REPLICA, spec
from tests.unit.runtimes_kubernetes.world import POOLS, is_true, world


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
        await w.until(lambda: is_true(w.runtime.cache.pods_of(ReplicaId(REPLICA))))
        w.server.deny("DELETE", "/pods/", 409)
        await w.runtime.stop(ReplicaId(REPLICA))
        assert await w.one() is None
        asked = ("DELETE", f"/api/v1/namespaces/vitrine/secrets/replica-{REPLICA}")
        assert asked in w.server.requests, "what it knew goes with it, however long the cluster's own collector takes"


async def test_late_events_do_not_bring_a_stopped_replica_back() -> None:
    async with world() as w:
        await w.runtime.apply(spec(pool="cpu"))
        late = copy.deepcopy(w.server.objects["deployments", "vitrine", f"replica-{REPLICA}"])
        await w.runtime.stop(ReplicaId(REPLICA))
        w.runtime.cache._gone[ReplicaId(REPLICA)] = late["metadata"]["uid"]
        w.runtime.cache.deployments.upsert(late)
        assert await w.one() is None


async def test_the_sweep_removes_a_secret_without_its_replica() -> None:
    async with api_server() as server:
        labels = {"app.kubernetes.io/managed-by": "vitrine", "vitrine.dev/replica": "x", "vitrine.dev/space": "y"}
        await server.put("secrets", {"metadata": {"name": "replica-x", "namespace": "vitrine", "labels": labels}})
        await server.put("secrets", {"metadata": {"name": "theirs", "namespace": "vitrine", "labels": {}}})
        runtime = KubernetesRuntime(server.api(), lambda: POOLS, ClusterOptions(), first_wait_s=0.01)
        await runtime.start()
        await runtime.close()
        assert [k[2] for k in server.objects if k[0] == "secrets"] == ["theirs"]


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
        await w.until(lambda: is_true(len(w.runtime.cache.deployments_now()) == 1000))
        before = len(w.server.requests)
        for _ in range(3):
            assert len(await w.runtime.observe_all()) == 1000
            await w.runtime.capacity()
        assert len(w.server.requests) == before


async def test_the_pod_that_follows_an_evicted_one_is_no_continuation() -> None:
    """The cluster replaces it at once; for visitors and placement the replica that served is gone."""
    async with world() as w:
        await w.runtime.apply(spec(pool="cpu"))
        pod = w.server.pod_of(REPLICA)
        await w.server.bind(pod, "node-1")
        await w.server.run_pod(pod, "node-1")
        await w.until_state(ReplicaState.READY)
        await w.server.remove("pods", "vitrine", pod["metadata"]["name"])
        await w.until_state(ReplicaState.FAILED, Reason.NODE_LOST)
        follower = await w.server.make_pod(w.server.objects["deployments", "vitrine", f"replica-{REPLICA}"], "follower")
        await w.server.run_pod(follower, "node-1", address="10.42.0.8")
        await w.until(lambda: _has_pod(w.runtime, "follower"))
        seen = await w.one()
        assert seen is not None
        assert (seen.state, seen.reason, seen.endpoint) == (ReplicaState.FAILED, Reason.NODE_LOST, None)


async def _has_pod(runtime: KubernetesRuntime, name: str) -> bool:
    return any(pod["metadata"]["name"] == name and pod["status"].get("podIP") for pod in runtime.cache.pods_of(ReplicaId(REPLICA)))
