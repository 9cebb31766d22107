"""What an operator does once for an ordinary user on cgroup version 1: directories `vitrine` that belong to that user."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def operator_groups(directories: Sequence[Path], uid: int) -> Iterator[None]:
    """`vitrine` below each of `directories` while the block runs. One test of this machine at a time: the name is everybody's."""
    with open(Path(tempfile.gettempdir()) / "vitrine-test-groups.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = [directory / "vitrine" for directory in dict.fromkeys(directories)]
        try:
            for group in made:
                _remove(group)  # what a test that was killed left behind
                group.mkdir()
                for path in (group, *group.iterdir()):
                    os.chown(path, uid, uid)
            yield
        finally:
            for group in made:
                _remove(group)


def _remove(group: Path) -> None:
    if group.is_dir():
        for inner in sorted((p for p in group.rglob("*") if p.is_dir()), key=lambda p: len(p.parts), reverse=True):
            inner.rmdir()
        group.rmdir()
