"""A `ReplicaSpec` becomes the bodies of the Docker Engine API. Pure: plain dictionaries and text, no client, no clock, no environment.

    one replica   a network of its own (a bridge with one container on it), one container (image by digest)

Field names are the API's (https://docs.docker.com/reference/api/engine/, version 1.41 = Docker Engine 20.10). What an
owner can choose (environment, command, port) reaches none of the fields that make the sandbox.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control_plane.domain.builds import ArtifactKind
from control_plane.domain.errors import Rejected
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import PUBLIC_HUB, Mount, ReplicaSpec
from control_plane.domain.sensitive import Sensitive
from control_plane.runtimes.docker.roots import HOME, USER, Root

Body = dict[str, Any]

PREFIX = "com.vitrine."
PLATFORM, REPLICA, SPACE, GENERATION = f"{PREFIX}platform", f"{PREFIX}replica", f"{PREFIX}space", f"{PREFIX}generation"
VCPU, MEMORY, GPUS, PORT = f"{PREFIX}vcpu", f"{PREFIX}memory", f"{PREFIX}gpus", f"{PREFIX}port"
VOLUMES = f"{PREFIX}volumes"  # [[directory, path inside, bytes]] of the Space's own, as JSON
DISK, DISK_BY_ENGINE = f"{PREFIX}disk", f"{PREFIX}disk-by-engine"
_NOTES = {"space-name": "space_name", "revision": "revision"}

MIB = 1 << 20
GIB = 1 << 30
_MIN_MEMORY_BYTES = 128 * MIB  # below this not even Python starts
_SUBNET_BITS = 29  # gateway, container, and no room for a stranger's addresses
_BUILD_SUBNET_BITS = 24
_IMAGE_REF = re.compile(r"(?:[a-z0-9][a-z0-9._:/-]*[a-z0-9]@)?sha256:[0-9a-f]{64}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Machine:
    """What the engine's host has: cores, bytes of memory, and the most files that it lets a process open."""

    vcpu: float
    memory_bytes: int
    open_files: int = 1 << 20


@dataclass(frozen=True, slots=True)
class Grant:
    """What one replica gets. `memory_bytes` and `vcpu` are limits; `gpus` are device ids of its own."""

    vcpu: float
    memory_bytes: int
    disk_bytes: int
    gpus: tuple[str, ...] = ()
    open_files: int = 65536


@dataclass(frozen=True, slots=True)
class Names:
    """What things of one platform are called on an engine that it may share. `tag`: ten hex digits, the platform's own.

    `for_builds`: the names of the builders' network, which has rules of its own.
    """

    tag: str
    for_builds: bool = False

    @classmethod
    def of_platform(cls, data_dir: Path, *, for_builds: bool = False) -> Names:
        """The same for every process of a platform, for as long as its data lies there."""
        return cls(hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:10], for_builds)

    @property
    def table(self) -> str:
        """Name of the firewall's table."""
        return f"vitrine_{self.tag}{'_builds' if self.for_builds else ''}"

    def of(self, replica_id: str) -> str:
        """Name of a replica's container and of its network."""
        return f"vitrine-{self.tag}-{replica_id}"

    @property
    def bridges(self) -> str:
        """How names of this platform's bridges begin; the firewall goes by it."""
        return f"{'w' if self.for_builds else 'v'}{self.tag[:5]}"

    def bridge(self, replica_id: str) -> str:
        """Name of the replica's bridge on the host; the kernel allows 15 characters."""
        return f"{self.bridges}{hashlib.sha256(replica_id.encode()).hexdigest()[:9]}"


def grant(spec: ReplicaSpec, machine: Machine, gpus: Sequence[str] = ()) -> Grant:
    """The flavor's sizes, but never more than the machine has."""
    memory = min(round(spec.flavor.memory_gb * GIB), machine.memory_bytes)
    vcpu, files = min(spec.flavor.vcpu, machine.vcpu), min(spec.flavor.open_files_max, machine.open_files)
    return Grant(vcpu, max(memory, _MIN_MEMORY_BYTES), max(spec.flavor.disk_gb, 1) * GIB, tuple(gpus), files)


def labels(spec: ReplicaSpec, tag: str) -> dict[str, str]:
    """How containers and networks are found again, also by a later life of the platform."""
    notes = {f"{PREFIX}{name}": str(getattr(spec, attribute)) for name, attribute in _NOTES.items()}
    return {PLATFORM: tag, REPLICA: spec.replica_id, SPACE: spec.space_id, GENERATION: str(spec.generation), **notes}


