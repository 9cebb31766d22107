"""From a list of file changes to a tree and a commit object; nothing here moves a ref."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pygit2
from pygit2.enums import FileMode

from control_plane.domain.errors import EntryNotFound, Rejected
from control_plane.domain.ids import Sha
from control_plane.git import objects, pointers
from control_plane.git.names import check_path
from control_plane.git.objects import EMPTY_TREE
from control_plane.git.packing import blob_id
from control_plane.ports.git import CommitRequest, FileChange


def checked(change: FileChange) -> FileChange:
    """The change with its path in canonical form. Raises Rejected."""
    path = check_path(change.path.rstrip("/") if change.content is None and change.lfs is None else change.path)
    if change.content is not None and change.lfs is not None:
        raise Rejected(f"{path!r} has both content and an LFS object", code="InvalidCommit")
    return FileChange(path, change.content, change.lfs, change.is_folder)


def signature(name: str, email: str) -> pygit2.Signature:
    clean = "".join(c for c in name if c.isprintable() and c not in "<>\n").strip() or "unknown"
    mail = "".join(c for c in email if c.isprintable() and c not in "<> \n") or "unknown@vitrine.invalid"
    return pygit2.Signature(clean, mail, encoding="utf-8")


def committer() -> pygit2.Signature:
    """Who makes the commits that come in over the API."""
    return signature("Vitrine", "noreply@vitrine.invalid")


def write_commit(path: Path, head: Sha | None, request: CommitRequest, changes: Sequence[FileChange]) -> str:
    """The new commit's id, or `head` when nothing changes. Raises EntryNotFound and Rejected; then nothing was made."""
    repo = pygit2.Repository(str(path))
    try:
        base = objects.commit_at(repo, head).tree_id if head else None
        index = pygit2.Index()
        if head:
            index.read_tree(objects.commit_at(repo, head).tree)
        present = {entry.path: int(entry.mode) for entry in index}
        folders = Counter(folder for path in present for folder in _folders(path))
        for change in changes:
            if change.content is None and change.lfs is None:
                _delete(index, present, folders, change)
            else:
                _put(repo, index, present, folders, change)
        tree = index.write_tree(repo)
        if head and tree == base:
            return head
        if head is None and str(tree) == EMPTY_TREE and not changes:
            raise Rejected("the first commit of a repository needs at least one file", code="InvalidCommit")
        author = signature(request.author, request.author_email)
        return str(repo.create_commit(None, author, committer(), request.message, tree, [head] if head else []))
    finally:
        repo.free()


def write_root(path: Path, source: Sha | None, message: str, author: str, author_email: str) -> str:
    """The id of a commit without parents: with the files of `source`, or with none."""
    repo = pygit2.Repository(str(path))
    try:
        tree = objects.commit_at(repo, source).tree_id if source else pygit2.Index().write_tree(repo)
        return str(repo.create_commit(None, signature(author, author_email), committer(), message, tree, []))
    finally:
        repo.free()


def _folders(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def _delete(index: pygit2.Index, present: dict[str, int], folders: Counter[str], change: FileChange) -> None:
    if change.path in present:
        doomed = [] if change.is_folder else [change.path]
    else:
        doomed = [p for p in present if p.startswith(f"{change.path}/")] if folders[change.path] else []
    if not doomed:
        raise EntryNotFound("A file with this name doesn't exist", commit=None)
    for name in doomed:
        index.remove(name)
        del present[name]
        folders.subtract(_folders(name))


def _put(repo: pygit2.Repository, index: pygit2.Index, present: dict[str, int], folders: Counter[str], change: FileChange) -> None:
    above = _folders(change.path)
    blocked = next((folder for folder in above if folder in present), None)
    if blocked is not None or folders[change.path] > 0:
        why = f"{blocked!r} is a file" if blocked is not None else "it is a folder"
        raise Rejected(f"{change.path!r} cannot be written: {why}", code="InvalidPath", facts={"path": change.path})
    data = (pointers.render(change.lfs.oid, change.lfs.size) if change.lfs else change.content) or b""
    name = blob_id(data)
    if name not in repo:
        repo.create_blob(data)
    executable = present.get(change.path) == FileMode.BLOB_EXECUTABLE
    index.add(pygit2.IndexEntry(change.path, pygit2.Oid(hex=name), FileMode.BLOB_EXECUTABLE if executable else FileMode.BLOB))
    if change.path not in present:
        folders.update(above)
    present[change.path] = int(FileMode.BLOB_EXECUTABLE if executable else FileMode.BLOB)
