"""Every metric of the platform, declared once; and what the API process answers at `/metrics`.

Gauges about Spaces, builds and pools are read from the database and the runtime when they are scraped: nothing drifts.
Durations are observed where they happen, by three processes: this one, the scheduler and the proxy. Where those run
beside this process, their text is part of the answer, so that one scrape sees the whole platform; elsewhere they are
scraped themselves. Labels are bounded: what the proxy counts per Space is summed up before it is shown here.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client import Counter as Counting

from control_plane.domain.builds import BuildStatus
from control_plane.domain.errors import VitrineError
from control_plane.domain.spaces import RepoType
from control_plane.ports.clock import Clock
from control_plane.ports.stores import UnitOfWorkFactory

disable_created_metrics()  # type: ignore[no-untyped-call]  # a `…_created` series beside every other one tells nobody anything
_QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LONG = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """`kind`: gauge, counter or histogram. `process`: who counts it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    process: str
    words: str


METRICS: tuple[Metric, ...] = (
    Metric("vitrine_up", "gauge", ("component",), "api", "1 while a component answers: database, scheduler, proxy"),
    Metric("vitrine_spaces", "gauge", (), "api", "Spaces that exist"),
    Metric("vitrine_repositories", "gauge", ("type",), "api", "Repositories that exist"),
    Metric("vitrine_builds_open", "gauge", ("status",), "api", "Builds queued and running"),
    Metric("vitrine_build_queue_age_seconds", "gauge", (), "api", "Age of the oldest queued build"),
    Metric("vitrine_build_workers", "gauge", (), "api", "Builders that report a running build"),
    Metric("vitrine_queue_messages", "gauge", (), "api", "Messages in the Celery broker that no builder has taken"),
    Metric("vitrine_replicas", "gauge", ("state", "hardware"), "api", "Replicas that are not ended"),
    Metric("vitrine_pool_nodes", "gauge", ("pool",), "api", "Nodes of a pool that take replicas"),
    Metric("vitrine_pool_units", "gauge", ("pool", "hardware", "state"), "api", "Replicas a pool holds: total, used, free, queued"),
    Metric("vitrine_maintenance", "gauge", (), "api", "1 while maintenance refuses changes"),
    Metric("vitrine_http_request_seconds", "histogram", ("door", "method", "status"), "api", "Requests of the API process"),
    Metric("vitrine_database_seconds", "histogram", ("kind",), "api", "Transactions: read, write; and wait for a connection or the lock"),
    Metric("vitrine_reconcile_seconds", "histogram", (), "scheduler", "One reconciliation of one Space"),
    Metric("vitrine_reconcile_lag_seconds", "histogram", (), "scheduler", "From the request of a reconciliation to its begin"),
    Metric("vitrine_build_wait_seconds", "histogram", (), "scheduler", "A build in the queue"),
    Metric("vitrine_build_phase_seconds", "histogram", ("phase",), "scheduler", "One phase of a build"),
    Metric("vitrine_build_seconds", "histogram", ("outcome",), "scheduler", "A build from start to end"),
    Metric("vitrine_start_phase_seconds", "histogram", ("phase",), "scheduler", "A replica: placing, then starting until it answers"),
    Metric("vitrine_push_live_seconds", "histogram", (), "scheduler", "From a push to its first answer"),
    Metric("vitrine_wake_seconds", "histogram", (), "scheduler", "From a knock at a sleeper to its first answer"),
    Metric("vitrine_replica_failures_total", "counter", ("reason",), "scheduler", "Replicas that failed"),
    Metric("vitrine_proxy_requests_total", "counter", ("class",), "proxy", "Requests to apps and to the platform"),
    Metric("vitrine_proxy_request_seconds", "histogram", (), "proxy", "Requests to apps and to the platform"),
    Metric("vitrine_proxy_received_bytes_total", "counter", (), "proxy", "Bytes from visitors"),
    Metric("vitrine_proxy_sent_bytes_total", "counter", (), "proxy", "Bytes to visitors"),
    Metric("vitrine_proxy_open_sockets", "gauge", (), "proxy", "Open WebSockets"),
    Metric("vitrine_proxy_open_tabs", "gauge", (), "proxy", "Open event streams and sockets"),
    Metric("vitrine_proxy_wakes_total", "counter", (), "proxy", "Requests that woke a sleeper"),
    Metric("vitrine_proxy_wake_seconds_total", "counter", (), "proxy", "Seconds that such requests were held"),
    Metric("vitrine_proxy_errors_total", "counter", ("code",), "proxy", "The proxy's own errors"),
    Metric("vitrine_proxy_client_connections", "gauge", (), "proxy", "Open connections of visitors"),
    Metric("vitrine_proxy_upstream_connections", "gauge", (), "proxy", "Open connections to apps and to the API"),
    Metric("vitrine_proxy_held_requests", "gauge", (), "proxy", "Requests that wait for a Space to wake"),
    Metric("vitrine_proxy_reconnecting_requests", "gauge", (), "proxy", "Requests that wait for an app that refused the connection"),
    Metric("vitrine_proxy_routes", "gauge", (), "proxy", "Hosts with a route"),
    Metric("vitrine_proxy_routes_skipped", "gauge", (), "proxy", "Routes that could not be read"),
    Metric("vitrine_proxy_routes_version", "gauge", (), "proxy", "Number of the newest route change"),
)
_BY_NAME = {metric.name: metric for metric in METRICS}


