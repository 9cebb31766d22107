"""Notices: what a person is told about repositories they own or talk in. One row per person and topic, not per happening."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from control_plane.domain.ids import AccountId, RepoId

KEPT_DAYS = 90  # a notice that nothing was added to for longer goes


class NoticeKind(StrEnum):
    """What happened last. The first part says what a reader opens: a discussion, the build log, the app, the quotas, the gate."""

    DISCUSSION_OPENED = "discussion.opened"
    PULL_OPENED = "pull.opened"
    COMMENT = "discussion.comment"
    MENTION = "discussion.mention"
    CLOSED = "discussion.closed"
    REOPENED = "discussion.reopened"
    MERGED = "pull.merged"
    BUILD_FAILED = "build.failed"
    APP_FAILED = "app.failed"
    QUOTA = "quota.reached"
    ACCESS_ASKED = "access.asked"
    ACCESS_ACCEPTED = "access.accepted"
    ACCESS_REJECTED = "access.rejected"


@dataclass(frozen=True, slots=True)
class Notice:
    """`topic` groups: a second comment in one discussion makes its notice new again, it does not add another.

    `count`: happenings since it was last read. `number` is the discussion's, 0 for what is about the Space itself.
    """

    account_id: AccountId
    topic: str
    kind: NoticeKind
    repo_id: RepoId
    at: datetime
    actor: str = ""  # who did it, "" = the platform
    title: str = ""  # of the discussion, or of the commit that failed
    words: str = ""  # the first words of a comment, or why it failed
    number: int = 0
    count: int = 1
    read_at: datetime | None = None


def discussion_topic(repo_id: RepoId, number: int) -> str:
    return f"{repo_id}-{number}"


def space_topic(kind: NoticeKind, repo_id: RepoId) -> str:
    return f"{repo_id}-{kind.value.partition('.')[0]}"
