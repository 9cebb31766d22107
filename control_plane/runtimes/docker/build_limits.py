"""Limits of BuildKit's steps. The engine has no word for them ("memory" is the classic builder's), but all of its steps live under one
control group, and what is written there holds for all of them together."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
_GROUP = "docker/buildkit"  # moby's default parent, with the cgroupfs driver
_PIDS = 4096
_PERIOD_US = 100_000
_WEIGHT, _SHARES = 25, 256  # a quarter of an app's, as the classic builder's steps have it


def limit_buildkit(info: Mapping[str, Any], memory_bytes: int, cpu: float, root: Path = Path("/sys/fs/cgroup")) -> bool:
    """Whether the limits are in force. `info`: the engine's word about itself; `memory_bytes` and `cpu` (cores): for all builds at once."""
    quota = round(cpu * _PERIOD_US)
    if info.get("CgroupDriver") != "cgroupfs":
        log.warning("docker.buildkit_unlimited", extra={"because": "the engine's control groups are systemd's"})
        return False
    try:
        if str(info.get("CgroupVersion")) == "2":
            group = root / _GROUP
            group.mkdir(parents=True, exist_ok=True)
            for parent in (root, root / "docker"):
                (parent / "cgroup.subtree_control").write_text("+memory +pids +cpu")
            _write(
                group,
                {
                    "memory.max": memory_bytes,
                    "memory.swap.max": 0,
                    "pids.max": _PIDS,
                    "cpu.max": f"{quota} {_PERIOD_US}",
                    "cpu.weight": _WEIGHT,
                },
            )
        else:
            limits: dict[str, dict[str, int | str]] = {
                "memory": {"memory.limit_in_bytes": memory_bytes},
                "pids": {"pids.max": _PIDS},
                "cpu": {"cpu.cfs_period_us": _PERIOD_US, "cpu.cfs_quota_us": quota, "cpu.shares": _SHARES},
            }
            for controller, values in limits.items():
                (root / controller / _GROUP).mkdir(parents=True, exist_ok=True)
                _write(root / controller / _GROUP, values)
    except OSError as error:
        log.warning("docker.buildkit_unlimited", extra={"because": str(error)})
        return False
    return True


def _write(group: Path, values: Mapping[str, int | str]) -> None:
    for name, value in values.items():
        (group / name).write_text(str(value))
