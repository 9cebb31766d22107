"""How long a place in the queue takes, from how often replicas leave. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(slots=True)
class _Rate:
    """Seconds between two replicas leaving a pool, as a moving average."""

    last_at: float
    mean_s: float | None = None

    def note(self, now: float) -> None:
        gap = max(now - self.last_at, 0.0)
        self.mean_s = gap if self.mean_s is None else 0.8 * self.mean_s + 0.2 * gap
        self.last_at = now


class ReleaseRates:
    def __init__(self) -> None:
        self._rates: dict[str, _Rate] = {}

    def note(self, pool: str, now: float) -> None:
        """A replica left this pool."""
        rate = self._rates.get(pool)
        if rate is None:
            self._rates[pool] = _Rate(now)
        else:
            rate.note(now)

    def wait_s(self, pools: Iterable[str], position: int) -> float | None:
        """Position × mean time between departures, over these pools side by side; None while there is nothing to go by."""
        per_second = 0.0
        for pool in pools:
            rate = self._rates.get(pool)
            if rate is not None and rate.mean_s:
                per_second += 1.0 / rate.mean_s
        return round(position / per_second, 1) if per_second else None


def in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{round(seconds / 3600)} h"
