"""Whether this machine can isolate apps: tried for real, with the launcher itself, and said item by item."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from control_plane.runtimes.process.cgroups import GroupLimits, open_groups

LAUNCHER = Path(__file__).with_name("launcher.py")
_TRY_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class FloorItem:
    """One thing that the sandbox needs. `fix` says what to do when it is missing."""

    name: str
    is_met: bool
    detail: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class FloorReport:
    items: tuple[FloorItem, ...]

    @property
    def is_met(self) -> bool:
        return all(item.is_met for item in self.items)

    @property
    def missing(self) -> tuple[FloorItem, ...]:
        return tuple(item for item in self.items if not item.is_met)

    @property
    def words(self) -> str:
        """What is missing and how to fix it, in one text; "" when nothing is."""
        return " ".join(f"{item.name}: {item.detail}. {item.fix}".strip() for item in self.missing)


def launcher_command(*options: str) -> tuple[str, ...]:
    """The argument tuple that runs the launcher; `-I -S` keeps the platform's packages and environment out."""
    return (os.path.realpath(sys.executable), "-I", "-S", str(LAUNCHER), *options)


def sandbox_report(tag: str = "floor") -> FloorReport:
    """Try everything the floor needs. Blocking, about 100 ms; run it in a thread."""
    return FloorReport((_try_sandbox(), _try_limits(tag)))


def _try_sandbox() -> FloorItem:
    spec = {"v": 1, "argv": ["/bin/sh", "-c", ":"], "env": {"PATH": "/usr/bin:/bin"}, "network": "egress", "scratch_bytes": 1 << 20}
    name = "namespaces, own file system, system-call filter"
    try:
        done = subprocess.run(
            launcher_command(), input=json.dumps(spec), capture_output=True, text=True, timeout=_TRY_TIMEOUT_S, env={}, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return FloorItem(name, False, str(error), "Run `vitrine doctor` again; when it stays, this is a fault of the platform.")
    if done.returncode == 0:
        return FloorItem(name, True, "the launcher's own trial passed")
    detail = next(
        (line.partition(": ")[2] for line in done.stderr.splitlines() if line.startswith("vitrine-sandbox:")), done.stderr[-300:].strip()
    )
    return FloorItem(name, False, detail or f"the trial ended with status {done.returncode}", namespace_fix(detail))


def namespace_fix(detail: str) -> str:
    """What to change on this machine, by the switches that kernels and distributions have."""
    switches = (
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"),
        ("/proc/sys/user/max_user_namespaces", "0", "sudo sysctl -w user.max_user_namespaces=15000"),
    )
    for path, bad, command in switches:
        if _read(path) == bad and (os.geteuid() != 0 or "max_user" in path):
            return f"Allow user namespaces: `{command}` (and a file in /etc/sysctl.d to keep it)."
    if detail.startswith("seccomp"):
        return "This processor architecture or kernel has no filter of system calls; use the Docker runtime."
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return "This is a container that may not make namespaces; run the platform on the host, or use the Docker runtime."
    return "The kernel refused it; use the Docker runtime, or start with `--trusted` for your own code only."


def _try_limits(tag: str) -> FloorItem:
    name = "memory, CPU and process limits"
    groups, words = open_groups(tag)
    if groups is None:
        return FloorItem(name, False, words, limits_fix(words))
    try:
        trial = groups.create(f"trial-{os.getpid()}", GroupLimits(256 << 20, 1.0, 64))
        trial.remove()
    except OSError as error:
        return FloorItem(name, False, f"{words}: {error}", limits_fix(words))
    finally:
        groups.close()
    return FloorItem(name, True, words)


def limits_fix(words: str) -> str:
    """How an ordinary user gets groups: a delegated scope with version 2, directories made by the operator with version 1."""
    if os.geteuid() == 0:
        return "The memory, cpu and pids controllers are not writable here; in a container, start it with its own writable cgroup."
    if "v1: " in words:
        return (
            "Let the operator make the groups once: `for c in memory cpu cpuacct pids; do sudo mkdir -p /sys/fs/cgroup/$c/vitrine; "
            "sudo chown -R $USER /sys/fs/cgroup/$c/vitrine; done`."
        )
    return (
        "Start the platform in a group of its own: `systemd-run --user --scope -p Delegate=yes make up` "
        "(once: `sudo loginctl enable-linger $USER`)."
    )


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
