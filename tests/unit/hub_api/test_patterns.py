"""Ignore and attribute patterns against git's own rules."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from control_plane.api.patterns import attribute_line, belongs_in_lfs, is_ignored, is_lfs, is_text, parse_attributes, parse_ignore

PATTERNS = ["*.log", "/top.txt", "build/", "a/**/z", "**/deep", "docs/*.md", "!keep.log", "ab?", "[xy].txt", "dir/**", "name with space"]
PATHS = [
    "x.log", "d/x.log", "keep.log", "top.txt", "d/top.txt", "build/x", "d/build/x", "build", "a/z", "a/b/c/z", "deep", "q/deep/w",
    "docs/r.md",
    "docs/s/r.md", "abc", "abcd", "x.txt", "z.txt", "dir/f/g", "name with space",
]  # fmt: skip


def test_ignore_rules_are_gits(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text("\n".join(PATTERNS) + "\n")
    asked = "\0".join(PATHS).encode()
    done = subprocess.run(["git", "-C", str(tmp_path), "check-ignore", "--no-index", "--stdin", "-z"], input=asked, capture_output=True)
    theirs = {p for p in done.stdout.decode().split("\0") if p}
    rules = parse_ignore("\n".join(PATTERNS))
    assert {p for p in PATHS if is_ignored(rules, p)} == theirs


@pytest.mark.parametrize("path", ["model.bin", "d/e/model.bin", "with space.bin", "odd[1].dat", "a/b c/d.dat"])
def test_lines_we_write_are_read_by_git(tmp_path: Path, path: str) -> None:
    text = attribute_line(path) + "\n"
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gitattributes").write_text(text)
    done = subprocess.run(["git", "-C", str(tmp_path), "check-attr", "filter", "--", path], capture_output=True, text=True)
    assert done.stdout.strip().endswith("filter: lfs")


def test_what_belongs_in_large_file_storage() -> None:
    rules = parse_attributes("*.bin filter=lfs diff=lfs merge=lfs -text\nsaved/**/* filter=lfs\n*.txt text\nsmall.bin -filter\n")
    assert is_lfs(rules, "a/b.bin")
    assert is_lfs(rules, "saved/x/y")
    assert not is_lfs(rules, "small.bin")
    assert not is_lfs(rules, "a.txt")
    assert belongs_in_lfs((), "x", b"\0", 1)
    assert belongs_in_lfs((), "x", b"text", 11 << 20)
    assert not belongs_in_lfs(rules, "a.bin", b"", 0)
    assert is_text("é".encode()[:1])
    assert not is_text(b"\xff\xfe")


def test_no_pattern_stalls_us() -> None:
    began = time.monotonic()
    rules = parse_ignore("\n".join(["*a" * 200, "**/" * 60 + "x", "[" * 300, "**" * 100]))
    is_ignored(rules, "a" * 1000 + "b")
    is_ignored(rules, "/".join(["a" * 15] * 60))
    assert time.monotonic() - began < 20.0
