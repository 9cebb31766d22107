"""Which addresses an app may call, and the few bytes of DNS that the gateway speaks. Pure."""

from __future__ import annotations

import ipaddress
import struct

from control_plane.domain.replicas import PUBLIC_HUB

HUB_ADDRESS = "198.18.0.1"
TYPE_A, TYPE_AAAA = 1, 28
NO_ERROR, FORMAT_ERROR, SERVER_FAILURE, NAME_ERROR, NOT_IMPLEMENTED, REFUSED = 0, 1, 2, 3, 4, 5

# Private, shared (carrier NAT), loopback, link-local with the metadata services, benchmark, multicast and reserved
# ranges: IANA special-purpose registries. Documentation ranges are left out: nothing private lives there, and closed
# networks use them for mirrors.
_FORBIDDEN_4 = [
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
    )
]  # fmt: skip
_FORBIDDEN_6 = [
    ipaddress.IPv6Network(text)
    for text in ("::/96", "64:ff9b:1::/48", "100::/64", "2001::/32", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8")
]
_NAT64, _MAPPED = ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::ffff:0:0/96")
_SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")


def is_forbidden(address: str) -> bool:
    """Whether `address` is never reachable for an app. Looks through IPv4 carried in IPv6 (mapped, NAT64, 6to4)."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _MAPPED or ip in _NAT64:
            return is_forbidden(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        if ip in _SIX_TO_FOUR:
            return is_forbidden(str(ipaddress.IPv4Address(int(ip) >> 80 & 0xFFFFFFFF)))
        return any(ip in network for network in _FORBIDDEN_6)
    return any(ip in network for network in _FORBIDDEN_4)


class EgressPolicy:
    """`ports` that any public address may be called on; `allow` adds "host:port" pairs that may be private;
    `hub_hosts` are names that lead to `hub_upstream` ("host:port" or a socket path), the one platform address."""

    def __init__(
        self, ports: tuple[int, ...] = (80, 443), allow: tuple[str, ...] = (), hub_hosts: tuple[str, ...] = (), hub_upstream: str = ""
    ) -> None:
        self.ports = ports
        self.allow = tuple((name.lower(), int(port)) for name, _, port in (pair.rpartition(":") for pair in allow))
        self.hub_hosts = tuple(name.lower() for name in hub_hosts)
        self.hub_upstream = hub_upstream

    @classmethod
    def from_spec(cls, body: object) -> EgressPolicy:
        if not isinstance(body, dict):
            raise ValueError("egress is not an object")
        return cls(
            tuple(int(port) for port in body.get("ports", (80, 443))),
            tuple(str(pair) for pair in body.get("allow", ())),
            tuple(str(name) for name in body.get("hub_hosts", ())),
            str(body.get("hub_upstream", "")),
        )

    def is_allowed_name(self, name: str) -> bool:
        return any(name == host for host, _ in self.allow)

    def is_refused_name(self, name: str) -> bool:
        """A name of the public Hub that the operator has not opened, with everything under it."""
        plain = name.rstrip(".")
        opened = (host for host, _ in self.allow)
        return any(_is_under(plain, hub) for hub in PUBLIC_HUB) and not any(_is_under(plain, host) for host in opened)


def _is_under(name: str, domain: str) -> bool:
    return name == domain or name.endswith(f".{domain}")


class Question:
    """The one question of a DNS query (RFC 1035 section 4)."""

    def __init__(self, query_id: int, flags: int, name: str, kind: int, raw: bytes) -> None:
        self.query_id = query_id
        self.flags = flags
        self.name = name
        self.kind = kind
        self.raw = raw

    def answer(self, code: int, addresses: list[str], ttl_s: int = 30) -> bytes:
        """A reply with `addresses` of the asked kind; more than 24 would not fit a plain UDP answer."""
        records = b""
        kept = addresses[:24] if self.kind == TYPE_A else addresses[:14]
        for address in kept:
            packed = ipaddress.ip_address(address).packed
            records += b"\xc0\x0c" + struct.pack("!HHIH", self.kind, 1, ttl_s, len(packed)) + packed
        flags = 0x8080 | (self.flags & 0x0100) | code
        return struct.pack("!HHHHHH", self.query_id, flags, 1, len(kept), 0, 0) + self.raw + records


def parse_question(message: bytes) -> Question | None:
    """None for anything but a standard query with exactly one plain question."""
    if len(message) < 17:
        return None
    query_id, flags, questions = struct.unpack_from("!HHH", message)
    if flags & 0xF800 or questions != 1:
        return None
    labels, at = [], 12
    while True:
        if at >= len(message):
            return None
        length = message[at]
        if length == 0:
            break
        if length > 63 or at + 1 + length >= len(message):
            return None
        labels.append(message[at + 1 : at + 1 + length].decode("latin-1"))
        at += 1 + length
    if at + 5 > len(message) or at - 12 > 254:
        return None
    kind, family = struct.unpack_from("!HH", message, at + 1)
    if family != 1:
        return None
    return Question(query_id, flags, ".".join(labels).lower(), kind, message[12 : at + 5])
