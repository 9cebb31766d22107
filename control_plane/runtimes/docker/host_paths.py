"""What the engine calls a folder of ours: the same name, unless this process runs in a container itself, on a volume of that engine."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

_MOUNTINFO = Path("/proc/self/mountinfo")  # proc(5): id, parent, device, root in its file system, where it is mounted, …


class HostPaths:
    """`volumes`: where the engine's volumes lie on its host; asked only for a folder that is a part of some file system."""

    def __init__(self, volumes: Callable[[], Sequence[str]], mountinfo: Path = _MOUNTINFO) -> None:
        self._volumes, self._mountinfo = volumes, mountinfo
        self._known: dict[tuple[str, str], str] = {}

    def of(self, path: str) -> str:
        """Blocking. A folder that lies on no volume of the engine keeps its name: then both see the same host."""
        root, mounted_at = self._mount_of(path)
        if root == "/" or not root:
            return path
        if (root, mounted_at) not in self._known:
            # The root is told within its own file system, which may be mounted anywhere on the host.
            found = [volume for volume in self._volumes() if volume == root or volume.endswith(root)]
            self._known[root, mounted_at] = found[0] if len(found) == 1 else mounted_at
        return self._known[root, mounted_at] + path[len(mounted_at.rstrip("/")) :]

    def _mount_of(self, path: str) -> tuple[str, str]:
        best = ("", "")
        try:
            lines = self._mountinfo.read_text("utf-8").splitlines()
        except OSError:
            return best
        for line in lines:
            fields = line.split()
            root, place = (re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text) for text in fields[3:5])
            if (path == place or path.startswith(f"{place.rstrip('/')}/")) and len(place) >= len(best[1]):
                best = (root, place)
        return best
