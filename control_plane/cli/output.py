"""How commands speak: a table of at most 80 columns for people, JSON for machines, the bare value when quiet."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any

import click

from control_plane.cli.client import Platform

WIDTH = 80
_SHORT = 16  # characters: times, stages, hardware, figures
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Out:
    as_json: bool
    quiet: bool

    def table(self, rows: Sequence[Row], columns: Mapping[str, str], *, bare: str, empty: str) -> None:
        """`columns`: key → heading. `bare` is the key that --quiet prints, one per line."""
        if self.as_json:
            click.echo(json.dumps(list(rows), indent=2, ensure_ascii=False))
        elif self.quiet:
            for row in rows:
                click.echo(cell(row.get(bare)))
        elif not rows:
            click.echo(empty)
        else:
            draw(rows, columns)

    def story(self, rows: Sequence[Row], tell: Callable[[Row], tuple[str, ...]], *, bare: str, empty: str) -> None:
        """What happened, one thing after another: `tell` gives the time, the line, and more that goes below it."""
        if self.as_json or self.quiet or not rows:
            self.table(rows, {}, bare=bare, empty=empty)
            return
        width = _width()
        for row in rows:
            when, *lines = map(cell, tell(row))
            indent = " " * (len(when) + 2)
            for number, line in enumerate(lines):
                first = f"{when}  " if number == 0 else indent
                click.echo(textwrap.fill(line, width, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False))

    def one(self, value: Row, line: str, *, bare: object) -> None:
        """The result of a change: its JSON, its bare value, or one sentence."""
        if self.as_json:
            click.echo(json.dumps(value, indent=2, ensure_ascii=False))
        elif self.quiet:
            if bare not in (None, ""):
                click.echo(cell(bare))
        else:
            click.echo(clean(line))


def clean(text: str) -> str:
    """Without control characters: names and messages come from strangers, and a terminal obeys escape codes."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.15g}"
    if isinstance(value, str) and len(value) == 20 and value.endswith("Z") and value[10:11] == "T":
        return value[:16].replace("T", " ")
    return clean(str(value)).replace("\n", " ").replace("\t", " ")


def _width() -> int:
    return min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns) if sys.stdout.isatty() else WIDTH


def draw(rows: Sequence[Row], columns: Mapping[str, str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=_width(), highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for key, heading in columns.items():
        values = [row.get(key) for row in rows]
        numbers = any(v is not None for v in values) and all(isinstance(v, int | float | None) and not isinstance(v, bool) for v in values)
        is_short = all(len(cell(row.get(key))) <= _SHORT for row in rows)  # the long ones give way
        table.add_column(heading, justify="right" if numbers else "left", overflow="fold", no_wrap=is_short)
    for row in rows:
        table.add_row(*(Text(cell(row.get(key))) for key in columns))
    console.print(table)


def size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def confirm(question: str, yes: bool) -> None:
    """For what cannot be undone. Without a terminal, `--yes` is required: a script must say that it means it."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} This cannot be undone; add --yes to do it without being asked.")
    click.confirm(f"{question} This cannot be undone. Go on?", abort=True)


def talks(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the platform and the output, and the options that choose them."""

    @wraps(command)
    def run(*args: Any, endpoint: str | None, token: str | None, data_dir: Path | None, as_json: bool, quiet: bool, **kwargs: Any) -> None:
        parent = click.get_current_context().find_object(dict) or {}
        found = Platform.find(endpoint or parent.get("endpoint"), token or parent.get("token"), data_dir or parent.get("data_dir"))
        try:
            command(*args, platform=found, out=Out(as_json, quiet), **kwargs)
        except (LookupError, TypeError, AttributeError) as error:
            # What a command makes of the answer: another program there, or a platform that lacks what this version asks for.
            raise click.ClickException(f"{found.unlike_us()} ({type(error).__name__}: {error})") from None

    decorated: Callable[..., None] = run
    for option in (*reversed(CONNECTION), *reversed(OUTPUT)):
        decorated = option(decorated)
    return decorated


CONNECTION = (
    click.option("--endpoint", metavar="URL", help="Address of the platform (or VITRINE_ENDPOINT)."),
    click.option("--token", metavar="TOKEN", help="Admin token with role write (or VITRINE_TOKEN)."),
    click.option("--data-dir", type=click.Path(path_type=Path), help="Local platform's data dir, for its ready.json."),
)
OUTPUT = (
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    click.option("--quiet", "-q", is_flag=True, help="Print the bare value only."),
)

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class Duration(click.ParamType[int]):
    """`30d`, `12h`, `45m`, `90s`, `2w`: a whole number and its unit, as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        number, unit = value[:-1], value[-1:]
        if not number.isascii() or not number.isdigit() or unit not in _UNITS or len(number) > 6 or int(number) == 0:
            self.fail(f"'{value}' is not a duration; use a whole number and s, m, h, d or w, for example 30d", param, ctx)
        return int(number) * _UNITS[unit]


class Since(click.ParamType[str]):
    """A duration back from now, or a date or time in UTC; gives ISO text."""

    name = "since"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from datetime import timedelta

        text = str(value)
        if text[-1:] in _UNITS and text[:-1].isdigit():
            try:
                return (datetime.now(UTC) - timedelta(seconds=Duration().convert(text, param, ctx))).isoformat()
            except OverflowError:
                self.fail(f"'{text}' is too long ago", param, ctx)
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"'{text}' is neither a duration such as 7d nor a date such as 2026-08-01", param, ctx)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).isoformat()
