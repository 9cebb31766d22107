"""Folders by the engine's names, where the platform runs in a container of that engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from control_plane.runtimes.docker.host_paths import HostPaths

_HOST = """22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
31 22 8:17 / /mnt/disk rw,relatime shared:2 - ext4 /dev/sdb1 rw
"""
_INSIDE = """500 400 0:55 / / ro,relatime - overlay overlay rw
510 500 8:1 /var/lib/docker/volumes/vitrine_data/_data /data rw,relatime master:1 - ext4 /dev/sda1 rw
"""
_INSIDE_DISK = """500 400 0:55 / / ro,relatime - overlay overlay rw
510 500 8:33 /volumes/a\\040b/_data /data rw,relatime - ext4 /dev/sdc1 rw
"""
_BIND = """500 400 0:55 / / ro,relatime - overlay overlay rw
510 500 8:1 /srv/vitrine /data rw,relatime - ext4 /dev/sda1 rw
"""
VOLUMES = ("/var/lib/docker/volumes/other/_data", "/var/lib/docker/volumes/vitrine_data/_data", "/mnt/docker/volumes/a b/_data")


@pytest.mark.parametrize(
    ("mountinfo", "path", "expected"),
    [
        (_HOST, "/var/lib/vitrine/volumes/a/k", "/var/lib/vitrine/volumes/a/k"),
        (_HOST, "/mnt/disk/vitrine/x", "/mnt/disk/vitrine/x"),
        (_INSIDE, "/data/volume-trees/r/o/content", "/var/lib/docker/volumes/vitrine_data/_data/volume-trees/r/o/content"),
        (_INSIDE, "/database/x", "/database/x"),
        (_INSIDE_DISK, "/data/x", "/mnt/docker/volumes/a b/_data/x"),
        (_BIND, "/data/x", "/data/x"),
        ("", "/data/x", "/data/x"),
    ],
    ids=["host", "disk of the host", "volume", "beside it", "volume on a disk", "no volume of the engine", "no mountinfo"],
)
def test_a_folder_is_named_as_the_engine_sees_it(tmp_path: Path, mountinfo: str, path: str, expected: str) -> None:
    (tmp_path / "mountinfo").write_text(mountinfo)
    assert HostPaths(lambda: VOLUMES, tmp_path / "mountinfo").of(path) == expected


def test_the_engine_is_asked_once_and_only_where_it_matters(tmp_path: Path) -> None:
    asked: list[int] = []

    def volumes() -> tuple[str, ...]:
        asked.append(1)
        return VOLUMES

    (tmp_path / "mountinfo").write_text(_INSIDE)
    paths = HostPaths(volumes, tmp_path / "mountinfo")
    assert (paths.of("/etc/x"), paths.of("/data/a"), paths.of("/data/b")) == ("/etc/x", f"{VOLUMES[1]}/a", f"{VOLUMES[1]}/b")
    assert asked == [1]
