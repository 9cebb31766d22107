"""Build steps in the same sandbox: they write where they may, and reach nothing else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from control_plane.domain.builds import BuildLimits
from control_plane.runtimes.process.build_sandbox import sandbox_command
from control_plane.runtimes.process.floor import sandbox_report

pytestmark = pytest.mark.skipif(not sandbox_report("build").items[0].is_met, reason="this machine cannot isolate builds")


def run(script: str, tmp_path: Path, **more: object) -> subprocess.CompletedProcess[str]:
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    command = sandbox_command(
        ["sh", "-c", script], cwd="/work", binds_rw=[(str(work), "/work")], env={"PATH": "/usr/bin:/bin", "A": "1"},
        limits=BuildLimits(memory_bytes=256 << 20, disk_bytes=1 << 20), **more,
    )  # type: ignore[arg-type]  # fmt: skip
    return subprocess.run(command.argv, input=command.stdin, capture_output=True, text=True, timeout=30, check=False, env={})


def test_what_a_step_writes_is_the_platforms_on_disk(tmp_path: Path) -> None:
    done = run("echo made > out; mkdir d; touch d/x; ln out d/hard; id -u; ls -n out | cut -d' ' -f3", tmp_path)
    assert (done.returncode, done.stdout.split()) == (0, ["1000", "1000"]), done.stderr
    made = tmp_path / "work" / "out"
    assert made.read_text() == "made\n"
    assert made.stat().st_uid == os.geteuid()
    assert (tmp_path / "work" / "d" / "hard").stat().st_ino == made.stat().st_ino


def test_the_status_and_the_output_are_the_steps_own(tmp_path: Path) -> None:
    done = run("echo out; echo err >&2; env | grep -c .; exit 7", tmp_path)
    assert (done.returncode, done.stderr) == (7, "err\n")
    assert done.stdout.startswith("out\n")
    assert run("kill -9 $$", tmp_path).returncode == 128 + 9
    assert run("nothing-of-that-name", tmp_path).returncode == 127


def test_a_file_larger_than_the_limit_is_cut(tmp_path: Path) -> None:
    done = run("head -c 5000000 /dev/zero > big", tmp_path)
    assert done.returncode != 0
    assert (tmp_path / "work" / "big").stat().st_size <= 1 << 20


def test_a_source_that_is_not_there_is_a_sandbox_failure(tmp_path: Path) -> None:
    done = run("true", tmp_path, binds_ro=[(str(tmp_path / "absent"), "/x")])
    assert done.returncode == 125
    assert done.stderr.startswith("vitrine-sandbox: filesystem: ")
    assert run("true", tmp_path, binds_ro=[("relative", "/x")]).returncode == 125


def test_no_network_unless_asked(tmp_path: Path) -> None:
    probe = """python3 -c "
import socket
for a in ('1.1.1.1', '127.0.0.1', '169.254.169.254'):
    try:
        s = socket.create_connection((a, 80), 3); s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n'); print('reached' if s.recv(1) else 'no')
    except OSError: print('no')
" """
    assert run(probe, tmp_path).stdout.split() == ["no", "no", "no"]
    done = run(probe, tmp_path, network="egress")
    assert done.stdout.split()[1:] == ["no", "no"]
    assert "169.254.169.254:80 refused" in done.stderr
