"""What the operator decides about the Docker runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from control_plane.runtimes.docker.engine import RegistryLogin
from control_plane.runtimes.docker.rules import Openings


@dataclass(frozen=True, slots=True)
class DockerOptions:
    """What the operator decides. `subnets`: addresses of replicas' networks, 8 for each; they must be free on the host.

    `openings`: what apps may reach; the proxy's port is the one port of the host among them. `gpus`: ids of the devices
    that may be given away. `overcommit`: how often CPU and memory may be promised. `pull_token`: for an image's reference, where the
    registry takes the platform's tokens. Times are in seconds.
    """

    flavors: Callable[[], tuple[str, ...]] = lambda: ("cpu-basic", "cpu-upgrade")  # asked for each time: the hardware file may change
    gpus: tuple[str, ...] = ()
    openings: Openings = field(default_factory=Openings)
    subnets: str = "10.213.0.0/16"
    overcommit: float = 16.0
    node_name: str = "local"
    pool_name: str = "local"
    login: RegistryLogin | None = None
    pull_token: Callable[[str], str] = lambda ref: ""
    disk_check_s: float = 15.0
    retry_s: float = 1.0
    connect_timeout_s: float = 20.0
