"""Keys, stores and use cases that every process with a database works with."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from control_plane.domain.accounts import Account
from control_plane.domain.builds import BuildLimits, SourceKind
from control_plane.domain.capacity import Capacity
from control_plane.domain.errors import Rejected
from control_plane.domain.hardware import FlavorCatalog
from control_plane.domain.ids import RepoId, Sha, SpaceId
from control_plane.domain.replicas import ReplicaUsage
from control_plane.domain.repo_query import RepoQuery
from control_plane.domain.spaces import Build, Repo, RepoType, Space
from control_plane.domain.storage import parse_tiers
from control_plane.ports.clock import Clock
from control_plane.ports.log_store import LogStore
from control_plane.ports.secret_box import SecretBox
from control_plane.ports.signals import Signals
from control_plane.ports.stores import UnitOfWork, UnitOfWorkFactory
from control_plane.settings import Settings

if TYPE_CHECKING:
    import httpx

    from control_plane.accounts.storage import StorageRoom
    from control_plane.accounts.throttle import Throttle
    from control_plane.bus.local import BusClient
    from control_plane.bus.redis_bus import RedisRouteFeed
    from control_plane.db.engine import Database
    from control_plane.git.hub_cache import HubCache
    from control_plane.git.lfs import FileLfsStore
    from control_plane.git.repo_trees import RepoTrees
    from control_plane.git.store import BareGitStore
    from control_plane.git.upkeep import Upkeep
    from control_plane.net.registry import Sign
    from control_plane.scheduler.pools import Hardware
    from control_plane.secrets.envelope import EnvelopeBox
    from control_plane.secrets.registry_tokens import RegistryTokens
    from control_plane.spaces.actions import Actions
    from control_plane.spaces.deps import SpaceDeps
    from control_plane.telemetry.metrics import ApiMetrics
    from control_plane.telemetry.otlp import OtlpExporter


API_SOCKET, STATIC_SOCKET, BUS_SOCKET, USAGE_SOCKET = "api.sock", "static.sock", "bus.sock", "usage.sock"


VERSION = "0.1.0"


PROXY_SOCKET = "proxy.sock"  # metrics and health of the proxy beside this process


@dataclass(frozen=True)
class Keys:
    """Keys derived from the master key, one per purpose."""

    box: EnvelopeBox
    signing: bytes
    worker_secret: str
    registry: bytes = field(repr=False)


def load_platform_keys(settings: Settings) -> Keys:
    from control_plane.secrets.envelope import EnvelopeBox, load_keys, purpose_keys

    file = settings.data_dir / "secret.key"
    box = EnvelopeBox(*load_keys(settings.secret_key, file), reload=lambda: load_keys(settings.secret_key, file))
    signing, worker, registry = purpose_keys(settings.secret_key, file)
    return Keys(box, signing, settings.worker_secret or worker.hex(), registry)


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
    repo_trees: RepoTrees
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
                        page = await uow.repos.list(RepoQuery(kind, see_all=True), sort="created", limit=500, offset=offset)
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

    def change_master_key(self, *, retire: bool, signing: bool = False) -> None:
        """A new master key that seals from now on; or, with `retire`, only the newest stays. Rejected when a setting names the key.

        `signing`, with `retire`: what signs and what workers show comes from the newest key too, once every process started again.
        """
        from control_plane.secrets.envelope import add_key, drop_old_keys

        if self.settings.secret_key:
            raise Rejected(
                "the master key comes from VITRINE_SECRET_KEY: put a new key before the old one there ('new,old'), restart every "
                "process, run `vitrine admin key rewrap`, and take the old one out"
            )
        file = self.settings.data_dir / "secret.key"
        self.keys.box.take(drop_old_keys(file, keep_purposes=not signing) if retire else add_key(file))

    @cached_property
    def registry_tokens(self) -> RegistryTokens | None:
        """Signs for the registry, where it takes this platform's tokens."""
        if not self.settings.registry_tokens:
            return None
        from control_plane.secrets.registry_tokens import RegistryTokens

        return RegistryTokens(self.keys.registry)

    @cached_property
    def registry_sign(self) -> Sign | None:
        tokens = self.registry_tokens
        if tokens is None:
            return None

        def sign(rights: Mapping[str, Sequence[str]], *, life_s: float = 3600.0) -> str:
            return tokens.sign(rights, self.clock.now(), life_s=life_s)

        return sign

    def pulled_with(self, password: str) -> str:
        """The repository that a node's password is good for; "" = none."""
        return self.registry_tokens.repository_of(password, self.clock.now()) if self.registry_tokens else ""

    @cached_property
    def registry_auth(self) -> httpx.Auth | None:
        """How the platform itself signs in to the registry, in whichever way that asks for; None where it asks for nothing."""
        if self.registry_sign is not None:
            from control_plane.net.registry import SignedAuth

            return SignedAuth(self.registry_sign)
        login = registry_login(self.settings)
        if login is None:
            return None
        from builder.registry_login import RegistryLogin

        return RegistryLogin(self.settings.registry.partition("/")[0], *login)

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
    try:
        os.chmod(settings.run_dir, 0o700)
    except PermissionError:
        # A volume of a container, owned by whoever mounts volumes there: nobody but that container's processes sees it.
        if not _is_volume(settings.run_dir):
            raise


