"""Whose processes are a BuildKit step, and where it writes: read from mounts, as the kernel lists them."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.engines.kit_watch import read_step
from builder.steps import folder_bytes

ROOT = "/var/lib/docker"
LAYER = f"{ROOT}/overlay2/o7lqmvb4rnt0k4x6aso8etikm"
STEP = f"""\
181 178 0:52 / / rw,relatime master:49 - overlay overlay rw,lowerdir={ROOT}/overlay2/l/A,upperdir={LAYER}/diff,workdir={LAYER}/work
216 215 0:55 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
219 217 0:58 / /dev/shm rw,nosuid,nodev,noexec,relatime - tmpfs shm rw,size=65536k
221 215 0:59 / /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs ro
222 215 254:0 FILES/buildkit/executor/resolv.conf /etc/resolv.conf ro,relatime master:48 - ext4 /dev/vda rw
223 215 254:0 FILES/buildkit/executor/hosts.pa9m /etc/hosts ro,relatime master:48 - ext4 /dev/vda rw
224 215 0:41 / /run/secrets/TOKEN ro,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw
225 215 0:61 / /unused rw,relatime - tmpfs tmpfs rw
236 215 254:0 {ROOT}/overlay2/rn367/diff /cache rw,relatime master:48 - ext4 /dev/vda rw
237 215 254:0 {ROOT}/overlay2/context/diff /src ro,relatime master:48 - ext4 /dev/vda rw
"""


@pytest.mark.parametrize("on_own_disk", [False, True])
def test_a_step_is_known_by_what_buildkit_mounts(on_own_disk: bool) -> None:
    step = read_step("mnt:[1]", (30, 20), STEP.replace("FILES", "" if on_own_disk else ROOT), Path(ROOT))
    assert step is not None
    assert (step.layer, step.caches) == (Path(f"{LAYER}/diff"), (Path("/proc/20/root/cache"),))


@pytest.mark.parametrize(
    ("mounts", "root"),
    [
        (STEP.replace("FILES", "/srv/other"), ROOT),  # of another engine on this host
        (STEP.replace("/buildkit/executor/", "/containers/1/"), ROOT),  # an app's container
        (STEP.replace("FILES", ROOT).replace(" / / rw", " / /elsewhere rw"), ROOT),  # made, and not yet entered
        ("", ROOT),
    ],
)
def test_nothing_else_is_taken_for_one(mounts: str, root: str) -> None:
    assert read_step("mnt:[1]", (20,), mounts, Path(root)) is None


def test_hard_links_of_one_file_are_counted_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"0" * 8192)
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    assert (folder_bytes(tmp_path), folder_bytes(tmp_path, shared=True)) == (0, 8192)
