"""What the watches have told so far, kept small and asked often. Locked; filled by watch threads, read by the event loop.

Per node it holds what each pod takes (ours and others'), so capacity costs one pass over the nodes, not over the pods.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from control_plane.domain.capacity import Capacity, Node, NodePool
from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.runtimes.kubernetes import facts, names
from control_plane.runtimes.kubernetes.facts import Hint, Item, PodUse
from control_plane.runtimes.kubernetes.heartbeats import Heartbeats
from control_plane.runtimes.kubernetes.policy_engines import engine_of_nodes, engine_of_pod

_MAX_HINTS = 5000


class ClusterCache:
    """`changed(space_id)` is called, outside the lock, after a replica of that Space changed; `pod_gone(uid)` likewise."""

    def __init__(self, changed: Callable[[SpaceId], None], pod_gone: Callable[[str], None] = lambda uid: None) -> None:
        self._changed = changed
        self._pod_gone = pod_gone
        self._gone_pods: list[str] = []
        self._lock = threading.RLock()
        self._deployments: dict[ReplicaId, Item] = {}
        self._of_space: dict[SpaceId, set[ReplicaId]] = {}
        self._gone: dict[ReplicaId, str] = {}  # stopped by us: uid of the deployment whose late events are ignored
        self._pods: dict[ReplicaId, dict[str, Item]] = {}  # ours, by uid
        self._uses: dict[str, dict[str, PodUse]] = {}  # node → pod uid → use
        self._node_of_pod: dict[str, str] = {}
        self._nodes: dict[str, Item] = {}
        self._hints: dict[str, Hint] = {}
        self._agents: dict[str, str] = {}  # pod uid → the NetworkPolicy engine whose agent it is
        self.heartbeats = Heartbeats(self._node_turned)
        self.deployments = _Sink(self, self._replace_deployments, self.put_deployment, self._deleted_deployment)
        self.pods = _Sink(self, self._replace_pods, self._put_pod, self._drop_pod)
        self.nodes = _Sink(self, self._replace_nodes, self._put_node, self._drop_node)
        self.events = _Sink(self, self._replace_events, self._put_event, lambda item: None)

    # -- questions

    def replicas_of(self, space_id: SpaceId) -> tuple[Item, ...]:
        with self._lock:
            return tuple(self._deployments[r] for r in sorted(self._of_space.get(space_id, ())))

    def deployments_now(self) -> tuple[Item, ...]:
        with self._lock:
            return tuple(self._deployments.values())

    def deployment(self, replica_id: ReplicaId) -> Item | None:
        with self._lock:
            return self._deployments.get(replica_id)

    def pods_of(self, replica_id: ReplicaId) -> tuple[Item, ...]:
        with self._lock:
            return tuple(self._pods.get(replica_id, {}).values())

    def hint_for(self, pod: Item) -> Hint | None:
        with self._lock:
            return self._hints.get(pod["metadata"]["name"])

    def newest_generation(self, space_id: SpaceId) -> int:
        return max((int(d["metadata"]["labels"][names.GENERATION]) for d in self.replicas_of(space_id)), default=0)

    def is_node_lost(self, name: str) -> bool:
        """True for a node that is gone or not ready; a pod without a node is not on a lost one."""
        if not name:
            return False
        with self._lock:
            node = self._nodes.get(name)
        return node is None or not facts.is_node_ready(node) or self.heartbeats.is_silent(name)

    def policy_engine(self) -> str:
        """Who enforces NetworkPolicy here, as far as its pods or the nodes show it; "" = nobody that we know."""
        with self._lock:
            return next(iter(self._agents.values()), "") or engine_of_nodes(self._nodes.values())

    def _node_turned(self, name: str) -> None:
        for space_id in self.spaces_on(name):
            self._changed(space_id)

    def spaces_on(self, node: str) -> tuple[SpaceId, ...]:
        with self._lock:
            uses = self._uses.get(node, {}).values()
            replicas = {use.replica_id for use in uses if use.replica_id}
            found = (self._deployments.get(r) for r in replicas)
            return tuple({SpaceId(d["metadata"]["labels"][names.SPACE]) for d in found if d is not None})

    def capacity(self, pools: tuple[NodePool, ...]) -> Capacity:
        made: list[Node] = []
        with self._lock:
            for name, item in self._nodes.items():
                pool = facts.pool_of(item, pools)
                if pool is not None:
                    uses = self._uses.get(name, {}).values()
                    made.append(facts.node(item, pool, uses, lost=self.heartbeats.is_silent(name)))
        return Capacity(pools, tuple(made))

    # -- our own calls, ahead of the watch

    def put_deployment(self, item: Item) -> SpaceId | None:
        labels = item["metadata"].get("labels") or {}
        if not names.is_ours(labels):
            return None
        replica_id, space_id = ReplicaId(labels[names.REPLICA]), SpaceId(labels[names.SPACE])
        if self._gone.get(replica_id) == item["metadata"].get("uid", ""):
            return None
        if "deletionTimestamp" in item["metadata"]:
            return self._drop_deployment(item)
        known = self._deployments.get(replica_id)
        if known is not None and known["metadata"].get("uid") == item["metadata"].get("uid") and _version(known) > _version(item):
            return None
        item["metadata"].pop("managedFields", None)
        self._deployments[replica_id] = item
        self._of_space.setdefault(space_id, set()).add(replica_id)
        return space_id

    def applied(self, item: Item) -> None:
        with self._lock:
            self._gone.pop(ReplicaId(item["metadata"]["labels"][names.REPLICA]), None)
            self.put_deployment(item)

    def stopped(self, replica_id: ReplicaId) -> None:
        with self._lock:
            item = self._deployments.get(replica_id)
            if item is not None:
                self._gone[replica_id] = item["metadata"].get("uid", "")
                self._drop_deployment(item)

    # -- what the watches bring; each gives the Space that changed

    def _replace_deployments(self, items: list[Item]) -> Iterable[SpaceId | None]:
        present = {ReplicaId(i["metadata"].get("labels", {}).get(names.REPLICA, "")) for i in items}
        changed: list[SpaceId | None] = [self._drop_deployment(d) for r, d in list(self._deployments.items()) if r not in present]
        self._gone = {r: uid for r, uid in self._gone.items() if r in present}
        return changed + [self.put_deployment(item) for item in items]

    def _deleted_deployment(self, item: Item) -> SpaceId | None:
        self._gone.pop(ReplicaId((item["metadata"].get("labels") or {}).get(names.REPLICA, "")), None)
        return self._drop_deployment(item)

    def _drop_deployment(self, item: Item) -> SpaceId | None:
        labels = item["metadata"].get("labels") or {}
        if not names.is_ours(labels):
            return None
        replica_id, space_id = ReplicaId(labels[names.REPLICA]), SpaceId(labels[names.SPACE])
        if self._deployments.pop(replica_id, None) is None:
            return None
        replicas = self._of_space.get(space_id, set())
        replicas.discard(replica_id)
        if not replicas:
            self._of_space.pop(space_id, None)
        return space_id

    def _replace_pods(self, items: list[Item]) -> Iterable[SpaceId | None]:
        changed = {SpaceId(p["metadata"]["labels"][names.SPACE]) for pods in self._pods.values() for p in pods.values()}
        present = {item["metadata"]["uid"] for item in items}
        self._gone_pods += [uid for pods in self._pods.values() for uid in pods if uid not in present]
        self._pods.clear()
        self._uses.clear()
        self._node_of_pod.clear()
        self._agents.clear()
        return changed | {s for s in (self._put_pod(item) for item in items) if s}

    def _put_pod(self, item: Item) -> SpaceId | None:
        uid = item["metadata"]["uid"]
        old_node = self._node_of_pod.pop(uid, None)
        if old_node is not None:
            self._uses[old_node].pop(uid, None)
        use = facts.pod_use(item)
        if use is not None:
            self._uses.setdefault(use.node, {})[uid] = use
            self._node_of_pod[uid] = use.node
        labels = item["metadata"].get("labels") or {}
        if not names.is_ours(labels):
            if engine := engine_of_pod(labels):
                self._agents[uid] = engine
            return None
        self._pods.setdefault(ReplicaId(labels[names.REPLICA]), {})[uid] = _slim(item)
        return SpaceId(labels[names.SPACE])

    def _drop_pod(self, item: Item) -> SpaceId | None:
        uid = item["metadata"]["uid"]
        node = self._node_of_pod.pop(uid, None)
        if node is not None:
            self._uses[node].pop(uid, None)
        self._agents.pop(uid, None)
        labels = item["metadata"].get("labels") or {}
        if not names.is_ours(labels):
            return None
        replica_id = ReplicaId(labels[names.REPLICA])
        pods = self._pods.get(replica_id, {})
        if pods.pop(uid, None) is not None:
            self._gone_pods.append(uid)
        if not pods:
            self._pods.pop(replica_id, None)
        self._hints.pop(item["metadata"]["name"], None)
        return SpaceId(labels[names.SPACE])

    def _replace_nodes(self, items: list[Item]) -> Iterable[SpaceId | None]:
        before = set(self._nodes)
        self._nodes = {}
        changed: set[SpaceId] = set()
        for item in items:
            changed.update(self._put_node(item))
        for name in before - set(self._nodes):
            changed.update(self.spaces_on(name))
        return changed

    def _put_node(self, item: Item) -> Iterable[SpaceId]:
        name = item["metadata"]["name"]
        known = self._nodes.get(name)
        for bulk in ("managedFields", "annotations"):
            item["metadata"].pop(bulk, None)
        item.get("status", {}).pop("images", None)
        self._nodes[name] = item
        flipped = known is None or facts.is_node_ready(known) != facts.is_node_ready(item)
        return self.spaces_on(name) if flipped else ()

    def _drop_node(self, item: Item) -> Iterable[SpaceId]:
        name = item["metadata"]["name"]
        self._nodes.pop(name, None)
        return self.spaces_on(name)

    def _replace_events(self, items: list[Item]) -> Iterable[SpaceId | None]:
        self._hints.clear()
        return [self._put_event(item) for item in items]

    def _put_event(self, item: Item) -> SpaceId | None:
        found = facts.hint(item)
        if found is None:
            return None
        name, hint = found
        self._hints[name] = hint
        while len(self._hints) > _MAX_HINTS:
            del self._hints[next(iter(self._hints))]
        return None  # the pod's own change follows


class _Sink:
    """A `watch.Sink` over one part of the cache: takes the lock, then tells who changed."""

    def __init__(
        self,
        cache: ClusterCache,
        replace: Callable[[list[Item]], Iterable[SpaceId | None]],
        upsert: Callable[[Item], Any],
        delete: Callable[[Item], Any],
    ) -> None:
        self._cache, self._replace, self._upsert, self._delete = cache, replace, upsert, delete

    def replace(self, items: list[Item]) -> None:
        with self._cache._lock:
            changed = list(self._replace(items))
        self._tell(changed)

    def upsert(self, item: Item) -> None:
        with self._cache._lock:
            changed = self._upsert(item)
        self._tell(changed)

    def delete(self, item: Item) -> None:
        with self._cache._lock:
            changed = self._delete(item)
        self._tell(changed)

    def _tell(self, changed: Any) -> None:
        while self._cache._gone_pods:
            self._cache._pod_gone(self._cache._gone_pods.pop())
        found: Iterable[SpaceId | None] = (SpaceId(changed),) if isinstance(changed, str) else changed or ()
        for space_id in dict.fromkeys(found):
            if space_id:
                self._cache._changed(space_id)


def _version(item: Item) -> int:
    """Larger is newer where the server uses plain numbers (etcd revisions); anything else counts as equal."""
    text = str(item["metadata"].get("resourceVersion", ""))
    return int(text) if text.isdigit() else 0


def _slim(pod: Item) -> Item:
    """What is asked of our pods later; specs and managed fields are most of their size."""
    metadata = {k: v for k, v in pod["metadata"].items() if k not in ("managedFields", "annotations")}
    spec = pod.get("spec", {})
    return {"metadata": metadata, "spec": {"nodeName": spec.get("nodeName", "")}, "status": pod.get("status", {})}
