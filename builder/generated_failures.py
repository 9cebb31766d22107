"""What went wrong in a build step, by what it printed; in a Dockerfile that the platform wrote in the owner's words. Pure."""

from __future__ import annotations

import re
from collections import deque

from builder.errors import BuildFailed, IndexMoved
from builder.reporter import BuildLog
from builder.uv import last_words
from control_plane.domain.reasons import Reason

_KIT_PREFIX = re.compile(r"\A#\d+ (?:\d+\.\d+ )?")
_NO_ROOM = ("no space left on device", "disk quota exceeded")
_FILE_GONE = ("404 not found", "410 gone")  # uv resolved it a moment ago
_UNRESOLVED = ("no solution found", "not found in the package registry", "unsatisfiable", "failed to parse")


class LastLines:
    """A build log that also remembers its end."""

    def __init__(self, log: BuildLog, count: int = 80) -> None:
        self._log = log
        self._lines: deque[str] = deque(maxlen=count)

    def line(self, text: str) -> None:
        self._lines.append(_KIT_PREFIX.sub("", text))
        self._log.line(text)

    @property
    def step(self) -> list[str]:
        """What the last step printed."""
        lines = list(self._lines)
        starts = [index for index, line in enumerate(lines) if line.startswith(("Step ", "[")) or " ---> Running in " in line]
        return lines[starts[-1] + 1 :] if starts else lines


def for_want_of_room(failure: BuildFailed, step: list[str]) -> BuildFailed:
    """A step that met a full disk says so itself; the engine only knows that it failed."""
    text = "\n".join(step).lower()
    if failure.reason is Reason.DOCKERFILE_FAILED and any(words in text for words in _NO_ROOM):
        return BuildFailed(Reason.BUILD_DISK, f"The step found the disk full. {failure.message}")
    return failure


def in_owners_words(failure: BuildFailed, step: list[str]) -> BuildFailed:
    """The failure itself where nothing better is known."""
    if failure.reason is not Reason.DOCKERFILE_FAILED:
        return failure
    text = "\n".join(line for line in step if not line.startswith(("Removing intermediate", "The command ", "------", " > ")))
    missing = re.findall(r"E: (?:Unable to locate package|Package) '?([a-z0-9][a-z0-9.+-]*)", text)
    if missing:
        return BuildFailed(Reason.REQUIREMENTS_FAILED, f"packages.txt: Debian has no package {', '.join(dict.fromkeys(missing))}.")
    lower = text.lower()
    if "failed to fetch" in lower and any(words in lower for words in _FILE_GONE):
        return IndexMoved(Reason.REQUIREMENTS_FAILED, f"A requirement could not be installed: {last_words(text)}")
    if any(words in lower for words in _UNRESOLVED):
        return BuildFailed(Reason.REQUIREMENTS_UNRESOLVED, f"The requirements cannot be resolved: {last_words(text)}")
    if "error" in lower or "failed" in lower:
        return BuildFailed(Reason.REQUIREMENTS_FAILED, f"The requirements could not be installed: {last_words(text)}")
    return failure
