"""Names for shell completion, asked of the platform that the command line means. A platform that is away completes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from control_plane.cli.client import Platform

Complete = Callable[[click.Context, click.Parameter, str], list[str]]
_WAIT_S = 2.0  # a shell that hangs on Tab is worse than one that knows no names
_LIMITS = ("spaces", "running", "running.", "gpu-hours", "build-minutes", "storage-gb", "memory-gb", "vcpu")


def _asked(ctx: click.Context, path: str) -> list[dict[str, Any]]:
    given = {key: value for one in (ctx, ctx.parent) if one is not None for key, value in one.params.items() if value is not None}
    try:
        platform = Platform.find(given.get("endpoint"), given.get("token"), given.get("data_dir"))
        return list(platform.call("GET", path, timeout_s=_WAIT_S)["items"])
    except (click.ClickException, KeyError, TypeError):
        return []


def _names(*paths: str) -> Complete:
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        found = (str(row["name"]) for path in paths for row in _asked(ctx, path))
        return [name for name in found if name.startswith(incomplete)]

    return complete


users = _names("/api/admin/users")
orgs = _names("/api/admin/orgs")
subjects = _names("/api/admin/users", "/api/admin/orgs")
spaces = _names("/api/admin/spaces")


def limits(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Keys of quotas, up to the `=`."""
    mark = "=" if param.metavar and "=" in param.metavar else ""
    return [key + ("" if key.endswith(".") else mark) for key in _LIMITS if key.startswith(incomplete)]
