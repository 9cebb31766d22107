"""Bars for long work, on standard error: how much is done, of how much. Nothing where nobody looks: a pipe, --quiet, --json."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import Enum
from typing import Any

from control_plane.cli.output import WIDTH, Out

Advance = Callable[[int], None]


class Unit(Enum):
    """What is counted: bytes are shown with their speed, things as `3/10`."""

    BYTES = "bytes"
    THINGS = "things"


class Task:
    """Work that is told of here, and shown by what `bar` opened; without a bar it swallows everything."""

    def __init__(self, progress: Any = None, task_id: Any = None) -> None:
        self._progress, self._task_id = progress, task_id

    def __call__(self, count: int) -> None:
        """So much more is done."""
        if self._progress is not None:
            self._progress.advance(self._task_id, count)

    def now(self, done: int, total: int | None, words: str = "") -> None:
        """So much is done altogether, of `total` (None = unknown), while doing `words`."""
        if self._progress is not None:
            said = {"description": words[: WIDTH // 2]} if words else {}
            self._progress.update(self._task_id, completed=done, total=total, **said)


nobody_looks: Advance = Task()


@contextmanager
def bar(words: str, total: int | None, *, wanted: bool, unit: Unit = Unit.BYTES) -> Iterator[Task]:
    """Gives what is told of each piece. `total` may be an estimate; None = unknown, and the bar only says that work goes on."""
    if not wanted or not sys.stderr.isatty():
        yield Task()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True)
    console.width = min(WIDTH, console.width)
    figures = (
        (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        if unit is Unit.BYTES
        else (MofNCompleteColumn(), TimeElapsedColumn())
    )
    with Progress(TextColumn("{task.description}", markup=False), BarColumn(20), *figures, console=console) as progress:
        task_id = progress.add_task(words, total=total)
        yield Task(progress, task_id)
        if progress.tasks[0].completed:
            progress.update(task_id, total=progress.tasks[0].completed)


def counting(words: str, out: Out) -> AbstractContextManager[Task]:
    """A bar of things whose number the platform tells while it works."""
    return bar(words, None, wanted=not (out.as_json or out.quiet), unit=Unit.THINGS)
