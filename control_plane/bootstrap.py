"""The one place that picks adapters and builds the platform's services from the settings.

Imports of adapters are inside the functions that use them: each process loads only what it runs (a second start of the
whole platform has to be ready in under three seconds).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from control_plane.domain.accounts import Account
from control_plane.domain.builds import BuildLimits, SourceKind
from control_plane.domain.capacity import Capacity
from control_plane.domain.errors import Rejected, Unavailable, VitrineError
from control_plane.domain.hardware import FlavorCatalog
from control_plane.domain.ids import ReplicaId, RepoId, Sha, SpaceId
from control_plane.domain.replicas import HUB_HOST, ReplicaUsage
from control_plane.domain.routes import Endpoint
from control_plane.domain.spaces import Build, Repo, RepoType, Setting, Space
from control_plane.ports.clock import Clock
from control_plane.ports.leadership import Leadership
from control_plane.ports.log_store import LogStore
from control_plane.ports.secret_box import SecretBox
from control_plane.ports.signals import Signals
from control_plane.ports.stores import UnitOfWork, UnitOfWorkFactory
from control_plane.settings import Settings

if TYPE_CHECKING:
    from builder.config import WorkerConfig
    from builder.layered import LayeredImages
    from builder.pipeline import ImagePipeline
    from control_plane.accounts.sign_in import Throttle
    from control_plane.accounts.storage import StorageRoom
    from control_plane.bus.local import BusClient
    from control_plane.bus.redis_bus import RedisRouteFeed
    from control_plane.db.engine import Database
    from control_plane.git.hub_cache import HubCache
    from control_plane.git.lfs import FileLfsStore
    from control_plane.git.store import BareGitStore
    from control_plane.git.upkeep import Upkeep
    from control_plane.net.listen import Address
    from control_plane.proxy.server import ProxyConfig
    from control_plane.runtimes.kubernetes.manifests import ClusterOptions
    from control_plane.runtimes.process.floor import FloorReport
    from control_plane.scheduler.pools import Hardware
    from control_plane.secrets.envelope import EnvelopeBox
    from control_plane.spaces.actions import Actions
    from control_plane.spaces.deps import SpaceDeps
    from control_plane.telemetry.health import Health
    from control_plane.telemetry.metrics import ApiMetrics
    from control_plane.telemetry.otlp import OtlpExporter

API_SOCKET, STATIC_SOCKET, BUS_SOCKET, USAGE_SOCKET = "api.sock", "static.sock", "bus.sock", "usage.sock"
VERSION = "0.1.0"
PROXY_SOCKET = "proxy.sock"  # metrics and health of the proxy beside this process
# Where builds usually get packages; on a site behind a gateway these names lead to private addresses, which builds may reach all the same.
PUBLIC_MIRRORS = (
    "https://pypi.org", "https://files.pythonhosted.org", "http://deb.debian.org", "http://security.debian.org", "https://registry.npmjs.org",
)  # fmt: skip


@dataclass(frozen=True)
class Keys:
    """Keys derived from the master key, one per purpose."""

    box: EnvelopeBox
    signing: bytes
    worker_secret: str


def load_platform_keys(settings: Settings) -> Keys:
    from control_plane.secrets.envelope import EnvelopeBox, derive, load_keys

    keys = load_keys(settings.secret_key, settings.data_dir / "secret.key")
    box = EnvelopeBox(*keys, reload=lambda: load_keys(settings.secret_key, settings.data_dir / "secret.key"))
    # From the oldest key: a rotation must not part processes that started before it from those that start after it.
    return Keys(box, derive(keys[-1], "signing"), settings.worker_secret or derive(keys[-1], "worker").hex())


def load_worker_secret(settings: Settings) -> str:
    """All that proxy and builders hold: the word for the API's internal doors. Raises Rejected where nothing tells it."""
    if settings.worker_secret:
        return settings.worker_secret
    from control_plane.net.api_address import is_here

    is_apart = settings.api_url and not is_here(settings.api_url) and not settings.secret_key
    if is_apart and not (settings.data_dir / "secret.key").exists():
        raise Rejected(
            "VITRINE_WORKER_SECRET is not set: the API of VITRINE_API_URL would not know this process",
            hint="Give API, proxies and builders the same VITRINE_WORKER_SECRET, any long random text.",
        )
    return load_platform_keys(settings).worker_secret


