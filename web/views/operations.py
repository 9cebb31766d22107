"""Figures of a Space, and the operator's pages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from web.views.spaces import BuildRow, SpaceCard


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure with its unit; `text` is ready to show, "" = not measured yet."""

    label: str
    text: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class HourBar:
    """Requests from `at` on, until the next bar. `p99_s` None without any."""

    at: datetime
    requests: int
    errors: int
    p99_s: float | None = None


@dataclass(frozen=True, slots=True)
class AnalyticsView:
    measures: tuple[Measure, ...]
    history: tuple[tuple[datetime, str, str], ...] = ()  # when, what (catalogue word), detail
    bars: tuple[HourBar, ...] = ()  # oldest first, without gaps
    span: str = "day"

    @property
    def tallest(self) -> int:
        return max((bar.requests for bar in self.bars), default=0)


@dataclass(frozen=True, slots=True)
class UserRow:
    name: str
    fullname: str
    kind: str
    is_admin: bool
    is_suspended: bool
    created_at: datetime
    spaces: int


@dataclass(frozen=True, slots=True)
class PoolRow:
    """Units of replicas of one flavor in one pool; None where nobody counts them now."""

    name: str
    flavor: str
    nodes: int | None
    total: int | None
    used: int
    free: int | None
    queued: int


@dataclass(frozen=True, slots=True)
class AdminBuildRow:
    space: str
    row: BuildRow


@dataclass(frozen=True, slots=True)
class AuditRow:
    at: datetime
    actor: str
    action: str
    subject: str
    address: str
    facts: str


@dataclass(frozen=True, slots=True)
class UsageRow:
    account: str
    key: str
    flavor: str
    amount: float
    cost_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class AdminOverview:
    counts: tuple[Measure, ...]
    running: tuple[SpaceCard, ...]
    builds: tuple[AdminBuildRow, ...]
    pools: tuple[PoolRow, ...]
    maintenance: str | None = None  # what everybody reads while it lasts
    maintenance_words: str = ""  # to begin with
