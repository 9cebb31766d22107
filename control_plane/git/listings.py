"""Listings of trees that were asked for lately. A commit never changes, so none of them goes stale."""

from __future__ import annotations

from collections import OrderedDict

from control_plane.domain.ids import RepoId, Sha
from control_plane.ports.git import TreeEntry

_MOST_ENTRIES = 20_000  # of all together, some 10 MB
_LARGEST = 2_000  # entries of one that is worth keeping

Key = tuple[RepoId, Sha, str, bool]  # repository, commit, folder, recursive


class Listings:
    def __init__(self, most_entries: int = _MOST_ENTRIES, largest: int = _LARGEST) -> None:
        self._kept: OrderedDict[Key, tuple[TreeEntry, ...]] = OrderedDict()
        self._most, self._largest = most_entries, largest
        self._entries = 0

    def get(self, key: Key) -> tuple[TreeEntry, ...] | None:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def keep(self, key: Key, listing: tuple[TreeEntry, ...]) -> None:
        if len(listing) > self._largest or key in self._kept:
            return
        self._kept[key] = listing
        self._entries += len(listing) + 1
        while self._entries > self._most:
            self._entries -= len(self._kept.popitem(last=False)[1]) + 1
