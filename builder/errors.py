"""How a build ends when it does not succeed.

BuildEnded
├── BuildFailed    a reason of domain.reasons and words for the owner; reported once
│   └── IndexMoved the package index lacks what it named a moment ago; worth one more look
└── BuildStopped   cancelled, superseded, taken by another worker, or this worker goes away: nobody is told twice
DoorClosed         the control plane does not answer; what it knows is repaired by its own scan
"""

from __future__ import annotations

from control_plane.domain.reasons import Reason


class BuildEnded(Exception):
    """Base of both ways a build leaves the pipeline early."""


class BuildFailed(BuildEnded):
    """The build cannot go on. `message` says to the owner what is wrong and what to do, in one or two sentences."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class IndexMoved(BuildFailed):
    """The package index, or a cache in front of it, does not have what resolving against it named."""


class BuildStopped(BuildEnded):
    """Somebody said stop; nothing is reported."""


class DoorClosed(Exception):
    """The internal door did not answer within the retry window, or refuses this worker's secret."""
