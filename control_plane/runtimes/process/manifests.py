"""A `ReplicaSpec` becomes the launcher's JSON. Pure but for one thing: the path
of the environment is resolved. What is on this machine comes as arguments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control_plane.domain.errors import Rejected
from control_plane.domain.replicas import ReplicaSpec
from control_plane.domain.sensitive import Sensitive
from control_plane.runtimes.process.cgroups import GroupLimits

HOME = "/home/user"
APP = f"{HOME}/app"
HUB_CACHE = f"{HOME}/.cache/huggingface/hub"  # where the Hub's client looks, under HF_HOME
_MIN_MEMORY = 128 << 20
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
# What an app can always rely on; the Space's own settings win over these, never over what the platform sets in the spec.
_DEFAULT_ENV = {
    "HOME": HOME,
    "USER": "user",
    "LOGNAME": "user",
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "TMPDIR": "/tmp",
    "SHELL": "/bin/sh",
    "TERM": "dumb",
    "PYTHONUNBUFFERED": "1",
    "PYTHONIOENCODING": "utf-8",
    "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt",
    "XDG_CACHE_HOME": f"{HOME}/.cache",
    "MPLCONFIGDIR": f"{HOME}/.cache/matplotlib",
    # Gradio asks the internet for news of itself while it starts; offline that was 2.5 s of every start (measured).
    "GRADIO_ANALYTICS_ENABLED": "False",
}


@dataclass(frozen=True, slots=True)
class Machine:
    """What this host can give: cores and bytes of memory."""

    vcpu: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where the artifact lies on the host. `interpreter_prefixes` are what the environment's python links to."""

    tree: Path
    environment: Path | None
    interpreter: str
    interpreter_prefixes: tuple[tuple[str, str], ...] = ()  # (on the host, inside)


def group_limits(spec: ReplicaSpec, machine: Machine) -> GroupLimits:
    """The flavor's limits, but never more than the machine has."""
    memory = min(int(spec.flavor.memory_gb * (1 << 30)), machine.memory_bytes)
    return GroupLimits(max(_MIN_MEMORY, memory), min(spec.flavor.vcpu, machine.vcpu), spec.flavor.pids_max)


def scratch_bytes(spec: ReplicaSpec, limits: GroupLimits) -> int:
    """Scratch space is memory-backed and counts as the app's memory, so half of that is the most it may take."""
    return min(spec.flavor.disk_gb << 30 if spec.flavor.disk_gb > 0 else 64 << 20, limits.memory_bytes // 2)


def scratch_inodes(limits: GroupLimits) -> int:
    """An empty file costs about 1.5 KiB of kernel memory (measured): the count ends well before the memory limit does."""
    return max(10_000, min(1_000_000, limits.memory_bytes // 4096))


def environment(spec: ReplicaSpec, place: Place) -> dict[str, str]:
    """The whole environment of the app; the one place where secrets are opened."""
    env = dict(_DEFAULT_ENV)
    path = _SYSTEM_PATH
    if place.environment is not None:
        path = f"{place.environment}/bin:{path}"
        env["VIRTUAL_ENV"] = str(place.environment)
    env["PATH"] = f"{HOME}/.local/bin:{path}"
    env.update(spec.launch.env)
    for name, value in spec.env.items():
        env[name] = value.reveal() if isinstance(value, Sensitive) else value
    if "HF_ENDPOINT" in env:
        env["HF_ENDPOINT"] = _without_port(env["HF_ENDPOINT"], spec.hub_host)
    return env


def _without_port(url: str, hub_host: str) -> str:
    """The Hub's own name answers on 80 and 443 inside. The platform's public port may be the very one the app listens on."""
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    host, colon, port = authority.partition(":")
    if not separator or not hub_host or host != hub_host or not colon or not port.isdigit():
        return url
    return f"{scheme}://{host}{slash}{path}"


def arguments(spec: ReplicaSpec, place: Place) -> list[str]:
    """The command line; `python` without an environment is the platform's own interpreter."""
    argv = list(spec.launch.argv)
    if not argv:
        raise Rejected("The build did not say how to start this Space.")
    if place.environment is None and argv[0] in ("python", "python3"):
        argv[0] = place.interpreter
    return argv


def _limits_without_groups(limits: GroupLimits) -> dict[str, int]:
    """What is left without cgroups (trusted apps only): per process, so weaker than the floor."""
    return {"nproc": limits.pids, "data": limits.memory_bytes}


def launcher_spec(
    spec: ReplicaSpec,
    place: Place,
    machine: Machine,
    *,
    cgroup_procs: list[str],
    outer_uid: int,
    egress: dict[str, Any],
    hub_cache: Path | None = None,
) -> dict[str, Any]:
    """The launcher's JSON object (README.md). `hub_cache` lies, read-only, below what the app downloads from the Hub itself."""
    limits = group_limits(spec, machine)
    workdir = spec.launch.workdir.strip("/")
    if ".." in workdir.split("/"):
        raise Rejected("The working directory leaves the repository.")
    read_only = [[source, target] for source, target in place.interpreter_prefixes]
    if place.environment is not None:
        read_only.append([str(place.environment.resolve()), str(place.environment)])
    return {
        "v": 1,
        "argv": arguments(spec, place),
        "env": environment(spec, place),
        "cwd": f"{APP}/{workdir}" if workdir else APP,
        "binds_ro": read_only,
        "volumes_ro": [[mount.source, mount.path] for mount in spec.mounts if mount.read_only],
        "binds_rw": [[mount.source, mount.path] for mount in spec.mounts if not mount.read_only],
        "overlays": [[str(place.tree), APP]],
        "caches": [[str(hub_cache), HUB_CACHE]] if hub_cache is not None else [],
        "scratch_bytes": scratch_bytes(spec, limits),
        "scratch_inodes": scratch_inodes(limits),
        "network": "egress",
        "egress": egress,
        "limits": {"nofile": spec.flavor.open_files_max, **({} if cgroup_procs else _limits_without_groups(limits))},
        "cgroup_procs": cgroup_procs,
        "outer_uid": outer_uid,
        "port": spec.launch.port,
        "lenient": spec.trusted,
    }
