"""Token buckets and connection counts, per client address and per Space. All times are seconds of one monotonic clock."""

from __future__ import annotations

import ipaddress


class Bucket:
    """`rate` tokens a second, at most `burst` of them. A rate of 0 never refuses."""

    __slots__ = ("burst", "last", "rate", "tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self.tokens = burst
        self.last = now

    def take(self, now: float) -> bool:
        if self.rate <= 0:
            return True
        if now > self.last:
            self.tokens = min(self.burst, self.tokens + (now - self.last) * self.rate)
            self.last = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class Client:
    """One address: its bucket and its open connections."""

    __slots__ = ("bucket", "connections")

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.connections = 0


class Clients:
    """Known addresses. IPv6 clients are counted by their /64: one household, one entry. Loopback is never limited."""

    def __init__(self, rate: float, burst: float, max_connections: int) -> None:
        self._rate = rate
        self._burst = burst
        self._max = max_connections
        self._known: dict[str, Client] = {}

    def arrive(self, address: str, now: float) -> Client | None:
        """The client's entry, or None when it holds too many connections already."""
        key = address
        free = address.startswith("127.") or address in ("::1", "")
        if ":" in address and not free:
            key = str(ipaddress.ip_network(address.partition("%")[0] + "/64", strict=False).network_address)
        client = self._known.get(key)
        if client is None:
            client = self._known[key] = Client(Bucket(0 if free else self._rate, self._burst, now))
        if client.connections >= self._max > 0 and not free:
            return None
        client.connections += 1
        return client

    def sweep(self, now: float) -> None:
        """Forget addresses without a connection whose bucket is full again."""
        self._known = {
            k: c
            for k, c in self._known.items()
            if c.connections or (c.bucket.rate and (now - c.bucket.last) * c.bucket.rate < c.bucket.burst)
        }
