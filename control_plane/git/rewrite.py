"""History without some blobs: the same commits, with the same people, dates and messages, whose trees leave those files out.

Only commits from the first one that held such a file change their id. Signatures of changed commits and tags are left out,
since they would not verify. Nothing here moves a ref.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pygit2
from pygit2.enums import FileMode, ObjectType, SortMode

from control_plane.domain.errors import TooLarge
from control_plane.git.objects import EMPTY_TREE

MAX_COMMITS = 20_000  # that get a new id; each is an object synced to disk
_SIGNATURE = re.compile(rb"^(?:gpgsig|gpgsig-sha256) [^\n]*\n(?: [^\n]*\n)*", re.MULTILINE)
_TAG_SIGNATURE = re.compile(rb"-----BEGIN (?:PGP|SSH) [^\n]*-----\n.*\Z", re.DOTALL)


def without_blobs(path: Path, doomed: frozenset[str], tips: Mapping[str, str]) -> dict[str, str]:
    """For each ref of `tips` (name → object id) whose history changes: its new object id. TooLarge beyond MAX_COMMITS."""
    repo = pygit2.Repository(str(path))
    try:
        return _Rewrite(repo, doomed).run(tips)
    finally:
        repo.free()


class _Rewrite:
    def __init__(self, repo: pygit2.Repository, doomed: frozenset[str]) -> None:
        self._repo, self._doomed = repo, doomed
        self._trees: dict[str, str] = {}
        self._commits: dict[str, str] = {}
        self._changed = 0

    def run(self, tips: Mapping[str, str]) -> dict[str, str]:
        moved = {}
        for ref, tip in tips.items():
            new = self._object(tip)
            if new != tip:
                moved[ref] = new
        return moved

    def _object(self, oid: str) -> str:
        found = self._repo[oid]
        if isinstance(found, pygit2.Commit):
            self._history(found)
            return self._commits[oid]
        if not isinstance(found, pygit2.Tag):
            return oid
        target = str(found.target)
        new = self._object(target)
        if new == target:
            return oid
        head, _, message = found.read_raw().partition(b"\n\n")
        head = head.replace(f"object {target}".encode(), f"object {new}".encode(), 1)
        return str(self._repo.write(ObjectType.TAG, head + b"\n\n" + _TAG_SIGNATURE.sub(b"", message)))

    def _history(self, tip: pygit2.Commit) -> None:
        walk = self._repo.walk(tip.id, SortMode.TOPOLOGICAL | SortMode.REVERSE)
        for commit in walk:
            oid = str(commit.id)
            if oid not in self._commits:
                self._commits[oid] = self._commit(commit)

    def _commit(self, commit: pygit2.Commit) -> str:
        old_tree, tree = str(commit.tree_id), self._tree(str(commit.tree_id))
        parents = [(str(p), self._commits[str(p)]) for p in commit.parent_ids]
        if tree == old_tree and all(old == new for old, new in parents):
            return str(commit.id)
        self._changed += 1
        if self._changed > MAX_COMMITS:
            raise TooLarge(f"more than {MAX_COMMITS} commits would change; squash the history first, then delete the files")
        head, _, message = commit.read_raw().partition(b"\n\n")
        head = _SIGNATURE.sub(b"", head + b"\n").rstrip(b"\n")
        head = head.replace(f"tree {old_tree}".encode(), f"tree {tree}".encode(), 1)
        for old, new in parents:
            head = head.replace(f"parent {old}".encode(), f"parent {new}".encode(), 1)
        return str(self._repo.write(ObjectType.COMMIT, head + b"\n\n" + message))

    def _tree(self, oid: str) -> str:
        if oid not in self._trees:
            self._trees[oid] = self._pruned(oid)
        return self._trees[oid]

    def _pruned(self, oid: str) -> str:
        tree = self._repo[oid]
        assert isinstance(tree, pygit2.Tree)
        builder = self._repo.TreeBuilder(tree)
        for entry in tree:
            child, name = str(entry.id), entry.name or ""
            if entry.filemode == FileMode.TREE:
                new = self._tree(child)
                if new != child and new == EMPTY_TREE:
                    builder.remove(name)
                elif new != child:
                    builder.insert(name, pygit2.Oid(hex=new), FileMode.TREE)
            elif child in self._doomed:
                builder.remove(name)
        return str(builder.write())
