"""The README and the code say the same; no machine's path is in the tree; metrics that dashboards name exist."""

from __future__ import annotations

import re
import subprocess
from dataclasses import fields
from pathlib import Path

from control_plane.settings import Settings, env_name

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    return [ROOT / name for name in listed if name and (ROOT / name).exists()]


def test_the_settings_table_is_the_settings() -> None:
    documented = dict(re.findall(r"^\| `(VITRINE_[A-Z_]+)` \| (.*?) \|", README, re.MULTILINE))
    wanted = {env_name(f.name): f"`{f.default}`" if str(f.default) else "–" for f in fields(Settings)}
    assert documented == wanted


def test_every_setting_is_read_somewhere() -> None:
    own = (ROOT / "control_plane/settings.py").read_text()
    code = "\n".join(f.read_text() for f in tracked("control_plane/*.py") if f.name != "settings.py")
    for f in fields(Settings):
        assert re.search(rf"settings\.{f.name}\b", code) or f"self.{f.name}" in own, f"{f.name} changes nothing"


def test_every_link_of_the_readmes_leads_somewhere() -> None:
    for page in tracked("*README.md", "control_plane/decisions/*.md"):
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} → {target}"


def test_every_room_has_its_page() -> None:
    for room in sorted((ROOT / "control_plane").iterdir()):
        if room.is_dir() and (room / "__init__.py").exists():
            assert (room / "README.md").is_file(), f"{room.name} has no README.md"


def test_no_environment_is_read_outside_the_settings() -> None:
    # The supervisor and the builder's tools pass the operator's environment on; a pod's own program finds its task there.
    allowed = {
        "control_plane/runtimes/kubernetes/volume_fetch.py",
        "control_plane/settings.py",
        "control_plane/bootstrap/building.py",
        "control_plane/cli/supervisor.py",
        "control_plane/cli/platform.py",
    }
    for file in tracked("control_plane/*.py"):
        name = str(file.relative_to(ROOT))
        if name in allowed or name.startswith(("control_plane/cli/", "control_plane/runtimes/process/", "control_plane/git/hook.py")):
            continue
        found = re.findall(r"os\.environ|os\.getenv", file.read_text())
        assert not found, name


def test_statuses_have_one_home() -> None:
    """No second enum repeats the values of a state enum of the domain."""
    from control_plane.domain.builds import BuildStatus
    from control_plane.domain.stage import Stage

    for enum in (BuildStatus, Stage):
        for file in tracked("control_plane/*.py", "builder/*.py", "web/*.py"):
            if file.name in ("builds.py", "stage.py"):
                continue
            body = file.read_text()
            repeated = [m for m in enum if re.search(rf'^\s+{m.name} = "{m.value}"', body, re.MULTILINE)]
            assert len(repeated) < 3, f"{file.relative_to(ROOT)} repeats {enum.__name__}"
