from __future__ import annotations

import os
from pathlib import Path

import pytest

from control_plane.runtimes.process.cgroups import GroupLimits, Groups, Mounts, find_mounts, open_groups

LIMITS = GroupLimits(64 << 20, 1.5, 32)

V1 = """\
30 22 0:26 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
31 22 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:10 - cgroup cgroup rw,cpu,cpuacct
32 22 0:28 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
33 22 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V2 = "30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"


def test_version_1_controllers_are_found_where_they_are_mounted() -> None:
    mounts = find_mounts(V1, "8:pids:/\n4:memory:/a/b\n1:cpu,cpuacct:/\n0::/\n")
    assert mounts.v1["memory"] == Path("/sys/fs/cgroup/memory/a/b")
    assert mounts.v1["cpu"] == mounts.v1["cpuacct"] == Path("/sys/fs/cgroup/cpu,cpuacct")
    assert mounts.v2 == Path("/sys/fs/cgroup/unified")


def test_version_2_is_our_own_group() -> None:
    mounts = find_mounts(V2, "0::/user.slice/user-1000.slice/session.scope\n")
    assert mounts == Mounts(Path("/sys/fs/cgroup/user.slice/user-1000.slice/session.scope"), {})


def test_a_bind_of_a_subtree_in_a_container() -> None:
    mounts = find_mounts("30 22 0:26 /docker/x /sys/fs/cgroup ro - cgroup2 cgroup ro\n", "0::/docker/x/y\n")
    assert mounts.v2 == Path("/sys/fs/cgroup/y")


def test_version_1_uses_the_directory_that_an_operator_made_for_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tops = {name: tmp_path / name for name in ("memory", "cpu", "pids")}
    own = {name: top / "session" / "7" for name, top in tops.items()}
    for name in tops:
        own[name].mkdir(parents=True)
        (tops[name] / "vitrine").mkdir()
    groups, words = open_groups("t", Mounts(None, own, tops))
    assert (words, groups is not None) == ("cgroup v1", True)
    assert groups is not None
    assert groups.open("r-1").directories[0] == str(own["memory"] / "vitrine-t/r-1"), "our own group, where it is ours to write"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name == "vitrine" and Path(path).is_dir())
    groups, words = open_groups("t", Mounts(None, own, tops))
    assert groups is not None
    assert sorted(groups.open("r-1").directories) == [str(tops[n] / "vitrine/vitrine-t/r-1") for n in ("cpu", "memory", "pids")]


def fake_v2(root: Path) -> Path:
    own = root / "slice" / "own"
    own.mkdir(parents=True)
    for group in (own, own.parent):
        (group / "cgroup.controllers").write_text("cpuset cpu io memory pids")
        (group / "cgroup.subtree_control").write_text("")
    return own


def test_version_2_limits_are_written(tmp_path: Path) -> None:
    groups, words = open_groups("t", Mounts(fake_v2(tmp_path), {}))
    assert words == "cgroup v2"
    assert groups is not None
    group = groups.create("r-1", LIMITS)
    (directory,) = map(Path, group.directories)
    assert (directory / "memory.max").read_text() == str(64 << 20)
    assert (directory / "cpu.max").read_text() == "150000 100000"
    assert (directory / "pids.max").read_text() == "32"
    assert (directory / "memory.oom.group").read_text() == "1"
    (directory / "memory.events").write_text("low 0\noom 2\noom_kill 1\n")
    (directory / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    (directory / "memory.current").write_text("4096\n")
    assert (group.oom_kills(), group.cpu_seconds(), group.memory_bytes()) == (1, 2.5, 4096)
    assert groups.existing() == ["r-1"]


def test_a_hidden_controller_means_no_limits(tmp_path: Path) -> None:
    own = fake_v2(tmp_path)
    for group in (own, own.parent):
        (group / "cgroup.controllers").write_text("cpu memory")
    groups, words = open_groups("t", Mounts(own, {"memory": tmp_path}))
    assert groups is None
    assert "pids" in words


def test_a_limit_that_cannot_be_written_is_an_error_and_leaves_no_group(tmp_path: Path) -> None:
    parent = tmp_path / "p"
    parent.mkdir()
    groups = Groups({"memory": parent, "cpu": parent, "pids": parent}, 2)
    (parent / "r-1").mkdir()
    (parent / "r-1" / "pids.max").mkdir()  # stands for a file that the kernel does not let us write
    with pytest.raises(OSError):
        groups.create("r-1", LIMITS)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A", "-a", "x" * 65])
def test_odd_group_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="group name"):
        Groups({"memory": tmp_path, "cpu": tmp_path, "pids": tmp_path}, 2).open(name)
