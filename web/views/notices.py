"""What a person is told about."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class NoticeRow:
    """`tone`: as of stages. `label` is a catalogue sentence; `path` is where it leads on this site; `words` may be Markdown."""

    topic: str
    tone: str
    label: str
    repo: str  # "owner/name"
    path: str
    at: datetime
    actor: str = ""
    title: str = ""
    words: str = ""
    number: int = 0
    count: int = 1
    is_read: bool = False


@dataclass(frozen=True, slots=True)
class NoticePage:
    rows: tuple[NoticeRow, ...]
    unread: int
    page: int
    has_next: bool
