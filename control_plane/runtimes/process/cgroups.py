"""Memory, CPU and process limits through cgroups: version 2 (an own or delegated subtree) and version 1 (per controller).

One `Groups` makes one group per replica below a common parent, `vitrine-<tag>`. Version 1 is found by its mounted
controllers; version 2 needs the controllers to be delegated to us (root, or a systemd user slice).
Formats: `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/` of the kernel.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

_PERIOD_US = 100_000
_NEEDED = ("memory", "cpu", "pids")
_V1 = ("memory", "cpu", "pids", "freezer", "cpuacct")


@dataclass(frozen=True, slots=True)
class GroupLimits:
    memory_bytes: int
    vcpu: float
    pids: int


@dataclass(frozen=True, slots=True)
class Mounts:
    """Which groups we are in: controller → our directory; `v1_tops` are the directories at which version 1 is mounted."""

    v2: Path | None
    v1: dict[str, Path]
    v1_tops: dict[str, Path] = field(default_factory=dict)


def find_mounts(mountinfo: str, self_cgroup: str) -> Mounts:
    """Read `/proc/self/mountinfo` and `/proc/self/cgroup`. Pure."""
    own: dict[str, str] = {}
    for line in self_cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            own[name] = path
    v2: Path | None = None
    v1: dict[str, Path] = {}
    tops: dict[str, Path] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        root, target, fstype, options = fields[3], fields[4], kind[0], kind[-1].split(",")
        if fstype == "cgroup2" and v2 is None:
            v2 = _below(target, root, own.get("", "/"))
        elif fstype == "cgroup":
            for name in _V1:
                if name in options and name in own:
                    v1[name], tops[name] = _below(target, root, own[name]), Path(target)
    return Mounts(v2, v1, tops)


def _below(target: str, root: str, path: str) -> Path:
    inside = path.removeprefix(root.rstrip("/")) if root != "/" else path
    return Path(target) / inside.strip("/")


class Group:
    """The limits of one replica. Safe to remove twice."""

    def __init__(self, directories: dict[str, Path], version: int) -> None:
        self._directories = directories
        self.version = version

    @property
    def procs_files(self) -> list[str]:
        """What a process joins by writing "0"; the launcher opens them."""
        return [str(path / "cgroup.procs") for path in dict.fromkeys(self._directories.values())]

    @property
    def directories(self) -> list[str]:
        return [str(path) for path in dict.fromkeys(self._directories.values())]

    def limit(self, limits: GroupLimits) -> None:
        """Raises OSError when a limit does not hold."""
        memory, cpu, pids = self._directories["memory"], self._directories["cpu"], self._directories["pids"]
        quota = max(1000, int(limits.vcpu * _PERIOD_US))
        if self.version == 2:
            _write(memory / "memory.max", limits.memory_bytes)
            _try_write(memory / "memory.swap.max", 0)
            _try_write(memory / "memory.oom.group", 1)
            _write(cpu / "cpu.max", f"{quota} {_PERIOD_US}")
        else:
            _write(memory / "memory.limit_in_bytes", limits.memory_bytes)
            _try_write(memory / "memory.memsw.limit_in_bytes", limits.memory_bytes)
            _write(cpu / "cpu.cfs_period_us", _PERIOD_US)
            _write(cpu / "cpu.cfs_quota_us", quota)
        _write(pids / "pids.max", limits.pids)

    def oom_kills(self) -> int:
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        return _field(self._directories["memory"] / name, "oom_kill")

    def memory_bytes(self) -> int:
        name = "memory.current" if self.version == 2 else "memory.usage_in_bytes"
        return _number(self._directories["memory"] / name)

    def cpu_seconds(self) -> float:
        if self.version == 2:
            return _field(self._directories["cpu"] / "cpu.stat", "usage_usec") / 1e6
        accounting = self._directories.get("cpuacct")
        return _number(accounting / "cpuacct.usage") / 1e9 if accounting else 0.0

    def pids(self) -> list[int]:
        found: set[int] = set()
        for path in self.procs_files:
            with contextlib.suppress(OSError):
                found |= {int(line) for line in Path(path).read_text().split()}
        return sorted(found)

    def kill(self) -> None:
        """SIGKILL to every process of the group until none is left (at most 2 s)."""
        until = time.monotonic() + 2.0
        with contextlib.suppress(OSError):
            _write(self._directories["memory"] / "cgroup.kill", 1)
        while (pids := self.pids()) and time.monotonic() < until:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    def remove(self) -> bool:
        gone = True
        for path in dict.fromkeys(self._directories.values()):
            try:
                path.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                gone = False  # something in it is still ending; the next pass tries again
        return gone


class Groups:
    """Makes groups below one parent per controller."""

    def __init__(self, parents: dict[str, Path], version: int) -> None:
        self._parents = parents
        self.version = version

    def create(self, name: str, limits: GroupLimits) -> Group:
        """Raises OSError when the group or one of its limits cannot be made."""
        group = self.open(name)
        try:
            for path in group.directories:
                Path(path).mkdir(exist_ok=True)
            group.limit(limits)
        except OSError:
            group.remove()
            raise
        return group

    def open(self, name: str) -> Group:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", name):
            raise ValueError(f"not a group name: {name!r}")
        return Group({controller: parent / name for controller, parent in self._parents.items()}, self.version)

    def existing(self) -> list[str]:
        found: set[str] = set()
        for parent in self._parents.values():
            with contextlib.suppress(OSError):
                found |= {entry.name for entry in parent.iterdir() if entry.is_dir()}
        return sorted(found)

    def close(self) -> None:
        """Remove the parents when they are empty."""
        for parent in dict.fromkeys(self._parents.values()):
            with contextlib.suppress(OSError):
                parent.rmdir()


def open_groups(tag: str, mounts: Mounts | None = None) -> tuple[Groups | None, str]:
    """Groups below `vitrine-<tag>`, or None and why not. Version 2 is preferred where it carries the controllers."""
    if mounts is None:
        mounts = find_mounts(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    reasons = []
    if mounts.v2 is not None:
        try:
            return _open_v2(mounts.v2, tag), "cgroup v2"
        except OSError as error:
            reasons.append(f"v2: {error}")
    if all(name in mounts.v1 for name in _NEEDED):
        try:
            return _open_v1(mounts, tag), "cgroup v1"
        except OSError as error:
            reasons.append(f"v1: {error}")
    return None, "; ".join(reasons) or "no cgroup controllers are mounted"


def _open_v2(own: Path, tag: str) -> Groups:
    """Below our own group, beside it, or, when we fill a delegated group alone, below it after moving aside.

    A group that has processes of its own cannot hand controllers to its children (EBUSY), hence the three tries.
    """
    failure: OSError = OSError("no memory, cpu and pids controllers here")
    for base, move_aside in ((own, False), (own.parent, False), (own, True)):
        try:
            offered = (base / "cgroup.controllers").read_text().split()
            lacking = [name for name in _NEEDED if name not in offered]
            if lacking:
                raise OSError(f"{base} does not offer {', '.join(lacking)}")
            if move_aside:
                _move_aside(base)
            active = (base / "cgroup.subtree_control").read_text().split()
            if not all(name in active for name in _NEEDED):
                _write(base / "cgroup.subtree_control", " ".join(f"+{name}" for name in _NEEDED))
            parent = base / f"vitrine-{tag}"
            parent.mkdir(exist_ok=True)
            _write(parent / "cgroup.subtree_control", " ".join(f"+{name}" for name in _NEEDED))
            return Groups(dict.fromkeys(_NEEDED, parent), 2)
        except OSError as error:
            failure = error
    raise failure


def _move_aside(base: Path) -> None:
    """Put every process of `base` into its child `platform`, so that `base` may have limited children."""
    leaf = base / "platform"
    leaf.mkdir(exist_ok=True)
    for pid in (base / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            _write(leaf / "cgroup.procs", pid)


def _open_v1(mounts: Mounts, tag: str) -> Groups:
    parents = {}
    for name, own in mounts.v1.items():
        # Version 1 has no delegation of its own: an operator may have made a directory `vitrine` for an ordinary user.
        places = (own, own / "vitrine", mounts.v1_tops.get(name, own) / "vitrine")
        parent = next((place for place in places if os.access(place, os.W_OK)), own) / f"vitrine-{tag}"
        try:
            parent.mkdir(exist_ok=True)
        except OSError:
            if name in _NEEDED:
                raise
            continue
        parents[name] = parent
    return Groups(parents, 1)


def _write(path: Path, value: object) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(str(value))


def _try_write(path: Path, value: object) -> None:
    with contextlib.suppress(OSError):
        _write(path, value)


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _field(path: Path, name: str) -> int:
    try:
        rows = (line.split() for line in path.read_text().splitlines())
        return next((int(row[1]) for row in rows if row[0] == name), 0)
    except (OSError, ValueError, IndexError):
        return 0
