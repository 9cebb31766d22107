"""A bar for long work, on standard error: bytes done, expected, speed. Nothing where nobody looks: a pipe, --quiet, --json."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from control_plane.cli.output import WIDTH

Advance = Callable[[int], None]


def nobody_looks(count: int) -> None:
    """The `Advance` of work without a bar."""


@contextmanager
def bar(words: str, total_bytes: int | None, *, wanted: bool) -> Iterator[Advance]:
    """Gives a function that is told of each piece's bytes. `total_bytes` may be an estimate; None = unknown."""
    if not wanted or not sys.stderr.isatty():
        yield nobody_looks
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(20), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console.width = min(WIDTH, console.width)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(words, total=total_bytes)
        yield lambda count: progress.advance(task, count)
        if progress.tasks[0].completed:
            progress.update(task, total=progress.tasks[0].completed)
