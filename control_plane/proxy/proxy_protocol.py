"""The PROXY protocol, versions 1 and 2: who the client of the load balancer in front of us is.

A pure reader: it never consumes anything itself, so the caller can look at a socket without taking from it (MSG_PEEK).
Source: the specification by HAProxy Technologies, 2020-03-05, sections 2.1 and 2.2.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_MAX_V1 = 107
_MAX_V2 = 16 + 512  # addresses and options; a longer one is nobody's
PEEK_BYTES = _MAX_V2


class NotProxied(ValueError):
    """What came is not a PROXY header."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """`address` is empty when the balancer speaks for itself (LOCAL, UNKNOWN, a health check). `size` is in bytes."""

    size: int
    address: str


def read(data: bytes) -> ProxyHeader | None:
    """The header that `data` begins with, or None while it is incomplete. Raises NotProxied."""
    if data.startswith(_SIGNATURE):
        return _second(data)
    if _SIGNATURE.startswith(data[: len(_SIGNATURE)]) and len(data) < len(_SIGNATURE):
        return None
    if data[:6] == b"PROXY "[: len(data)]:
        return _first(data)
    raise NotProxied("no PROXY header")


def _first(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, _MAX_V1)
    if end < 0:
        if len(data) >= _MAX_V1:
            raise NotProxied("no line end")
        return None
    words = data[:end].split(b" ")
    if len(words) >= 2 and words[1] == b"UNKNOWN":
        return ProxyHeader(end + 2, "")
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        raise NotProxied("not a version 1 line")
    try:
        address = ipaddress.ip_address(words[2].decode("ascii"))
        if address.version != (4 if words[1] == b"TCP4" else 6) or not all(0 <= int(port) <= 65535 for port in words[4:]):
            raise NotProxied("addresses of another family")
    except ValueError as error:
        raise NotProxied(str(error)) from error
    return ProxyHeader(end + 2, str(address))


def _second(data: bytes) -> ProxyHeader | None:
    if len(data) < 16:
        return None
    size = 16 + int.from_bytes(data[14:16], "big")
    version, command = data[12] >> 4, data[12] & 15
    if version != 2 or command > 1 or size > _MAX_V2:
        raise NotProxied("not a version 2 header")
    if len(data) < size:
        return None
    if command == 0:
        return ProxyHeader(size, "")
    family = data[13] >> 4
    if family == 1 and size >= 16 + 12:
        return ProxyHeader(size, str(ipaddress.IPv4Address(data[16:20])))
    if family == 2 and size >= 16 + 36:
        return ProxyHeader(size, str(ipaddress.IPv6Address(data[16:32])))
    if family == 0:
        return ProxyHeader(size, "")
    raise NotProxied("an address family that is not of the internet")