def _histogram(registry: CollectorRegistry, name: str, buckets: Sequence[float]) -> Histogram:
    metric = _BY_NAME[name]
    return Histogram(metric.name, metric.words, metric.labels, registry=registry, buckets=buckets)


class ApiMetrics:
    """What the API process observes by itself."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._http = _histogram(self.registry, "vitrine_http_request_seconds", _LONG)
        self._database = _histogram(self.registry, "vitrine_database_seconds", _QUICK)

    def request(self, door: str, method: str, status: int, seconds: float) -> None:
        self._http.labels(door, method, f"{status // 100}xx").observe(seconds)

    def database(self, kind: str, seconds: float) -> None:
        self._database.labels(kind).observe(seconds)


class SchedulerMetrics:
    """What the scheduler process observes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconcile = _histogram(self.registry, "vitrine_reconcile_seconds", _QUICK)
        self.lag = _histogram(self.registry, "vitrine_reconcile_lag_seconds", _QUICK)
        self.build_wait = _histogram(self.registry, "vitrine_build_wait_seconds", _LONG)
        self.build_phase = _histogram(self.registry, "vitrine_build_phase_seconds", _LONG)
        self.build = _histogram(self.registry, "vitrine_build_seconds", _LONG)
        self.start_phase = _histogram(self.registry, "vitrine_start_phase_seconds", _LONG)
        self.push_live = _histogram(self.registry, "vitrine_push_live_seconds", _LONG)
        self.wake = _histogram(self.registry, "vitrine_wake_seconds", _LONG)
        failures = _BY_NAME["vitrine_replica_failures_total"]
        self.failures = Counting(failures.name, failures.words, failures.labels, registry=self.registry)

    def text(self) -> str:
        return generate_latest(self.registry).decode()


@dataclass(frozen=True)
class Sources:
    """Where a scrape looks. `scheduler` asks for the scheduler's text, `proxy_socket` is the proxy's, `waiting` counts messages."""

    uow: UnitOfWorkFactory
    clock: Clock
    own: ApiMetrics
    pool_rows: Callable[[], Awaitable[Iterable[Mapping[str, Any]]]]
    waiting: Callable[[], Awaitable[int | None]]
    in_maintenance: Callable[[], Awaitable[bool]]
    scheduler: Callable[[], Awaitable[str | None]]
    proxy_socket: Path


