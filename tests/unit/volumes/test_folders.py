"""Volumes as directories: private, measured whatever an app puts into them, and removed whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from control_plane.domain.errors import Broken, Rejected
from control_plane.domain.ids import SpaceId
from control_plane.domain.replicas import Mount
from control_plane.domain.spaces import Sdk, Space, SpaceConfig
from control_plane.domain.storage import StorageTier, parse_tier, parse_tiers
from control_plane.runtimes.volumes import VolumeFolders, held_bytes, overfull, remove_tree

MB = 1_000_000
SPACE = Space(SpaceId("a1"), "ann-demo", Sdk.GRADIO, SpaceConfig(Sdk.GRADIO), storage_tier="small", storage_key="k1", storage_bytes=MB)


def test_tiers_are_the_operators() -> None:
    assert parse_tiers("medium=1.5, small=0.02") == {StorageTier.SMALL: 20 * MB, StorageTier.MEDIUM: 1500 * MB}
    assert list(parse_tiers("large=3,small=1")) == [StorageTier.SMALL, StorageTier.LARGE]
    assert parse_tiers("") == {}
    for bad in ("huge=3", "small", "small=x", "small=0", "small=-1", "small=nan", "small=inf"):
        with pytest.raises(Rejected):
            parse_tiers(bad)
    with pytest.raises(Rejected, match="small, medium"):
        parse_tier("large", parse_tiers("small=1,medium=2"))
    with pytest.raises(Rejected, match="not offered"):
        parse_tier("small", {})


async def test_a_volume_is_made_once_and_removed_whole(tmp_path: Path) -> None:
    folders = VolumeFolders(tmp_path / "volumes")
    (mount,) = folders.mounts_of(SPACE)
    assert mount == Mount(str(tmp_path / "volumes/a1/k1"), "/data", read_only=False, size_bytes=MB)
    assert (tmp_path / "volumes").stat().st_mode & 0o777 == 0o700
    Path(mount.source, "kept").write_text("x")
    assert folders.mounts_of(SPACE) == (mount,)
    assert Path(mount.source, "kept").read_text() == "x"
    await folders.remove(SPACE.id, "ann/demo", "k0")
    assert Path(mount.source).exists()
    await folders.remove(SPACE.id, "ann/demo", "k1")
    assert not Path(mount.source).exists()
    folders.mounts_of(SPACE)
    await folders.remove_all(SPACE, "ann/demo")
    assert list((tmp_path / "volumes").iterdir()) == []
    with pytest.raises(Broken):
        await folders.remove(SPACE.id, "ann/demo", "../../etc")


def test_a_tree_deeper_than_a_path_is_over_and_still_goes(tmp_path: Path) -> None:
    root = tmp_path / "deep"
    root.mkdir()
    here = os.open(root, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert held_bytes(str(root), MB) > MB, "what cannot be looked into could hold anything"
    remove_tree(root)
    assert not root.exists()


def test_links_lead_nowhere_and_count_once(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "volume"
    outside.mkdir()
    root.mkdir()
    (outside / "big").write_bytes(b"x" * MB)
    (root / "away").symlink_to(outside)
    (root / "file").write_bytes(b"x" * 100_000)
    for number in range(50):
        os.link(root / "file", root / f"again{number}")
    assert 100_000 <= held_bytes(str(root), MB) < 200_000
    remove_tree(root)
    assert (outside / "big").exists()


def test_many_empty_files_take_room_too(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / str(number)).touch()
    assert overfull([Mount(str(tmp_path), "/data", False, MB)]) == "The app filled its persistent storage: /data holds more than 0.001 GB."
    assert overfull([Mount(str(tmp_path), "/data", False, 10 * MB), Mount("/", "/models")]) == ""
    assert overfull([Mount(str(tmp_path / "gone"), "/data", False, MB)]) == ""
