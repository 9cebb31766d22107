"""From the platform's words to a runtime: the one function that `bootstrap` calls."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from control_plane.runtimes.docker.build_network import openings_of
from control_plane.runtimes.docker.engine import RegistryLogin
from control_plane.runtimes.docker.logs import LogSink
from control_plane.runtimes.docker.options import DockerOptions
from control_plane.runtimes.docker.runtime import DockerRuntime


def docker_runtime(
    docker_host: str,
    log: LogSink,
    data_dir: Path,
    *,
    flavors: Callable[[], tuple[str, ...]],
    gpus: tuple[str, ...],
    hub: tuple[str, int],
    egress_ports: str,
    egress_allow: str,
    login: tuple[str, str] | None = None,
    pull_token: Callable[[str], str] = lambda ref: "",
) -> DockerRuntime:
    """`hub`: where the proxy listens. `egress_ports` and `egress_allow` ("host:port") are comma-separated. `login`: name and password
    at the registry; `pull_token`: for an image's reference, instead."""
    host, port = hub
    openings = replace(
        openings_of((), egress_allow.split(",")),
        egress_ports=tuple(int(one) for one in egress_ports.split(",") if one.strip()),
        hub_port=port,
        hub_on_loopback=_is_loopback(host),
    )
    return DockerRuntime(
        docker_host,
        log,
        data_dir,
        DockerOptions(flavors=flavors, gpus=gpus, openings=openings, login=RegistryLogin(*login) if login else None, pull_token=pull_token),
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