def _is_volume(folder: Path) -> bool:
    """Whether it is mounted here. Devices do not tell: a bind mount may come from the file system around it (proc(5), mountinfo)."""
    try:
        return any(line.split()[4] == str(folder.resolve()) for line in Path("/proc/self/mountinfo").read_text("utf-8").splitlines())
    except OSError:
        return False


def target_of(settings: Settings) -> SourceKind:
    return SourceKind.IMAGE if settings.runtime in ("docker", "kubernetes") else SourceKind.PROCESS


def build_limits(settings: Settings) -> BuildLimits:
    return BuildLimits(
        cpu=float(settings.build_cpu or os.cpu_count() or 1),
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
    from control_plane.accounts.storage import StorageRoom
    from control_plane.accounts.throttle import Throttle
    from control_plane.community.previews import Previews
    from control_plane.db.engine import SystemClock, create_database
    from control_plane.db.process_marks import ProcessMarks
    from control_plane.git.hub_cache import HubCache
    from control_plane.git.lfs import FileLfsStore
    from control_plane.git.repo_trees import RepoTrees
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
        build_limits=build_limits(settings), apps_domain=settings.apps_domain,
        app_url=settings.app_url, public_url=settings.resolved_public_url, tiers=parse_tiers(settings.storage_tiers), pull_moved=pull_moved,
    )  # fmt: skip

    async def usage_of(space_id: SpaceId) -> tuple[ReplicaUsage, ...]:
        from control_plane.bus.usage import ask_usage

        return await ask_usage(usage_door(settings), space_id)

    metrics = ApiMetrics()
    database.observe = metrics.database
    storage = StorageRoom(database, clock, lambda: pools().catalog, git.size_bytes, ProcessMarks(settings.data_dir / "processes"))
    actions = Actions(deps, usage_of, storage.room)
    return Services(
        settings=settings, database=database, uow=database, clock=clock, git=git, lfs=lfs, logs=logs, secret_box=keys.box, signals=bus,
        bus=bus, actions=actions, spaces=deps, throttle=Throttle(database, clock), storage=storage, metrics=metrics,
        app_downloads=HubCache(settings.data_dir / "hub-cache", git, lfs), keys=keys, pools=pools,
        repo_trees=RepoTrees(settings.data_dir / "volume-trees", git, lfs, max_bytes=round(settings.volume_trees_gb * 1e9)),
    )  # fmt: skip


def trace_exporter(settings: Settings) -> OtlpExporter | None:
    """None where no collector is named: then nothing of OpenTelemetry is loaded."""
    if not settings.otlp_endpoint:
        return None
    from control_plane.telemetry.otlp import OtlpExporter

    return OtlpExporter(settings.otlp_endpoint, VERSION)


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


def registry_login(settings: Settings) -> tuple[str, str] | None:
    return (settings.registry_user, settings.registry_password) if settings.registry_user else None
