"""Replicas on a cluster: apply, observe, stop, capacity. kube-scheduler binds pods; Vitrine decided who may run and when.

Observations and capacity come from watch caches and cost no request; what a start costs is said in `objects`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TypeVar

from control_plane.domain.capacity import Capacity, NodePool
from control_plane.domain.errors import Rejected, StaleGeneration, Unavailable, VitrineError
from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaObservation, ReplicaSpec, ReplicaState, ReplicaUsage
from control_plane.ports.log_store import LogLine
from control_plane.runtimes.kubernetes import facts, names, policy_engines
from control_plane.runtimes.kubernetes.api import KubeApi
from control_plane.runtimes.kubernetes.cache import ClusterCache
from control_plane.runtimes.kubernetes.forward import Reach
from control_plane.runtimes.kubernetes.logs import TAIL_LINES, LogFollowers
from control_plane.runtimes.kubernetes.manifests import ClusterOptions
from control_plane.runtimes.kubernetes.namespaces import ensure_namespace
from control_plane.runtimes.kubernetes.objects import OURS, SpaceObjects, path_of
from control_plane.runtimes.kubernetes.policy_proof import PolicyProof
from control_plane.runtimes.kubernetes.pull_secrets import PullLogin, PullSecrets
from control_plane.runtimes.kubernetes.usage import PodUsage
from control_plane.runtimes.kubernetes.watch import Watcher

logger = logging.getLogger(__name__)

T = TypeVar("T")
LogSink = Callable[[str, str, Sequence[LogLine]], Awaitable[None]]  # (space id, replica id, lines)
_RENEW_S = 60.0  # how often pull secrets are looked at


class KubernetesRuntime:
    """`pools` gives the pools in force now. `log` receives apps' lines; None = not followed. `pull_login`: what nodes pull with, where
    `options.own_pull_secrets` has us write it.

    Blocking calls run in `threads` of our own, never in the event loop.
    """

    def __init__(
        self,
        api: KubeApi,
        pools: Callable[[], tuple[NodePool, ...]],
        options: ClusterOptions,
        *,
        log: LogSink | None = None,
        sync_timeout_s: float = 30.0,
        threads: int = 8,
        first_wait_s: float = 0.5,
        reach: Reach | None = None,
        pull_login: PullLogin | None = None,
    ) -> None:
        self._api, self._pools, self._options, self._log = api, pools, options, log
        self._sync_timeout_s = sync_timeout_s
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="kube")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listeners: set[asyncio.Queue[SpaceId]] = set()
        self._highest: dict[SpaceId, int] = {}
        self._was_ready: dict[ReplicaId, str] = {}  # the pod that was
        self._log_asked: set[ReplicaId] = set()  # failed replicas whose last lines were asked for
        self._locks: dict[SpaceId, asyncio.Lock] = {}
        self._reach = reach or Reach(api, "pod", None)
        self._proof = PolicyProof(api, options.platform_namespace, dict(options.proxy_labels)) if options.account else None
        self._followers = LogFollowers(api, self._deliver)
        self.cache = ClusterCache(self._changed, self._followers.end)
        self._pulls = PullSecrets(api, pull_login) if pull_login is not None and options.own_pull_secrets else None
        self._objects = SpaceObjects(api, self.cache, options, self._pulls)
        self._closing = threading.Event()
        self._tasks: list[asyncio.Task[None]] = []
        # Not waited for, and not needed: without the right to read these, a lost node is learned of when the cluster says so.
        self._beats = Watcher(
            api, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", self.cache.heartbeats, first_wait_s=first_wait_s,
            longest_wait_s=300.0,
        )  # fmt: skip
        scoped = "" if options.per_owner_namespaces else f"/namespaces/{options.namespace}"
        self._usage = PodUsage(api, scoped, OURS, self._do)
        self._watchers = (
            Watcher(api, "/api/v1/nodes", self.cache.nodes, first_wait_s=first_wait_s),
            Watcher(api, "/api/v1/pods", self.cache.pods, first_wait_s=first_wait_s),
            Watcher(api, f"/apis/apps/v1{scoped}/deployments", self.cache.deployments, label_selector=OURS, first_wait_s=first_wait_s),
            Watcher(
                api,
                f"/api/v1{scoped}/events",
                self.cache.events,
                field_selector="involvedObject.kind=Pod,type=Warning",
                first_wait_s=first_wait_s,
            ),
        )

    async def start(self) -> None:
        """Make sure of the namespace and its closed door, then begin watching. Raises Unavailable when the API is silent."""
        self._loop = asyncio.get_running_loop()
        if not self._options.per_owner_namespaces:
            await self._do(lambda: ensure_namespace(self._api, self._options.namespace))
        for watcher in (*self._watchers, self._beats):
            watcher.start()
        deadline = time.monotonic() + self._sync_timeout_s
        for watcher in self._watchers:
            if not await self._do(lambda w=watcher: w.synced.wait(max(deadline - time.monotonic(), 0.01))):  # type: ignore[misc]
                error = watcher.last_error
                raise Unavailable("the cluster's state could not be read in time") from error
        await self._do(self._objects.sweep)
        self._tasks.append(asyncio.create_task(self._look_at_heartbeats()))
        if self._pulls is not None:
            self._tasks.append(asyncio.create_task(self._renew(self._pulls)))

    async def _look_at_heartbeats(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self.cache.heartbeats.look()

    async def _renew(self, pulls: PullSecrets) -> None:
        while True:
            await asyncio.sleep(_RENEW_S)
            await self._do(lambda: pulls.renew(self.cache.deployments_now()))

    async def close(self) -> None:
        """Stop watching; replicas run on, the next scheduler finds them. May be called twice."""
        if self._closing.is_set():
            return
        self._closing.set()
        for task in self._tasks:
            task.cancel()
        for watcher in (*self._watchers, self._beats):
            watcher.stop()
        if self._proof is not None:
            self._proof.close()
        await self._reach.close()
        await asyncio.to_thread(self._join)
        for queue in self._listeners:
            queue.put_nowait(SpaceId(""))
        self._api.close()
        self._pool.shutdown(wait=False)

    async def apply(self, spec: ReplicaSpec) -> None:
        """Start this replica unless it runs. Raises StaleGeneration, Rejected (not an image by digest, unknown pool), Unavailable."""
        pool = next((p for p in self._pools() if p.name == spec.pool), None)
        if pool is None:
            pool = next((p for p in self._pools() if spec.flavor.name in p.flavors), None)
        if pool is None:
            raise Rejected(f"no node pool serves the hardware '{spec.flavor.name}'")
        async with self._locks.setdefault(spec.space_id, asyncio.Lock()):
            if self.cache.deployment(spec.replica_id) is not None:
                return
            highest = max(self._highest.get(spec.space_id, 0), self.cache.newest_generation(spec.space_id))
            if spec.fence < highest:
                raise StaleGeneration(f"generation {spec.fence} is older than {highest}")
            self._highest[spec.space_id] = spec.fence
            await self._do(lambda: self._objects.apply(spec, pool))

    async def observe(self, space_id: SpaceId) -> tuple[ReplicaObservation, ...]:
        return tuple([await self._observe(item) for item in self.cache.replicas_of(space_id)])

    async def observe_all(self) -> tuple[ReplicaObservation, ...]:
        return tuple([await self._observe(item) for item in self.cache.deployments_now()])

    async def stop(self, replica_id: ReplicaId, *, grace_s: float = 5.0) -> None:
        """Remove the replica; its pod gets TERM now and KILL after `grace_s` (whole seconds, at least one).

        Waits up to that long for the pod to go. A pod on a node that does not answer may stay longer; its place stays
        taken until it is really gone.
        """
        item = self.cache.deployment(replica_id)
        if item is None:
            return
        await self._reach.drop(replica_id, self.cache.pods_of(replica_id))
        grace = max(int(grace_s), 1)
        await self._do(lambda: self._objects.stop(item, grace))
        deadline = time.monotonic() + grace
        while self.cache.pods_of(replica_id) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        self._was_ready.pop(replica_id, None)
        self._log_asked.discard(replica_id)
        self._followers.forget(replica_id)
        space_id = SpaceId(item["metadata"]["labels"][names.SPACE])
        if not self.cache.replicas_of(space_id):
            self._locks.pop(space_id, None)
        self._tell(space_id)

    async def capacity(self) -> Capacity:
        return replace(self.cache.capacity(self._pools()), warning=self._policy_warning())

    async def usage(self, replica_id: ReplicaId) -> ReplicaUsage | None:
        """From the metrics API when the cluster has one."""
        item = self.cache.deployment(replica_id)
        pod = facts.newest_pod(self.cache.pods_of(replica_id))
        if item is None or pod is None:
            return None
        found = await self._usage.of(pod["metadata"]["name"])
        if found is None:
            return None
        limits = item["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
        return ReplicaUsage(replica_id, found[0], found[1], int(facts.quantity(limits.get("memory"))))

    async def changes(self) -> AsyncIterator[SpaceId]:
        queue: asyncio.Queue[SpaceId] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            while space_id := await queue.get():
                yield space_id
        finally:
            self._listeners.discard(queue)

    async def remove_space(self, space_id: SpaceId, space_name: str) -> None:
        """Forget everything of a deleted Space: service, policy, stored data. Unknown ids are fine.

        With a namespace per owner it is looked for in all of them: the Space may have moved, and its name may be gone.
        """
        await self._do(lambda: self._objects.remove_space(space_id))
        self._highest.pop(space_id, None)

    async def remove_volume(self, claim: str) -> None:
        """The cluster keeps a claim that a pod still uses until that pod is gone. Unknown names are fine."""
        await self._do(lambda: self._objects.remove_claim(claim))

    # -- inside: in threads

    async def _do(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def _last_lines(self, pod: facts.Item) -> tuple[str, ...]:
        path = path_of("v1", "pods", pod["metadata"]["namespace"], pod["metadata"]["name"]) + "/log"
        restarted = any(c.get("restartCount") for c in pod["status"].get("containerStatuses") or [])
        query = {"container": names.CONTAINER, "tailLines": str(TAIL_LINES), "limitBytes": str(256 << 10)}
        try:
            with self._api.stream(path, {**query, "previous": "true"} if restarted else query, read_timeout_s=5.0) as stream:
                return tuple(line.decode("utf-8", "replace") for line in stream.lines())
        except VitrineError:
            return ()

    # -- inside: what the cache says

    async def _observe(self, item: facts.Item) -> ReplicaObservation:
        replica_id = ReplicaId(item["metadata"]["labels"][names.REPLICA])
        pod = facts.newest_pod(self.cache.pods_of(replica_id))
        lost = pod is not None and self.cache.is_node_lost(pod["spec"].get("nodeName", ""))
        seen = facts.observation(
            item,
            pod,
            pod_hint=self.cache.hint_for(pod) if pod else None,
            node_lost=lost,
            log_tail=self._followers.tail(replica_id),
        )
        before = self._was_ready.get(replica_id)
        if before is not None and seen.state is not ReplicaState.FAILED and (pod is None or pod["metadata"]["uid"] != before):
            # Its pod was evicted, by a drain for example, and the cluster has put another in its place: that one is a new start, which
            # placement decides and visitors wait for.
            return replace(seen, state=ReplicaState.FAILED, endpoint=None, reason=Reason.NODE_LOST, message=Reason.NODE_LOST.words)
        if seen.state is ReplicaState.FAILED and pod is not None and not seen.log_tail and replica_id not in self._log_asked:
            self._log_asked.add(replica_id)  # it ended before anybody followed: one request for its last words
            return replace(seen, log_tail=await self._do(lambda: self._last_lines(pod)))
        if seen.endpoint is not None and pod is not None:
            is_final = seen.state is ReplicaState.READY
            seen = replace(seen, endpoint=await self._reach.endpoint(seen.endpoint, pod, is_final=is_final))
        if seen.state is ReplicaState.READY:
            self._was_ready[replica_id] = pod["metadata"]["uid"] if pod is not None else ""
            if self._proof is not None and seen.endpoint is not None:
                self._proof.try_once(seen.endpoint.address)
        elif seen.state is ReplicaState.STARTING and replica_id in self._was_ready:
            # Its probe fails for the moment. The proxy judges each answer itself; a replica never goes back to STARTING.
            return replace(seen, state=ReplicaState.READY, reason=Reason.APP_UNHEALTHY, message=Reason.APP_UNHEALTHY.words)
        return seen

    def _policy_warning(self) -> str:
        is_ignored = self._proof.is_ignored if self._proof else None
        if is_ignored is None:
            return "" if self.cache.policy_engine() else policy_engines.NOT_KNOWN
        return policy_engines.IGNORED if is_ignored else ""

    def _changed(self, space_id: SpaceId) -> None:
        """In a watch thread."""
        if self._closing.is_set() or self._loop is None:
            return
        self._follow_logs(space_id)
        try:
            self._loop.call_soon_threadsafe(self._tell, space_id)
        except RuntimeError:
            pass  # the loop is gone: we are being closed

    def _tell(self, space_id: SpaceId) -> None:
        for queue in self._listeners:
            queue.put_nowait(space_id)

    def _follow_logs(self, space_id: SpaceId) -> None:
        if self._log is None:
            return
        for item in self.cache.replicas_of(space_id):
            replica_id = ReplicaId(item["metadata"]["labels"][names.REPLICA])
            for pod in self.cache.pods_of(replica_id):
                metadata = pod["metadata"]
                states = [c.get("state") or {} for c in pod["status"].get("containerStatuses") or []]
                if any("running" in s or "terminated" in s for s in states):
                    runs = partial(self._runs_first_time, replica_id, metadata["uid"])
                    self._followers.follow(space_id, replica_id, metadata["namespace"], metadata["name"], metadata["uid"], runs)

    def _runs_first_time(self, replica_id: ReplicaId, uid: str) -> bool:
        for pod in self.cache.pods_of(replica_id):
            if pod["metadata"]["uid"] == uid:
                containers = pod["status"].get("containerStatuses") or []
                return any("running" in (c.get("state") or {}) and not c.get("restartCount") for c in containers)
        return False

    def _deliver(self, space_id: SpaceId, replica_id: ReplicaId, lines: list[LogLine]) -> None:
        """In a follower's thread; waits for the store, which slows a flood down to what the store takes."""
        sink, loop = self._log, self._loop
        if sink is None or loop is None or self._closing.is_set():
            return

        async def hand_over() -> None:
            await sink(space_id, replica_id, lines)

        work = hand_over()
        try:
            future = asyncio.run_coroutine_threadsafe(work, loop)
        except RuntimeError:  # the loop is closed
            work.close()
            return
        while not self._closing.is_set():
            try:
                future.result(timeout=0.5)
                return
            except TimeoutError:
                continue
            except Exception:
                logger.exception("log.not_stored", extra={"space_id": space_id})
                return

    def _join(self) -> None:
        self._followers.close()
        for watcher in (*self._watchers, self._beats):
            watcher.join()
