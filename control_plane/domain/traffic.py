"""What a Space was asked in a span of time and what it used: sums that can be added up. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

HOUR_FORMAT = "%Y-%m-%dT%H"  # in UTC
KEPT_DAYS = 90


def hour_of(at: datetime) -> str:
    return at.astimezone(UTC).strftime(HOUR_FORMAT)


def _sum(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    return {key: a.get(key, 0) + b.get(key, 0) for key in (*a, *(k for k in b if k not in a))}


@dataclass(frozen=True, slots=True)
class Traffic:
    """`requests`: status class ("2xx") → count. `latency`: upper bound in seconds as text ("+Inf") → count, not cumulative.

    `cpu_s`: processor seconds of all replicas. `memory_peak`: the most bytes that they held at once.
    `wakes`: times it was told to wake. `woken`: wakes that visitors waited for and that ended in a live app; `wake_s`: their
    seconds together, from the visit to the app. Each proxy counts its own, so `woken` may be more than `wakes`.
    """

    requests: Mapping[str, int] = field(default_factory=dict)
    latency: Mapping[str, int] = field(default_factory=dict)
    bytes_in: int = 0
    bytes_out: int = 0
    wakes: int = 0
    cpu_s: float = 0.0
    memory_peak: int = 0
    woken: int = 0
    wake_s: float = 0.0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            _sum(self.requests, other.requests), _sum(self.latency, other.latency), self.bytes_in + other.bytes_in,
            self.bytes_out + other.bytes_out, self.wakes + other.wakes, self.cpu_s + other.cpu_s,
            max(self.memory_peak, other.memory_peak), self.woken + other.woken, self.wake_s + other.wake_s,
        )  # fmt: skip

    @property
    def total(self) -> int:
        """Requests that were answered."""
        return sum(self.requests.values())

    @property
    def errors(self) -> int:
        """Answers of class 5xx: the app's own failures and those of the way to it."""
        return self.requests.get("5xx", 0)

    def quantile(self, share: float) -> float | None:
        """Seconds that `share` (0…1) of the answers stayed within, straight-lined inside a bucket; None without any.

        Beyond the last finite bound that bound is given: the true figure is not known, only that it is more.
        """
        bounds = sorted((float(name), count) for name, count in self.latency.items() if count)
        wanted = share * sum(count for _, count in bounds)
        if not bounds:
            return None
        seen, lower = 0, 0.0
        known = sorted({*(float(name) for name in self.latency)})
        for bound, count in bounds:
            lower = max((b for b in known if b < bound), default=0.0)
            if seen + count >= wanted:
                if bound == float("inf"):
                    return lower
                return lower + (bound - lower) * (wanted - seen) / count
            seen += count
        return lower
