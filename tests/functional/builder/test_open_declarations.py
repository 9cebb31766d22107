"""Declarations whose installation runs code: refused, trusted, or contained by the machine's launcher."""

from __future__ import annotations

import ast
import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from control_plane.domain.builds import BuildEventKind, BuildResult
from control_plane.domain.ids import BuildId
from control_plane.domain.reasons import Reason
from tests.functional.builder.conftest import Workplace, build_request
from tests.functional.builder.door import FakeDoor, tar_of

LAUNCHER = Path(__file__).parents[3] / "control_plane/runtimes/process/launcher.py"
COMMAND = (sys.executable, "-I", "-S", str(LAUNCHER))
FILES = {"app.py": "", "requirements.txt": "fromsource\n"}


@functools.cache
def launcher_works() -> bool:
    """Whether this machine can make the sandbox at all."""
    spec = {"v": 1, "argv": ["/bin/true"], "network": "none", "cwd": "/tmp"}
    done = subprocess.run(COMMAND, input=json.dumps(spec).encode(), capture_output=True, timeout=20)
    return done.returncode == 0


def build(workplace: Workplace, **changes: Any) -> BuildResult:
    workplace.worker.handle(build_request(**changes).to_payload())
    event = workplace.door.last()
    assert event.kind is BuildEventKind.SUCCEEDED, (event, workplace.door.lines)
    assert event.result
    return event.result


def found(workplace: Workplace, result: BuildResult) -> dict[str, Any]:
    environment = workplace.data_dir / "envs" / result.artifact.env_key
    text = next(environment.glob("lib/python3.*/site-packages/fromsource.py")).read_text()
    facts: dict[str, Any] = ast.literal_eval(text.removeprefix("FOUND = "))
    return facts


def test_a_source_build_is_refused_where_nothing_contains_it(workplace: Workplace, door: FakeDoor) -> None:
    door.source = tar_of(FILES)
    workplace.worker.handle(build_request().to_payload())
    assert door.last().reason == Reason.SANDBOX_UNAVAILABLE.value


def test_a_trusting_operator_gets_it_per_tenant(make_workplace: Any, door: FakeDoor) -> None:
    workplace = make_workplace(trusted=True)
    door.source = tar_of(FILES)
    first = build(workplace)
    second = build(workplace, build_id=BuildId("e" * 24), tenant="bob")
    assert first.artifact.env_key != second.artifact.env_key
    assert len(list((workplace.data_dir / "cache/tenants").iterdir())) == 2


@pytest.mark.skipif(not launcher_works(), reason="this machine cannot make the sandbox")
def test_a_source_build_sees_nothing_of_the_platform(make_workplace: Any, door: FakeDoor) -> None:
    workplace = make_workplace(sandbox_command=COMMAND)
    for name in ("secret.key", "bundles/other/app.py"):
        (workplace.data_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (workplace.data_dir / name).touch()
    door.source = tar_of(FILES)
    facts = found(workplace, build(workplace))
    assert facts["uid"] != 0
    assert facts["seen"] == [] and not facts["loopback"]
    assert facts["processes"] < 10
    assert not [name for name in facts["environment"] if "SECRET" in name or "TOKEN" in name]


@pytest.mark.skipif(not launcher_works(), reason="this machine cannot make the sandbox")
def test_a_path_of_the_tree_is_installed_inside_the_sandbox(make_workplace: Any, door: FakeDoor) -> None:
    workplace = make_workplace(sandbox_command=COMMAND)
    backend = "def build_wheel(d, c=None, m=None):\n    raise SystemExit('built')\n"
    project = '[build-system]\nrequires = []\nbuild-backend = "own"\nbackend-path = ["."]\n'
    door.source = tar_of({"app.py": "", "requirements.txt": "./mine\n", "mine/own.py": backend, "mine/pyproject.toml": project})
    workplace.worker.handle(build_request().to_payload())
    assert door.last().reason in (Reason.REQUIREMENTS_UNRESOLVED.value, Reason.REQUIREMENTS_FAILED.value)
    assert any("built" in line for line in door.lines), door.lines


@pytest.mark.skipif(not launcher_works(), reason="this machine cannot make the sandbox")
def test_a_site_is_built_by_its_own_command(make_workplace: Any, door: FakeDoor) -> None:
    workplace = make_workplace(sandbox_command=COMMAND)
    door.source = tar_of({"page.txt": "hello"})
    command = "mkdir dist && cp page.txt dist/index.html && id -u"
    result = build(workplace, sdk="static", app_file="dist/index.html", app_build_command=command)
    assert (workplace.data_dir / "sites" / result.artifact.ref / "tree/index.html").read_text() == "hello"
    assert "0" not in door.lines
