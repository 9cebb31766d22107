"""`vitrine images` without an engine: its words and exit codes."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest
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


BUILDS = """
import sys
from types import SimpleNamespace
from builder.errors import BuildFailed
from control_plane.cli import images
from control_plane.cli.main import vitrine
from control_plane.domain.reasons import Reason
def bases(host, mirror, network, say):
    def build(image, **_):
        say(f"unpacking {image.python}")
        if image.family == "gpu":
            raise BuildFailed(Reason.BUILD_FAILED, "no room")
        return SimpleNamespace(id="sha256:1", size_bytes=5 << 20)
    return SimpleNamespace(build=build)
images._bases = bases
vitrine(["images", "build", "--python", "3.11", *sys.argv[1:]])
"""


@pytest.mark.parametrize(("options", "has_bar"), [(("--hardware", "cpu"), True), ((), True), (("--verbose", "--hardware", "cpu"), False)])
def test_a_build_has_a_bar_on_a_terminal_and_its_last_lines_when_it_fails(options: tuple[str, ...], has_bar: bool) -> None:
    ours, theirs = pty.openpty()
    try:
        env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
        done = subprocess.run(
            [sys.executable, "-c", BUILDS, *options], stderr=theirs, stdout=subprocess.PIPE, env=env, timeout=60, text=True
        )
        drawn = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.stdout == "vitrine/python:3.11  sha256:1  5 MiB\n", "what scripts read stands alone"
    assert ("1/1" in drawn or "1/2" in drawn) == has_bar
    assert "unpacking 3.11" in drawn
    if options:
        assert done.returncode == 0
    else:
        assert done.returncode == 1 and "vitrine/python-gpu:3.11: no room" in drawn
