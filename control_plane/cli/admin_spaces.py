"""Spaces and builds."""

from __future__ import annotations

from typing import Any

import click

from control_plane.cli import names
from control_plane.cli.client import Platform, part
from control_plane.cli.output import Out, cell, clean, confirm, talks
from control_plane.cli.progress import Unit, bar, counting

_PAGE = 1000
_SPACES = {"name": "Space", "stage": "Stage", "reason": "Reason", "hardware": "Hardware", "replicas": "Up", "last_used_at": "Last used"}
_BUILDS = {"id": "Build", "space": "Space", "status": "Status", "phase": "Phase", "created_at": "Created"}


def _path(name: str) -> str:
    owner, slash, rest = name.partition("/")
    if not owner or not slash or not rest or "/" in rest:
        raise click.UsageError(f"'{name}' is not OWNER/NAME")
    return f"/api/admin/spaces/{part(owner)}/{part(rest)}"


@click.group()
def space() -> None:
    """Every Space of the platform."""


@space.command("list", epilog="Example: vitrine admin space list --owner ann")
@click.option("--owner", shell_complete=names.subjects, help="Only those of this user or organisation.")
@talks
def list_spaces(owner: str | None, platform: Platform, out: Out) -> None:
    """List Spaces, newest first."""
    rows = _every_space(platform, out, owner)
    if not out.as_json:  # what the stage says already
        rows = [{**row, "reason": None if row["reason"] == row["stage"] else row["reason"]} for row in rows]
    out.table(rows, _SPACES, bare="name", empty="No Spaces.")


def _every_space(platform: Platform, out: Out, owner: str | None) -> list[dict[str, Any]]:
    """Page by page: a hundred thousand are no single answer. By id, because a new one moves the others to the next page."""

    def page(offset: int) -> tuple[list[dict[str, Any]], int]:
        found = platform.call("GET", "/api/admin/spaces", params={"owner": owner, "limit": _PAGE, "offset": offset or None})
        return found["items"], int(found["total"])

    first, total = page(0)
    rows = {row["id"]: row for row in first}
    with bar("Spaces", total, wanted=total > _PAGE and not (out.as_json or out.quiet), unit=Unit.THINGS) as task:
        for offset in range(_PAGE, total, _PAGE):
            task.now(offset, total)
            rows.update((row["id"], row) for row in page(offset)[0])
    return list(rows.values())


@space.command("show", epilog="Example: vitrine admin space show ann/demo")
@click.argument("name", metavar="OWNER/NAME", shell_complete=names.spaces)
@talks
def show_space(name: str, platform: Platform, out: Out) -> None:
    """What one Space is doing, and its last builds."""
    found = platform.call("GET", _path(name))
    lines = [f"{key.replace('_', ' ') + ':':<18} {cell(value)}" for key, value in found.items() if key != "builds"]
    lines += [f"build {b['id']}: {b['status']}{' · ' + b['message'] if b['message'] else ''}" for b in found["builds"]]
    out.one(found, clean("\n".join(lines)), bare=found["stage"])


def _act(name: str, verb: str, platform: Platform, out: Out, *, factory: bool = False) -> None:
    found = platform.call("POST", f"{_path(name)}/{verb}", params={"factory": factory or None})
    out.one(found, f"{found['name']}: {found['stage']}", bare=found["stage"])


@space.command("pause", epilog="Example: vitrine admin space pause ann/demo")
@click.argument("name", metavar="OWNER/NAME", shell_complete=names.spaces)
@talks
def pause_space(name: str, platform: Platform, out: Out) -> None:
    """Stop a Space until somebody restarts it."""
    _act(name, "pause", platform, out)


@space.command("restart", epilog="Example: vitrine admin space restart ann/demo --factory")
@click.argument("name", metavar="OWNER/NAME", shell_complete=names.spaces)
@click.option("--factory", is_flag=True, help="Build anew, without any cache.")
@talks
def restart_space(name: str, factory: bool, platform: Platform, out: Out) -> None:
    """Start a Space again, also a paused one."""
    _act(name, "restart", platform, out, factory=factory)


@space.command("remove", epilog="Example: vitrine admin space remove ann/demo --yes")
@click.argument("name", metavar="OWNER/NAME", shell_complete=names.spaces)
@click.option("--yes", is_flag=True, help="Do not ask.")
@talks
def remove_space(name: str, yes: bool, platform: Platform, out: Out) -> None:
    """Delete a Space with its repository."""
    path = _path(name)
    confirm(f"Delete the Space {name} with its repository?", yes)
    with counting("Space", out) as task:
        found = platform.follow("DELETE", path, task)
    out.one(found, f"{found['name']} is deleted.", bare=found["name"])


@click.group()
def build() -> None:
    """Builds."""


@build.command("list", epilog="Example: vitrine admin build list --space ann/demo")
@click.option(
    "--space", "space_name", metavar="OWNER/NAME", shell_complete=names.spaces, help="All builds of one Space; default: every open build."
)
@talks
def list_builds(space_name: str | None, platform: Platform, out: Out) -> None:
    """List open builds, oldest first."""
    if space_name is not None:
        _path(space_name)
    rows = platform.call("GET", "/api/admin/builds", params={"space": space_name})["items"]
    out.table(rows, _BUILDS, bare="id", empty="Nothing is being built.")


@build.command("cancel", epilog="Example: vitrine admin build cancel 6f1f5a0c9e7d4b3a2c1d0e9f")
@click.argument("build_id", metavar="ID")
@talks
def cancel_build(build_id: str, platform: Platform, out: Out) -> None:
    """Cancel a build that waits or runs."""
    found = platform.call("POST", f"/api/admin/builds/{part(build_id)}/cancel")
    out.one(found, f"Build {found['id']} of {found['space']}: {found['status']}", bare=found["status"])


COMMANDS = (space, build)
