"""The scheduler process: reconciler, leadership, health."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from control_plane.background import ended
from control_plane.bootstrap.runtimes import _loopback, build_runtime, build_volumes, cluster_options, note_floor
from control_plane.bootstrap.services import (
    BUS_SOCKET,
    STATIC_SOCKET,
    USAGE_SOCKET,
    Services,
    build_limits,
    build_services,
    redis_check,
    target_of,
    trace_exporter,
)
from control_plane.domain.accounts import Account
from control_plane.domain.builds import SourceKind
from control_plane.domain.errors import Unavailable, VitrineError
from control_plane.domain.ids import ReplicaId, RepoId, SpaceId
from control_plane.domain.replicas import HUB_HOST
from control_plane.domain.routes import Endpoint
from control_plane.domain.sensitive import Sensitive
from control_plane.domain.spaces import Repo, Setting, Space
from control_plane.ports.leadership import Leadership
from control_plane.ports.stores import UnitOfWork, UnitOfWorkFactory
from control_plane.settings import Settings

if TYPE_CHECKING:
    from control_plane.net.listen import Address
    from control_plane.scheduler.repo_volumes import VolumePreparer
    from control_plane.telemetry.health import Health


_STANDBY_AFTER_S = 1.0  # a scheduler that waits longer for its turn says so


# --- the scheduler -------------------------------------------------------------------------------------------------
async def run_scheduler(settings: Settings, ready: Callable[[dict[str, Any]], None], *, listen: Address | None = None) -> None:
    """Bus, runtime and reconciler until cancelled. The runtime is asked for its left-overs before anything starts.

    `listen`: where `/healthz` and `/readyz` answer.
    """
    from builder.broker import broker_options, prepare_spool
    from control_plane.accounts.metering import meter_replica
    from control_plane.accounts.oauth import space_credentials
    from control_plane.bus.local import BusServer
    from control_plane.bus.redis_bus import RedisRouteStore
    from control_plane.bus.usage import UsageDoor
    from control_plane.net.probe import probe
    from control_plane.queue.celery_queue import CeleryBuildQueue
    from control_plane.scheduler.deps import SchedulerConfig, SchedulerDeps
    from control_plane.scheduler.leadership import Fence, FencedRoutes, FencedRuntime, FencedUnits
    from control_plane.scheduler.planning import Probe
    from control_plane.scheduler.prober import Prober
    from control_plane.scheduler.reconcile import Reconciler
    from control_plane.scheduler.volumes import VolumeRemover
    from control_plane.spaces.configure import open_secret
    from control_plane.telemetry.history import HistoryFollower
    from control_plane.telemetry.metrics import SchedulerMetrics

    services = build_services(settings)
    await services.database.migrate()
    leadership = build_leadership(settings, services)
    health = scheduler_health(settings, services, leadership, listen) if listen else None
    acquiring = asyncio.create_task(leadership.acquire())
    try:
        await asyncio.wait({acquiring}, timeout=_STANDBY_AFTER_S)
        if not acquiring.done():
            ready({"note": "another scheduler leads, this one stands by", **(health.told if health else {})})
            await asyncio.wait({acquiring})
        acquiring.result()
    finally:
        await ended(acquiring)
    fence = Fence(services.uow, leadership)
    if not services.database.is_sqlite:  # where the database is a file, its lock is enough
        await fence.begin()
    uow = FencedUnits(services.uow, fence)
    store = RedisRouteStore(settings.redis_url) if settings.redis_url else BusServer(settings.run_dir / BUS_SOCKET)
    bus: Any = FencedRoutes(store, fence)
    await bus.start()
    runtime: Any = FencedRuntime(build_runtime(settings, services), fence)
    await runtime.start()
    volumes = build_volumes(settings, runtime)
    warning = note_floor(settings, getattr(runtime, "report", None))
    options = broker_options(settings.redis_url or None, settings.data_dir / "queue")
    prepare_spool(options)
    queue = CeleryBuildQueue(options.url, transport=options.transport, transport_options=options.transport_options, queue=options.queue)

    async def look(endpoint: Any, host: str) -> Probe:
        result = await probe(endpoint, host, timeout_s=5.0)
        return Probe(result.ok, result.status, result.error)

    async def check_running(uow: UnitOfWork, repo: Repo, space: Space) -> None:
        owner = await uow.accounts.get(repo.owner_id)
        assert owner is not None
        await services.spaces.check_quota(uow, owner, f"running.{space.hardware}", space.replicas, space.id)

    async def meter(uow: UnitOfWork, repo: Repo | None, replica: Any, now: Any) -> None:
        await meter_replica(uow, repo, replica, services.catalog, now)

    async def discard(space: Space, repo: Repo | None) -> None:
        async with services.uow.read() as uow:  # the repository's row went when its owner deleted it
            removed = await uow.repos.removed(RepoId(space.id))
        name = repo.full_name if repo else removed[1] if removed else ""
        await runtime.remove_space(space.id, name)
        await services.logs.remove(f"run/{space.id}")
        for folder in ("bundles", "sites"):
            await asyncio.to_thread(shutil.rmtree, settings.data_dir / folder / space.id, True)
        await volumes.remove_all(space, name)

    def open_setting(setting: Setting) -> Any:
        return open_secret(services.spaces, setting)

    def trusted(owner: Account) -> bool:
        # Where the floor cannot be met, an administrator's own apps may still start, with a warning in all places.
        return settings.trusted or owner.is_admin

    public = urlsplit(settings.resolved_public_url)
    # Inside a process sandbox the Hub is reached by an inner name on the port of its scheme; elsewhere by its public address.
    inner = settings.runtime == "docker" or (target_of(settings) is SourceKind.PROCESS and public.scheme == "http")
    if settings.runtime == "kubernetes":
        inner = bool(cluster_options(settings).hub_address)
    config = SchedulerConfig(
        apps_domain=settings.apps_domain, app_host_port=lambda sub: urlsplit(settings.app_url(sub)).netloc,
        hub_endpoint=f"http://{HUB_HOST}" if inner else settings.resolved_public_url,
        hub_upstream=f"{_loopback(settings.host)}:{settings.port}", hub_host=HUB_HOST,
        static_site=site_address(settings, services.signing_key), sleep_after_s=settings.sleep_after_s,
        drain=timedelta(seconds=settings.drain_s), preempt_idle_s=settings.preempt_idle_s, trusted=trusted,
        target=target_of(settings), limits=build_limits(settings),
        oauth_of=lambda space_id: space_credentials(services.signing_key, space_id), volume_of=volumes.mounts_of,
    )  # fmt: skip
    metrics = SchedulerMetrics()
    traces = trace_exporter(settings)

    def observe_look(lag_s: float, took_s: float) -> None:
        metrics.lag.observe(max(0.0, lag_s))
        metrics.reconcile.observe(took_s)

    reconciler: Reconciler
    preparer = build_preparer(settings, services, uow, config.hub_endpoint, lambda space_id: reconciler.request(space_id))
    prober = Prober(look, lambda space_id: reconciler.request(space_id))
    reconciler = Reconciler(
        SchedulerDeps(
            uow=uow, clock=services.clock, runtime=runtime, routes=bus, signals=bus, queue=queue, logs=services.logs,
            prober=prober, catalog=lambda: services.catalog, open_secret=open_setting, check_running_quota=check_running, meter=meter,
            discard=discard, repo_mounts=preparer, is_leading=leadership.is_leading, observe_look=observe_look,
        ),
        config,
    )  # fmt: skip
    usage = UsageDoor(services.uow, runtime, metrics.text)
    if settings.redis_url:
        usage.open_redis(settings.redis_url)
    else:
        await usage.open_socket(settings.run_dir / USAGE_SOCKET)
    history = asyncio.ensure_future(HistoryFollower(services.uow, metrics, traces).run())
    emptying = asyncio.ensure_future(VolumeRemover(uow, volumes).run())
    sweeping = asyncio.ensure_future(preparer.sweep_forever())
    lost = asyncio.ensure_future(leadership.lost())
    told = {"warnings": [warning] if warning else [], **(health.told if health else {})}
    acting = asyncio.ensure_future(reconciler.run(lambda: ready(told)))
    try:
        await asyncio.wait({lost, acting}, return_when=asyncio.FIRST_COMPLETED)
        if acting.done():
            acting.result()
        else:
            raise Unavailable("another scheduler leads now; this one ends and waits for its turn")
    finally:
        await ended(lost, acting, history, emptying, sweeping)
        await preparer.close()
        if traces is not None:
            traces.close()
        await usage.close()
        await reconciler.close()
        await runtime.close()
        await leadership.release()
        await bus.close()
        if health:
            health.close()
        await services.database.close()


def build_preparer(
    settings: Settings, services: Services, uow: UnitOfWorkFactory, hub_endpoint: str, request: Callable[[SpaceId], None]
) -> VolumePreparer:
    """Copies on this machine's disk, or links for a cluster's nodes to fetch with."""
    from control_plane.accounts.mounting import may_mount
    from control_plane.git.volume_links import VolumeLinks
    from control_plane.scheduler.repo_volumes import VolumeDeps, VolumePreparer
    from control_plane.spaces.mounted import mounted_trees

    links = VolumeLinks(services.signing_key)

    def grant(replica_id: ReplicaId, number: int) -> tuple[str, Sensitive]:
        return f"{hub_endpoint}{links.path(replica_id, number)}", links.token(replica_id, number)

    by_node = settings.runtime == "kubernetes"
    deps = VolumeDeps(uow, services.repo_trees, may_mount, mounted_trees, grant if by_node else None)
    return VolumePreparer(deps, request)


def build_leadership(settings: Settings, services: Services) -> Leadership:
    """Which of several schedulers acts: a Lease on a cluster, a row in PostgreSQL, a lock beside a database file."""
    from control_plane.db.file_leadership import FileLeadership
    from control_plane.scheduler.leadership import DatabaseLeadership

    if settings.runtime == "kubernetes":
        from control_plane.runtimes.kubernetes.assemble import scheduler_lease

        return scheduler_lease(namespace=settings.kube_namespace)
    return FileLeadership(settings.data_dir / "scheduler.lock") if services.database.is_sqlite else DatabaseLeadership(services.uow)


def scheduler_health(settings: Settings, services: Services, leadership: Leadership, listen: Address) -> Health:
    """`/healthz` and `/readyz` of this scheduler; a stand-by is ready too. Raises Rejected when the address cannot be had."""
    from control_plane.net.listen import listen_tcp
    from control_plane.telemetry.health import Health

    loop = asyncio.get_running_loop()

    def checks() -> dict[str, str]:
        pinged = asyncio.run_coroutine_threadsafe(services.database.ping(), loop)
        try:
            pinged.result(3)
            found = "ok"
        except TimeoutError:
            found = "does not answer"
        except VitrineError as error:
            found = error.message
        return {"database": found, **redis_check(settings)}

    health = Health(listen_tcp(listen), checks, beats=True, facts=lambda: {"leads": leadership.is_leading()})

    def beat() -> None:
        if not health.is_closed:
            health.beat()
            loop.call_later(1.0, beat)

    beat()
    return health


def site_address(settings: Settings, key: bytes) -> Callable[[str], Endpoint]:
    """Where the file server answers for a static Space's tree: beside the API, over its socket or its TCP address."""
    from control_plane.net.api_address import api_endpoint
    from control_plane.net.site_names import signed_site

    server = api_endpoint(settings.api_url, settings.run_dir / STATIC_SOCKET)
    return lambda ref: replace(server, site=signed_site(key, ref) if settings.api_url else ref)
