"""The console script. Commands are loaded when called for, so that `vitrine --help` answers at once."""

from __future__ import annotations

import importlib
import os
import sys

import click

# name → (module, attribute, one line for the list); the order is the order of the help.
_COMMANDS = {
    "up": ("control_plane.cli.platform", "up", "Start the whole platform in one process tree."),
    "serve": ("control_plane.cli.platform", "serve", "Run one component: api, proxy, scheduler or builder."),
    "doctor": ("control_plane.cli.platform", "doctor", "What this machine can and cannot do, with fixes."),
    "health": ("control_plane.cli.platform", "health", "Whether a component answers at a URL (exit code 0 or 1)"),
    "admin": ("control_plane.cli.admin", "admin", "Run a platform: users, quotas, usage, Spaces, backup."),
    "images": ("control_plane.cli.images", "images", "Base images of Spaces: list, build, prune (container runtimes)."),
    "completion": ("control_plane.cli.completion", "completion", "Print the shell completion script."),
}


class LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, _, words) in _COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="vitrine")
def vitrine() -> None:
    """Vitrine: a self-hosted home for machine-learning demos.

    \b
    vitrine up                              start everything on this machine
    vitrine admin user add ann --admin      make a user
    vitrine admin token add ann --role write --quiet
    """


def main() -> None:
    """Exit codes: 0 fine, 1 failed with one line on stderr, 2 wrong usage."""
    try:
        vitrine(prog_name="vitrine")
    except BrokenPipeError:
        # The reader (head, less) has left; that is not our failure.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        # A full disk, a folder that is not ours: the machine's words, not a traceback.
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"Error: {where}{error.strerror or error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
