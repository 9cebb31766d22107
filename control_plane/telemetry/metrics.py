"""Prometheus text of the API process, computed from the database when it is scraped: nothing drifts, nothing is counted twice.

| Metric | Type | Labels | Means |
|---|---|---|---|
| vitrine_builds_open | gauge | status | builds queued and running |
| vitrine_build_queue_age_seconds | gauge | – | age of the oldest queued build |
| vitrine_replicas | gauge | state, hardware | replicas that are not ended |
| vitrine_spaces | gauge | – | Spaces that exist |
| vitrine_repositories | gauge | type | repositories that exist |
"""

from __future__ import annotations

from collections import Counter

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from control_plane.domain.builds import BuildStatus
from control_plane.domain.spaces import RepoType
from control_plane.ports.clock import Clock
from control_plane.ports.stores import UnitOfWorkFactory


async def render(uow_factory: UnitOfWorkFactory, clock: Clock) -> str:
    registry = CollectorRegistry()
    builds = Gauge("vitrine_builds_open", "Builds queued and running", ["status"], registry=registry)
    age = Gauge("vitrine_build_queue_age_seconds", "Age of the oldest queued build", registry=registry)
    replicas = Gauge("vitrine_replicas", "Replicas that are not ended", ["state", "hardware"], registry=registry)
    spaces = Gauge("vitrine_spaces", "Spaces that exist", registry=registry)
    repositories = Gauge("vitrine_repositories", "Repositories that exist", ["type"], registry=registry)
    async with uow_factory.read() as uow:
        open_builds, open_replicas = await uow.builds.open(), await uow.deployments.open_replicas()
        counts = {kind: await uow.repos.count(kind) for kind in RepoType}
    for status in (BuildStatus.QUEUED, BuildStatus.RUNNING):
        builds.labels(status.value).set(sum(b.status is status for b in open_builds))
    queued = [b.created_at for b in open_builds if b.status is BuildStatus.QUEUED]
    age.set((clock.now() - min(queued)).total_seconds() if queued else 0)
    for (state, hardware), count in Counter((r.state.value, r.hardware) for r in open_replicas).items():
        replicas.labels(state, hardware).set(count)
    spaces.set(counts[RepoType.SPACE])
    for kind, count in counts.items():
        repositories.labels(kind.value).set(count)
    return generate_latest(registry).decode()
