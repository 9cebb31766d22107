"""What each Space was asked and what it cost: counters for the scheduler's idle rule, for reports and for /metrics.

Use means requests (Gradio heartbeats and probes excepted), real socket messages when the Space's rule says so, and any
exchange that is still going on. Latency buckets are upper bounds in seconds.
"""

from __future__ import annotations

import re
import time
from bisect import bisect_left
from collections.abc import Iterable

from control_plane.domain.ids import SpaceId
from control_plane.domain.routes import ActivityReport

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BUCKET_NAMES = (*(f"{bound:g}" for bound in BUCKETS_S), "+Inf")
_NO_USE = re.compile(
    rb"/(?:[^?#]*/)?(?:heartbeat/[0-9A-Za-z_\-]+/?|_stcore/(?:health|host-config)|script-health-check)(?:\?|$)"  # also of mounted apps
    rb"|/(?:healthz?|livez|readyz)(?:\?|$)"
)
_PERHAPS_NO_USE = re.compile(rb"hea|_stc|ivez|adyz")  # most paths hold none of them


def counts_as_use(target: bytes) -> bool:
    """Whether a request to this path says that somebody uses the app: a tab's heartbeat and a probe do not."""
    return _PERHAPS_NO_USE.search(target) is None or _NO_USE.match(target) is None


class SpaceActivity:
    """Counters of one Space since the proxy started. `live` exchanges keep it in use; `tabs` are open streams and sockets."""

    __slots__ = ("buckets", "bytes_in", "bytes_out", "classes", "last_used", "live", "name", "reported", "seconds", "sockets", "space_id",
                 "tabs", "wake_seconds", "wakes")  # fmt: skip

    def __init__(self, space_id: SpaceId, name: str) -> None:
        self.space_id = space_id
        self.name = name
        self.classes = [0, 0, 0, 0, 0, 0]  # index = status // 100
        self.buckets = [0] * len(_BUCKET_NAMES)
        self.seconds = 0.0
        self.bytes_in = 0
        self.bytes_out = 0
        self.last_used = 0.0  # Unix seconds
        self.live = 0
        self.sockets = 0
        self.tabs = 0
        self.wakes = 0
        self.wake_seconds = 0.0
        self.reported: tuple[object, ...] = ((0,) * 6, (0,) * len(_BUCKET_NAMES), 0, 0, 0.0, 0, 0, 0, 0.0)

    def record(self, status: int, seconds: float) -> None:
        self.classes[status // 100] += 1
        self.buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self.seconds += seconds

    def report(self, now: float) -> ActivityReport | None:
        """What is new since the last report, or None when nothing is. `now` is Unix seconds."""
        if self.live:
            self.last_used = now
        state = (
            tuple(self.classes), tuple(self.buckets), self.bytes_in, self.bytes_out, self.last_used, self.sockets, self.tabs,
            self.wakes, self.wake_seconds,
        )  # fmt: skip
        if state == self.reported and not self.tabs and not self.sockets:
            return None
        classes, buckets, bytes_in, bytes_out = self.reported[:4]
        old_wakes, old_wake_s = self.reported[7:]
        self.reported, before = state, (classes, buckets, bytes_in, bytes_out)
        old_classes: tuple[int, ...] = before[0]  # type: ignore[assignment]
        old_buckets: tuple[int, ...] = before[1]  # type: ignore[assignment]
        return ActivityReport(
            space_id=self.space_id,
            last_used_at=self.last_used,
            open_sockets=self.sockets,
            open_tabs=self.tabs,
            requests={f"{i}xx": n - o for i, (n, o) in enumerate(zip(self.classes, old_classes, strict=True)) if n > o},
            latency_buckets={name: n - o for name, n, o in zip(_BUCKET_NAMES, self.buckets, old_buckets, strict=True) if n > o},
            bytes_in=self.bytes_in - before[2],  # type: ignore[operator]
            bytes_out=self.bytes_out - before[3],  # type: ignore[operator]
            wakes=self.wakes - old_wakes,  # type: ignore[operator]
            wake_s=self.wake_seconds - old_wake_s,  # type: ignore[operator]
        )


class Activity:
    """All Spaces by id. A Space keeps its counters across changes of its route."""

    def __init__(self) -> None:
        self._spaces: dict[SpaceId, SpaceActivity] = {}
        self.platform = SpaceActivity(SpaceId(""), "platform")
        self.refused: dict[str, int] = {}  # code → own answers

    def of(self, space_id: SpaceId, name: str) -> SpaceActivity:
        found = self._spaces.get(space_id)
        if found is None:
            found = self._spaces[space_id] = SpaceActivity(space_id, name)
        found.name = name
        return found

    def forget(self, kept: Iterable[SpaceId]) -> None:
        """Drop Spaces without a route and without anything open."""
        known = set(kept)
        self._spaces = {k: v for k, v in self._spaces.items() if k in known or v.tabs or v.sockets or v.live}

    def reports(self) -> tuple[ActivityReport, ...]:
        now = time.time()
        return tuple(report for space in self._spaces.values() if (report := space.report(now)) is not None)

    def prometheus(self, gauges: dict[str, float]) -> str:
        """Text format 0.0.4. Space series carry the Space's name: their number is bounded by the Spaces with a route."""
        out = ["# TYPE vitrine_proxy_requests_total counter"]
        spaces = [self.platform, *self._spaces.values()]
        out += [f'vitrine_proxy_requests_total{{space="{s.name}",class="{i}xx"}} {n}' for s in spaces for i, n in enumerate(s.classes) if n]
        out.append("# TYPE vitrine_proxy_request_seconds histogram")
        for s in spaces:
            total = 0
            for name, count in zip(_BUCKET_NAMES, s.buckets, strict=True):
                total += count
                out.append(f'vitrine_proxy_request_seconds_bucket{{space="{s.name}",le="{name}"}} {total}')
            out.append(f'vitrine_proxy_request_seconds_sum{{space="{s.name}"}} {s.seconds:.6f}')
            out.append(f'vitrine_proxy_request_seconds_count{{space="{s.name}"}} {total}')
        for metric, kind, attribute in (
            ("received_bytes_total", "counter", "bytes_in"),
            ("sent_bytes_total", "counter", "bytes_out"),
            ("open_sockets", "gauge", "sockets"),
            ("open_tabs", "gauge", "tabs"),
            ("wakes_total", "counter", "wakes"),
            ("wake_seconds_total", "counter", "wake_seconds"),
        ):
            out.append(f"# TYPE vitrine_proxy_{metric} {kind}")
            out += [f'vitrine_proxy_{metric}{{space="{s.name}"}} {getattr(s, attribute):g}' for s in spaces]
        out.append("# TYPE vitrine_proxy_errors_total counter")
        out += [f'vitrine_proxy_errors_total{{code="{code}"}} {n}' for code, n in sorted(self.refused.items())]
        for name, value in gauges.items():
            out += [f"# TYPE vitrine_proxy_{name} gauge", f"vitrine_proxy_{name} {value:g}"]
        return "\n".join(out) + "\n"
