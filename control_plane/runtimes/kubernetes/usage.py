"""What pods use, from the metrics API where the cluster has one: one request for all replicas, at most every 15 s."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from control_plane.domain.errors import VitrineError
from control_plane.runtimes.kubernetes import facts
from control_plane.runtimes.kubernetes.api import Absent, KubeApi

_AGE_S = 15.0
_ABSENT_S = 300.0

Do = Callable[[Callable[[], dict[str, Any]]], Awaitable[dict[str, Any]]]


class PodUsage:
    """`scope` is "/namespaces/NAME", or "" for all. `do` runs a blocking call in a thread."""

    def __init__(self, api: KubeApi, scope: str, selector: str, do: Do) -> None:
        self._path = f"/apis/metrics.k8s.io/v1beta1{scope}/pods"
        self._api, self._selector, self._do = api, selector, do
        self._used: dict[str, tuple[float, int]] = {}
        self._at = -1e9
        self._absent_at = -1e9

    async def of(self, pod: str) -> tuple[float, int] | None:
        """(cores, bytes); None when nothing is known of it."""
        await self._refresh()
        return self._used.get(pod)

    async def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._at < _AGE_S or now - self._absent_at < _ABSENT_S:
            return
        self._at = now
        try:
            found = await self._do(lambda: self._api.get(self._path, {"labelSelector": self._selector}))
        except Absent:
            self._absent_at = now
            return
        except VitrineError:
            return
        self._used = {}
        for item in found.get("items") or []:
            amounts = [c.get("usage", {}) for c in item.get("containers") or []]
            cpu = sum(facts.quantity(a.get("cpu")) for a in amounts)
            self._used[item["metadata"]["name"]] = cpu, int(sum(facts.quantity(a.get("memory")) for a in amounts))
