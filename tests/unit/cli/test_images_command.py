"""`vitrine images` without an engine: its words and exit codes."""

from __future__ import annotations

from click.testing import CliRunner

from control_plane.cli.main import vitrine


def test_a_python_that_the_catalogue_lacks_is_said() -> None:
    done = CliRunner().invoke(vitrine, ["images", "build", "--python", "2.7"])
    assert done.exit_code == 1
    assert "2.7" in done.output
    assert "vitrine images list" in done.output


def test_an_engine_that_is_not_there_is_one_line() -> None:
    done = CliRunner().invoke(vitrine, ["images", "list", "--docker-host", "unix:///nonexistent/docker.sock"])
    assert done.exit_code == 1
    assert done.output.strip().splitlines()[-1].startswith("vitrine: The container engine does not answer")
