"""`vitrine doctor`: each finding from what a machine says, with its fix, and no password in any of them."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from control_plane.cli import doctor
from control_plane.cli.main import vitrine
from control_plane.domain.errors import Unavailable
from control_plane.runtimes.process.doctor import Finding, Level
from control_plane.settings import Settings


def says(**parts: Any) -> Callable[[str], dict[str, Any]]:
    return lambda host: {"Version": "28.0.1", "ApiVersion": "1.48", **parts}


def by_name(findings: Any) -> dict[str, Finding]:
    return {f.name: f for f in findings}


@pytest.mark.parametrize(
    ("name", "version", "level"),
    [
        ("runc", "1.1.5+ds1", Level.WARNING),
        ("runc", "1.2.7", Level.WARNING),
        ("runc", "1.2.8", Level.OK),
        ("runc", "1.3.2", Level.WARNING),
        ("runc", "1.3.3", Level.OK),
        ("runc", "1.5.0", Level.OK),
        ("containerd", "1.6.20~ds1", Level.WARNING),
        ("containerd", "v1.7.29", Level.OK),
        ("containerd", "v2.1.4", Level.WARNING),
        ("containerd", "v2.3.0", Level.OK),
        ("runc", "unknown", Level.WARNING),
    ],
)
def test_what_runs_containers_is_held_against_its_floor(name: str, version: str, level: Level) -> None:
    found = doctor.component(name, version)
    assert found.level is level
    assert bool(found.fix) is (level is not Level.OK)
    assert ("changelog" in found.fix) is ("ds1" in version)


def test_an_engine_and_what_is_below_it() -> None:
    below = [{"Name": "Engine", "Version": "28.0.1"}, {"Name": "containerd", "Version": "1.7.29"}, {"Name": "runc", "Version": "1.1.5"}]
    found = by_name(doctor.engine(Settings(), says(Components=below)))
    assert {name: f.level for name, f in found.items()} == {"docker": Level.OK, "containerd": Level.OK, "runc": Level.WARNING}
    old = by_name(doctor.engine(Settings(), says(Version="19.03", ApiVersion="1.40")))
    assert old["docker"].level is Level.PROBLEM


def test_no_engine_is_a_problem_only_for_those_who_chose_it() -> None:
    def absent(host: str) -> dict[str, Any]:
        raise Unavailable("the container engine does not answer")

    assert by_name(doctor.engine(Settings(), absent))["docker"].level is Level.OK
    found = by_name(doctor.engine(replace(Settings(), runtime="docker"), absent))["docker"]
    assert found.level is Level.PROBLEM and "apt install" in found.fix


def test_gpus_are_named_with_their_driver(tmp_path: Path) -> None:
    found = list(doctor.gpus("NVIDIA T4, 15360 MiB, 550.54\nNVIDIA T4, 15360 MiB, 550.54\n", tmp_path))
    assert [(f.name, f.detail) for f in found] == [(f"gpu {n}", "NVIDIA T4, 15360 MiB, driver 550.54") for n in (0, 1)]
    assert [f.level for f in doctor.gpus("", tmp_path)] == [Level.OK]
    (tmp_path / "nvidia0").touch()
    assert [f.level for f in doctor.gpus("NVIDIA-SMI has failed", tmp_path)] == [Level.WARNING]


def test_the_version_of_cgroups(tmp_path: Path) -> None:
    assert doctor.cgroups(tmp_path).level is Level.WARNING
    (tmp_path / "memory").mkdir()
    assert doctor.cgroups(tmp_path).detail == "version 1 (memory)"
    (tmp_path / "cgroup.controllers").write_text("cpu memory")
    assert doctor.cgroups(tmp_path).detail == "version 2 without pids"
    (tmp_path / "cgroup.controllers").write_text("cpu io memory pids")
    assert doctor.cgroups(tmp_path) == Finding("cgroups", Level.OK, "version 2")


@pytest.mark.parametrize("setting", ["database_url", "redis_url"])
def test_services_that_do_not_answer_are_named_without_their_password(setting: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused at once
        place = f"ann:hunter2@127.0.0.1:{taken.getsockname()[1]}/0"
        if setting == "database_url":
            found = doctor.database(Settings(database_url=f"postgresql://{place}"))
        else:
            found = doctor.redis(Settings(redis_url=f"redis://{place}"))
    assert found.level is Level.PROBLEM
    assert "does not answer" in found.detail and "127.0.0.1" in found.detail and "hunter2" not in found.detail
    assert found.fix


def test_a_taken_port_is_named_unless_it_is_this_platforms(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = replace(Settings(), port=taken.getsockname()[1], data_dir=tmp_path)
        (found,) = doctor.ports(settings)
        assert found.level is Level.WARNING and "--port" in found.fix
        (tmp_path / "ready.json").write_text("{}")
        assert [f.level for f in doctor.ports(settings)] == [Level.OK]
    assert [f.level for f in doctor.ports(settings)] == [Level.OK]


def test_a_data_dir_that_is_a_file_or_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    assert doctor.disk(tmp_path / "file" / "data").level is Level.PROBLEM
    usage = type("Usage", (), {"free": 2 << 30})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert doctor.disk(tmp_path / "new" / "deep").level is Level.WARNING
    usage.free = 5 << 20  # type: ignore[attr-defined]
    assert doctor.disk(tmp_path).level is Level.PROBLEM


def test_the_command_prints_json_and_its_exit_code_is_that_of_the_worst(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        vitrine, ["doctor", "--json", "--data-dir", str(tmp_path)], env={"VITRINE_PORT": "0", "VITRINE_DOCKER_HOST": "tcp://127.0.0.1:1"}
    )
    found = {f["name"]: f for f in json.loads(done.stdout)}
    assert {"git", "git-lfs", "uv", "kernel", "cgroups", "docker", "database", "redis", "data dir", "chromium"} <= set(found)
    assert all(f["fix"] for f in found.values() if f["level"] != "ok")
    assert done.exit_code == (1 if any(f["level"] == "problem" for f in found.values()) else 0)


def test_a_setting_that_is_not_usable_is_one_line() -> None:
    done = CliRunner().invoke(vitrine, ["doctor"], env={"VITRINE_PORT": "many"})
    assert done.exit_code == 1
    assert len(done.output.strip().splitlines()) == 1 and "VITRINE_PORT" in done.output
