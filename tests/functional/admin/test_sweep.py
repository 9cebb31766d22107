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
from tests.functional.admin.platform import Platform
from tests.functional.admin.test_admin_cli import make_space

# In the order of a life: what a line needs, an earlier one made. `{v}` is the way it is called, `{tmp}` an empty folder, `{token}` and
# `{build}` ids. Beside it: what --quiet prints, as a pattern of the whole.
_ID = r"[0-9a-f]{24}"
_NAMES = r"([A-Za-z0-9_./-]+\n)*"
_LINES: tuple[tuple[str, str], ...] = (
    ("user add ann-{v} --email ann@example.org", "ann-{v}\n"),
    ("user list", _NAMES),
    ("user link ann-{v}", r"http://\S+token=\S+\n"),
    ("org add lab-{v}", "lab-{v}\n"),
    ("org member lab-{v} ann-{v} --role write", "ann-{v}\n"),
    ("org member lab-{v} ann-{v} --remove", "ann-{v}\n"),
    ("org list", _NAMES),
    ("token add ann-{v} --role read --name ci --expires 30d", r"hf_[0-9A-Za-z]{36}\n"),
    ("token list ann-{v}", f"({_ID}\n)+"),
    ("token revoke {token}", f"{_ID}\n"),
    ("quota defaults", r"([a-z0-9.-]+\n)+"),
    ("quota defaults spaces=1000 --dry-run", "defaults\n"),
    ("quota set ann-{v} spaces=5 running.a100-large=0 gpu-hours=2.5 vcpu=unlimited", "ann-{v}\n"),
    ("quota show ann-{v}", r"([a-z0-9.-]+\n)+"),
    ("quota list", _NAMES),
    ("quota unset ann-{v} spaces", "ann-{v}\n"),
    ("usage", r"([0-9.]+\n)*"),
    ("usage root-admin --since 7d", r"([0-9.]+\n)*"),
    ("pool list", _NAMES),
    ("space list", _NAMES),
    ("space list --owner root-admin", _NAMES),
    ("space show root-admin/demo-{v}", r"[A-Z_]+\n"),
    ("build list", f"({_ID}\n)*"),
    ("build list --space root-admin/demo-{v}", f"{_ID}\n"),
    ("build cancel {build}", "cancelled\n"),
    ("space pause root-admin/demo-{v}", "PAUSED\n"),
    ("space restart root-admin/demo-{v}", r"[A-Z_]+\n"),
    ("space remove root-admin/demo-{v} --yes", "root-admin/demo-{v}\n"),
    ("user suspend ann-{v}", "ann-{v}\n"),
    ("user suspend ann-{v} --undo", "ann-{v}\n"),
    ("user remove ann-{v} --yes", "ann-{v}\n"),
    ("maintenance on --message Cables", "on\n"),
    ("maintenance show", "on\n"),
    ("maintenance off", "off\n"),
    ("key list", r"(\S+\n)+"),
    ("key rotate --yes", r"\S+\n"),
    ("key rewrap", r"\S+\n"),
    ("key retire --yes", r"\S+\n"),
    ("audit", r"([0-9]+\n)+"),
    ("audit --since 1h --actor root-admin --limit 3", r"([0-9]+\n){1,3}"),
    ("audit --verify", "ok\n"),
    ("audit --export {tmp}/audit-{v}.jsonl", r"[0-9]+\n"),
    ("gc --dry-run", r"[0-9]+\n"),
    ("gc --yes", r"[0-9]+\n"),
    ("backup {tmp}/backup-{v}", "{tmp}/backup-{v}\n"),
    ("restore {tmp}/backup-{v} --into {tmp}/again-{v}", "{tmp}/again-{v}\n"),
)
# What cannot be undone asks first, and a script has to say --yes.
_FINAL = ("user remove x", "space remove x/y", "key rotate", "key retire", "gc")


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
    assert {path for path in leaves(admin) if not any(f"{line} ".startswith(f"{path} ") for line, _ in _LINES)} == set()


@pytest.mark.parametrize("way", ["people", "json", "quiet"])
def test_every_command_in_every_way(platform: Platform, way: str, tmp_path: Path) -> None:
    facts = {"v": way, "tmp": str(tmp_path), "token": "", "build": _queued(platform, f"demo-{way}")}
    flags = {"people": (), "json": ("--json",), "quiet": ("--quiet",)}[way]
    said: dict[str, str] = {}
    for line, bare in _LINES:
        if "{token}" in line:
            facts["token"] = platform.json("token", "list", f"ann-{way}")[0]["id"]
        command = line.format(**facts)
        said[command] = text = platform.admin(*command.split(), *flags)
        assert "\x1b" not in text
        if way == "json":
            assert isinstance(json.loads(text), dict | list), command
        elif way == "quiet":
            pattern = bare.replace("{v}", way).replace("{tmp}", re.escape(str(tmp_path)))
            assert re.fullmatch(pattern, text), (command, text)
        else:
            assert text.strip(), command
            # One sentence is the terminal's to wrap, and a path or an address that people are given is never broken.
            lines = text.splitlines()
            too_long = [one for one in lines if len(one) > 80 and "/" not in one and len(lines) > 1]
            assert too_long == [], command
    assert len(said) == len(_LINES)
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