@dataclass(frozen=True)
class Services:
    """What inbound rooms work with."""

    settings: Settings
    database: Database
    uow: UnitOfWorkFactory
    clock: Clock
    git: BareGitStore
    lfs: FileLfsStore
    logs: LogStore
    secret_box: SecretBox
    signals: Signals
    bus: BusClient | RedisRouteFeed
    actions: Actions
    spaces: SpaceDeps
    throttle: Throttle
    storage: StorageRoom
    metrics: ApiMetrics
    app_downloads: HubCache
    keys: Keys
    pools: Callable[[], Hardware]

    @property
    def catalog(self) -> FlavorCatalog:
        return self.pools().catalog

    async def capacity(self) -> Capacity | None:
        """Pools and nodes as the scheduler's runtime sees them now; None when it does not answer."""
        from control_plane.bus.usage import ask_capacity

        return await ask_capacity(usage_door(self.settings))

    async def queued_messages(self) -> int | None:
        """Messages in the broker that no builder has taken; None when the broker does not answer."""
        from builder.broker import broker_options

        options = broker_options(self.settings.redis_url or None, self.settings.data_dir / "queue")
        if options.is_spool:
            inbox = Path(str(options.transport_options["data_folder_in"]))
            return len(os.listdir(inbox)) if inbox.is_dir() else 0
        import redis.asyncio
        import redis.exceptions

        client = redis.asyncio.from_url(self.settings.redis_url, socket_timeout=1.0, socket_connect_timeout=1.0)
        try:
            return int(await client.llen(options.queue))
        except (redis.exceptions.RedisError, OSError):
            return None
        finally:
            await client.aclose()

    async def scheduler_metrics(self) -> str | None:
        from control_plane.bus.usage import ask_metrics

        return await ask_metrics(usage_door(self.settings))

    async def admit(self, uow: UnitOfWork, space: Space) -> None:
        """Raises QuotaExceeded when the owner's quotas do not let this Space run now. Call it inside the write that starts it."""
        repo = await uow.repos.get(RepoId(space.id))
        owner = await uow.accounts.get(repo.owner_id) if repo else None
        if owner is not None:
            await self.spaces.check_quota(uow, owner, f"running.{space.hardware}", space.replicas, space.id)

    def upkeep(self) -> Upkeep:
        """What repositories need now and then; `once()` is one pass, `forever()` repeats it."""
        from control_plane.git.upkeep import Upkeep
        from control_plane.git.xet import XetStore

        async def repos() -> AsyncIterator[RepoId]:
            for kind in RepoType:
                offset = 0
                while True:
                    async with self.uow.read() as uow:
                        page = await uow.repos.list(kind, see_all=True, sort="created", limit=500, offset=offset)
                    for repo in page:
                        yield repo.id
                    if len(page) < 500:
                        break
                    offset += 500

        return Upkeep(self.git, self.lfs, XetStore(self.settings.data_dir / "xet", self.lfs), repos, self.storage.settle)

    async def remove_environments(self, kept: Collection[str]) -> None:
        """Delete shared environments that are neither in `kept` nor were used for a week; safe beside builds."""
        from builder.environments import EnvironmentStore
        from builder.sandbox import NoSandbox
        from builder.uv import UvConfig

        store = EnvironmentStore(self.settings.data_dir, UvConfig("uv"), NoSandbox(trusted=False))
        await asyncio.to_thread(store.gc, kept)

    def change_master_key(self, *, retire: bool) -> None:
        """A new master key that seals from now on; or, with `retire`, only the newest stays. Rejected when a setting names the key."""
        from control_plane.secrets.envelope import add_key, drop_old_keys

        if self.settings.secret_key:
            raise Rejected(
                "the master key comes from VITRINE_SECRET_KEY: put a new key before the old one there ('new,old'), restart every "
                "process, run `vitrine admin key rewrap`, and take the old one out"
            )
        file = self.settings.data_dir / "secret.key"
        self.keys.box.take(drop_old_keys(file) if retire else add_key(file))

    @property
    def apps_domain(self) -> str:
        return self.settings.apps_domain

    @property
    def public_url(self) -> str:
        return self.settings.resolved_public_url

    @property
    def signing_key(self) -> bytes:
        return self.keys.signing

    @property
    def internal_secret(self) -> str:
        return self.keys.worker_secret


