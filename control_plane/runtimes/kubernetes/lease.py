"""Leadership by a Kubernetes Lease: of several schedulers one acts, and two never do.

    follower ──(lease free, released, or unchanged for its whole duration)──▶ leader ──(cannot renew in time)──▶ follower

Whether a lease has run out is judged by this process's own monotonic clock since the record last changed, never by the
times written in it, so clocks that disagree do no harm. Writing is conditional on the version read: of two that try
together one gets 409. A leader stops believing in itself after two thirds of the duration without a renewal, which is
before anybody else may take over.

https://kubernetes.io/docs/concepts/architecture/leases/
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from control_plane.domain.errors import Broken, VitrineError
from control_plane.runtimes.kubernetes.api import Absent, Clash, KubeApi


class LeaderLease:
    """A `ports.leadership.Leadership`. `identity` names this process, unique per start; `duration_s` is how long others wait
    before they take over."""

    def __init__(
        self,
        api: KubeApi,
        *,
        namespace: str,
        name: str = "vitrine-scheduler",
        identity: str,
        duration_s: int = 15,
        renew_s: float = 3.0,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api, self._identity, self._duration_s, self._renew_s = api, identity, duration_s, renew_s
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._path, self._name, self._namespace = f"{self._collection}/{name}", name, namespace
        self._monotonic, self._now = monotonic, now
        self._renewed_at = -1e18
        self._seen: tuple[str, float] | None = None  # version last seen, and when it was first seen
        self._seen_holder = ""
        self._refusal: VitrineError | None = None

    def is_leading(self) -> bool:
        """Ask right before acting. False well before another process may become leader."""
        return self._monotonic() - self._renewed_at < self._duration_s * 2 / 3

    @property
    def holder(self) -> str:
        """Who held the lease when it was last read ("" = nobody)."""
        return self._seen_holder

    def attempt(self) -> bool:
        """Take or renew the lease if possible; blocking. True when this process leads now."""
        asked_at = self._monotonic()
        try:
            found = self._api.get(self._path)
        except Absent:
            return self._write(None, asked_at)
        except VitrineError as error:
            self._refusal = error
            return self.is_leading()
        self._refusal = None
        spec = found.get("spec", {})
        self._seen_holder = spec.get("holderIdentity") or ""
        version = str(found["metadata"].get("resourceVersion", ""))
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, self._monotonic())
        mine = self._seen_holder == self._identity
        held_s = float(spec.get("leaseDurationSeconds") or self._duration_s)
        if not mine and self._seen_holder and self._monotonic() - self._seen[1] < held_s:
            self._renewed_at = -1e18
            return False
        return self._write(found, asked_at)

    def give_up(self) -> None:
        """Let the next one in at once; blocking. Harmless when not leading."""
        if not self.is_leading():
            return
        self._renewed_at = -1e18
        try:
            found = self._api.get(self._path)
            if found.get("spec", {}).get("holderIdentity") == self._identity:
                found["spec"]["holderIdentity"] = ""
                self._api.replace(self._path, found)
        except VitrineError:
            pass  # it runs out by itself

    async def acquire(self) -> None:
        """Try until this process leads. Raises Broken when the API server refuses us the lease, Absent when its namespace is missing."""
        while not await asyncio.to_thread(self.attempt):
            if isinstance(self._refusal, Broken | Absent):
                raise self._refusal
            await asyncio.sleep(self._renew_s)

    async def lost(self) -> None:
        """Renew until it is lost; a renewal that fails is tried again while the lease still holds."""
        while self.is_leading():
            await asyncio.sleep(self._renew_s)
            await asyncio.to_thread(self.attempt)

    async def release(self) -> None:
        await asyncio.to_thread(self.give_up)

    def _write(self, found: dict[str, Any] | None, asked_at: float) -> bool:
        stamp = self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        old = (found or {}).get("spec", {})
        mine = old.get("holderIdentity") == self._identity
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": self._duration_s,
            "acquireTime": old.get("acquireTime", stamp) if mine else stamp,
            "renewTime": stamp,
            "leaseTransitions": int(old.get("leaseTransitions") or 0) + (0 if mine or found is None else 1),
        }
        body: dict[str, Any] = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
        try:
            if found is None:
                made = self._api.create(
                    self._collection, {**body, "metadata": {"name": self._name, "namespace": self._namespace}, "spec": spec}
                )
            else:
                made = self._api.replace(self._path, {**body, "metadata": found["metadata"], "spec": spec})
        except Clash:
            self._renewed_at = -1e18
            return False
        except VitrineError as error:
            self._refusal = error
            return self.is_leading()
        self._seen = (str(made.get("metadata", {}).get("resourceVersion", "")), self._monotonic())
        self._seen_holder = self._identity
        self._renewed_at = asked_at
        return True
