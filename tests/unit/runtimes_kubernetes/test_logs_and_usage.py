"""Lines of apps and what they use, through the API server."""

from __future__ import annotations

from control_plane.domain.ids import ReplicaId
from control_plane.domain.replicas import ReplicaState
from tests.unit.runtimes_kubernetes.specs import REPLICA, SPACE, spec
from tests.unit.runtimes_kubernetes.world import World, is_true, world


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
        await w.until(lambda: is_true([p for p in w.runtime.cache.pods_of(ReplicaId(REPLICA)) if p["status"].get("containerStatuses")]))
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
