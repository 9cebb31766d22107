"""A unified diff as files and numbered lines. Pure; unknown text is kept as context, nothing raises."""

from __future__ import annotations

import re
from dataclasses import dataclass

_HUNK = re.compile(r"@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@(.*)")
MAX_LINES = 4000


@dataclass(frozen=True, slots=True)
class DiffLine:
    """`kind`: add, del, same, hunk or note. Line numbers are None where the side has no such line."""

    kind: str
    text: str
    old: int | None = None
    new: int | None = None


@dataclass(frozen=True, slots=True)
class DiffFile:
    path: str
    old_path: str
    lines: tuple[DiffLine, ...]

    @property
    def added(self) -> int:
        return sum(line.kind == "add" for line in self.lines)

    @property
    def removed(self) -> int:
        return sum(line.kind == "del" for line in self.lines)


def parse(diff: str) -> tuple[tuple[DiffFile, ...], bool]:
    """The files of the diff, and whether it was cut at `MAX_LINES`."""
    files: list[DiffFile] = []
    path = old_path = ""
    lines: list[DiffLine] = []
    old = new = total = 0
    in_hunk = False

    def close() -> None:
        if path or old_path:
            files.append(DiffFile(path or old_path, old_path, tuple(lines)))

    for raw in diff.split("\n"):
        if raw.startswith("diff --git "):
            close()
            lines, in_hunk = [], False
            before, _, after = raw[11:].partition(" b/")
            path, old_path = after, before.removeprefix("a/")
            continue
        if total >= MAX_LINES:
            close()
            return tuple(files), True
        match = _HUNK.match(raw)
        if match:
            in_hunk = True
            old, new = int(match[1]), int(match[2])
            lines.append(DiffLine("hunk", match[3].strip()))
        elif not in_hunk:
            if raw.startswith("+++ b/"):
                path = raw[6:]
            elif raw.startswith("--- a/"):
                old_path = raw[6:]
            elif raw.startswith(("rename ", "new file", "deleted file", "Binary files", "GIT binary patch", "old mode", "new mode")):
                lines.append(DiffLine("note", raw))
            continue
        elif raw.startswith("+"):
            lines.append(DiffLine("add", raw[1:], None, new))
            new += 1
        elif raw.startswith("-"):
            lines.append(DiffLine("del", raw[1:], old, None))
            old += 1
        elif raw.startswith("\\"):
            lines.append(DiffLine("note", raw[2:]))
        elif raw:
            lines.append(DiffLine("same", raw[1:], old, new))
            old += 1
            new += 1
        total += 1
    close()
    return tuple(files), False
