"""The networks of builds' RUN steps, with rules like those of apps. Called by a builder before its first build.

The classic builder joins a bridge of ours. BuildKit inside the engine knows only the engine's default bridge ("network mode not
supported by buildkit" for every other name), so that bridge gets rules too, as long as nobody else's containers are on it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from control_plane.domain.errors import Rejected, Unavailable
from control_plane.domain.reasons import Reason
from control_plane.runtimes.docker import firewall, manifests
from control_plane.runtimes.docker.build_limits import limit_buildkit
from control_plane.runtimes.docker.engine import Clash, Engine, Item
from control_plane.runtimes.docker.manifests import Names
from control_plane.runtimes.docker.rules import Openings
from control_plane.runtimes.docker.rules import firewall as firewall_rules

log = logging.getLogger(__name__)
_POOL = "10.212.0.0/16"


@dataclass(frozen=True, slots=True)
class BuildNetwork:
    """`name`: the classic builder's network. `gateway`: this host there. `buildkit_gateway`: this host on BuildKit's bridge, "" where
    BuildKit's steps could not be contained; `no_buildkit` then says why."""

    name: str
    gateway: str
    buildkit_gateway: str = ""
    no_buildkit: str = ""


def ensure_build_network(
    docker_host: str,
    data_dir: Path,
    *,
    urls: Sequence[str] = (),
    trusted: bool = False,
    memory_bytes: int = 0,
    cpu: float = 0.0,
    pool: str = _POOL,
    load_firewall: Callable[[str], str] = firewall.load,
    limit: Callable[[Mapping[str, Any], int, float], bool] = limit_buildkit,
) -> BuildNetwork:
    """Makes what is not there. `urls`: mirrors that builds may reach although their addresses are private.
    `memory_bytes` and `cpu` (cores): of all of BuildKit's steps at once; no memory = unlimited. `limit`: who puts them in force.

    Raises Rejected where the rules cannot be loaded (unless `trusted`), Unavailable when the engine does not answer.
    """
    names = Names.of_platform(data_dir, for_builds=True)
    engine = Engine(docker_host)
    try:
        info = engine.info()
        is_here = engine.is_local and not any("rootless" in str(one) for one in info.get("SecurityOptions") or [])
        missing = "" if is_here else "the engine's networks are not those of this host (rootless or remote engine)"
        openings = openings_of(urls)
        missing = missing or load_firewall(firewall_rules(names.table, f"{names.bridges}*", openings))
        if missing and not trusted:
            raise Rejected(
                f"{Reason.SANDBOX_UNAVAILABLE.words} Builds cannot be kept from the host's networks: {missing}.",
                code="SandboxUnavailable",
                facts={"reason": Reason.SANDBOX_UNAVAILABLE.value},
            )
        if missing:
            log.warning("docker.builds_not_contained", extra={"missing": missing})
        gateway = _own_bridge(engine, names, pool)
        if openings.uses_loopback:
            firewall.open_loopback(f"{names.bridges}builds")
        name = names.of("builds")
        if missing:
            return BuildNetwork(name, gateway, no_buildkit=missing)
        try:
            found = BuildNetwork(name, gateway, buildkit_gateway=_default_bridge(engine, openings, load_firewall))
            if memory_bytes:
                limit(info, memory_bytes, cpu or float(info.get("NCPU") or 1))
            return found
        except Rejected as error:
            return BuildNetwork(name, gateway, no_buildkit=error.message)
    finally:
        engine.close()


def has_bridge(docker_host: str, *, patience_s: float = 60.0) -> bool:
    """Whether the engine has a default bridge for RUN steps. One in an unprivileged pod has none: its steps use the pod's network.

    Blocking. An engine that starts beside us may answer later; raises Unavailable when it does not within `patience_s`.
    """
    engine = Engine(docker_host)
    try:
        end = time.monotonic() + patience_s
        while True:
            try:
                return _named(engine, "bridge") is not None
            except Unavailable:
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)
    finally:
        engine.close()