def prepare_data_dir(settings: Settings) -> None:
    """Make the folders of the data dir, readable by nobody else (apps of strangers run on this machine)."""
    for folder in (
        settings.data_dir,
        settings.run_dir,
        *(settings.data_dir / n for n in ("repos", "lfs", "envs", "bundles", "logs", "cache", "queue")),
    ):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.chmod(settings.run_dir, 0o700)


def target_of(settings: Settings) -> SourceKind:
    return SourceKind.IMAGE if settings.runtime in ("docker", "kubernetes") else SourceKind.PROCESS


def build_limits(settings: Settings) -> BuildLimits:
    return BuildLimits(
        cpu=float(os.cpu_count() or 1),
        memory_bytes=settings.build_memory_bytes,
        disk_bytes=settings.build_disk_bytes,
        time_s=settings.build_time_limit_s,
    )


def bus_of(settings: Settings) -> BusClient | RedisRouteFeed:
    """Signals and route feed of every process but the scheduler: Redis where one is named, else the scheduler's socket."""
    if settings.redis_url:
        from control_plane.bus.redis_bus import RedisRouteFeed

        return RedisRouteFeed(settings.redis_url)
    from control_plane.bus.local import BusClient

    return BusClient(settings.run_dir / BUS_SOCKET)


def usage_door(settings: Settings) -> Path | str:
    """Where the scheduler answers what runs and what is free: over Redis where one is named, else at its socket."""
    return settings.redis_url or settings.run_dir / USAGE_SOCKET


def load_pools(settings: Settings) -> Callable[[], Hardware]:
    """The hardware in force; a changed file is taken up within two seconds, a broken one is logged and the last good one stays."""
    import time

    from control_plane.scheduler.pools import PoolFile

    def refused(error: Rejected) -> None:
        logging.getLogger("vitrine.pools").error("pools.refused", extra={"error": error.message})

    file = PoolFile(Path(settings.pools_file) if settings.pools_file else None, refused)
    looked = time.monotonic()

    def current() -> Hardware:
        nonlocal looked
        if (now := time.monotonic()) - looked > 2.0:
            looked = now
            file.reload()
        return file.current

    return current