async def render(sources: Sources) -> str:
    """Prometheus text 0.0.4. What does not answer is left out, and `vitrine_up` says so."""
    registry = CollectorRegistry()

    def gauge(name: str) -> Gauge:
        metric = _BY_NAME[name]
        return Gauge(metric.name, metric.words, metric.labels, registry=registry)

    up = gauge("vitrine_up")
    scheduler, proxy = await asyncio.gather(sources.scheduler(), ask_socket(sources.proxy_socket))
    up.labels("scheduler").set(scheduler is not None)
    up.labels("proxy").set(proxy is not None)
    try:
        await _from_database(sources, gauge)
        up.labels("database").set(1)
    except VitrineError:
        up.labels("database").set(0)
    waiting = await sources.waiting()
    if waiting is not None:
        gauge("vitrine_queue_messages").set(waiting)
    texts = [generate_latest(registry).decode(), generate_latest(sources.own.registry).decode(), scheduler or ""]
    return "".join([*texts, without_label(proxy, "space") if proxy else ""])


async def _from_database(sources: Sources, gauge: Callable[[str], Gauge]) -> None:
    async with sources.uow.read() as uow:
        open_builds, open_replicas = await uow.builds.open(), await uow.deployments.open_replicas()
        counts = {kind: await uow.repos.count(kind) for kind in RepoType}
    in_maintenance = await sources.in_maintenance()
    rows = await sources.pool_rows()
    builds = gauge("vitrine_builds_open")
    for status in (BuildStatus.QUEUED, BuildStatus.RUNNING):
        builds.labels(status.value).set(sum(b.status is status for b in open_builds))
    queued = [b.created_at for b in open_builds if b.status is BuildStatus.QUEUED]
    gauge("vitrine_build_queue_age_seconds").set(max(0.0, (sources.clock.now() - min(queued)).total_seconds()) if queued else 0)
    gauge("vitrine_build_workers").set(len({b.worker for b in open_builds if b.worker}))
    replicas = gauge("vitrine_replicas")
    for (state, hardware), count in Tally((r.state.value, r.hardware) for r in open_replicas).items():
        replicas.labels(state, hardware).set(count)
    gauge("vitrine_spaces").set(counts[RepoType.SPACE])
    repositories = gauge("vitrine_repositories")
    for kind, count in counts.items():
        repositories.labels(kind.value).set(count)
    gauge("vitrine_maintenance").set(in_maintenance)
    nodes, units = gauge("vitrine_pool_nodes"), gauge("vitrine_pool_units")
    for row in rows:
        if row["nodes"] is not None:
            nodes.labels(row["pool"]).set(row["nodes"])
        for state in ("total", "used", "free", "queued"):
            if row[state] is not None:
                units.labels(row["pool"], row["flavor"], state).set(row[state])


async def ask_socket(path: Path) -> str | None:
    """GET /metrics over a Unix socket; None when nobody answers within a second."""
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_unix_connection(str(path))
            try:
                writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
                return body.decode() if b" 200 " in head.split(b"\r\n", 1)[0] else None
            finally:
                writer.close()
    except (OSError, TimeoutError, UnicodeDecodeError):
        return None


_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? ([^ ]+)$")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)",?')


def without_label(text: str, label: str) -> str:
    """The same metrics summed over `label`: names of private Spaces are nobody's business who scrapes."""
    sums: dict[tuple[str, str], float] = {}
    order: list[str | tuple[str, str]] = []
    for line in text.splitlines():
        found = None if line.startswith("#") else _SAMPLE.fullmatch(line)
        if found is None:
            order.append(line)
            continue
        kept = ",".join(f'{name}="{value}"' for name, value in _LABEL.findall(found[2] or "") if name != label)
        index = found[1], kept
        if index not in sums:
            order.append(index)
        sums[index] = sums.get(index, 0.0) + float(found[3])
    lines = [item if isinstance(item, str) else f"{item[0]}{'{' + item[1] + '}' if item[1] else ''} {sums[item]:.15g}" for item in order]
    return "\n".join(lines) + "\n"
