"""What every command promises: an example in its help, and JSON from everything that lists or runs a platform."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from builder.base_images import BaseImages
from control_plane.cli.main import vitrine


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from commands(found, (*path, name))
        else:
            yield (*path, name), found


ALL = dict(commands(vitrine))


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_has_an_example_and_fits_its_command(path: tuple[str, ...]) -> None:
    done = CliRunner().invoke(vitrine, [*path, "--help"])
    assert done.exit_code == 0
    assert "Example" in done.output
    assert path[0] == "completion" or f"vitrine {' '.join(path)}" in " ".join(done.output.partition("Example")[2].split())


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_listings_and_admin_commands_take_json(path: tuple[str, ...]) -> None:
    options = {name for option in ALL[path].params for name in option.opts}
    if path[0] == "admin" or path[-1] == "list" or path == ("doctor",):
        assert "--json" in options
    if path[0] == "admin":
        assert "--quiet" in options


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_an_unknown_option_is_wrong_usage(path: tuple[str, ...]) -> None:
    done = CliRunner().invoke(vitrine, [*path, "--no-such-thing"])
    assert done.exit_code == 2
    assert "--no-such-thing" in done.output and "Traceback" not in done.output


def test_the_list_of_base_images_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BaseImages, "list", lambda self: ())
    done = CliRunner().invoke(vitrine, ["images", "list", "--json"])
    assert (done.exit_code, done.output.strip()) == (0, "[]")
