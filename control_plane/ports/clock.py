"""Time as an argument: aware UTC for records, monotonic seconds for leases and time-outs."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime: ...
    def monotonic(self) -> float: ...
