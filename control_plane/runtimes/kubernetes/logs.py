"""Apps' logs: one thread per running pod follows the API's log and hands lines over in small batches.

Lines carry the kubelet's own time. After a break the follow goes on from the last time seen, so a line may come twice
but none is left out. What was handed over stays in the log store after the pod is gone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from control_plane.domain.errors import VitrineError
from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.ports.log_store import LogLine
from control_plane.runtimes.kubernetes import names
from control_plane.runtimes.kubernetes.api import Absent, KubeApi, Stream

TAIL_LINES = 50
_MAX_LINE_BYTES = 16 << 10
_BATCH = 200

Deliver = Callable[[SpaceId, ReplicaId, list[LogLine]], None]


class LogFollowers:
    """`deliver(space_id, replica_id, lines)` is called in a follower's thread; it may block to slow a flood down. `limit`: threads."""

    def __init__(self, api: KubeApi, deliver: Deliver, *, limit: int = 1000, wait_s: float = 1.0) -> None:
        self._api, self._deliver, self._limit, self._wait_s = api, deliver, limit, wait_s
        self._followers: dict[str, _Follower] = {}
        self._tails: dict[ReplicaId, deque[str]] = {}
        self._lock = threading.Lock()

    def follow(
        self, space_id: SpaceId, replica_id: ReplicaId, namespace: str, pod: str, uid: str, still_runs: Callable[[], bool] = lambda: True
    ) -> None:
        """Begin, once per pod. Does nothing beyond `limit`. `still_runs`: whether to go on after the log ended properly.

        A container that the kubelet started again is not followed: its replica has failed, and what it said last must
        stay the last of its log.
        """
        with self._lock:
            if uid in self._followers or len(self._followers) >= self._limit:
                return
            tail = self._tails.setdefault(replica_id, deque(maxlen=TAIL_LINES))
            path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
            follower = _Follower(self._api, self._deliver, space_id, replica_id, path, tail, self._wait_s, still_runs)
            self._followers[uid] = follower
        follower.start()

    def tail(self, replica_id: ReplicaId) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._tails.get(replica_id, ()))

    def end(self, uid: str) -> None:
        """The pod is gone; what the server still holds of its log is read to the end by itself."""
        with self._lock:
            follower = self._followers.pop(uid, None)
        if follower is not None:
            follower.let_end()

    def forget(self, replica_id: ReplicaId) -> None:
        with self._lock:
            self._tails.pop(replica_id, None)

    def close(self) -> None:
        with self._lock:
            followers = list(self._followers.values())
            self._followers.clear()
        for follower in followers:
            follower.stop()
        for follower in followers:
            follower.join()


class _Follower:
    def __init__(
        self,
        api: KubeApi,
        deliver: Deliver,
        space_id: SpaceId,
        replica_id: ReplicaId,
        path: str,
        tail: deque[str],
        wait_s: float,
        still_runs: Callable[[], bool],
    ) -> None:
        self._api, self._path, self._tail, self._wait_s, self._still_runs = api, path, tail, wait_s, still_runs
        self._hand_over: Callable[[list[LogLine]], None] = partial(deliver, space_id, replica_id)
        self._ending = threading.Event()
        self._stopping = threading.Event()
        self._stream: Stream | None = None
        self._since: datetime | None = None
        self._thread = threading.Thread(target=self._run, name=f"log {path}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def let_end(self) -> None:
        self._ending.set()

    def stop(self) -> None:
        self._ending.set()
        self._stopping.set()
        if self._stream is not None:
            self._stream.close()

    def join(self) -> None:
        if self._thread.is_alive():
            self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stopping.is_set():
            ended = False
            try:
                self._follow()
                ended = True
            except Absent:
                return
            except VitrineError:
                pass  # the container is not up yet, or the connection broke: again, from where we were
            if self._ending.wait(self._wait_s) or (ended and not self._still_runs()):
                return

    def _follow(self) -> None:
        query = {"container": names.CONTAINER, "follow": "true", "timestamps": "true"}
        resumed_at = self._since
        if resumed_at is not None:
            query["sinceTime"] = resumed_at.strftime("%Y-%m-%dT%H:%M:%SZ")
        with self._api.stream(self._path, query, read_timeout_s=3600.0) as stream:
            self._stream = stream
            batch: list[LogLine] = []
            try:
                for raw in stream.lines():
                    line = _parse(raw)
                    if resumed_at is not None and line.at < resumed_at:
                        continue
                    self._since = line.at
                    self._tail.append(line.text)
                    batch.append(line)
                    if len(batch) >= _BATCH or not stream.has_more():
                        self._hand_over(batch)
                        batch = []
            finally:
                self._stream = None
                if batch:
                    self._hand_over(batch)


def _parse(raw: bytes) -> LogLine:
    stamp, _, text = raw[:_MAX_LINE_BYTES].decode("utf-8", "replace").partition(" ")
    try:
        at = datetime.fromisoformat(stamp)
    except ValueError:
        return LogLine(datetime.now(UTC), raw[:_MAX_LINE_BYTES].decode("utf-8", "replace"))
    return LogLine(at, text)
