"""The error tree. Every error the platform raises on purpose is one of these.

    VitrineError
    ├── Rejected          the caller can fix it
    │   ├── NotSignedIn         no or bad credentials
    │   ├── Forbidden           known caller, not allowed
    │   │   └── GatedRepo           may see the repository, was not let in to its files
    │   ├── NotFound            absent or hidden; the two cannot be told apart
    │   ├── NameTaken           a name exists already
    │   ├── QuotaExceeded       a limit, its use, and when it frees up
    │   ├── SpaceConfigError    the Space's README front matter or files; carries key, line, allowed values
    │   └── TooLarge            over a documented size or count
    ├── Conflict          the world moved on; read again and retry
    │   ├── StaleGeneration
    │   ├── StaleParent         a commit whose parent is not the head any more
    │   └── IllegalTransition
    ├── Unavailable       try later
    │   ├── NoCapacity
    │   ├── Maintenance
    │   └── RateLimited         too many tries; says when to come back
    └── Broken            our bug or our machine

`code` is stable and public: it is the `X-Error-Code` of an HTTP answer. `hint` says what to do next.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime


class VitrineError(Exception):
    code = "Internal"

    def __init__(
        self, message: str, *, code: str | None = None, hint: str | None = None, facts: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.facts: dict[str, object] = dict(facts or {})
        if code is not None:
            self.code = code


class Rejected(VitrineError):
    code = "BadRequest"


class NotSignedIn(Rejected):
    """`bad_credentials` is true when credentials were sent and are wrong, false when none were sent."""

    code = "Unauthorized"

    def __init__(self, message: str = "Invalid username or password.", *, bad_credentials: bool = False) -> None:
        super().__init__(message)
        self.bad_credentials = bad_credentials


class Forbidden(Rejected):
    code = "Forbidden"


class GatedRepo(Forbidden):
    code = "GatedRepo"


class NotFound(Rejected):
    code = "NotFound"


class RepoNotFound(NotFound):
    code = "RepoNotFound"

    def __init__(self, message: str = "Repository not found") -> None:
        super().__init__(message)


class RevisionNotFound(NotFound):
    code = "RevisionNotFound"


class EntryNotFound(NotFound):
    """`commit` is the commit that was searched; clients cache the negative answer under it."""

    code = "EntryNotFound"

    def __init__(self, message: str, *, commit: str | None = None) -> None:
        super().__init__(message)
        self.commit = commit


class NameTaken(Rejected):
    """`url` is the absolute address of what already exists, when the caller may see it."""

    code = "NameTaken"

    def __init__(self, message: str, *, url: str | None = None) -> None:
        super().__init__(message, facts={"url": url} if url else None)
        self.url = url


class TooLarge(Rejected):
    code = "TooLarge"


class QuotaExceeded(Rejected):
    """A quota refused the change. All amounts are in the unit of the quota key."""

    code = "QuotaExceeded"

    def __init__(self, *, subject: str, key: str, limit: float, used: float, asked: float, frees_at: datetime | None, how: str) -> None:
        when = f"; it resets at {frees_at:%Y-%m-%dT%H:%M:%SZ}" if frees_at else ""
        super().__init__(
            f"Quota '{key}' of {subject} is reached: limit {limit:g}, in use {used:g}, this asks for {asked:g} more{when}. {how}",
            hint=how,
            facts={
                "subject": subject,
                "key": key,
                "limit": limit,
                "used": used,
                "asked": asked,
                "frees_at": f"{frees_at:%Y-%m-%dT%H:%M:%SZ}" if frees_at else None,
                "how": how,
            },
        )


class SpaceConfigError(Rejected):
    """A mistake in a Space's front matter or files: which key, on which line of README.md, and what is allowed."""

    code = "SpaceConfigError"

    def __init__(self, message: str, *, key: str | None = None, line: int | None = None, allowed: tuple[str, ...] = ()) -> None:
        super().__init__(message, facts={"key": key, "line": line, "allowed": list(allowed)})
        self.key = key
        self.line = line
        self.allowed = allowed


class Conflict(VitrineError):
    code = "Conflict"


class StaleGeneration(Conflict):
    code = "StaleGeneration"


class StaleParent(Conflict):
    code = "StaleParent"


class IllegalTransition(Conflict):
    code = "IllegalTransition"


class Unavailable(VitrineError):
    """`retry_after_s` is a hint in seconds for the `Retry-After` header."""

    code = "Unavailable"
    retry_after_s: int = 5


class NoCapacity(Unavailable):
    code = "NoCapacity"


class Maintenance(Unavailable):
    code = "Maintenance"
    retry_after_s = 60


class Broken(VitrineError):
    code = "Internal"


class RateLimited(Unavailable):
    """Too many tries or requests. `retry_after_s` is when the next one is welcome, in seconds."""

    code = "RateLimited"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