def container(spec: ReplicaSpec, granted: Grant, names: Names, gateway: str, *, disk_by_engine: bool, root: Root | None = None) -> Body:
    """The body of `POST /containers/create`. `gateway`: the host's address on the replica's network, in dotted form.

    `disk_by_engine`: ask the storage driver for the disk limit (it needs project quotas). `root`: what of it can be written. Raises
    Rejected for an artifact that is not an image by digest, for bad names and for mounts that leave their place.
    """
    if spec.artifact.kind is not ArtifactKind.IMAGE or not _IMAGE_REF.fullmatch(spec.artifact.ref):
        raise Rejected(
            "The Docker runtime starts images by digest only.",
            hint="Build the Space again for this runtime.",
            facts={"reason": Reason.UNSUPPORTED_HERE.value},
        )
    body: Body = {
        "Image": spec.artifact.ref,
        "User": USER,  # whatever the image says: its own user may be root
        "Env": [f"{name}={value}" for name, value in environment(spec, granted).items()],
        "Labels": {
            **labels(spec, names.tag),
            VCPU: f"{granted.vcpu:g}", MEMORY: str(granted.memory_bytes), GPUS: ",".join(granted.gpus), PORT: str(spec.launch.port),
            DISK: str(granted.disk_bytes), DISK_BY_ENGINE: "yes" if disk_by_engine else "no",
            VOLUMES: json.dumps([[m.source, m.path, m.size_bytes] for m in spec.mounts if m.size_bytes]),
        },
        "Tty": False, "OpenStdin": False, "AttachStdout": False, "AttachStderr": False,
        "Healthcheck": {"Test": ["NONE"]},  # the platform probes; an image's own check would run in the app's share of CPU
        "StopSignal": "SIGTERM",
        "HostConfig": _host(spec, granted, names, gateway, disk_by_engine=disk_by_engine, root=root or Root()),
    }  # fmt: skip
    if spec.launch.argv:
        body["Entrypoint"], body["Cmd"] = [], list(spec.launch.argv)
    if spec.launch.workdir:
        workdir = spec.launch.workdir
        if ".." in workdir.split("/"):
            raise Rejected("The working directory leaves the repository.", facts={"reason": Reason.CONFIG_ERROR.value})
        body["WorkingDir"] = workdir if workdir.startswith("/") else f"{HOME}/app/{workdir}"
    return body


def _host(spec: ReplicaSpec, granted: Grant, names: Names, gateway: str, *, disk_by_engine: bool, root: Root) -> Body:
    flavor = spec.flavor
    shared = min(granted.disk_bytes, granted.memory_bytes // 2)  # memory-backed, counted as the app's memory
    inodes = max(10_000, min(1_000_000, granted.memory_bytes // 4096))
    host: Body = {
        "NetworkMode": names.of(spec.replica_id),
        "ExtraHosts": [*((f"{spec.hub_host}:{gateway}",) if spec.hub_host else ()), *(f"{name}:0.0.0.0" for name in PUBLIC_HUB)],
        "Privileged": False, "CapAdd": [], "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges:true"],
        "IpcMode": "private", "CgroupnsMode": "private", "PidMode": "", "UTSMode": "", "Devices": [], "PublishAllPorts": False,
        "PortBindings": {},
        "NanoCpus": round(granted.vcpu * 1e9), "Memory": granted.memory_bytes, "MemorySwap": granted.memory_bytes,
        "OomKillDisable": False, "PidsLimit": flavor.pids_max, "ShmSize": shared,
        "Ulimits": [
            {"Name": "nofile", "Soft": granted.open_files, "Hard": granted.open_files},
            {"Name": "core", "Soft": 0, "Hard": 0},
        ],
        # Python packages compile into /tmp and load what they compiled, so it may be executed from.
        "Tmpfs": {
            "/tmp": f"rw,exec,nosuid,nodev,mode=1777,size={shared},nr_inodes={inodes}",
            **({} if root.has_home else {HOME: f"rw,exec,nosuid,nodev,mode=0755,uid=1000,gid=1000,size={shared},nr_inodes={inodes}"}),
        },
        "ReadonlyRootfs": root.is_read_only,
        "Mounts": [
            *(_volume(names, path) for path in root.volumes if path not in {mount.path for mount in spec.mounts}),
            *(_mount(mount) for mount in spec.mounts),
        ],
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},  # the scheduler restarts, with its back-off
        "AutoRemove": False,  # what it said last and how it ended are read after its end
        "Init": True,  # reaps orphans and passes TERM on to programs that were not written to be process 1
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "8m", "max-file": "2"}},
    }  # fmt: skip
    if disk_by_engine:
        host["StorageOpt"] = {"size": str(granted.disk_bytes)}
    if granted.gpus:
        host["DeviceRequests"] = [{"Driver": "nvidia", "DeviceIDs": list(granted.gpus), "Capabilities": [["gpu"]]}]
    return host


