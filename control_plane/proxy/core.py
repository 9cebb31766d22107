"""What all connections of one proxy share."""

from __future__ import annotations

import ipaddress
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from control_plane.proxy.access_log import AccessLog
from control_plane.proxy.activator import Activator
from control_plane.proxy.activity import Activity
from control_plane.proxy.balancer import Balancer
from control_plane.proxy.guard import Guard
from control_plane.proxy.heads import HeadLimits, KnownFields, RequestHead
from control_plane.proxy.limits import Clients, Waiting
from control_plane.proxy.pool import Pool, Pools
from control_plane.proxy.stages import Followers
from control_plane.proxy.start_line import KnownLines
from control_plane.proxy.table import Entry, Table
from control_plane.proxy.tls import CertificateFiles

if TYPE_CHECKING:
    from control_plane.proxy.client import ClientConnection
    from control_plane.proxy.http2 import Http2Connection


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """How one proxy process runs. Times are seconds, sizes bytes; 0 switches a limit off.

    `api_socket` (a path) wins over `api_address` ("host:port"). `listen_fd` is an inherited listening socket: with it a
    successor takes over the very same accept queue, so no connection is lost. `access_log` is a path, "-" or empty.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    public_url: str = "http://localhost:7860"
    apps_domain: str = "localhost"
    platform_hosts: tuple[str, ...] = ()  # further names of the platform, such as the one apps know it by
    api_socket: str = ""
    api_address: str = ""
    table_file: Path | None = None
    admin_socket: str = ""  # Unix socket with /metrics, /healthz, /readyz
    metrics_token: str = ""  # lets `Authorization: Bearer …` read /-/proxy/metrics on the platform host
    listen_fd: int | None = None
    reuse_port: bool = True
    backlog: int = 4096
    trusted_proxies: tuple[str, ...] = ()  # networks whose X-Forwarded-For and -Proto are believed, and who may send PROXY headers
    proxy_protocol: bool = False  # every connection begins with a PROXY header (version 1 or 2)
    tls: tuple[CertificateFiles, ...] = ()  # with these the port speaks TLS (HTTP/1.1 and 2), and plain HTTP is sent on to https
    redirect_port: int = 0  # a second port, usually 80, that does the same
    redirect_fd: int | None = None
    access_log: str = "-"
    access_log_sample: float = 1.0
    heads: HeadLimits = field(default_factory=HeadLimits)
    max_body_bytes: int = 0
    header_timeout_s: float = 15.0
    keep_alive_s: float = 75.0
    body_stall_s: float = 60.0  # a client that sends nothing of its body, or takes nothing of its answer, for so long has stalled
    body_min_rate: float = 64.0  # bytes a second, on the average once `body_stall_s` are over: a trickle is not an upload
    connect_timeout_s: float = 5.0
    refused_patience_s: float = 30.0  # an app, or the API, may be between two processes, and who would start it as well
    app_timeout_s: float = 600.0
    stream_idle_s: float = 7200.0
    wake_timeout_s: float = 300.0
    paused_patience_s: float = 1.0  # how old a route may be: a request right after a restart finds a paused Space that is none any more
    drain_s: float = 60.0
    finish_s: float = 3600.0  # when a successor has the listener: how long uploads, downloads and streams in use may still go on
    recheck_s: float = 30.0  # after so long what is open to a private app is asked about again, also when no news came of an ended right
    last_call_s: float = 1.0  # when this process leaves: how long a kept connection may stay silent
    wake_per_space: int = 1_000
    wake_total: int = 10_000
    max_connections: int = 50_000
    descriptors: int = 0  # how many this process may open; connections of clients and to apps stay below it
    connections_per_client: int = 2_048
    client_rate: float = 1_000.0
    client_burst: float = 5_000.0
    space_rate: float = 0.0
    space_burst: float = 20_000.0
    report_every_s: float = 2.0


def _request_ids() -> Iterator[bytes]:
    """Ids of requests: 40 random bits of this process, then a number."""
    process = secrets.token_hex(5)
    lower = tuple(b"%03x" % number for number in range(4096))
    for number in count():
        upper = f"{process}{number:04x}".encode()
        for digits in lower:
            yield upper + digits


_OTHER_DESCRIPTORS = 128  # listeners, bus, logs, questions to the API, and what opens between two ticks


class Core:
    """`now` is the loop's clock, refreshed by the tick and by each new connection: half a second old at most."""

    def __init__(
        self, config: ProxyConfig, *, pools: Pools, activity: Activity, table: Table, guard: Guard, activator: Activator,
        platform: Pool, log: AccessLog, clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self.config = config
        self.pools = pools
        self.activity = activity
        self.table = table
        self.guard = guard
        self.activator = activator
        self.platform = platform
        self.log = log
        self.balancer = Balancer()
        self.followers = Followers(config.wake_per_space)
        self.reconnecting = Waiting(config.wake_per_space, config.wake_total)
        self.clients = Clients(config.client_rate, config.client_burst, config.connections_per_client)
        self.connections: set[ClientConnection | Http2Connection] = set()
        self.clock = clock
        self.now = clock()
        self.upstreams = 0  # open connections to apps, as of the last tick
        self.wall = 0.0  # Unix seconds, as of the last tick
        self.stream_deadline = 0.0  # when a stream that moves now has been silent for too long
        self.app_deadline = 0.0  # when a request that begins now has waited too long for its answer
        self.idle_deadline = 0.0  # when a connection that falls silent now has been so for too long
        self.epoch_ms = 0.0  # Unix time, in milliseconds, at which `time.perf_counter()` was 0
        self.known_heads: dict[bytes, RequestHead] = {}  # recent HTTP/1.1 blocks, found valid
        self.known_fields = KnownFields()
        self.known_lines = KnownLines(config.heads)
        self.draining = False
        self.goodbye_at = 0.0  # when draining, busy HTTP/2 connections are told so from here on
        self.ids = _request_ids()
        parts = urlsplit(config.public_url)
        self.scheme = parts.scheme.encode() or b"http"
        self.hub = f"{parts.scheme}://{parts.netloc}"
        self.public_port = parts.port or 0
        self._platform_hosts = {(parts.hostname or "localhost").lower(), "localhost", *config.platform_hosts}
        self._apps_suffix = "." + config.apps_domain.lower().strip(".")
        self.tick()
        self._trusted = tuple(ipaddress.ip_network(net) for net in config.trusted_proxies)
        self.resolved: dict[bytes, tuple[bool, Entry | None, bool]] = {}

    def has_room(self) -> bool:
        """Whether the newest connection of a client may stay. Those to apps are counted as of the last tick."""
        count, config = len(self.connections), self.config
        if count > config.max_connections > 0:
            return False
        return not config.descriptors or count + self.upstreams + _OTHER_DESCRIPTORS <= config.descriptors

    def tick(self) -> float:
        """Refresh the coarse clocks; called twice a second, and once at start."""
        self.now = self.clock()
        self.upstreams = len(self.pools)
        self.wall = time.time()
        self.epoch_ms = (self.wall - time.perf_counter()) * 1000
        self.idle_deadline = self.now + self.config.keep_alive_s
        self.stream_deadline = self.now + self.config.stream_idle_s
        self.app_deadline = self.now + self.config.app_timeout_s
        return self.now

    def resolve(self, host: bytes) -> tuple[bool, Entry | None, bool]:
        """(is the platform's, entry of a Space, belongs to us at all) for a valid lower-case Host value."""
        found = self.resolved.get(host)
        if found is None:
            found = self._resolve(host)
            if len(self.resolved) > 8192:
                self.forget_resolved()
            self.resolved[host] = found
        return found

    def _resolve(self, raw: bytes) -> tuple[bool, Entry | None, bool]:
        host = raw.decode("ascii")
        name = host[: host.index("]") + 1] if host.startswith("[") else host.partition(":")[0]
        if name in self._platform_hosts or name.startswith("["):
            return True, None, True
        if name.endswith(self._apps_suffix):
            return False, self.table.get(name), True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False, self.table.get(name), False
        return True, None, True

    def checked_head(self, block: bytes, minor: bytes, before: RequestHead | None) -> RequestHead:
        """The head of a block; `before` is the last one of the same client.

        A browser sends a handful of them in turn, over several connections: memory for a few MB of them. Raises HeadError.
        """
        head = self.known_heads.get(block)
        if head is None or head.minor != minor:
            head = RequestHead(block, minor, self.config.heads, self.known_fields, before)
            if minor == b"1" and len(block) <= 2048:
                if len(self.known_heads) >= 1024:
                    self.known_heads.clear()
                self.known_heads[block] = head
        return head

    def forget_resolved(self) -> None:
        """A route changed, or this process leaves. A new dictionary: what was concluded from the old one is looked at again."""
        self.resolved = {}

    def forget_heads(self) -> None:
        """What clients sent is remembered for seconds, not hours: it holds credentials."""
        self.known_heads.clear()
        self.known_fields.clear()
        self.known_lines.clear()

    def is_inner(self, host: bytes) -> bool:
        """Whether `host` is a name that only apps in their sandbox use."""
        return host.partition(b":")[0].decode("ascii") in self.config.platform_hosts

    def may_proxy(self, address: str) -> bool:
        """Whether a PROXY header from `address` is believed: from everybody until networks are named."""
        return not self._trusted or self.is_trusted(address)

    def is_trusted(self, address: str) -> bool:
        if not self._trusted:
            return False
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(ip in net for net in self._trusted)

    def metrics(self) -> str:
        """Prometheus text of everything this process counted."""
        return self.activity.prometheus(
            {
                "client_connections": len(self.connections),
                "upstream_connections": len(self.pools),
                "held_requests": self.activator.count,
                "reconnecting_requests": self.reconnecting.count,
                "routes": len(self.table),
                "routes_skipped": self.table.skipped,
                "routes_version": self.table.version,
            }
        )
