"""Nodes that fell silent, sooner than the cluster's own word.

Every kubelet renews a Lease in `kube-node-lease` each 10 s; the cluster marks a node NotReady only 40 to 50 s after the last one. Here
a node is silent when its lease did not change for `SILENT_S` while others' did: `look()` is called once a second, so that a cluster of
two nodes learns of it as soon as one of two hundred. Judged by our own clock since a change was seen, and never across a gap in which
nobody's lease changed: then it was the API server, or the watch, that was silent.

https://kubernetes.io/docs/concepts/architecture/nodes/#node-heartbeats
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

SILENT_S = 21.0  # two renewals missed
_GAP_S = 15.0  # longer than any two nodes' renewals are apart
_HEARD_S = 11.5  # somebody else's renewal is at most this old while the watch is alive: kubelets renew every 10 s and a bit

Item = dict[str, Any]


class Heartbeats:
    """A `watch.Sink`. `turned(node)` is called, in the watching or the looking thread, when a node fell silent or was heard again."""

    def __init__(self, turned: Callable[[str], None], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._turned, self._monotonic = turned, monotonic
        self._lock = threading.Lock()
        self._heard: dict[str, tuple[str, float]] = {}  # node → (renewTime as written, when we saw it)
        self._silent: set[str] = set()
        self._last = 0.0

    def is_silent(self, node: str) -> bool:
        with self._lock:
            return node in self._silent

    def replace(self, items: list[Item]) -> None:
        """A new list says nothing about how long a lease has been as it is: all times begin again."""
        now = self._monotonic()
        with self._lock:
            self._heard = {name: (renewed, now) for name, renewed in map(_read, items)}
            self._last = now
            turned, self._silent = tuple(self._silent), set()
        for node in turned:
            self._turned(node)

    def upsert(self, item: Item) -> None:
        name, renewed = _read(item)
        now = self._monotonic()
        with self._lock:
            known = self._heard.get(name)
            if known is not None and known[0] == renewed:
                return
            if now - self._last > _GAP_S:
                self._heard = {node: (stamp, now) for node, (stamp, _) in self._heard.items()}
            self._last = now
            self._heard[name] = (renewed, now)
            turned = self._judge(now)
        for node in turned:
            self._turned(node)

    def look(self) -> None:
        """Time has passed. Says nothing while nobody is heard."""
        now = self._monotonic()
        with self._lock:
            turned = self._judge(now) if now - self._last <= _HEARD_S else set()
        for node in turned:
            self._turned(node)

    def _judge(self, now: float) -> set[str]:
        silent = {node for node, (_, at) in self._heard.items() if now - at > SILENT_S}
        turned = silent ^ self._silent
        self._silent = silent
        return turned

    def delete(self, item: Item) -> None:
        name, _ = _read(item)
        with self._lock:
            self._heard.pop(name, None)
            self._silent.discard(name)


def _read(item: Item) -> tuple[str, str]:
    return item["metadata"]["name"], str((item.get("spec") or {}).get("renewTime", ""))
