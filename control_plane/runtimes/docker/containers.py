"""Containers and networks of replicas on one engine: place, make, look, remove, sweep. Blocking calls, for threads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from control_plane.domain.errors import Broken, NoCapacity, Rejected, VitrineError
from control_plane.domain.ids import ReplicaId
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaObservation, ReplicaSpec
from control_plane.runtimes.docker import facts, firewall, manifests, roots
from control_plane.runtimes.docker.engine import Absent, Clash, Engine, Item, Refused
from control_plane.runtimes.docker.host_paths import HostPaths
from control_plane.runtimes.docker.logs import LogFollowers, clean
from control_plane.runtimes.docker.manifests import Machine, Names
from control_plane.runtimes.docker.options import DockerOptions
from control_plane.runtimes.docker.roots import Root

_TAIL_LINES = 50
_FEWEST_FILES = 1024


class Containers:
    """`missing`: what the sandbox floor lacks here, "" when it is met. `marks`: the folder of `followers`' marks."""

    def __init__(self, engine: Engine, names: Names, options: DockerOptions, followers: LogFollowers, marks: Path) -> None:
        self.engine, self.names, self.followers = engine, names, followers
        self.missing = "the runtime was not started"
        self.disk_full: set[ReplicaId] = set()
        self.tails: dict[ReplicaId, tuple[str, ...]] = {}
        self._options, self._marks = options, marks
        self._disk_by_engine = True
        self._open_files = 1 << 20
        self._roots: dict[str, Root] = {}
        self._host_paths = HostPaths(engine.volume_places)

    @property
    def ours(self) -> str:
        """The label of everything that is this platform's."""
        return f"{manifests.PLATFORM}={self.names.tag}"

    def place(self, spec: ReplicaSpec, reserved: Sequence[tuple[str, tuple[str, ...]]]) -> tuple[str, tuple[str, ...]]:
        """A subnet and GPUs that nobody has. `reserved`: those of replicas that are being made.

        Raises NoCapacity, or Rejected for more GPUs than this machine ever has.
        """
        nets = [str(c["Subnet"]) for n in self.engine.networks() for c in (n.get("IPAM") or {}).get("Config") or [] if c.get("Subnet")]
        nets += [one for one, _ in reserved] + firewall.host_networks()
        subnet = next(manifests.free_subnets(self._options.subnets, nets, self.names.tag), "")
        if not subnet:
            raise NoCapacity(f"no network is free in {self._options.subnets}")
        wanted = spec.flavor.gpu_count
        if not wanted:
            return subnet, ()
        if wanted > len(self._options.gpus):
            has = f"has {len(self._options.gpus)} for apps" if self._options.gpus else "has none"
            raise Rejected(
                f"The hardware {spec.flavor.name} needs {wanted} GPU{'s' * (wanted > 1)}, and this machine {has}.",
                facts={"reason": Reason.UNSUPPORTED_HERE.value},
            )
        held = {gpu for item in self.everything() if item["State"] != "exited" for gpu in manifests.gpus_of(item["Labels"])}
        held |= {gpu for _, gpus in reserved for gpu in gpus}
        free = [gpu for gpu in self._options.gpus if gpu not in held]
        if len(free) < wanted:
            raise NoCapacity(f"{wanted} GPUs are asked for and {len(free)} are free")
        return subnet, tuple(free[:wanted])

    def make(self, spec: ReplicaSpec, machine: Machine, subnet: str, gpus: Sequence[str]) -> None:
        engine, name = self.engine, self.names.of(spec.replica_id)
        granted = manifests.grant(spec, replace(machine, open_files=self._open_files), gpus)
        has_egress = not self.missing and bool(self._options.openings.egress_ports)
        self.remove(spec.replica_id, 0.0)  # an earlier try may have left half of it
        engine.create_network(manifests.network(spec, self.names, subnet, has_egress=has_egress))
        bridge = self.names.bridge(spec.replica_id)
        if not self.missing and not Path("/sys/class/net", bridge).exists() and not spec.trusted:
            raise Rejected(
                f"{Reason.SANDBOX_UNAVAILABLE.words} The engine's networks are not on this host, so its rules do not hold there.",
                code="SandboxUnavailable",
                facts={"reason": Reason.SANDBOX_UNAVAILABLE.value},
            )
        if self._options.openings.uses_loopback and not self.missing:
            firewall.open_loopback(bridge)
        gateway = manifests.gateway_of(subnet)
        try:
            root = self._root_of(spec)
            while True:
                container = self._create(name, spec, granted, gateway, root)
                try:
                    engine.start(container)
                    break
                except Broken as error:
                    if "rlimit type 7" not in error.message or self._open_files <= _FEWEST_FILES:
                        raise
                    # The engine itself runs under a lower limit, which only a start tells: found once, kept from then on.
                    engine.remove(name)
                    self._open_files = max(min(granted.open_files, self._open_files) // 2, _FEWEST_FILES)
                    granted = replace(granted, open_files=self._open_files)
        except (Refused, Absent) as error:
            raise Rejected(f"The app could not be started: {error.message}", facts={"reason": Reason.APP_EXITED.value}) from error
        except Clash as error:
            raise Broken(f"the engine is busy with this replica: {error.message}") from error
        self.followers.follow(spec.space_id, spec.replica_id, container)

    def _create(self, name: str, spec: ReplicaSpec, granted: manifests.Grant, gateway: str, root: Root) -> str:
        if self._disk_by_engine:
            try:
                return self.engine.create(name, self._body(spec, granted, gateway, root, disk_by_engine=True))
            except (Broken, Refused) as error:
                if "storage-opt" not in error.message and "storage opt" not in error.message.lower():
                    raise
                self._disk_by_engine = False  # the storage driver has no quotas here; we measure
                with contextlib.suppress(VitrineError):
                    self.engine.remove(name)
        return self.engine.create(name, self._body(spec, granted, gateway, root, disk_by_engine=False))

    def _body(self, spec: ReplicaSpec, granted: manifests.Grant, gateway: str, root: Root, *, disk_by_engine: bool) -> manifests.Body:
        body = manifests.container(spec, granted, self.names, gateway, disk_by_engine=disk_by_engine, root=root)
        for mount in body["HostConfig"]["Mounts"]:
            if mount["Type"] == "bind":
                mount["Source"] = self._host_paths.of(mount["Source"])
        return body

    def _root_of(self, spec: ReplicaSpec) -> Root:
        """What of its root the app may write; the look into an image of unknown make is remembered."""
        image = self.engine.inspect_image(spec.artifact.ref)
        if (told := roots.root_by_label(image)) is not None:
            return told
        known = self._roots.get(image["Id"])
        if known is None:
            workdir = str((image.get("Config") or {}).get("WorkingDir") or "/")
            body = roots.look_container(spec.artifact.ref, workdir, {manifests.PLATFORM: self.names.tag})
            words = self.engine.run_briefly(f"{self.names.of(spec.replica_id)}-look", body, roots.LOOK_S)
            known = self._roots[image["Id"]] = roots.root_by_look(words)
        return known

    def remove(self, replica_id: ReplicaId, grace_s: float) -> None:
        """Container, its volumes, its network. The engine's grace is in whole seconds, and 0 kills at once."""
        name = self.names.of(replica_id)
        if grace_s > 0:
            self.engine.stop(name, max(round(grace_s), 1))
        self.followers.finish(replica_id, 0.5 if grace_s > 0 else 0.0)
        self.engine.remove(name)
        self.followers.forget(replica_id)
        with contextlib.suppress(Clash, Broken):  # a container that is being removed holds it a moment longer; the sweep is next
            self.engine.remove_network(name)

    def sweep(self) -> None:
        """What a start that died half way has left: containers that never ran, networks and marks without a container."""
        kept = set()
        for item in self.everything():
            if item["State"] in ("created", "dead", "removing"):
                self.engine.remove(item["Id"])
            else:
                kept.add(self.names.of(item["Labels"][manifests.REPLICA]))
        for network in self.engine.networks():
            if (network.get("Labels") or {}).get(manifests.PLATFORM) == self.names.tag and network["Name"] not in kept:
                with contextlib.suppress(Clash, Broken):
                    self.engine.remove_network(network["Name"])
        for mark in self._marks.iterdir():
            if self.names.of(mark.name) not in kept:
                mark.unlink(missing_ok=True)

    def everything(self) -> list[Item]:
        """Ours, whatever their state; the engine's short form."""
        return [item for item in self.engine.containers(self.ours) if manifests.REPLICA in (item.get("Labels") or {})]

    def written(self, container: str) -> int:
        """Bytes of its layer and of its unnamed volumes. Raises Absent when it is gone."""
        inspected = self.engine.inspect(container, with_size=True)
        volumes = [m for m in inspected.get("Mounts") or [] if m.get("Type") == "volume"]
        return int(inspected.get("SizeRw") or 0) + sum(_folder_bytes(str(volume["Source"])) for volume in volumes)

    def is_there(self, replica_id: ReplicaId) -> bool:
        try:
            return bool(self.engine.inspect(self.names.of(replica_id))["State"]["Running"])
        except Absent:
            return False

    def look(self, item: Item) -> list[ReplicaObservation]:
        if manifests.REPLICA not in item["Labels"]:
            return []
        replica_id = ReplicaId(item["Labels"][manifests.REPLICA])
        try:
            inspected = self.engine.inspect(item["Id"])
        except Absent:
            return []
        ports: tuple[int, ...] = ()
        if inspected["State"].get("Running"):
            ports = _ports_of(int(inspected["State"].get("Pid") or 0), inspected["Id"])
        elif replica_id not in self.tails and inspected["State"].get("Status") == "exited":
            with contextlib.suppress(VitrineError):
                text = self.engine.tail(item["Id"], _TAIL_LINES).rstrip(b"\n")
                self.tails[replica_id] = tuple(clean(line) for line in text.split(b"\n")) if text else ()
        return [
            facts.observation(
                inspected,
                disk_full=replica_id in self.disk_full,
                log_tail=self.tails.get(replica_id, ()),
                ports=ports,
                node=self._options.node_name,
            )
        ]


def _folder_bytes(folder: str) -> int:
    """Bytes on disk. What cannot be read here (the engine's data is elsewhere) counts as nothing."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total


def _ports_of(pid: int, container: str) -> tuple[int, ...]:
    """What it listens on, where the engine's process ids are ours: its control group must name the container."""
    try:
        if pid <= 0 or container not in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8"):
            return ()
        texts = [Path(f"/proc/{pid}/net/{name}").read_text(encoding="utf-8") for name in ("tcp", "tcp6")]
    except OSError:
        return ()
    return tuple(sorted({port for text in texts for port in facts.listening_ports(text)}))
