"""What BuildKit's steps leave behind when their engine goes away under them: processes that no engine knows of any more.

Docker Engine runs them under one control group, as children of a process of its own; those of a dead engine are children of process 1.
Needs the rights to end them and the engine's processes in sight (not a builder in a container); elsewhere nothing is found.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

_GROUP = "/docker/buildkit/"  # moby's default parent


def end_orphans(proc: Path = Path("/proc")) -> int:
    """Kills them; gives how many were found."""
    count = 0
    for place in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            if _GROUP in (place / "cgroup").read_text() and _parent(place) == 1:
                os.kill(int(place.name), signal.SIGKILL)
                count += 1
    return count


def _parent(place: Path) -> int:
    """Process id of the parent; the name before it may hold anything."""
    return int((place / "stat").read_text().rpartition(")")[2].split()[1])
