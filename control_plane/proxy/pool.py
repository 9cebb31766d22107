"""Connections to one endpoint, kept open between requests and shared by all clients.

A connection comes back only after an exchange whose end is certain (see upstream.py). It is reused newest first, so that
idle ones age out before the app's own keep-alive limit (uvicorn's is 5 s).
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

from control_plane.domain.routes import Endpoint
from control_plane.net.dial import DialError, dial
from control_plane.proxy.heads import ResponseHead
from control_plane.proxy.upstream import Upstream

if TYPE_CHECKING:
    from control_plane.proxy.app_side import AppSide
    from control_plane.proxy.table import Entry

IDLE_S = 4.0
FRESH_S = 1.5  # younger than this, an idle connection may carry a request that cannot be repeated
PASSED_OVER_S = 2.0  # how long a replica that refused is asked last
MAX_IDLE = 1024
_MAX_KNOWN = 16


class KnownAnswer:
    """The head of an answer to visitors of `entry`, as the app sent it: polled addresses repeat theirs within a second.

    When its end is known from it and the connection stays open, `start` is what a client gets up to the request's id and
    `total` how many bytes the app sends; otherwise that is -1 and only `head` is of use.
    """

    __slots__ = ("app_host", "body_at", "entry", "head", "start", "status", "status_class", "total")

    def __init__(self, head: ResponseHead, body_at: int, app_host: bytes | None, entry: Entry | None) -> None:
        self.head = head
        self.app_host = app_host
        self.entry = entry
        self.status = status = head.status
        self.status_class = status // 100
        self.body_at = body_at
        self.start = b""
        self.total = -1
        if entry is not None and head.length >= 0 and head.keep_alive and not head.is_stream and status >= 200 and status not in (204, 304):
            self.start = b"%b%b%b\r\nX-Vitrine-Request-Id: " % (head.line, head.block, entry.response_suffix)
            self.total = body_at + head.length


class Pool:
    """`key` names the replica in affinity cookies; it says nothing about its address."""

    __slots__ = (
        "connect_timeout_s",
        "down_until",
        "endpoint",
        "head_end",
        "idle",
        "key",
        "known",
        "open",
        "references",
        "site",
    )

    def __init__(self, endpoint: Endpoint, connect_timeout_s: float) -> None:
        self.endpoint = endpoint
        self.connect_timeout_s = connect_timeout_s
        self.key = hashlib.blake2s(f"{endpoint.replica_id}|{endpoint.address}".encode(), digest_size=6).hexdigest().encode()
        site = f"\r\nX-Vitrine-Site: {endpoint.site}".encode("ascii") if endpoint.site else b""
        if site.count(b"\r\n") > 1 or b"\n" in site[2:] or b"\0" in site:
            raise ValueError("not a site name")
        self.site = site
        self.head_end = site + b"\r\n\r\n"
        self.idle: list[Upstream] = []
        self.open: set[Upstream] = set()
        self.references = 0
        self.down_until = 0.0  # loop's clock: until then it refused so recently that another replica is asked first
        self.known: dict[bytes, KnownAnswer] = {}

    def take(self, now: float, *, repeatable: bool) -> Upstream | None:
        """An idle connection, or None. A request that cannot be repeated only gets one that was in use moments ago."""
        while self.idle:
            upstream = self.idle[-1]
            if upstream.closed:
                self.idle.pop()
                continue
            if not repeatable and now - upstream.idle_since > FRESH_S:
                return None
            self.idle.pop()
            return upstream
        return None

    def give(self, upstream: Upstream, now: float) -> None:
        if self.references and len(self.idle) < MAX_IDLE:
            upstream.idle_since = now
            self.idle.append(upstream)
        else:
            upstream.close()

    def know(self, raw: bytes, head: ResponseHead, client: AppSide) -> None:
        """Remember the head of an answer; it was `raw` when it came."""
        if len(self.known) >= _MAX_KNOWN:
            self.known.clear()
        self.known[raw] = KnownAnswer(head, len(raw), client.app_host, client.entry)

    async def connect(self) -> Upstream:
        """A fresh connection; raises DialError."""
        sock = await dial(self.endpoint, self.connect_timeout_s)
        try:
            _transport, upstream = await asyncio.get_running_loop().create_connection(lambda: Upstream(self), sock=sock)
        except OSError as error:
            sock.close()
            raise DialError(str(error)) from error
        return upstream

    def sweep(self, now: float) -> None:
        kept = []
        for upstream in self.idle:
            if now - upstream.idle_since > IDLE_S:
                upstream.close()
            else:
                kept.append(upstream)
        self.idle[:] = kept


class Pools:
    """Every pool by endpoint. A pool without a route takes nothing back: its connections end with their exchanges."""

    def __init__(self, connect_timeout_s: float) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._pools: dict[Endpoint, Pool] = {}
        self.retired: list[tuple[float, Pool]] = []  # (since, pool): still finishing exchanges of a replaced replica
        self.now = 0.0

    def acquire(self, endpoint: Endpoint) -> Pool:
        pool = self._pools.get(endpoint)
        if pool is None:
            pool = self._pools[endpoint] = Pool(endpoint, self._connect_timeout_s)
        pool.references += 1
        return pool

    def release(self, pool: Pool) -> None:
        pool.references -= 1
        if pool.references == 0:
            self._pools.pop(pool.endpoint, None)
            for upstream in pool.idle:
                upstream.close()
            pool.idle.clear()
            self.retired.append((self.now, pool))

    def sweep(self, now: float, drain_s: float) -> None:
        """Age out idle connections; tell the sockets of replicas that left the table `drain_s` ago to go elsewhere."""
        self.now = now
        for pool in self._pools.values():
            if pool.idle:
                pool.sweep(now)
            elif pool.known:
                pool.known.clear()
        still = []
        for since, pool in self.retired:
            if now - since >= drain_s:
                for upstream in tuple(pool.open):
                    upstream.go_away()
            if pool.open or now - since < pool.connect_timeout_s:  # a connection may be on its way
                still.append((since, pool))
        self.retired = still

    def close(self) -> None:
        for pool in (*self._pools.values(), *(pool for _since, pool in self.retired)):
            for upstream in tuple(pool.open):
                upstream.close()

    def __len__(self) -> int:
        return sum(len(pool.open) for pool in self._pools.values())
