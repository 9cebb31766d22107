"""What the scheduler works with: its configuration and the ports it is given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from control_plane.domain.accounts import Account
from control_plane.domain.builds import BuildLimits, SourceKind
from control_plane.domain.hardware import FlavorCatalog
from control_plane.domain.ids import SpaceId
from control_plane.domain.replicas import Mount
from control_plane.domain.routes import Endpoint
from control_plane.domain.sensitive import Sensitive
from control_plane.domain.spaces import Replica, Repo, Setting, Space
from control_plane.ports.build_queue import BuildQueue
from control_plane.ports.clock import Clock
from control_plane.ports.log_store import LogStore
from control_plane.ports.runtime import Runtime
from control_plane.ports.signals import RouteStore, Signals
from control_plane.ports.stores import UnitOfWork, UnitOfWorkFactory
from control_plane.ports.volumes import RepoMounts
from control_plane.scheduler.prober import Prober


@dataclass(frozen=True)
class SchedulerConfig:
    apps_domain: str
    app_host_port: Callable[[str], str]  # subdomain → "host[:port]" as browsers write it
    hub_endpoint: str  # what apps get as HF_ENDPOINT
    hub_upstream: str  # where the runtime connects such requests to
    hub_host: str
    static_site: Callable[[str], Endpoint]  # an artifact's ref → where the file server answers for it
    drain: timedelta = timedelta(seconds=60)
    start_timeout: timedelta = timedelta(seconds=1800)
    sleep_after_s: int = 0
    preempt_idle_s: int = 60  # unused for this long, a Space may be put to sleep to make room for another
    trusted: Callable[[Account], bool] = lambda owner: False  # whose apps may start where the floor is not met
    oauth_of: Callable[[SpaceId], tuple[str, str]] = lambda space_id: ("", "")
    volume_of: Callable[[Space], tuple[Mount, ...]] = lambda space: ()
    target: SourceKind = SourceKind.PROCESS
    limits: BuildLimits = field(default_factory=BuildLimits)


@dataclass(frozen=True)
class SchedulerDeps:
    uow: UnitOfWorkFactory
    clock: Clock
    runtime: Runtime
    routes: RouteStore
    signals: Signals
    queue: BuildQueue
    logs: LogStore
    prober: Prober
    catalog: Callable[[], FlavorCatalog]
    open_secret: Callable[[Setting], Sensitive]
    check_running_quota: Callable[[UnitOfWork, Repo, Space], Awaitable[None]]
    meter: Callable[[UnitOfWork, Repo | None, Replica, datetime], Awaitable[None]]
    discard: Callable[[Space, Repo | None], Awaitable[None]]  # artifacts, logs and cluster objects of a deleted Space
    repo_mounts: RepoMounts | None = None  # repositories that Spaces mount; None = no deployment names any
    is_leading: Callable[[], bool] = lambda: True
    observe_look: Callable[[float, float], None] = lambda lag_s, took_s: None  # of each reconciliation
