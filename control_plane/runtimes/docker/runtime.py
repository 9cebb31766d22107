"""The Docker runtime: the `Runtime` port on one Docker Engine. Containers outlive the scheduler; labels tell the next one what they are.

Observations are the engine's own word at that moment, so an engine that does not answer is `Unavailable`, never "gone".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from control_plane.background import ended
from control_plane.domain.capacity import Capacity, Node, NodePool
from control_plane.domain.errors import Broken, NoCapacity, Rejected, StaleGeneration, Unavailable, VitrineError
from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaObservation, ReplicaSpec, ReplicaState, ReplicaUsage
from control_plane.runtimes.docker import facts, firewall, manifests
from control_plane.runtimes.docker.containers import Containers
from control_plane.runtimes.docker.engine import Absent, Clash, Engine, Item, Refused, Stream
from control_plane.runtimes.docker.logs import LogFollowers, LogSink, Outbox
from control_plane.runtimes.docker.manifests import Machine, Names
from control_plane.runtimes.docker.options import DockerOptions
from control_plane.runtimes.docker.rules import firewall as firewall_rules
from control_plane.runtimes.volumes import overfull

log = logging.getLogger(__name__)
T = TypeVar("T")
_DISK_CHECK_SHARE = 0.05  # of the time may be spent on looking at disks


@dataclass
class _Waiting:
    """A replica without a container yet: its image is being pulled, or could not be."""

    spec: ReplicaSpec
    task: asyncio.Task[None]
    reason: Reason | None = None
    message: str = ""


class DockerRuntime:
    """`docker_host`: the engine's address, "" = its usual socket. `log` takes what apps print. `data_dir` holds how far it was read.

    `load_firewall` takes nft's rules and gives "" when they are in force (replaced in tests only).
    """

    def __init__(
        self,
        docker_host: str,
        log: LogSink,
        data_dir: Path,
        options: DockerOptions | None = None,
        *,
        load_firewall: Callable[[str], str] = firewall.load,
    ) -> None:
        self._options = options or DockerOptions()
        self._sink, self._load_firewall = log, load_firewall
        self._engine = Engine(docker_host, login=self._options.login)
        self._names = Names.of_platform(data_dir)
        self._marks = data_dir / "run" / "docker-logs"
        self._pool = ThreadPoolExecutor(16, thread_name_prefix="docker")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._outbox: Outbox | None = None
        self._followers = LogFollowers(self._engine, self._deliver, self._marks, retry_s=self._options.retry_s)
        self._containers = Containers(self._engine, self._names, self._options, self._followers, self._marks)
        self._machine = Machine(1.0, 1 << 30)
        self._generations: dict[SpaceId, int] = {}
        self._locks: dict[ReplicaId, asyncio.Lock] = {}
        self._placing = asyncio.Lock()
        self._reserved: dict[ReplicaId, tuple[str, tuple[str, ...]]] = {}  # subnet and GPUs of replicas that are being made
        self._waiting: dict[ReplicaId, _Waiting] = {}
        self._looks: dict[ReplicaId, Item] = {}
        self._subscribers: set[asyncio.Queue[SpaceId | None]] = set()
        self._closing = threading.Event()
        self._events: Stream | None = None
        self._watcher = threading.Thread(target=self._watch, name="docker events", daemon=True)
        self._disk_task: asyncio.Task[None] | None = None

    @property
    def missing(self) -> str:
        """What keeps the sandbox floor from being met here, "" when nothing does; known after `start()`."""
        return self._containers.missing

    async def start(self) -> None:
        """Raises Unavailable when the engine does not answer within `connect_timeout_s`."""
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox(self._loop, self._sink)
        self._marks.mkdir(parents=True, exist_ok=True, mode=0o700)
        info = await self._first_answer()
        self._machine = Machine(float(info.get("NCPU") or 1), int(info.get("MemTotal") or 1 << 30))
        rules = firewall_rules(self._names.table, f"{self._names.bridges}*", self._options.openings)
        self._containers.missing = _missing_of(info) or await self._do(lambda: self._load_rules(info, rules))
        if self._containers.missing:
            log.warning("docker.floor_missed", extra={"missing": self._containers.missing})
        await self._do(self._containers.sweep)
        for item in await self._do(self._containers.everything):
            replica_id, space_id, generation = facts.replica_of(item["Labels"])
            self._generations[space_id] = max(generation, self._generations.get(space_id, 0))
            self._followers.follow(space_id, replica_id, item["Id"])
        self._watcher.start()
        self._disk_task = asyncio.create_task(self._watch_disks())

    async def apply(self, spec: ReplicaSpec) -> None:
        lock = self._locks.setdefault(spec.replica_id, asyncio.Lock())
        try:
            async with lock:
                await self._apply(spec)
        finally:
            if not lock.locked():
                self._locks.pop(spec.replica_id, None)

    async def observe(self, space_id: SpaceId) -> tuple[ReplicaObservation, ...]:
        return await self._observe(f"{manifests.SPACE}={space_id}", lambda spec: spec.space_id == space_id)

    async def observe_all(self) -> tuple[ReplicaObservation, ...]:
        return await self._observe(manifests.REPLICA, lambda spec: True)

    async def stop(self, replica_id: ReplicaId, *, grace_s: float = 5.0) -> None:
        waiting = self._waiting.pop(replica_id, None)
        if waiting is not None:
            await ended(waiting.task)
        await self._do(lambda: self._containers.remove(replica_id, grace_s))
        for memory in (self._containers.tails, self._looks):
            memory.pop(replica_id, None)
        self._containers.disk_full.discard(replica_id)

    async def remove_space(self, space_id: SpaceId, space_name: str) -> None:
        """Nothing of a Space outlives its replicas here."""

    async def capacity(self) -> Capacity:
        vcpu, memory, gpus, replicas = 0.0, 0, 0, set()
        for item in await self._do(self._containers.everything):
            if item["State"] in ("running", "paused", "restarting", "created"):
                labels = item["Labels"]
                vcpu += float(labels[manifests.VCPU])
                memory += int(labels[manifests.MEMORY])
                gpus += len(manifests.gpus_of(labels))
                replicas.add(ReplicaId(labels[manifests.REPLICA]))
        options = self._options
        node = Node(
            options.node_name, options.pool_name, self._machine.vcpu, self._machine.memory_bytes, len(options.gpus),
            used_vcpu=vcpu, used_memory_bytes=memory, used_gpus=gpus, replicas=frozenset(replicas),
        )  # fmt: skip
        return Capacity(
            (NodePool(options.pool_name, options.flavors(), max_nodes=1, overcommit=options.overcommit, shrinks=True),), (node,)
        )

    async def usage(self, replica_id: ReplicaId) -> ReplicaUsage | None:
        try:
            now = await self._do(lambda: self._engine.stats(self._names.of(replica_id)))
        except (Absent, Clash):
            return None
        before = self._looks.get(replica_id)
        found = facts.usage(replica_id, now, before)
        if found is not None:
            self._looks[replica_id] = now
        return found

    async def changes(self) -> AsyncIterator[SpaceId]:
        queue: asyncio.Queue[SpaceId | None] = asyncio.Queue()
        self._subscribers.add(queue)
        try:
            while (space_id := await queue.get()) is not None:
                yield space_id
        finally:
            self._subscribers.discard(queue)

    async def close(self) -> None:
        """Stop watching; containers run on, and the next scheduler finds them. May be called twice."""
        if self._closing.is_set():
            return
        self._closing.set()
        tasks = [waiting.task for waiting in self._waiting.values()] + ([self._disk_task] if self._disk_task else [])
        await ended(*tasks)
        await asyncio.to_thread(self._end_threads)
        if self._outbox is not None:
            await self._outbox.flush()
        for queue in self._subscribers:
            queue.put_nowait(None)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._engine.close()

    # -- starting one replica

    async def _apply(self, spec: ReplicaSpec) -> None:
        if spec.replica_id in self._waiting or await self._do(lambda: self._containers.is_there(spec.replica_id)):
            return
        newest = self._generations.get(spec.space_id, 0)
        if spec.fence < newest:
            raise StaleGeneration(f"generation {spec.fence} of {spec.space_name} is older than {newest}, which was started here")
        if self._containers.missing and not spec.trusted:
            raise Rejected(
                f"{Reason.SANDBOX_UNAVAILABLE.words} {self._containers.missing}",
                code="SandboxUnavailable",
                hint=self._containers.missing,
                facts={"reason": Reason.SANDBOX_UNAVAILABLE.value},
            )
        granted = manifests.grant(spec, self._machine)
        manifests.container(spec, granted, self._names, "0.0.0.0", disk_by_engine=False)  # refused before anything is made
        self._generations[spec.space_id] = spec.fence
        if await self._do(lambda: self._engine.has_image(spec.artifact.ref)):
            await self._launch(spec)
        else:
            task = asyncio.create_task(self._pull_and_launch(spec))
            self._waiting[spec.replica_id] = _Waiting(spec, task)

    async def _pull_and_launch(self, spec: ReplicaSpec) -> None:
        """Pulling may take minutes: meanwhile the replica is PENDING, and its Space can be observed and stopped."""
        reason, message = Reason.PLATFORM_ERROR, ""
        try:
            await self._do(lambda: self._engine.pull(spec.artifact.ref, self._options.pull_token(spec.artifact.ref)))
            await self._launch(spec)
            self._waiting.pop(spec.replica_id, None)
        except (Absent, Refused, Clash) as error:
            reason, message = Reason.IMAGE_PULL_FAILED, error.message
        except VitrineError as error:
            named = str(error.facts.get("reason", ""))
            reason = Reason(named) if named in set(Reason) else _wait_reason(error)
            message = error.message
        if message and (waiting := self._waiting.get(spec.replica_id)) is not None:
            waiting.reason, waiting.message = reason, message
        self._tell(spec.space_id)

    async def _launch(self, spec: ReplicaSpec) -> None:
        """Raises NoCapacity, Rejected, Unavailable or Broken; what was made until then is removed."""
        async with self._placing:
            subnet, gpus = await self._do(lambda: self._containers.place(spec, list(self._reserved.values())))
            self._reserved[spec.replica_id] = (subnet, gpus)
        try:
            await self._do(lambda: self._containers.make(spec, self._machine, subnet, gpus))
        except BaseException:
            with contextlib.suppress(VitrineError):
                await self._do(lambda: self._containers.remove(spec.replica_id, 0.0))
            raise
        finally:
            self._reserved.pop(spec.replica_id, None)

    # -- in threads

    async def _do(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    async def _first_answer(self) -> Item:
        deadline = asyncio.get_running_loop().time() + self._options.connect_timeout_s
        while True:
            try:
                return await self._do(self._engine.info)
            except Unavailable:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(self._options.retry_s)

    def _load_rules(self, info: Mapping[str, Any], rules: str) -> str:
        if not self._engine.is_local or any("rootless" in str(one) for one in info.get("SecurityOptions") or []):
            return (
                "The engine's networks are not those of this host (rootless or remote engine), so apps cannot be kept from its neighbours."
            )
        missing = self._load_firewall(rules)
        return f"Apps cannot be kept from the host's networks: {missing}." if missing else ""

    async def _observe(self, label: str, wanted: Callable[[ReplicaSpec], bool]) -> tuple[ReplicaObservation, ...]:
        def look() -> list[ReplicaObservation]:
            containers = self._containers
            return [seen for item in self._engine.containers(containers.ours, label) for seen in containers.look(item)]

        found = await self._do(look)
        known = {seen.replica_id for seen in found}
        for waiting in list(self._waiting.values()):
            spec = waiting.spec
            if wanted(spec) and spec.replica_id not in known:
                failed = waiting.reason is not None
                found.append(
                    ReplicaObservation(
                        spec.replica_id, spec.space_id, spec.generation, ReplicaState.FAILED if failed else ReplicaState.PENDING,
                        reason=waiting.reason or Reason.STARTING, message=waiting.message, node=self._options.node_name,
                    )
                )  # fmt: skip
        return tuple(found)

    # -- watching

    def _deliver(self, space_id: SpaceId, replica_id: ReplicaId, lines: list[str]) -> None:
        """In a follower's thread; there are none before `start()`."""
        if self._outbox is not None:
            self._outbox.put(space_id, replica_id, lines)

    def _watch(self) -> None:
        """The engine's events, for as long as we live; after a break every Space is looked at again."""
        is_first = True
        while not self._closing.is_set():
            try:
                self._events = stream = self._engine.events(self._containers.ours)
                if not is_first:
                    for item in self._containers.everything():
                        self._tell_soon(SpaceId(item["Labels"][manifests.SPACE]))
                is_first = False
                for event in stream:
                    labels = (event.get("Actor") or {}).get("Attributes") or {}
                    if event.get("Action") in ("die", "oom", "destroy") and manifests.SPACE in labels:
                        self._tell_soon(SpaceId(labels[manifests.SPACE]))
            except VitrineError as error:
                log.warning("docker.events", extra={"error": error.message})
            finally:
                if self._events is not None:
                    self._events.close()
            self._closing.wait(self._options.retry_s)

    def _tell_soon(self, space_id: SpaceId) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._tell, space_id)

    def _tell(self, space_id: SpaceId) -> None:
        for queue in self._subscribers:
            queue.put_nowait(space_id)

    async def _watch_disks(self) -> None:
        """Measure what each container wrote, one after the other, and end what is over. A quota of the engine holds the layer at once, a
        volume's size nobody else does."""
        took_s = 0.0
        while True:
            await asyncio.sleep(max(self._options.disk_check_s, took_s / _DISK_CHECK_SHARE))
            began = time.monotonic()
            with contextlib.suppress(VitrineError):
                for item in await self._do(self._containers.everything):
                    if item["State"] == "running":
                        await self._check_disk(item["Id"], item["Labels"])
            took_s = time.monotonic() - began

    async def _check_disk(self, container: str, labels: Mapping[str, str]) -> None:
        try:
            written = await self._do(lambda: self._containers.written(container))
        except Absent:
            return
        full = await self._do(lambda: overfull(manifests.own_volumes(labels)))
        if full or written > int(labels[manifests.DISK]):
            self._containers.disk_full.add(ReplicaId(labels[manifests.REPLICA]))
            await self._do(lambda: self._engine.kill(container))

    def _end_threads(self) -> None:
        self._followers.close()
        if self._watcher.ident is not None:
            for _ in range(50):  # the stream may be one that was opened this moment
                if self._events is not None:
                    self._events.close()
                self._watcher.join(0.1)
                if not self._watcher.is_alive():
                    break


def _missing_of(info: Mapping[str, Any]) -> str:
    """What the engine itself cannot give of the sandbox floor."""
    options = [str(one) for one in info.get("SecurityOptions") or []]
    if not any(one.startswith("name=seccomp") and "unconfined" not in one for one in options):
        return "The container engine has no seccomp filter."
    for name, words in (("MemoryLimit", "memory"), ("PidsLimit", "process"), ("CpuCfsQuota", "CPU")):
        if info.get(name) is False:
            return f"The kernel cannot hold containers to a {words} limit."
    return ""


def _wait_reason(error: VitrineError) -> Reason:
    if isinstance(error, NoCapacity):
        return Reason.NO_CAPACITY
    return Reason.IMAGE_PULL_FAILED if isinstance(error, Broken) else Reason.PLATFORM_ERROR
