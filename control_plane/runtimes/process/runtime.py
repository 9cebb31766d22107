"""The process runtime: the `Runtime` port on this machine's own kernel. No daemon, no root needed, nothing to install."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from control_plane.domain.builds import ArtifactKind
from control_plane.domain.capacity import Capacity, Node, NodePool
from control_plane.domain.errors import Broken, Rejected, StaleGeneration
from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaObservation, ReplicaSpec, ReplicaState, ReplicaUsage
from control_plane.domain.routes import Endpoint, EndpointKind
from control_plane.runtimes.process.cgroups import Group, Groups, open_groups
from control_plane.runtimes.process.egress import Egress
from control_plane.runtimes.process.egress_policy import EgressPolicy
from control_plane.runtimes.process.floor import FloorReport, sandbox_report
from control_plane.runtimes.process.manifests import Machine, Place, group_limits, launcher_spec
from control_plane.runtimes.process.replica_process import LogSink, ReplicaProcess
from control_plane.runtimes.process.volume_watch import watch_volumes

_UID_BASE, _UID_COUNT = 1_000_000, 400_000


class ProcessRuntime:
    """`data_dir` holds bundles, environments and run/. `log` takes what apps print. `egress_ports` are open to public
    addresses; `egress_allow` adds "host:port" pairs that may be private. `flavors` gives the names that this machine serves now,
    `overcommit` how often its CPU and memory may be promised (idle apps use little, and limits hold per replica)."""

    def __init__(
        self,
        data_dir: Path,
        log: LogSink,
        *,
        flavors: Callable[[], tuple[str, ...]] = lambda: ("cpu-basic", "cpu-upgrade"),
        egress_ports: tuple[int, ...] = (80, 443),
        egress_allow: tuple[str, ...] = (),
        node_name: str = "local",
        pool_name: str = "local",
        overcommit: float = 32.0,
        report: FloorReport | None = None,
        run_dir: Path | None = None,
        volume_check_s: float = 15.0,
    ) -> None:
        self._data_dir = data_dir.resolve()
        self._hub_cache = self._data_dir / "hub-cache" / "hub"  # filled by the API process (git/hub_cache.py)
        self._run_dir = run_dir or self._data_dir / "run"  # sockets: short paths
        self._log = log
        self._flavors = flavors
        self._egress_ports = egress_ports
        self._egress_allow = egress_allow
        self._node_name = node_name
        self._pool_name = pool_name
        self._overcommit = overcommit
        self._report = report
        self._volume_check_s = volume_check_s
        self._tag = hashlib.sha256(str(self._data_dir).encode()).hexdigest()[:10]
        self._machine = Machine(float(os.cpu_count() or 1), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        self._groups: Groups | None = None
        self._replicas: dict[ReplicaId, ReplicaProcess] = {}
        self._generations: dict[SpaceId, int] = {}
        self._starting: dict[ReplicaId, asyncio.Lock] = {}
        self._subscribers: set[asyncio.Queue[SpaceId | None]] = set()
        self._volume_watch: asyncio.Task[None] | None = None
        self._uid_next = int(self._tag, 16) % _UID_COUNT

    @property
    def report(self) -> FloorReport | None:
        """What this machine can isolate; known after `start()`."""
        return self._report

    async def start(self) -> None:
        (self._run_dir / "r").mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._report is None:
            self._report = await asyncio.to_thread(sandbox_report, f"{self._tag}-floor")
        self._groups, _ = await asyncio.to_thread(open_groups, self._tag)
        await asyncio.to_thread(self._sweep)
        self._volume_watch = asyncio.get_running_loop().create_task(watch_volumes(self._replicas.values, self._volume_check_s))

    async def apply(self, spec: ReplicaSpec) -> None:
        lock = self._starting.setdefault(spec.replica_id, asyncio.Lock())
        try:
            await self._apply_once(spec, lock)
        finally:
            if not lock.locked():
                self._starting.pop(spec.replica_id, None)

    async def _apply_once(self, spec: ReplicaSpec, lock: asyncio.Lock) -> None:
        async with lock:
            known = self._replicas.get(spec.replica_id)
            if known is not None and not known.state.is_terminal:
                return
            newest = self._generations.get(spec.space_id, 0)
            if spec.fence < newest:
                raise StaleGeneration(f"generation {spec.fence} of {spec.space_name} is older than {newest}, which was started here")
            self._check_floor(spec)
            place = self._place(spec)
            self._generations[spec.space_id] = spec.fence
            await self._launch(spec, place)

    async def observe(self, space_id: SpaceId) -> tuple[ReplicaObservation, ...]:
        return tuple(self._observation(replica) for replica in self._replicas.values() if replica.spec.space_id == space_id)

    async def observe_all(self) -> tuple[ReplicaObservation, ...]:
        return tuple(self._observation(replica) for replica in self._replicas.values())

    async def stop(self, replica_id: ReplicaId, *, grace_s: float = 5.0) -> None:
        replica = self._replicas.get(replica_id)
        if replica is None:
            return
        if not replica.state.is_terminal:
            await replica.stop(grace_s)
        if self._replicas.get(replica_id) is replica:
            del self._replicas[replica_id]
        self._write_register()

    async def remove_space(self, space_id: SpaceId, space_name: str) -> None:
        """Nothing of a Space outlives its replicas here."""

    async def capacity(self) -> Capacity:
        running = [replica.spec for replica in self._replicas.values() if replica.state.holds_capacity]
        limits = [group_limits(spec, self._machine) for spec in running]
        node = Node(
            self._node_name,
            self._pool_name,
            self._machine.vcpu,
            self._machine.memory_bytes,
            used_vcpu=sum(limit.vcpu for limit in limits),
            used_memory_bytes=sum(limit.memory_bytes for limit in limits),
            replicas=frozenset(spec.replica_id for spec in running),
        )
        pool = NodePool(self._pool_name, self._flavors(), max_nodes=1, overcommit=self._overcommit, shrinks=True)
        return Capacity((pool,), (node,))

    async def usage(self, replica_id: ReplicaId) -> ReplicaUsage | None:
        replica = self._replicas.get(replica_id)
        if replica is None or replica.state.is_terminal or replica.group is None:
            return None
        now, used = time.monotonic(), replica.group.cpu_seconds()
        then, before = replica.cpu_mark
        replica.cpu_mark = (now, used)
        cores = max(0.0, used - before) / max(0.001, now - then)
        limit = group_limits(replica.spec, self._machine).memory_bytes
        traffic = replica.egress.traffic
        return ReplicaUsage(replica_id, cores, replica.group.memory_bytes(), limit, traffic.received_bytes, traffic.sent_bytes)

    def egress_of(self, replica_id: ReplicaId) -> Egress | None:
        """What the replica called and what was refused, for its owner's page."""
        replica = self._replicas.get(replica_id)
        return replica.egress if replica else None

    async def changes(self) -> AsyncIterator[SpaceId]:
        queue: asyncio.Queue[SpaceId | None] = asyncio.Queue()
        self._subscribers.add(queue)
        try:
            while (space_id := await queue.get()) is not None:
                yield space_id
        finally:
            self._subscribers.discard(queue)

    async def close(self) -> None:
        if self._volume_watch is not None:
            self._volume_watch.cancel()
        await asyncio.gather(*(self.stop(replica_id, grace_s=2.0) for replica_id in list(self._replicas)))
        for queue in self._subscribers:
            queue.put_nowait(None)
        if self._groups is not None:
            self._groups.close()

    # ── one replica ──────────────────────────────────────────────────────────────────────────────────────────────

    def _check_floor(self, spec: ReplicaSpec) -> None:
        if self._report is None:
            raise Broken("the runtime was not started")
        if not self._report.is_met and not spec.trusted:
            raise Rejected(
                f"{Reason.SANDBOX_UNAVAILABLE.words} {self._report.words}",
                code="SandboxUnavailable",
                hint=self._report.missing[0].fix,
                facts={"reason": Reason.SANDBOX_UNAVAILABLE.value},
            )

    def _place(self, spec: ReplicaSpec) -> Place:
        """Where the artifact lies. Raises Rejected for a kind this runtime does not run, Broken when it is gone."""
        if spec.artifact.kind is not ArtifactKind.BUNDLE:
            raise Rejected(
                f"The process runtime runs bundles, not a {spec.artifact.kind.value}.", facts={"reason": Reason.UNSUPPORTED_HERE.value}
            )
        tree = self._data_dir / "bundles" / spec.artifact.ref / "tree"
        if ".." in Path(spec.artifact.ref).parts or not tree.is_dir():
            raise Broken(f"the bundle {spec.artifact.ref} is not on this machine")
        interpreter = os.path.realpath(sys.executable)
        if not spec.artifact.env_key:
            return Place(tree, None, interpreter)
        environment = self._data_dir / "envs" / spec.artifact.env_key
        if not (environment / "bin" / "python").exists():
            raise Broken(f"the environment {spec.artifact.env_key} is not on this machine")
        return Place(tree, environment, interpreter, interpreter_prefixes(environment / "bin" / "python"))

    async def _launch(self, spec: ReplicaSpec, place: Place) -> None:
        uid = self._take_uid()
        group = await asyncio.to_thread(self._make_group, spec)
        policy = EgressPolicy(self._egress_ports, self._egress_allow, (spec.hub_host,) if spec.hub_host else (), spec.hub_upstream)
        replica = ReplicaProcess(
            spec,
            group=group,
            door_path=self._run_dir / "r" / f"{spec.replica_id[:12]}.sock",
            outer_uid=uid,
            egress=Egress(policy),
            log=self._log,
            on_end=self._ended,
        )
        body = launcher_spec(
            spec,
            place,
            self._machine,
            cgroup_procs=group.procs_files if group else [],
            outer_uid=uid,
            egress={
                "ports": list(policy.ports),
                "allow": [f"{host}:{port}" for host, port in policy.allow],
                "hub_hosts": list(policy.hub_hosts),
            },
            hub_cache=self._hub_cache if self._hub_cache.is_dir() else None,
        )
        self._replicas[spec.replica_id] = replica
        try:
            await replica.run(body)
        except Exception:
            self._replicas.pop(spec.replica_id, None)
            if group is not None:
                await asyncio.to_thread(group.kill)
                group.remove()
            raise
        finally:
            self._write_register()

    def _make_group(self, spec: ReplicaSpec) -> Group | None:
        if self._groups is None:
            if spec.trusted:
                return None
            raise Rejected(Reason.SANDBOX_UNAVAILABLE.words, code="SandboxUnavailable", facts={"reason": Reason.SANDBOX_UNAVAILABLE.value})
        try:
            return self._groups.create(f"r-{spec.replica_id}", group_limits(spec, self._machine))
        except OSError as error:
            if spec.trusted:
                return None
            raise Broken(f"the limits of the replica could not be applied: {error}") from error

    def _take_uid(self) -> int:
        """As root: a host id that no running replica has. 0 as an ordinary user, who has only one."""
        if os.geteuid() != 0:
            return 0
        used = {replica.outer_uid for replica in self._replicas.values()}
        while True:
            self._uid_next = (self._uid_next + 1) % _UID_COUNT
            if _UID_BASE + self._uid_next not in used:
                return _UID_BASE + self._uid_next

    def _observation(self, replica: ReplicaProcess) -> ReplicaObservation:
        spec, is_failed = replica.spec, replica.state is ReplicaState.FAILED
        return ReplicaObservation(
            spec.replica_id,
            spec.space_id,
            spec.generation,
            replica.state,
            endpoint=None if replica.state.is_terminal else Endpoint(EndpointKind.DOOR, str(replica.door_path), spec.replica_id),
            reason=replica.reason,
            message=replica.message,
            exit_code=replica.exit_code,
            log_tail=tuple(replica.meter.tail) if is_failed else (),
            started_at=replica.started_at,
            listening_ports=() if replica.state.is_terminal else replica.listening_ports(),
            node=self._node_name,
        )

    def _ended(self, replica: ReplicaProcess) -> None:
        for queue in self._subscribers:
            queue.put_nowait(replica.spec.space_id)

    # ── what an earlier life left ────────────────────────────────────────────────────────────────────────────────

    @property
    def _register(self) -> Path:
        return self._run_dir / "replicas.json"

    def _write_register(self) -> None:
        rows = [{"pid": r.pid, "start": start_ticks(r.pid)} for r in self._replicas.values() if r.pid and not r.state.is_terminal]
        fresh = self._register.with_suffix(".new")
        fresh.write_text(json.dumps(rows), encoding="utf-8")
        fresh.replace(self._register)

    def _sweep(self) -> None:
        """End what a killed scheduler may have left: normally nothing, since every replica dies with its parent."""
        with contextlib.suppress(OSError, ValueError):
            for row in json.loads(self._register.read_text(encoding="utf-8")):
                # A pid alone may be somebody else's by now; with its start time it is the one we started.
                if row["start"] and start_ticks(row["pid"]) == row["start"]:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(row["pid"], signal.SIGKILL)
        if self._groups is not None:
            for name in self._groups.existing():
                left = self._groups.open(name)
                left.kill()
                left.remove()
        for stale in (self._run_dir / "r").glob("*.sock"):
            stale.unlink(missing_ok=True)


def start_ticks(pid: int) -> int:
    """When `pid` started, in clock ticks since boot (field 22 of /proc/PID/stat); 0 when there is none."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


def interpreter_prefixes(python: Path) -> tuple[tuple[str, str], ...]:
    """Each directory that the chain of links from an environment's python needs, as (on the host, inside)."""
    found: dict[str, str] = {}
    hop = str(python)
    for _ in range(16):
        if not os.path.islink(hop):
            break
        hop = os.path.normpath(os.path.join(os.path.dirname(hop), os.readlink(hop)))
        prefix = os.path.dirname(os.path.dirname(hop))
        if prefix not in ("/", "/usr") and not hop.startswith((f"{python.parent}/", "/usr/")):
            found[prefix] = os.path.realpath(prefix)
    real = os.path.realpath(hop)
    prefix = os.path.dirname(os.path.dirname(real))
    if prefix not in ("/", "/usr") and not real.startswith((f"{python.parent}/", "/usr/")):
        found[prefix] = prefix
    return tuple((source, target) for target, source in found.items())