def _own_bridge(engine: Engine, names: Names, pool: str) -> str:
    """Its gateway's address."""
    found = _named(engine, names.of("builds"))
    if found is None:
        taken = [subnet for network in engine.networks() for subnet, _ in _addresses_of(network)] + firewall.host_networks()
        subnet = next(manifests.free_build_subnets(pool, taken, names.tag), "")
        if not subnet:
            raise Rejected(f"no network for builds is free in {pool}")
        with contextlib.suppress(Clash):  # another worker was faster
            engine.create_network(manifests.build_network(names, subnet))
        found = _named(engine, names.of("builds"))
    assert found is not None
    return _gateway(found)


def _default_bridge(engine: Engine, openings: Openings, load_firewall: Callable[[str], str]) -> str:
    """Puts rules on it; gives its gateway. Raises Rejected with the reason why it is not for builds.

    One table per bridge, not per platform: those of two would both have to let a packet through, and one that is gone leaves its own.
    """
    bridge = _named(engine, "bridge")
    if bridge is None or bridge.get("Driver") != "bridge":
        raise Rejected("the engine has no default bridge network, and BuildKit knows no other")
    if engine.inspect_network("bridge").get("Containers"):
        raise Rejected("other containers are on the engine's default bridge network, which BuildKit's steps would share with them")
    device = str((bridge.get("Options") or {}).get("com.docker.network.bridge.name") or "docker0")
    subnet = next((subnet for subnet, _ in _addresses_of(bridge) if ":" not in subnet), "")
    missing = load_firewall(firewall_rules(f"vitrine_kit_{device}", device, openings, shared_subnet=subnet)) if subnet else "no addresses"
    if missing:
        raise Rejected(f"the engine's default bridge network cannot be bounded: {missing}")
    if openings.uses_loopback:
        firewall.open_loopback(device)
    return _gateway(bridge)


def _named(engine: Engine, name: str) -> Item | None:
    return next((network for network in engine.networks() if network["Name"] == name), None)


def _addresses_of(network: Item) -> list[tuple[str, str]]:
    """(subnet, gateway or "")."""
    configs = (network.get("IPAM") or {}).get("Config") or []
    return [(str(one["Subnet"]), str(one.get("Gateway") or "")) for one in configs if one.get("Subnet")]


def _gateway(network: Item) -> str:
    subnet, gateway = next((pair for pair in _addresses_of(network) if ":" not in pair[0]), ("", ""))
    return gateway or (manifests.gateway_of(subnet) if subnet else "")


def openings_of(urls: Sequence[str], pairs: Sequence[str] = ()) -> Openings:
    """What the platform's own mirrors need: those with public addresses nothing, private ones a way to them, those on this host's
    loopback a door at the gateway. `pairs`: further "host:port". A name that is not known now is left out, with a word in the log."""
    allow: set[tuple[str, int]] = set()
    loopback: set[int] = set()
    for host, port in [*filter(None, map(_host_of, urls)), *filter(None, map(_pair_of, pairs))]:
        for address in _resolve(host, port):
            if ipaddress.ip_address(address).is_loopback:
                loopback.add(port)
            elif not ipaddress.ip_address(address).is_global:
                allow.add((address, port))
    return Openings(allow=tuple(sorted(allow)), loopback=tuple(sorted(loopback)))


def reach(url: str, gateway: str) -> str:
    """The URL as containers must write it: this host's loopback answers at the gateway."""
    found = _host_of(url)
    if found is None or not gateway or not any(ipaddress.ip_address(one).is_loopback for one in _resolve(*found)):
        return url
    parts = urlsplit(url)
    login = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    return parts._replace(netloc=f"{login}{gateway}:{found[1]}").geturl()


def _host_of(url: str) -> tuple[str, int] | None:
    parts = urlsplit(url)
    if not parts.hostname:
        return None
    return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _pair_of(text: str) -> tuple[str, int] | None:
    host, _, port = text.strip().rpartition(":")
    return (host, int(port)) if host and port.isdigit() else None


def _resolve(host: str, port: int) -> tuple[str, ...]:
    """Addresses, v4."""
    try:
        return tuple(sorted({str(row[4][0]) for row in socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)}))
    except OSError:
        log.warning("docker.mirror_unknown", extra={"host": host})
        return ()
