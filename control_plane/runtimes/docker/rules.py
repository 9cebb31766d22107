"""The firewall of the platform's bridges as text for `nft -f -`. Pure; `firewall.load` puts it in force.

Rules go by the names of bridges, so they hold from the moment a bridge exists and touch nothing else on the host. Loading them again
replaces them whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Never reachable from an app (IANA special-purpose registry, v4). 169.254.0.0/16 holds the metadata address.
BLOCKED_V4 = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
    "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Openings:
    """What containers reach besides DNS and public addresses. All v4.

    `egress_ports`: ports of public addresses. `allow`: private (address, port) pairs, such as a package index. `hub_port`: the proxy's
    port on this host, 0 = none; it also answers on port 80 of the bridge's gateway. `hub_on_loopback`: the proxy listens on 127.0.0.1
    only. `loopback`: further ports of the host's loopback that answer at the gateway.
    """

    egress_ports: tuple[int, ...] = (80, 443)
    allow: tuple[tuple[str, int], ...] = ()
    hub_port: int = 0
    hub_on_loopback: bool = False
    loopback: tuple[int, ...] = ()

    @property
    def uses_loopback(self) -> bool:
        """Whether bridges need `route_localnet`: the kernel drops packets to 127.0.0.0/8 from elsewhere without it."""
        return bool(self.loopback) or bool(self.hub_port and self.hub_on_loopback)


def firewall(table: str, bridges: str, openings: Openings, *, shared_subnet: str = "") -> str:
    """Rules for the bridges that match `bridges` (a name, or its beginning and `*`).

    Out: answers to whom called, DNS, the open ports of public addresses, the openings. Nothing to neighbours, private ranges,
    metadata, or other services of the host; nothing by IPv6. `shared_subnet`: the bridge is the engine's default one, with these
    addresses, which forwards between its own ports and may be called by others.
    """
    ours = f'"{bridges}"'
    lines = [
        f"table inet {table}", f"delete table inet {table}", f"table inet {table} {{",
        "  chain forward {",
        "    type filter hook forward priority -20; policy accept;",
        f"    iifname {ours} oifname {ours} drop",
        f"    iifname {ours} ct state established,related accept",
        f"    oifname {ours} ct state established,related accept",
        *(() if shared_subnet else (f"    oifname {ours} drop",)),
        f"    iifname {ours} meta nfproto ipv6 drop",
        f"    iifname {ours} udp dport 53 accept",
        f"    iifname {ours} tcp dport 53 accept",
        *(f"    iifname {ours} ip daddr {address} tcp dport {port} accept" for address, port in openings.allow),
        f"    iifname {ours} ip daddr {{ {', '.join(BLOCKED_V4)} }} drop",
        *_public(ours, openings.egress_ports),
        f"    iifname {ours} drop",
        "  }",
        "  chain input {",
        "    type filter hook input priority -20; policy accept;",
        f"    iifname {ours} ct state established,related accept",
        *((f"    iifname {ours} tcp dport {openings.hub_port} accept",) if openings.hub_port else ()),
        *(f"    iifname {ours} ip daddr {address} tcp dport {port} accept" for address, port in openings.allow),
        *(f"    iifname {ours} ip daddr 127.0.0.1 tcp dport {port} accept" for port in openings.loopback),
        f"    iifname {ours} drop",
        "  }",
        *_doors(ours, openings),
        "}",
        *_between_ports(table, shared_subnet),
    ]  # fmt: skip
    return "".join(f"{line}\n" for line in lines)


def _public(ours: str, ports: Sequence[int]) -> tuple[str, ...]:
    return (f"    iifname {ours} tcp dport {{ {', '.join(map(str, ports))} }} accept",) if ports else ()


def _doors(ours: str, openings: Openings) -> tuple[str, ...]:
    """The gateway's ports that lead to services of the host."""
    calls = f"    iifname {ours} fib daddr type local"
    found = [f"{calls} tcp dport {port} dnat ip to 127.0.0.1:{port}" for port in openings.loopback]
    if openings.hub_port:
        ports = ", ".join(sorted({"80", str(openings.hub_port)}))
        target = f"dnat ip to 127.0.0.1:{openings.hub_port}" if openings.hub_on_loopback else f"redirect to :{openings.hub_port}"
        found.append(f"{calls} tcp dport {{ {ports} }} {target}")
    if not found:
        return ()
    return ("  chain doors {", "    type nat hook prerouting priority -110; policy accept;", *found, "  }")


def _between_ports(table: str, subnet: str) -> tuple[str, ...]:
    """Frames between two ports of one bridge never meet the rules above. By address: not every kernel knows a bridge's name here."""
    if not subnet:
        return ()
    return (
        f"table bridge {table}", f"delete table bridge {table}", f"table bridge {table} {{",
        "  chain forward {",
        "    type filter hook forward priority -20; policy accept;",
        f"    ip daddr {subnet} drop",
        "  }",
        "}",
    )  # fmt: skip
