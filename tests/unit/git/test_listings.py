"""What is kept of trees is bounded, and what was asked for last stays."""

from __future__ import annotations

from control_plane.domain.ids import RepoId, Sha
from control_plane.git.listings import Key, Listings
from control_plane.ports.git import TreeEntry


def _key(number: int) -> Key:
    return RepoId("r"), Sha(f"{number:040x}"), "", True


def _listing(size: int) -> tuple[TreeEntry, ...]:
    return tuple(TreeEntry(f"{n}.txt", is_dir=False, oid="0" * 40) for n in range(size))


def test_the_longest_unasked_goes_first() -> None:
    kept = Listings(most_entries=12, largest=5)
    for number in (1, 2, 3):
        kept.keep(_key(number), _listing(3))
    assert kept.get(_key(1)) == _listing(3)
    kept.keep(_key(4), _listing(3))
    assert [kept.get(_key(number)) is not None for number in (1, 2, 3, 4)] == [True, False, True, True]
    kept.keep(_key(5), _listing(6))
    assert kept.get(_key(5)) is None
    assert kept.get(_key(1)) is not None


def test_folders_and_depth_are_told_apart() -> None:
    kept = Listings()
    repo, sha, _, _ = _key(1)
    kept.keep((repo, sha, "a", False), _listing(1))
    assert kept.get((repo, sha, "a", True)) is None
    assert kept.get((repo, sha, "", False)) is None
    assert kept.get((RepoId("other"), sha, "a", False)) is None
