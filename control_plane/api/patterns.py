"""Matching of `.gitignore` and `.gitattributes` lines, and which files belong into large-file storage. Pure.

Patterns come from users: matching is by segment with fnmatch's backtracking-free expressions, so no pattern can stall us.
"""

from __future__ import annotations

import codecs
import fnmatch
import re
from dataclasses import dataclass
from functools import lru_cache

LFS_ATTRIBUTES = "filter=lfs diff=lfs merge=lfs -text"
MAX_INLINE_BYTES = 10 << 20
_MAX_LINES = 2000
_MAX_PATTERN = 512


@lru_cache(maxsize=4096)
def _segment(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern))


def _match(pattern: tuple[str, ...], path: tuple[str, ...]) -> bool:
    """Whether the path as a whole matches; `**` stands for any number of segments."""
    reach = {0}  # how many path segments the pattern so far may have used
    for position, part in enumerate(pattern):
        if part == "**":
            least = 1 if position == len(pattern) - 1 else 0  # a trailing `/**` means everything inside
            reach = {end for start in reach for end in range(start + least, len(path) + 1)}
        else:
            reach = {start + 1 for start in reach if start < len(path) and _segment(part).match(path[start])}
        if not reach:
            return False
    return len(path) in reach


@dataclass(frozen=True, slots=True)
class Rule:
    """One line. `anchored` patterns match from the root, others at any depth; `folders_only` had a trailing slash."""

    segments: tuple[str, ...]
    folders_only: bool = False
    negated: bool = False
    is_lfs: bool | None = None

    def matches(self, path: tuple[str, ...]) -> bool:
        return _match(self.segments, path)


def _rule(pattern: str, *, negated: bool = False, is_lfs: bool | None = None) -> Rule | None:
    folders_only = pattern.endswith("/")
    body = pattern.strip("/")
    if not body or len(body) > _MAX_PATTERN:
        return None
    anchored = "/" in pattern.rstrip("/")
    segments = tuple(body.split("/"))
    return Rule(segments if anchored else ("**", *segments), folders_only, negated, is_lfs)


def parse_ignore(text: str) -> tuple[Rule, ...]:
    rules = []
    for line in text.splitlines()[:_MAX_LINES]:
        pattern = line.rstrip()
        if not pattern or pattern.startswith("#"):
            continue
        negated = pattern.startswith("!")
        rule = _rule(pattern[1:] if negated else pattern.removeprefix("\\"), negated=negated)
        if rule is not None:
            rules.append(rule)
    return tuple(rules)


def is_ignored(rules: tuple[Rule, ...], path: str) -> bool:
    """Git's rule: the last matching line wins; what lies in an ignored folder cannot come back."""
    parts = tuple(path.split("/"))
    for depth in range(1, len(parts) + 1):
        is_folder = depth < len(parts)
        ignored = False
        for rule in rules:
            if (is_folder or not rule.folders_only) and rule.matches(parts[:depth]):
                ignored = not rule.negated
        if ignored:
            return True
    return False


def parse_attributes(text: str) -> tuple[Rule, ...]:
    """The lines of a `.gitattributes` that say something about `filter`."""
    rules = []
    for line in text.splitlines()[:_MAX_LINES]:
        pattern, *attributes = line.split()[:20] or [""]
        filters = [a for a in attributes if a.lstrip("-!").partition("=")[0] == "filter"]
        if pattern and not pattern.startswith("#") and filters:
            rule = _rule(pattern.strip('"').replace("[[:space:]]", " "), is_lfs=filters[-1] == "filter=lfs")
            if rule is not None:
                rules.append(rule)
    return tuple(rules)


def is_lfs(rules: tuple[Rule, ...], path: str) -> bool:
    parts = tuple(path.split("/"))
    return next((bool(r.is_lfs) for r in reversed(rules) if r.matches(parts)), False)


def is_text(sample: bytes) -> bool:
    """No NUL and valid UTF-8; the sample may end inside a character."""
    if b"\0" in sample:
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample, final=False)
    except UnicodeDecodeError:
        return False
    return True


def belongs_in_lfs(rules: tuple[Rule, ...], path: str, sample: bytes, size: int) -> bool:
    """The one rule for preupload and for inline content of commits."""
    if size == 0:
        return False
    return is_lfs(rules, path) or size > MAX_INLINE_BYTES or not is_text(sample)


def attribute_line(path: str) -> str:
    """A `.gitattributes` line that keeps exactly this file in large-file storage."""
    escaped = re.sub(r"([\[\]*?\\])", r"\\\1", path).replace(" ", "[[:space:]]")
    return f"{escaped if '/' in path else '/' + escaped} {LFS_ATTRIBUTES}"