def build_services(settings: Settings) -> Services:
    from control_plane.accounts.metering import meter_build as meter_build_of
    from control_plane.accounts.quotas import check as check_quota_of
    from control_plane.accounts.sign_in import Throttle
    from control_plane.accounts.storage import StorageRoom
    from control_plane.community.previews import Previews
    from control_plane.db.engine import SystemClock, create_database
    from control_plane.git.hub_cache import HubCache
    from control_plane.git.lfs import FileLfsStore
    from control_plane.git.store import BareGitStore
    from control_plane.git.xet import XetStore
    from control_plane.logs.files import FileLogStore
    from control_plane.spaces import space_card, starter
    from control_plane.spaces.actions import Actions
    from control_plane.spaces.deps import SpaceDeps
    from control_plane.telemetry.metrics import ApiMetrics

    prepare_data_dir(settings)
    clock = SystemClock()
    database = create_database(settings.resolved_database_url)
    keys = load_platform_keys(settings)
    lfs = FileLfsStore(settings.data_dir / "lfs")
    git = BareGitStore(settings.data_dir / "repos", lfs, chunks=XetStore(settings.data_dir / "xet", lfs))
    logs = FileLogStore(settings.data_dir / "logs")
    bus = bus_of(settings)
    pools = load_pools(settings)

    async def check_quota(uow: UnitOfWork, account: Account, key: str, asked: float, space_id: SpaceId | None = None, /) -> None:
        await check_quota_of(uow, account, key, asked, catalog=pools().catalog, now=clock.now(), space_id=space_id)

    async def meter_build(uow: UnitOfWork, build: Build) -> None:
        await meter_build_of(uow, await uow.repos.get(RepoId(build.space_id)), build, clock.now())

    async def pull_moved(repo: Repo, ref: str, new: Sha | None) -> None:
        await Previews(database, git, actions).follow(repo, ref, new)

    deps = SpaceDeps(
        uow=database, clock=clock, git=git, logs=logs, signals=bus, secret_box=keys.box, catalog=lambda: pools().catalog,
        check_quota=check_quota, meter_build=meter_build, parse_card=lambda readme: space_card.parse(readme, flavors=pools().catalog.names),
        card_of=lambda readme: dict(space_card.validate(readme, RepoType.MODEL).card), initial_files=starter.initial_files,
        build_target=target_of(settings), build_limits=build_limits(settings), apps_domain=settings.apps_domain,
        app_url=settings.app_url, public_url=settings.resolved_public_url, pull_moved=pull_moved,
    )  # fmt: skip

    async def usage_of(space_id: SpaceId) -> tuple[ReplicaUsage, ...]:
        from control_plane.bus.usage import ask_usage

        return await ask_usage(usage_door(settings), space_id)

    metrics = ApiMetrics()
    database.observe = metrics.database
    storage = StorageRoom(database, clock, lambda: pools().catalog, git.size_bytes)
    actions = Actions(deps, usage_of, storage.room)
    return Services(
        settings=settings, database=database, uow=database, clock=clock, git=git, lfs=lfs, logs=logs, secret_box=keys.box, signals=bus,
        bus=bus, actions=actions, spaces=deps, throttle=Throttle(), storage=storage, metrics=metrics,
        app_downloads=HubCache(settings.data_dir / "hub-cache", git, lfs), keys=keys, pools=pools,
    )  # fmt: skip


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
    from control_plane.spaces.configure import open_secret
    from control_plane.telemetry.history import HistoryFollower
    from control_plane.telemetry.metrics import SchedulerMetrics

    services = build_services(settings)
    await services.database.migrate()
    leadership = build_leadership(settings, services)
    health = scheduler_health(settings, services, leadership, listen) if listen else None
    try:
        async with asyncio.timeout(_STANDBY_AFTER_S):
            await leadership.acquire()
    except TimeoutError:
        ready({"note": "another scheduler leads, this one stands by", **(health.told if health else {})})
        await leadership.acquire()
    fence = Fence(services.uow, leadership)
    if not services.database.is_sqlite:  # where the database is a file, its lock is enough
        await fence.begin()
    uow = FencedUnits(services.uow, fence)
    store = RedisRouteStore(settings.redis_url) if settings.redis_url else BusServer(settings.run_dir / BUS_SOCKET)
    bus: Any = FencedRoutes(store, fence)
    await bus.start()
    runtime: Any = FencedRuntime(build_runtime(settings, services), fence)
    await runtime.start()
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
        await runtime.remove_space(space.id, repo.full_name if repo else "")
        await services.logs.remove(f"run/{space.id}")
        for folder in ("bundles", "sites"):
            await asyncio.to_thread(shutil.rmtree, settings.data_dir / folder / space.id, True)

    def open_setting(setting: Setting) -> Any:
        return open_secret(services.spaces, setting)

    def trusted(owner: Account) -> bool:
        # Where the floor cannot be met, an administrator's own apps may still start, with a warning in all places.
        return settings.trusted or owner.is_admin

    public = urlsplit(settings.resolved_public_url)
    # Inside a process sandbox the Hub is reached by an inner name on the port of its scheme; elsewhere by its public address.
    inner = settings.runtime == "docker" or (target_of(settings) is SourceKind.PROCESS and public.scheme == "http")
    config = SchedulerConfig(
        apps_domain=settings.apps_domain, app_host_port=lambda sub: urlsplit(settings.app_url(sub)).netloc,
        hub_endpoint=f"http://{HUB_HOST}" if inner else settings.resolved_public_url,
        hub_upstream=f"{_loopback(settings.host)}:{settings.port}", hub_host=HUB_HOST,
        static_site=site_address(settings, services.signing_key), sleep_after_s=settings.sleep_after_s,
        drain=timedelta(seconds=settings.drain_s), preempt_idle_s=settings.preempt_idle_s, trusted=trusted,
        target=target_of(settings), limits=build_limits(settings),
        oauth_of=lambda space_id: space_credentials(services.signing_key, space_id),
    )  # fmt: skip
    metrics = SchedulerMetrics()
    traces = trace_exporter(settings)

    def observe_look(lag_s: float, took_s: float) -> None:
        metrics.lag.observe(max(0.0, lag_s))
        metrics.reconcile.observe(took_s)

    reconciler: Reconciler
    prober = Prober(look, lambda space_id: reconciler.request(space_id))
    reconciler = Reconciler(
        SchedulerDeps(
            uow=uow, clock=services.clock, runtime=runtime, routes=bus, signals=bus, queue=queue, logs=services.logs,
            prober=prober, catalog=lambda: services.catalog, open_secret=open_setting, check_running_quota=check_running, meter=meter,
            discard=discard, is_leading=leadership.is_leading, observe_look=observe_look,
        ),
        config,
    )  # fmt: skip
    usage = UsageDoor(services.uow, runtime, metrics.text)
    if settings.redis_url:
        usage.open_redis(settings.redis_url)
    else:
        await usage.open_socket(settings.run_dir / USAGE_SOCKET)
    history = asyncio.ensure_future(HistoryFollower(services.uow, metrics, traces).run())
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
        for task in (lost, acting, history):
            task.cancel()
        await asyncio.gather(lost, acting, history, return_exceptions=True)
        if traces is not None:
            traces.close()
        usage.close()
        await reconciler.close()
        await runtime.close()
        await leadership.release()
        await bus.close()
        if health:
            health.close()
        await services.database.close()


