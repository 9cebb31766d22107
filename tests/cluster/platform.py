"""A whole platform whose apps run on the cluster: `vitrine up --runtime kubernetes` on this machine, outside of it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.conftest import Cluster
from tests.e2e.conftest import Platform, start_platform, stop_platform

# Small enough that a few fit on the smallest node; the shape of the file is the shipped one's.
POOLS = """
flavors:
  - {{name: cpu-basic, vcpu: 0.5, memory_gb: 1, disk_gb: 1, sleep_after_s: 172800}}
  - {{name: cpu-upgrade, vcpu: {large}, memory_gb: 1, disk_gb: 1}}
pools:
  - {{name: cpu, flavors: [cpu-basic, cpu-upgrade], node_selector: {selector}, tolerations: {tolerations}, overcommit: 4.0}}
"""


def pool_file(selector: Mapping[str, str], tolerations: Sequence[Mapping[str, str]], large: float) -> str:
    return POOLS.format(selector=json.dumps(dict(selector)), tolerations=json.dumps([dict(one) for one in tolerations]), large=large)


@contextmanager
def platform_on(cluster: Cluster, namespace: str, *, large: float, **env: str) -> Iterator[Platform]:
    """Everything it makes is in `namespace`, which goes with it."""
    with tempfile.TemporaryDirectory(prefix="v", ignore_cleanup_errors=True) as folder:
        pools = Path(folder) / "pools.yaml"
        pools.write_text(pool_file(cluster.pool.node_selector, cluster.pool.tolerations, large))
        running = start_platform(
            Path(folder) / "d", "--runtime", "kubernetes",
            env={
                "VITRINE_KUBE_NAMESPACE": namespace, "VITRINE_REGISTRY": os.environ["VITRINE_REGISTRY"], "VITRINE_DRAIN_S": "2",
                "VITRINE_POOLS_FILE": str(pools), "VITRINE_PREEMPT_IDLE_S": "1", **env,
            },
        )  # fmt: skip
        running.pools, running.large = pools, large  # type: ignore[attr-defined]
        try:
            yield running
        finally:
            stop_platform(running)
            cluster.api.delete(f"/api/v1/namespaces/{namespace}")
