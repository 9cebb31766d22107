"""How many tries a stranger has: counted in the database, so that every API process and every restart sees the same count.

Each key (an address, an account's name) has `limit` tries in the window that begins with its first. A try is counted before it is
checked, in one statement per key, so that parallel guesses cannot pass together; what turns out right gives its try back.

Whoever fails often under somebody's name closes the name for addresses that are not known for it, never for those the person has
signed in from: nobody can lock another out for good.
"""

from __future__ import annotations

import hashlib
import ipaddress

from control_plane.domain.errors import RateLimited
from control_plane.ports.clock import Clock
from control_plane.ports.stores import UnitOfWorkFactory

LIMIT = 10
WINDOW_S = 300
KNOWN_S = 30 * 86400
_IPV6_PREFIX = 64  # what one subscriber has: a fresh address for every guess is still one guesser


class Throttle:
    """Times are wall-clock seconds; a clock that jumps opens a key early or late by a window at most."""

    def __init__(self, uow: UnitOfWorkFactory, clock: Clock, *, limit: int = LIMIT, window_s: int = WINDOW_S) -> None:
        self._uow = uow
        self._clock = clock
        self._limit = limit
        self._window_s = window_s

    async def check(self, *keys: str) -> None:
        """Raises RateLimited when any key is closed. Counts nothing, writes nothing."""
        async with self._uow.read() as uow:
            for key in keys:
                self._refuse_beyond(self._limit - 1, *await uow.tries.count(_row(key), self._now()))

    async def attempt(self, *keys: str) -> None:
        """Counts one try for each key, or raises RateLimited and counts none."""
        await self.check(*keys)
        async with self._uow.write() as uow:
            for key in sorted(keys):  # in one order everywhere: two tries never wait for each other's second row
                self._refuse_beyond(self._limit, *await uow.tries.add(_row(key), self._now(), self._window_s))

    async def failed(self, *keys: str) -> None:
        """Counts one try for each key, whatever the count is."""
        async with self._uow.write() as uow:
            for key in sorted(keys):
                await uow.tries.add(_row(key), self._now(), self._window_s)

    async def give_back(self, *keys: str) -> None:
        """The try was right."""
        async with self._uow.write() as uow:
            for key in sorted(keys):
                await uow.tries.give_back(_row(key), self._now())

    async def remember(self, mark: str) -> None:
        """`mark` is known from now on for `KNOWN_S`."""
        async with self._uow.write() as uow:
            await uow.tries.mark(_row(f"known:{mark}"), self._now() + KNOWN_S)

    async def knows(self, mark: str) -> bool:
        async with self._uow.read() as uow:
            return (await uow.tries.count(_row(f"known:{mark}"), self._now()))[1] > 0

    def _now(self) -> int:
        return int(self._clock.now().timestamp())

    def _refuse_beyond(self, most: int, count: int, ends_at: int) -> None:
        if count > most:
            wait = max(1, min(ends_at - self._now(), self._window_s))
            raise RateLimited(f"Too many failed tries; wait {wait} seconds and try again.", retry_after_s=wait)


def neighbourhood(address: str) -> str:
    """What counts as one address: an IPv4 address, an IPv6 network of one subscriber, or the text itself."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(found.ipv4_mapped or ipaddress.ip_network((found, _IPV6_PREFIX), strict=False))


def _row(key: str) -> str:
    """What the database keeps: people type passwords into the name's field."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()