def trace_exporter(settings: Settings) -> OtlpExporter | None:
    """None where no collector is named: then nothing of OpenTelemetry is loaded."""
    if not settings.otlp_endpoint:
        return None
    from control_plane.telemetry.otlp import OtlpExporter

    return OtlpExporter(settings.otlp_endpoint, VERSION)


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


def floor_file(settings: Settings) -> Path:
    return settings.run_dir / "floor.txt"


def floor_warning(settings: Settings) -> str:
    """What the scheduler found missing for isolating apps, in words; "" = nothing. Read where people are warned."""
    try:
        return floor_file(settings).read_text("utf-8")
    except OSError:
        return ""


def note_floor(settings: Settings, report: FloorReport | None) -> str:
    """Leave the words for the other processes. Where the floor is not met, only admins' own apps start."""
    if report is None or report.is_met:
        floor_file(settings).unlink(missing_ok=True)
        return ""
    words = f"This machine cannot isolate apps fully, so only those of its administrators start. {report.words} See `vitrine doctor`."
    floor_file(settings).write_text(words, "utf-8")
    return words


def _loopback(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "", "localhost") else "[::1]" if host in ("::", "[::]") else host


def build_runtime(settings: Settings, services: Services) -> Any:
    """`auto` is the process runtime: it needs no daemon. Docker and Kubernetes are chosen by name."""
    from control_plane.ports.log_store import LogLine

    async def sink(space_id: SpaceId, replica_id: ReplicaId, lines: Sequence[str]) -> None:
        now = services.clock.now()
        await services.logs.append(f"run/{space_id}", [LogLine(now, line) for line in lines])

    if settings.runtime == "docker":
        from control_plane.runtimes.docker.assemble import docker_runtime

        gpus = _local_gpus()
        # Which model a card is only the operator knows: GPU flavors are served where the hardware file was written for this machine.
        flavors = tuple(f.name for f in services.catalog.flavors if not f.has_gpu or (settings.pools_file and f.gpu_count <= len(gpus)))
        return docker_runtime(
            settings.docker_host, sink, settings.data_dir, flavors=flavors, gpus=gpus, hub=(settings.host, settings.port),
            egress_ports=settings.egress_ports, egress_allow=settings.egress_allow, login=registry_login(settings),
        )  # fmt: skip
    if settings.runtime == "kubernetes":
        from control_plane.runtimes.kubernetes.assemble import kubernetes_runtime

        async def cluster_sink(space_id: str, replica_id: str, lines: Sequence[LogLine]) -> None:
            await services.logs.append(f"run/{space_id}", lines)

        return kubernetes_runtime(
            namespace=settings.kube_namespace, pools=services.pools, log=cluster_sink, options=cluster_options(settings),
            reach=settings.kube_reach, sockets=settings.run_dir / "forward",
        )  # fmt: skip
    from control_plane.runtimes.process.runtime import ProcessRuntime

    return ProcessRuntime(
        settings.data_dir,
        sink,
        run_dir=settings.run_dir,
        egress_ports=tuple(int(port) for port in settings.egress_ports.split(",") if port.strip()),
        egress_allow=tuple(pair.strip() for pair in settings.egress_allow.split(",") if pair.strip()),
    )


