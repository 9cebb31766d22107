"""`vitrine up` by somebody who is not root: their own apps start with a warning, strangers' wait for the operator's one command."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, Platform, Work, start_platform, stop_platform
from tests.e2e.test_push_to_live import plain, wait_for
from tests.fakes.operator_groups import operator_groups

NOBODY = 65534
CONTROLLERS = ("memory", "cpu", "cpuacct", "pids")


@pytest.fixture
def ordinary() -> Iterator[Path]:
    """A data dir's parent that belongs to an ordinary user, whom `start_platform` can become."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user; the other tests run as an ordinary user then")
    needed = ["test", "-x", os.path.realpath(sys.executable), "-a", "-r", str(ROOT / "control_plane/asgi.py")]
    readable = subprocess.run(needed, user=NOBODY, group=NOBODY, extra_groups=[], check=False)
    if readable.returncode != 0:
        pytest.skip("this checkout cannot be read by other users")
    with tempfile.TemporaryDirectory(prefix="v", ignore_cleanup_errors=True) as folder:
        os.chown(folder, NOBODY, NOBODY)
        yield Path(folder)


def start(folder: Path) -> Platform:
    return start_platform(folder / "d", env={"HOME": str(folder), "USER": "nobody"}, user=NOBODY)


def push_of(platform: Platform, owner: str, token: str, folder: Path) -> str:
    answer = platform.api("POST", "/api/repos/create", token=token, json={"name": "demo", "type": "space", "sdk": "gradio"})
    assert answer.status_code == 200, answer.text
    work = Work(platform, "demo", folder, owner=owner, token=token)
    plain(work, owner)
    return work.push("x")


def test_push_as_an_ordinary_user(ordinary: Path, tmp_path: Path) -> None:
    platform = start(ordinary)
    try:
        below_the_floor = any("cannot isolate apps fully" in line for line in platform.output)
        said = push_of(platform, "admin", platform.token, tmp_path / "mine")
        assert "Live at" in said, said
        assert ("warning: This machine cannot isolate" in said) == below_the_floor
        assert platform.app("admin-demo").text == "admin"
        platform.api("POST", "/api/admin/users", json={"name": "bob"}).raise_for_status()
        bob = platform.api("POST", "/api/admin/tokens", json={"user": "bob", "role": "write", "name": "t"}).json()["token"]
        said = push_of(platform, "bob", bob, tmp_path / "theirs")
        if not below_the_floor:
            assert "Live at" in said, said
            return
        assert "SANDBOX_UNAVAILABLE" in said
        assert "Not live" in said
        assert "sudo mkdir -p /sys/fs/cgroup/" in said or "systemd-run --user" in said, said
    finally:
        stop_platform(platform)
    if not all(Path("/sys/fs/cgroup", name).is_dir() for name in CONTROLLERS):
        return  # version 2 alone: a delegated scope needs systemd
    with operator_groups([Path("/sys/fs/cgroup", name) for name in CONTROLLERS], NOBODY):
        platform = start(ordinary)
        try:
            assert not any("cannot isolate" in line for line in platform.output)
            answer = platform.api("POST", "/api/spaces/bob/demo/restart", token=platform.token)
            assert answer.status_code == 200, answer.text
            wait_for(lambda: platform.app("bob-demo").text == "bob", 20, "a stranger's app does not start although the floor is met")
        finally:
            stop_platform(platform)
