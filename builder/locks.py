"""What a declaration resolved to, and what names the environment made of it."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from builder.interpreters import Interpreter


@dataclass(frozen=True, slots=True)
class Lock:
    """Resolved requirements, one per line. `is_open`: installing them may run their code."""

    lines: tuple[str, ...]
    is_open: bool

    def key(self, python: Interpreter, *facts: str) -> str:
        body = [sorted(self.lines), self.is_open, python.version, python.path, os.uname().machine, list(facts)]
        return hashlib.sha256(json.dumps(body).encode()).hexdigest()[:40]


def read_lock(path: Path) -> Lock | None:
    """One that was kept; None where there is none that can be read."""
    try:
        body = json.loads(path.read_text())
        return Lock(tuple(body["lines"]), bool(body["open"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def tree_digest(tree: Path) -> str:
    """A digest of the tree's contents: an open declaration may install files of the tree."""
    digest = hashlib.sha256()
    for folder, folders, files in os.walk(tree):
        folders.sort()
        for name in sorted(files):
            path = Path(folder, name)
            digest.update(os.fsencode(path.relative_to(tree)))
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
