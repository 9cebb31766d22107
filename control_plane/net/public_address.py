"""Where people's addresses may lead: to the internet, never to this machine, its networks or the cloud's metadata."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

from control_plane.domain.errors import Rejected

_LOOK_UP_S = 10.0


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the internet at large. IPv4 in IPv6 counts as what it holds."""
    found = ipaddress.ip_address(address.partition("%")[0])
    inner = getattr(found, "ipv4_mapped", None) or getattr(found, "sixtofour", None)
    if inner is None and isinstance(found, ipaddress.IPv6Address) and found in ipaddress.ip_network("64:ff9b::/96"):
        inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
    return all(a.is_global and not a.is_multicast and not a.is_unspecified for a in (found, inner) if a is not None)


async def addresses_of(host: str, port: int, *, allow_private: bool = False) -> tuple[str, ...]:
    """The host's addresses, looked up once; use these and never the name again.

    Rejected when it has none, or one that is not public: a name that leads to both is a trick.
    """
    try:
        async with asyncio.timeout(_LOOK_UP_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError):
        raise Rejected(f"There is no server called {host[:200]}.") from None
    addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not addresses or not (allow_private or all(map(is_public, addresses))):
        raise Rejected(f"{host[:200]} is in a private network; only servers of the internet can be asked.")
    return addresses
