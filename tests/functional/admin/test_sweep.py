"""Every command of `vitrine admin`, each as people, machines and scripts call it: a table within 80 columns, JSON, the bare value."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from control_plane.cli.admin import admin
from control_plane.domain.builds import BuildStatus
from control_plane.domain.ids import BuildId, Sha, SpaceId, new_id
from control_plane.domain.spaces import Build
from tests.functional.admin.lines import LINES, assert_readable
from tests.functional.admin.platform import Platform
from tests.functional.admin.test_admin_cli import make_space

# What cannot be undone asks first, and a script has to say --yes.
_FINAL = ("user remove x", "space remove x/y", "key rotate", "key retire")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    running = Platform(tmp_path_factory.mktemp("sweep") / "d").start()
    yield running
    running.stop()


def leaves(command: click.Command, path: str = "") -> Iterator[str]:
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from leaves(inner, f"{path} {name}".strip())
    else:
        yield path


def test_no_command_is_left_out() -> None:
    assert {path for path in leaves(admin) if not any(f"{line} ".startswith(f"{path} ") for line, _ in LINES)} == set()


@pytest.mark.parametrize("way", ["people", "json", "quiet"])
def test_every_command_in_every_way(platform: Platform, way: str, tmp_path: Path) -> None:
    facts = {"v": way, "me": "root-admin", "tmp": str(tmp_path), "token": "", "build": _queued(platform, f"demo-{way}")}
    flags = {"people": (), "json": ("--json",), "quiet": ("--quiet",)}[way]
    said: dict[str, str] = {}
    for line, bare in LINES:
        if "{token}" in line:
            facts["token"] = platform.json("token", "list", f"ann-{way}")[0]["id"]
        command = line.format(**facts)
        said[command] = text = platform.admin(*command.split(), *flags)
        assert "\x1b" not in text
        if way == "json":
            assert isinstance(json.loads(text), dict | list), command
        elif way == "quiet":
            pattern = bare.replace("{v}", way).replace("{me}", "root-admin").replace("{tmp}", re.escape(str(tmp_path)))
            assert re.fullmatch(pattern, text), (command, text)
        else:
            assert_readable(command, text)
    assert len(said) == len(LINES)
    assert os.path.exists(tmp_path / f"again-{way}" / "vitrine.db")


def _queued(platform: Platform, name: str) -> str:
    """A Space with a build that waits; its id."""
    space_id, build_id = SpaceId(make_space(platform, "root-admin", name).id), new_id()

    async def queue() -> None:
        async with platform.services.uow.write() as work:
            await work.builds.add(Build(BuildId(build_id), space_id, Sha("a" * 40), BuildStatus.QUEUED, platform.services.clock.now()))

    platform.run(queue())
    return build_id


@pytest.mark.parametrize("command", _FINAL)
def test_what_cannot_be_undone_wants_a_yes(platform: Platform, command: str) -> None:
    assert "--yes" in platform.admin(*command.split(), code=2)
