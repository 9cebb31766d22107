"""What a worker must be told. Filled by the composition root from the settings; nothing here reads the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.broker import BrokerOptions


@dataclass(frozen=True, slots=True)
class DoorConfig:
    """Where the internal HTTP door is: a Unix socket (`socket_path`) or, from another host, `base_url`."""

    secret: str = field(repr=False)
    socket_path: str = ""
    base_url: str = "http://vitrine"


@dataclass(frozen=True, slots=True)
class ToolConfig:
    """What build steps run with.

    `tool_env`: variables of the operator that tools inherit (HTTPS_PROXY and the like); never credentials of ours.
    `sandbox_command`: launcher of untrusted build steps, run as `<command> <spec.json>`; empty = none on this machine.
    `trusted`: run such steps without a sandbox (the documented opt-out for one's own code on one's own machine).
    """

    uv: str = ""  # path of uv; "" = the one installed beside this interpreter
    pypi_index_url: str = ""
    ca_bundle: str = ""
    tool_env: Mapping[str, str] = field(default_factory=dict)
    sandbox_command: tuple[str, ...] = ()
    trusted: bool = False
    dpkg_query: str = "dpkg-query"


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """One builder worker.

    `data_dir` is shared with the runtime for the process target. `concurrency` is in builds. `heartbeat_s` is how often a
    running build asks whether it should go on; a cancelled build dies within that time.
    """

    broker: BrokerOptions
    door: DoorConfig
    data_dir: Path
    name: str = ""  # unique per worker; "" = host name and pid
    concurrency: int = 2
    heartbeat_s: float = 2.0
    tools: ToolConfig = field(default_factory=ToolConfig)