def cluster_options(settings: Settings) -> ClusterOptions:
    """What the operator decided about the cluster."""
    from control_plane.runtimes.kubernetes.assemble import own_namespace
    from control_plane.runtimes.kubernetes.manifests import ClusterOptions

    def listed(text: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())

    return ClusterOptions(
        namespace=settings.kube_namespace, per_owner_namespaces=settings.kube_namespace_per_owner,
        platform_namespace=own_namespace() or settings.kube_namespace, proxy_ranges=listed(settings.kube_proxy_ranges),
        dns_addresses=listed(settings.kube_dns_addresses), cluster_ranges=listed(settings.kube_cluster_ranges),
        egress_ports=tuple(int(port) for port in listed(settings.egress_ports)), image_pull_secret=settings.kube_pull_secret or None,
        storage_class=settings.kube_storage_class or None, storage_gib=settings.kube_storage_gb,
        user_namespaces=settings.kube_user_namespaces,
    )  # fmt: skip


def _local_gpus() -> tuple[str, ...]:
    """Device ids of this machine's NVIDIA cards, by the driver's own list."""
    try:
        return tuple(str(number) for number in range(len(os.listdir("/proc/driver/nvidia/gpus"))))
    except OSError:
        return ()


# --- the proxy -----------------------------------------------------------------------------------------------------
def proxy_config(settings: Settings, listen_fds: tuple[int, ...] = (), slot: int = 1) -> ProxyConfig:
    """`listen_fds` are inherited listeners: the port's, then the redirecting one's. `slot` counts the processes on one port."""
    from control_plane.net.api_address import api_endpoint
    from control_plane.proxy.server import ProxyConfig
    from control_plane.proxy.tls import certificate_files

    try:
        sample = min(1.0, max(0.0, float(settings.access_log_sample)))
        for network in (trusted := tuple(net.strip() for net in settings.trusted_proxies.split(",") if net.strip())):
            ipaddress.ip_network(network)
    except ValueError as error:
        raise Rejected(f"setting trusted_proxies or access_log_sample: {error}") from error
    api = api_endpoint(settings.api_url, settings.run_dir / API_SOCKET)
    return ProxyConfig(
        host=settings.host,
        port=settings.port,
        api_socket="" if settings.api_url else api.address,
        api_address=api.address if settings.api_url else "",
        apps_domain=settings.apps_domain,
        public_url=settings.resolved_public_url,
        platform_hosts=(HUB_HOST,),
        listen_fd=listen_fds[0] if listen_fds else None,
        redirect_fd=listen_fds[1] if len(listen_fds) > 1 else None,
        redirect_port=settings.http_port,
        tls=certificate_files(settings.tls_certificates),
        proxy_protocol=settings.proxy_protocol,
        trusted_proxies=trusted,
        access_log="" if settings.access_log == "off" else settings.access_log,
        access_log_sample=sample,
        drain_s=float(settings.drain_s),
        admin_socket=str(settings.run_dir / (PROXY_SOCKET if slot == 1 else f"{slot}-{PROXY_SOCKET}")),
        metrics_token=settings.metrics_token,
        table_file=settings.data_dir / "routes.json",
        wake_timeout_s=float(settings.wake_timeout_s),
    )


