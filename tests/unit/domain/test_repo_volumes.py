"""What may be mounted where: the rules alone."""

from __future__ import annotations

import pytest

from control_plane.domain.errors import Rejected
from control_plane.domain.ids import AccountId, RepoId
from control_plane.domain.repo_volumes import VolumeOrder, check_places, is_same, parse_orders, unpinned
from control_plane.domain.spaces import RepoType, RepoVolume

ORDER = {"type": "model", "source": "alice/weights", "mountPath": "/data/model"}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, VolumeOrder(RepoType.MODEL, "alice/weights", "/data/model")),
        ({"type": "dataset", "readOnly": False}, VolumeOrder(RepoType.DATASET, "alice/weights", "/data/model")),
        ({"type": "space", "readOnly": None}, VolumeOrder(RepoType.SPACE, "alice/weights", "/data/model")),
        ({"mountPath": "/data/"}, VolumeOrder(RepoType.MODEL, "alice/weights", "/data")),
        ({"mountPath": "/home/user/app/m-1_2.3+x=@"}, VolumeOrder(RepoType.MODEL, "alice/weights", "/home/user/app/m-1_2.3+x=@")),
        ({"path": "/deep/er/"}, VolumeOrder(RepoType.MODEL, "alice/weights", "/data/model", "", "deep/er")),
        ({"revision": "v1.0", "path": None}, VolumeOrder(RepoType.MODEL, "alice/weights", "/data/model", "v1.0")),
    ],
)  # fmt: skip
def test_what_is_asked_for(more: dict[str, object], expected: VolumeOrder) -> None:
    assert parse_orders([{**ORDER, **more}]) == (expected,)


@pytest.mark.parametrize(
    "place",
    [
        "", "/", "//", "data", "./data", "/data//x", "/data/./x", "/data/..", "/../etc", "/da ta", "/data\n", "/a:b", "/a,b", "/\u00e9",
        "/a\\b", "/a%2fb",
        "/" + "x" * 200, "/proc", "/proc/self", "/sys/fs", "/dev/shm", "/etc", "/etc/ssl", "/usr/lib/python3", "/bin", "/sbin/x",
        "/lib64", "/run/secrets",
        "/var/run/x", "/boot", "/home", "/home/user", "/home/user/app", "/home/user/.cache", "/home/user/.cache/huggingface/hub", "/tmp",
        "/var", "/opt",
        "/root",
    ],
)  # fmt: skip
def test_where_nothing_can_lie(place: str) -> None:
    with pytest.raises(Rejected, match=r"volumes\[0\]"):
        parse_orders([{**ORDER, "mountPath": place}])


@pytest.mark.parametrize(
    "place", ["/data", "/models", "/mnt/x", "/home/user/models", "/tmp/model", "/opt/model", "/procs", "/etcetera", "/srv/a", "/..."]
)
def test_where_something_can(place: str) -> None:
    assert parse_orders([{**ORDER, "mountPath": place}])[0].mount_path == place


@pytest.mark.parametrize(
    "more",
    [
        {"type": "bucket"}, {"type": None}, {"type": "models"}, {"source": "weights"}, {"source": "a/b/c"}, {"source": "/b"}, {"source": 7},
        {"path": "../x"}, {"path": "a/../b"}, {"path": "a//b"}, {"path": "a\0b"}, {"revision": "a\nb"}, {"revision": "x" * 201},
        {"readOnly": "yes"},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_volume(more: dict[str, object]) -> None:
    with pytest.raises(Rejected):
        parse_orders([{**ORDER, **more}])


def test_places_keep_apart() -> None:
    check_places(["/data/a", "/data/b", "/data/ab"], has_storage=False)
    check_places(["/database"], has_storage=True)
    for places in (["/a", "/a"], ["/a/b", "/a"], ["/a", "/a/b"], ["/data"], ["/data/x"]):
        with pytest.raises(Rejected):
            check_places(places, has_storage=True)
    with pytest.raises(Rejected, match="at most 10"):
        parse_orders([ORDER] * 11)


def test_a_pin_is_no_part_of_what_was_asked_for() -> None:
    asked = RepoVolume(RepoType.MODEL, RepoId("r"), "alice/weights", "/m", AccountId("u"))
    pinned = RepoVolume(RepoType.MODEL, RepoId("r"), "alice/weights", "/m", AccountId("u"), commit="c", oid="o")
    assert unpinned([pinned]) == (asked,)
    assert is_same(asked, pinned)
    assert not is_same(asked, RepoVolume(RepoType.MODEL, RepoId("r"), "alice/weights", "/m", AccountId("u"), "v2"))
