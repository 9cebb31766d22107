"""One push on its way, phase by phase: what pages, the API and `git push -o wait` tell about it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class TimelineStep:
    """`state`: done, now, todo or failed. `key` names the phase, such as "Building"; `reason` is a `Reason` where it waits or failed.

    `seconds` it took, or lasts already since `since`; None where nobody measured.
    """

    key: str
    state: str
    detail: str = ""
    seconds: float | None = None
    since: datetime | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Timeline:
    """`fraction` 0…1 or None; `usual_s` is the estimate from this Space's history, `took_s` what it was in the end."""

    revision: str
    title: str
    author: str
    at: datetime
    steps: tuple[TimelineStep, ...]
    fraction: float | None = None
    usual_s: float | None = None
    took_s: float | None = None
    serving: str = ""  # the revision that keeps serving meanwhile
    build_id: str = ""
    is_over: bool = False