async def run_proxy(
    settings: Settings, ready: Callable[[dict[str, Any]], None], *, listen_fds: tuple[int, ...] = (), slot: int = 1
) -> None:
    from control_plane.net.api_address import api_endpoint
    from control_plane.net.internal_call import post_json
    from control_plane.proxy.guard import GuardUnavailable, Verdict
    from control_plane.proxy.server import serve_proxy

    secret = load_worker_secret(settings)
    api = api_endpoint(settings.api_url, settings.run_dir / API_SOCKET)
    prepare_data_dir(settings)
    bus = bus_of(settings)

    async def authorize(host: str, kind: str, credential: str) -> Verdict:
        body = {"host": host, "kind": "bearer" if kind == "token" else kind, "credential": credential}
        try:
            status, answer = await post_json(api, "/internal/authorize", secret, body)
        except (OSError, TimeoutError, ValueError) as error:
            raise GuardUnavailable(str(error)) from error
        if status != 200:
            raise GuardUnavailable(f"the API answered {status}")
        return Verdict(
            bool(answer.get("allowed")), str(answer.get("user", "")), str(answer.get("cookie", "")), int(answer.get("max_age_s", 0))
        )

    try:
        await serve_proxy(proxy_config(settings, listen_fds, slot), bus, authorize, ready=lambda port: ready({"port": port}))
    finally:
        await bus.close()


# --- the builder ---------------------------------------------------------------------------------------------------
def worker_config(settings: Settings) -> WorkerConfig:
    import sys

    from builder.broker import broker_options
    from builder.config import DoorConfig, ToolConfig, WorkerConfig

    launcher = Path(__file__).parent / "runtimes" / "process" / "launcher.py"
    inherited = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR")
    return WorkerConfig(
        broker=broker_options(settings.redis_url or None, settings.data_dir / "queue"),
        door=DoorConfig(
            secret=load_worker_secret(settings),
            socket_path="" if settings.api_url else str(settings.run_dir / API_SOCKET),
            base_url=settings.api_url or "http://vitrine",
        ),
        data_dir=settings.data_dir,
        concurrency=settings.build_concurrency,
        tools=ToolConfig(
            pypi_index_url=settings.pypi_index_url, ca_bundle=settings.ca_bundle,
            tool_env={name: os.environ[name] for name in inherited if name in os.environ},
            sandbox_command=(sys.executable, "-I", "-S", str(launcher)), trusted=settings.trusted,
        ),
    )  # fmt: skip


def run_builder(settings: Settings, ready: Callable[[dict[str, Any]], None], *, listen: Address | None = None) -> None:
    """A worker until SIGTERM. `listen`: where `/healthz` and `/readyz` answer."""
    from celery.signals import worker_ready

    from builder.worker import run_worker
    from control_plane.net.listen import listen_tcp
    from control_plane.telemetry.health import Health

    consuming = False
    facts: dict[str, Any] = {}

    def told(**_: Any) -> None:
        nonlocal consuming
        consuming = True
        ready(facts)

    config = worker_config(settings)
    prepare_data_dir(settings)
    worker_ready.connect(told, weak=False)
    health = None
    if listen:
        health = Health(
            listen_tcp(listen), lambda: {"queue": "ok" if consuming else "not connected yet", **redis_check(settings)}, beats=False
        )
        facts.update(health.told)
    try:
        run_worker(config, images=build_images(settings), layers=build_layers(settings))
    finally:
        if health:
            health.close()


