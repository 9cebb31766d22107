"""Discussions and pull requests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from web.views.spaces import SpaceCard


@dataclass(frozen=True, slots=True)
class DiscussionRow:
    number: int
    title: str
    author: str
    status: str  # open, closed, merged, draft
    is_pull_request: bool
    created_at: datetime
    comments: int = 0


@dataclass(frozen=True, slots=True)
class DiscussionEntry:
    """`kind`: comment, status, title or commit. `text` is Markdown for a comment, a status or somebody's own words otherwise."""

    kind: str
    author: str
    at: datetime
    text: str
    is_hidden: bool = False


@dataclass(frozen=True, slots=True)
class DiscussionPage:
    row: DiscussionRow
    entries: tuple[DiscussionEntry, ...]
    can_comment: bool
    can_close: bool
    can_merge: bool
    diff: str = ""
    conflicts: tuple[str, ...] = ()  # files that both sides changed
    preview: SpaceCard | None = None  # the running app of a pull request
    can_preview: bool = False
