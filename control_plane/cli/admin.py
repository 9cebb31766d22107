"""`vitrine admin`: the group and its rooms. Commands live beside this file, one module per subject."""

from __future__ import annotations

from pathlib import Path

import click

from control_plane.cli import admin_accounts, admin_care, admin_quotas, admin_spaces
from control_plane.cli.output import CONNECTION


@click.group(epilog="Every command takes --json and --quiet; listings print tables of at most 80 columns.")
@click.pass_context
def admin(ctx: click.Context, endpoint: str | None, token: str | None, data_dir: Path | None) -> None:
    """Run a platform over its API.

    It is found by --endpoint and --token, by VITRINE_ENDPOINT and VITRINE_TOKEN, or by the ready.json of the local data
    dir.
    """
    ctx.obj = {"endpoint": endpoint, "token": token, "data_dir": data_dir}


for _option in reversed(CONNECTION):
    admin = _option(admin)
for _room in (admin_accounts, admin_quotas, admin_spaces, admin_care):
    for _command in _room.COMMANDS:
        admin.add_command(_command)
