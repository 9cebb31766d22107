"""place.rate: placements decided per second at 1,000 nodes in 11 pools with 10,000 Spaces.

One decision = one `Placer.ask`, with the `release` that keeps the cluster in balance counted in its time. Half of the
rounds run in a cluster with room, half in a full one, where asks join the queue and releases serve it.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import deque

from control_plane.domain.hardware import DEFAULT_FLAVORS
from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.scheduler.answers import Placement, PlacementRequest
from control_plane.scheduler.placement import Placer
from tests.simulation.cluster_sim import nodes, pools

WEIGHTS = (60, 10, 6, 4, 6, 4, 2, 2, 3, 2, 1)


def _round(seed: int, spaces: int, node_count: int, running_limit: int) -> float:
    """Decisions per second of one round."""
    pick = random.Random(seed)
    placer = Placer(pools())
    for node in nodes(node_count):
        placer.update_node(node, 0.0)
    requests = [
        PlacementRequest(ReplicaId(f"r{n}"), SpaceId(f"s{n % spaces}"), 1, pick.choices(DEFAULT_FLAVORS, WEIGHTS)[0], f"org{n % 199}")
        for n in range(3 * spaces)
    ]
    alive: deque[ReplicaId] = deque()
    decided = 0
    began = time.perf_counter()
    for at, request in enumerate(requests):
        if isinstance(placer.ask(request, float(at)), Placement):
            alive.append(request.replica_id)
        decided += 1
        while len(alive) > running_limit:
            for got in placer.release(alive.popleft(), float(at)):
                alive.append(got.replica_id)
                decided += 1
    return decided / (time.perf_counter() - began)


def rows(*, rounds: int = 3, spaces: int = 10_000, node_count: int = 1_000) -> list[dict[str, object]]:
    roomy = [_round(seed, spaces, node_count, spaces // 4) for seed in range(rounds)]
    full = [_round(seed, spaces, node_count, spaces) for seed in range(rounds)]
    value = min(statistics.median(roomy), statistics.median(full))
    row = {"name": "place.rate", "value": round(value), "unit": "decisions/s", "reference": "target of 20,000/s", "reference_value": 20_000}
    return [{**row, "ratio": round(value / 20_000, 2), "n": 2 * rounds * 3 * spaces}]


if __name__ == "__main__":
    print(rows())
