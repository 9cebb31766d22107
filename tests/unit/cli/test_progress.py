"""The bar of long work: bytes and total on a terminal, nothing for scripts; and backups that tell how far they are."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pty
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane.api.backup import expected_bytes
from control_plane.cli.backup import bytes_of, receive, restore_into

FILES = {"vitrine.db": b"d" * 3_000_000, "repos/a.git/HEAD": b"ref: refs/heads/main\n"}


def stream() -> Iterator[bytes]:
    body = {"version": 1, "files": {n: hashlib.sha256(b).hexdigest() for n, b in FILES.items()}, "folders": ["repos/a.git"]}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w|") as tar:
        for name, data in {**FILES, "manifest.json": json.dumps(body).encode()}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    yield out.getvalue()


def test_every_byte_of_a_backup_and_of_its_restore_is_told(tmp_path: Path) -> None:
    told: list[int] = []
    receive(stream(), tmp_path / "backup", told.append)
    whole = sum(map(len, FILES.values()))
    assert sum(told) == whole and len(told) > len(FILES), "a large file is told piece by piece"
    assert bytes_of(tmp_path / "backup") == whole
    told.clear()
    restore_into(tmp_path / "backup", tmp_path / "new", None, told.append)
    assert sum(told) == whole


def test_what_a_backup_will_carry_is_estimated_without_what_it_leaves_out(tmp_path: Path) -> None:
    for name, size in {
        "vitrine.db": 10,
        "repos/a.git/HEAD": 5,
        "lfs/objects/ab": 1000,
        "lfs/incoming/x": 1000,
        "lfs/a/b": 7,
        "logs/x": 99,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size)
    assert expected_bytes(tmp_path) == 22


BAR = """
import sys
from control_plane.cli.progress import bar
with bar("Backup", 4_000_000, wanted=sys.argv[1] == "yes") as advance:
    for _ in range(4):
        advance(1_000_000)
"""


COUNTED = """
import sys
from control_plane.cli.progress import Unit, bar
with bar("Garbage", None, wanted=True, unit=Unit.THINGS) as task:
    task.now(1, 3, "repositories [bold]")
    task.now(3, 3)
"""


@pytest.mark.parametrize(("wanted", "is_terminal"), [("yes", True), ("no", True), ("yes", False)])
def test_the_bar_is_for_terminals_only(wanted: str, is_terminal: bool) -> None:
    drawn = shown([sys.executable, "-c", BAR, wanted], is_terminal)
    if wanted == "yes" and is_terminal:
        assert "Backup" in drawn and "4.0/4.0 MB" in drawn
    else:
        assert drawn == ""


def test_things_are_counted_and_the_words_of_strangers_are_not_obeyed() -> None:
    drawn = shown([sys.executable, "-c", COUNTED], True)
    assert "3/3" in drawn and "repositories [bold]" in drawn


def shown(command: list[str], is_terminal: bool) -> str:
    """What it draws on standard error; nothing may come on standard output."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    try:
        env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
        done = subprocess.run(command, stderr=theirs if is_terminal else subprocess.PIPE, stdout=subprocess.PIPE, env=env, timeout=60)
        assert (done.returncode, done.stdout) == (0, b"")
        try:
            drawn = os.read(ours, 65536).decode()
        except BlockingIOError:
            drawn = ""
    finally:
        os.close(ours)
        os.close(theirs)
    assert not done.stderr
    return drawn
