from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import source
from builder.errors import BuildFailed
from builder.source import unpack
from control_plane.domain.reasons import Reason


def tar(*members: tuple[str, bytes, bytes, str], mode: int = 0o644) -> Iterator[bytes]:
    """Members as (name, type, content, link target), in small pieces."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind, content, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname, info.mode = kind, len(content), target, mode
            archive.addfile(info, io.BytesIO(content))
    data = buffer.getvalue()
    return (data[at : at + 700] for at in range(0, len(data), 700))


def file(name: str, content: bytes = b"x") -> tuple[str, bytes, bytes, str]:
    return name, tarfile.REGTYPE, content, ""


def link(name: str, target: str) -> tuple[str, bytes, bytes, str]:
    return name, tarfile.SYMTYPE, b"", target


def test_files_links_and_modes(tmp_path: Path) -> None:
    tree = unpack(tar(file("a/b.txt", b"hello"), link("c", "a/b.txt"), link("a/d", "../a/b.txt"), mode=0o6777), tmp_path, max_bytes=100)
    assert (tree.files, tree.size_bytes) == (3, 5)
    assert tree.text("c") == "hello" == tree.text("a/d")
    assert os.stat(tmp_path / "a/b.txt").st_mode & 0o7777 == 0o755


@pytest.mark.parametrize(
    "member",
    [
        file("../x"), file("/etc/x"), file("a/../../x"), link("x", "/etc/passwd"), link("x", ".."), link("a/x", "../../y"),
        ("x", tarfile.CHRTYPE, b"", ""), ("x", tarfile.FIFOTYPE, b"", ""), ("x", tarfile.LNKTYPE, b"", "/etc/x"), file("d/" * 100 + "x"),
    ],
)  # fmt: skip
def test_what_leaves_the_tree_is_refused_by_name(tmp_path: Path, member: tuple[str, bytes, bytes, str]) -> None:
    with pytest.raises(BuildFailed) as caught:
        unpack(tar(file("ok"), member), tmp_path, max_bytes=100)
    assert caught.value.reason is Reason.SOURCE_REJECTED


def test_a_link_to_a_folder_cannot_be_written_through(tmp_path: Path) -> None:
    outside, into = tmp_path / "outside", tmp_path / "into"
    outside.mkdir()
    into.mkdir()
    with pytest.raises(BuildFailed):
        unpack(tar(link("x", "y"), link("y", "../outside"), file("x/file")), into, max_bytes=100)
    assert not list(outside.iterdir())


def test_size_and_count_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BuildFailed) as caught:
        unpack(tar(file("a", b"x" * 60), file("b", b"x" * 60)), tmp_path, max_bytes=100)
    assert caught.value.reason is Reason.BUILD_DISK
    monkeypatch.setattr(source, "MAX_FILES", 2)
    with pytest.raises(BuildFailed, match="more than 2 files"):
        unpack(tar(file("c"), file("d"), file("e")), tmp_path, max_bytes=100)


def test_a_broken_stream_is_ours_to_try_again(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed) as caught:
        unpack(iter([b"not a tar at all" * 100]), tmp_path, max_bytes=100)
    assert caught.value.reason is Reason.PLATFORM_ERROR


def test_text_is_utf8_and_small(tmp_path: Path) -> None:
    tree = unpack(tar(file("bad", b"\xff\xfe"), file("big", b"x" * 50), file("bom", b"\xef\xbb\xbfx")), tmp_path, max_bytes=100)
    assert tree.text("absent") is None and tree.text("bom") == "x"
    for name in ("bad", "big"):
        with pytest.raises(BuildFailed):
            tree.text(name, 40)
