"""Connections to one endpoint, kept open between requests and shared by all clients.

A connection comes back only after an exchange whose end is certain (see upstream.py). It is reused newest first, so that
idle ones age out before the app's own keep-alive limit (uvicorn's is 5 s).
"""

from __future__ import annotations

import asyncio
import hashlib

from control_plane.domain.routes import Endpoint
from control_plane.net.dial import DialError, dial
from control_plane.proxy.heads import ResponseHead
from control_plane.proxy.upstream import Upstream

IDLE_S = 4.0
FRESH_S = 1.5  # younger than this, an idle connection may carry a request that cannot be repeated
PASSED_OVER_S = 2.0  # how long a replica that refused is asked last
_MAX_IDLE = 1024
_NO_HEAD = ResponseHead(b"HTTP/1.1 500 None", None)


class Pool:
    """`key` names the replica in affinity cookies; it says nothing about its address."""

    __slots__ = (
        "connect_timeout_s",
        "down_until",
        "endpoint",
        "header",
        "idle",
        "key",
        "last_head",
        "last_host",
        "last_raw",
        "open",
        "references",
    )

    def __init__(self, endpoint: Endpoint, connect_timeout_s: float) -> None:
        self.endpoint = endpoint
        self.connect_timeout_s = connect_timeout_s
        self.key = hashlib.blake2s(f"{endpoint.replica_id}|{endpoint.address}".encode(), digest_size=6).hexdigest().encode()
        self.header = f"\r\nX-Vitrine-Site: {endpoint.site}".encode("ascii") if endpoint.site else b""
        if self.header.count(b"\r\n") > 1 or b"\n" in self.header[2:] or b"\0" in self.header:
            raise ValueError("not a site name")
        self.idle: list[Upstream] = []
        self.open: set[Upstream] = set()
        self.references = 0
        self.down_until = 0.0  # loop's clock: until then it refused so recently that another replica is asked first
        self.last_raw = b"\0"  # no answer begins so
        self.last_host: bytes | None = None
        self.last_head = _NO_HEAD

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
        if self.references and len(self.idle) < _MAX_IDLE:
            upstream.idle_since = now
            self.idle.append(upstream)
        else:
            upstream.close()

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
