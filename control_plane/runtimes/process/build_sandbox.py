"""The same sandbox around one untrusted build step: a command and the JSON that it reads on stdin. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from control_plane.domain.builds import BuildLimits
from control_plane.runtimes.process.floor import launcher_command


@dataclass(frozen=True, slots=True)
class SandboxCommand:
    """Run `argv` with `stdin`; the exit status and output are the step's, 125 means that the sandbox failed."""

    argv: tuple[str, ...]
    stdin: str


def sandbox_command(
    argv: Sequence[str],
    *,
    cwd: str,
    binds_ro: Sequence[tuple[str, str]] = (),
    binds_rw: Sequence[tuple[str, str]] = (),
    env: Mapping[str, str],
    limits: BuildLimits,
    network: Literal["none", "egress"] = "none",
    egress_allow: Sequence[str] = (),
    cgroup_procs: Sequence[str] = (),
    outer_uid: int = 0,
    trusted: bool = False,
) -> SandboxCommand:
    """`binds_*` are (host path, path inside). With `egress` the step reaches public addresses on 80 and 443, and the
    "host:port" pairs of `egress_allow`; the launcher runs that gateway itself."""
    spec = {
        "v": 1,
        "argv": list(argv),
        "env": dict(env),
        "cwd": cwd,
        "binds_ro": [list(pair) for pair in binds_ro],
        "binds_rw": [list(pair) for pair in binds_rw],
        "scratch_bytes": min(limits.disk_bytes, max(64 << 20, limits.memory_bytes // 2)),
        "network": network,
        "egress": {"ports": [80, 443], "allow": list(egress_allow)} if network == "egress" else {},
        "egress_inline": network == "egress",
        "limits": {"nofile": 65536, "fsize": limits.disk_bytes},
        "cgroup_procs": list(cgroup_procs),
        "outer_uid": outer_uid,
        "lenient": trusted,
    }
    return SandboxCommand(launcher_command(), json.dumps(spec))
