"""kube.start and kube.idle: what a Space's start and doing nothing cost the API server, counted at the server double.

kube.start: requests of one first start in a cluster with 1,000 Spaces (policy, service, secret, deployment, ownership; watches are open
already). kube.idle: requests per second of a scheduler that leads, watches 1,000 running Spaces, and has nothing to do.
"""

from __future__ import annotations

import asyncio
import time

from control_plane.domain.capacity import NodePool
from control_plane.runtimes.kubernetes import manifests
from control_plane.runtimes.kubernetes.lease import LeaderLease
from control_plane.runtimes.kubernetes.manifests import ClusterOptions
from control_plane.runtimes.kubernetes.runtime import KubernetesRuntime
from tests.fakes.api_server import api_server
from tests.unit.runtimes_kubernetes.specs import spec as make_spec

SPACES, IDLE_S = 1_000, 20.0
POOL = NodePool("cpu", ("cpu-basic",))
OPTIONS = ClusterOptions()


async def _measure(spaces: int, idle_s: float) -> tuple[int, float]:
    async with api_server() as server:
        server.run_pods = False
        for number in range(spaces):
            one = make_spec(replica=f"r{number:05}", space=f"s{number:05}", pool="cpu")
            await server.put("deployments", manifests.deployment(one, POOL, OPTIONS.namespace, OPTIONS))
        runtime = KubernetesRuntime(server.api(), lambda: (POOL,), OPTIONS)
        lease = LeaderLease(server.api(), namespace=OPTIONS.namespace, identity="bench")
        await runtime.start()
        await lease.acquire()
        renewing = asyncio.ensure_future(lease.lost())
        try:
            assert len(await runtime.observe_all()) == spaces
            before = len(server.requests)
            await runtime.apply(make_spec(replica="fresh", space="fresh", pool="cpu"))
            start = sum(1 for method, path in server.requests[before:] if "/leases" not in path)
            before, began = len(server.requests), time.monotonic()
            while (left := began + idle_s - time.monotonic()) > 0:
                await asyncio.wait({renewing}, timeout=min(left, 1.0))
                await runtime.observe_all()
                await runtime.capacity()
            return start, (len(server.requests) - before) / (time.monotonic() - began)
        finally:
            renewing.cancel()
            await runtime.close()


def rows(*, spaces: int = SPACES, idle_s: float = IDLE_S) -> list[dict[str, object]]:
    start, idle = asyncio.run(_measure(spaces, idle_s))
    return [
        {"name": "kube.start", "value": start, "unit": "requests", "reference": "target of 8", "reference_value": 8,
         "ratio": round(8 / max(start, 1), 2), "n": 1},
        {"name": "kube.idle", "value": round(idle, 3), "unit": "requests/s", "reference": "target of 1/s", "reference_value": 1,
         "ratio": round(1 / max(idle, 0.001), 2), "n": spaces},
    ]  # fmt: skip
