"""Token buckets and connection counts, per client address and per Space. All times are seconds of one monotonic clock."""

from __future__ import annotations

import ipaddress
from math import inf


class Bucket:
    """`rate` tokens a second, at most `burst` of them. A rate of 0 never refuses."""

    __slots__ = ("burst", "last", "rate", "tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = self.tokens = burst if rate > 0 else inf
        self.last = now

    def take(self, now: float) -> bool:
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


def plain_address(address: str) -> str:
    """An IPv4 client of a listener on `::` is named `::ffff:1.2.3.4` by the kernel: here and to apps it is 1.2.3.4."""
    mapped = ipaddress.IPv6Address(address).ipv4_mapped if address.startswith("::ffff:") else None
    return str(mapped) if mapped is not None else address


def hop_address(hop: str) -> str:
    """The address in one element of an X-Forwarded-For, which some balancers write with a port; empty when it names none."""
    for text in (hop, hop.rpartition(":")[0].removeprefix("[").removesuffix("]")):
        try:
            return plain_address(str(ipaddress.ip_address(text)))
        except ValueError:
            continue
    return ""


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address in ("::1", "")


class Waiting:
    """Places for requests that wait, so many per Space and so many in all. The platform waits under the empty name."""

    def __init__(self, per_space: int, total: int) -> None:
        self._per_space = per_space
        self._total = total
        self._by_host: dict[str, int] = {}
        self.count = 0

    def enter(self, host: str) -> bool:
        """Take a place; False when there is none."""
        here = self._by_host.get(host, 0)
        if here >= self._per_space or self.count >= self._total:
            return False
        self._by_host[host] = here + 1
        self.count += 1
        return True

    def leave(self, host: str) -> None:
        self.count -= 1
        self._by_host[host] -= 1
        if not self._by_host[host]:
            del self._by_host[host]


class Clients:
    """Known addresses. IPv6 clients are counted by their /64: one household, one entry. Loopback is never limited."""

    def __init__(self, rate: float, burst: float, max_connections: int) -> None:
        self._rate = rate
        self._burst = burst
        self._max = max_connections
        self._known: dict[str, Client] = {}

    def arrive(self, address: str, now: float, *, shared: bool = False) -> Client | None:
        """The client's entry, with one connection more, or None when it holds too many already.

        `shared`: a load balancer, whose connections are those of everybody behind it.
        """
        client = self.of(address, now)
        if client.connections >= self._max > 0 and not shared and not _is_loopback(address):
            return None
        client.connections += 1
        return client

    def of(self, address: str, now: float) -> Client:
        """The entry of an address, without a connection of its own."""
        key = address
        free = _is_loopback(address)
        if ":" in address and not free:
            key = str(ipaddress.ip_network(address.partition("%")[0] + "/64", strict=False).network_address)
        client = self._known.get(key)
        if client is None:
            client = self._known[key] = Client(Bucket(0 if free else self._rate, self._burst, now))
        return client

    def sweep(self, now: float) -> None:
        """Forget addresses without a connection whose bucket is full again."""
        self._known = {
            k: c
            for k, c in self._known.items()
            if c.connections or (c.bucket.rate and (now - c.bucket.last) * c.bucket.rate < c.bucket.burst)
        }