def redis_check(settings: Settings) -> dict[str, str]:
    """Whether Redis answers, where one is named. Blocking, two seconds at most."""
    if not settings.redis_url:
        return {}
    from redis import Redis
    from redis.exceptions import RedisError

    try:
        with Redis.from_url(settings.redis_url, socket_connect_timeout=2.0, socket_timeout=2.0) as client:
            client.ping()
    except (RedisError, OSError) as error:
        return {"redis": f"does not answer ({type(error).__name__})"}
    return {"redis": "ok"}


def build_layers(settings: Settings) -> LayeredImages | None:
    """On a cluster, images of Python Spaces are put together without an engine; the Docker runtime has one anyway."""
    if settings.runtime != "kubernetes":
        return None
    from builder.layered import LayeredImages

    return LayeredImages(settings.registry, settings.data_dir / "cache" / "layers", registry_login(settings))


def registry_login(settings: Settings) -> tuple[str, str] | None:
    return (settings.registry_user, settings.registry_password) if settings.registry_user else None


def build_images(settings: Settings) -> ImagePipeline | None:
    """The container path, where the runtime runs containers. Raises Rejected without a registry, or where RUN steps cannot be contained."""
    if target_of(settings) is not SourceKind.IMAGE:
        return None
    if not settings.registry:
        raise Rejected(
            f"the {settings.runtime} runtime runs images from a registry, and none is set",
            hint="Set VITRINE_REGISTRY to host:port/prefix of a registry that builder and runtime can reach.",
        )
    from builder.catalog import load_catalog
    from builder.engines.docker_engine import DockerConfig, DockerEngine, RegistryLogin, find_buildkit_client
    from builder.images import ImageBuilder, ImageConfig
    from builder.reporter import CancelToken
    from builder.steps import StepRunner

    # On a cluster the builder's own pod bounds it (infra/kubernetes/builder).
    config = ImageConfig(
        settings.registry, pypi_index_url=settings.pypi_index_url, kit_index_url=settings.pypi_index_url,
        apt_mirror=settings.apt_mirror, kit_apt_mirror=settings.apt_mirror,
        # what this machine's own tools were told to trust, builds trust as well
        ca_bundle=settings.ca_bundle or os.environ.get("SSL_CERT_FILE", ""),
    )  # fmt: skip
    if settings.runtime == "kubernetes" and not (settings.docker_host or os.path.exists("/var/run/docker.sock")):
        return None  # Python Spaces are built without one (`build_layers`); Dockerfiles are refused with words
    client = find_buildkit_client(StepRunner(_Unheard(), BuildLimits(), CancelToken()))
    if settings.runtime == "docker":
        from control_plane.runtimes.docker.build_network import ensure_build_network, reach

        mirrors = (settings.pypi_index_url, settings.apt_mirror, *PUBLIC_MIRRORS)
        found = ensure_build_network(
            settings.docker_host, settings.data_dir, urls=mirrors, trusted=settings.trusted,
            memory_bytes=settings.build_memory_bytes * settings.build_concurrency,
        )  # fmt: skip
        if client and found.no_buildkit:
            logging.getLogger("vitrine.builder").warning("builder.no_buildkit", extra={"because": found.no_buildkit})
            client = ()
        config = replace(
            config, build_network=found.name, no_buildkit=found.no_buildkit,
            pypi_index_url=reach(settings.pypi_index_url, found.gateway), apt_mirror=reach(settings.apt_mirror, found.gateway),
            kit_index_url=reach(settings.pypi_index_url, found.buildkit_gateway),
            kit_apt_mirror=reach(settings.apt_mirror, found.buildkit_gateway),
        )  # fmt: skip
    login = registry_login(settings)
    engine = DockerEngine(DockerConfig(settings.docker_host, RegistryLogin(*login) if login else None, client))
    return ImageBuilder(engine, load_catalog(), config)


class _Unheard:
    def line(self, text: str) -> None:
        return
