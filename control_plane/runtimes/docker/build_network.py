"""The network of builds' RUN steps: its own bridge, with rules like those of apps. Called by a builder before its first build."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from control_plane.domain.errors import Rejected
from control_plane.domain.reasons import Reason
from control_plane.runtimes.docker import firewall, manifests
from control_plane.runtimes.docker.engine import Clash, Engine
from control_plane.runtimes.docker.manifests import Names

log = logging.getLogger(__name__)
_SUBNET = "10.212.255.0/24"


def ensure_build_network(
    docker_host: str,
    data_dir: Path,
    *,
    urls: Sequence[str] = (),
    trusted: bool = False,
    subnet: str = _SUBNET,
    load_firewall: Callable[[str], str] = firewall.load,
) -> str:
    """Its name, made when it is not there. `urls`: mirrors that builds may reach although their addresses are private.

    Raises Rejected where the rules cannot be loaded (unless `trusted`), Unavailable when the engine does not answer.
    """
    names = Names.of_platform(data_dir, for_builds=True)
    engine = Engine(docker_host)
    try:
        info = engine.info()
        missing = "the engine's networks are not those of this host (rootless or remote engine)"
        if engine.is_local and not any("rootless" in str(one) for one in info.get("SecurityOptions") or []):
            missing = load_firewall(manifests.firewall(names, 0, allow=addresses(urls)))
        if missing and not trusted:
            raise Rejected(
                f"{Reason.SANDBOX_UNAVAILABLE.words} Builds cannot be kept from the host's networks: {missing}.",
                code="SandboxUnavailable",
                facts={"reason": Reason.SANDBOX_UNAVAILABLE.value},
            )
        if missing:
            log.warning("docker.builds_not_contained", extra={"missing": missing})
        body = manifests.build_network(names, subnet)
        if all(network["Name"] != body["name"] for network in engine.networks()):
            with contextlib.suppress(Clash):  # another worker was faster
                engine.create_network(body)
        return str(body["name"])
    finally:
        engine.close()


def addresses(urls: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """(address, port) of each URL's host, v4; a name that is not known now is left out, with a word in the log."""
    found: set[tuple[str, int]] = set()
    for url in urls:
        parts = urlsplit(url)
        if not parts.hostname:
            continue
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            found |= {(str(row[4][0]), port) for row in socket.getaddrinfo(parts.hostname, port, socket.AF_INET, socket.SOCK_STREAM)}
        except OSError:
            log.warning("docker.mirror_unknown", extra={"host": parts.hostname})
    return tuple(sorted(found))