def environment(spec: ReplicaSpec, granted: Grant) -> dict[str, str]:
    """The replica's variables over the image's own; the one place where secrets are opened.

    The NVIDIA runtime reads devices from this variable, so an owner's word in it never counts.
    """
    found = {"HOME": HOME, "PYTHONUNBUFFERED": "1", **spec.launch.env}
    for name, value in spec.env.items():
        found[name] = value.reveal() if isinstance(value, Sensitive) else value
    found["NVIDIA_VISIBLE_DEVICES"] = ",".join(granted.gpus) or "void"
    for name, value in found.items():
        if not _ENV_NAME.fullmatch(name) or "\0" in value:
            raise Rejected(f"'{name}' cannot be an environment variable of a container.", facts={"reason": Reason.CONFIG_ERROR.value})
    return found


def _volume(names: Names, path: str) -> Body:
    """Without a name: the engine fills it with what the image has there, and removes it with the container."""
    return {"Type": "volume", "Target": path, "VolumeOptions": {"Labels": {PLATFORM: names.tag}}}


def _mount(mount: Mount) -> Body:
    """A named volume or a directory of the host, as the source says; only the platform chooses sources."""
    if not mount.path.startswith("/") or ".." in mount.path.split("/"):
        raise Rejected(f"'{mount.path}' cannot be a mount path", facts={"reason": Reason.CONFIG_ERROR.value})
    kind = "bind" if mount.source.startswith("/") else "volume"
    return {"Type": kind, "Source": mount.source, "Target": mount.path, "ReadOnly": mount.read_only}


def own_volumes(found: Mapping[str, str]) -> tuple[Mount, ...]:
    """The Space's own volumes, by the labels of its container."""
    return tuple(Mount(source, path, False, size) for source, path, size in json.loads(found.get(VOLUMES, "[]")))


# -- network


def network(spec: ReplicaSpec, names: Names, subnet: str, *, has_egress: bool) -> Body:
    """Arguments of `create_network`. Without egress the network is internal: its container has no route out of it at all."""
    gateway = gateway_of(subnet)
    return {
        "name": names.of(spec.replica_id),
        "driver": "bridge",
        "check_duplicate": True,
        "internal": not has_egress,
        "enable_ipv6": False,
        "labels": labels(spec, names.tag),
        "options": {"com.docker.network.bridge.name": names.bridge(spec.replica_id), "com.docker.network.bridge.enable_icc": "false"},
        "ipam": {"Driver": "default", "Config": [{"Subnet": subnet, "Gateway": gateway}]},
    }


def build_network(names: Names, subnet: str) -> Body:
    """Arguments of `create_network` for RUN steps of builds: they reach public addresses, not each other (`enable_icc`)."""
    return {
        "name": names.of("builds"),
        "driver": "bridge",
        "check_duplicate": True,
        "enable_ipv6": False,
        "labels": {f"{PREFIX}builds": names.tag},
        "options": {"com.docker.network.bridge.name": f"{names.bridges}builds", "com.docker.network.bridge.enable_icc": "false"},
        "ipam": {"Driver": "default", "Config": [{"Subnet": subnet, "Gateway": gateway_of(subnet)}]},
    }


def gateway_of(subnet: str) -> str:
    return str(next(ipaddress.ip_network(subnet).hosts()))


def free_build_subnets(pool: str, taken: Iterable[str], seed: str) -> Iterator[str]:
    """As `free_subnets`, with room for many steps at once."""
    return free_subnets(pool, taken, seed, bits=_BUILD_SUBNET_BITS)


def free_subnets(pool: str, taken: Iterable[str], seed: str = "", *, bits: int = _SUBNET_BITS) -> Iterator[str]:
    """Subnets of `pool` for one replica each that overlap none of `taken`. Raises Rejected for a bad pool.

    In order, from a place that `seed` chooses: two platforms of one host meet only when the pool is nearly full.
    """
    try:
        whole = ipaddress.IPv4Network(pool)
    except ValueError as error:
        raise Rejected(f"'{pool}' is not an IPv4 network such as 10.213.0.0/16") from error
    used = [n for text in taken if isinstance(n := ipaddress.ip_network(text, strict=False), ipaddress.IPv4Network) and n.overlaps(whole)]
    exact = {n for n in used if n.prefixlen == bits}
    wider = [n for n in used if n.prefixlen != bits]
    count = 1 << (bits - whole.prefixlen) if bits >= whole.prefixlen else 0
    start = int(hashlib.sha256(seed.encode()).hexdigest(), 16) % count if seed else 0
    for index in range(count):
        address = int(whole.network_address) + ((start + index) % count << (32 - bits))
        one = ipaddress.IPv4Network((address, bits))
        if one not in exact and not any(one.overlaps(other) for other in wider):
            yield str(one)


# -- capacity


def gpus_of(found: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(part for part in found.get(GPUS, "").split(",") if part)
