"""Reading a repository with libgit2: refs, entries, who last touched what, and which large files a history names.

Functions that take a `Path` block and belong in a thread; the `async` ones talk to the git program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pygit2
from pygit2.enums import FileMode, SortMode

from control_plane.domain.ids import Sha
from control_plane.git import pointers
from control_plane.git.gitbin import GitBinary
from control_plane.git.names import SHA
from control_plane.ports.git import Commit, LfsPointer, TreeEntry

MAIN = "refs/heads/main"
EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
_LAST_COMMIT_WALK = 20_000  # commits; older files answer with the oldest commit walked


def find_ref(path: Path, ref: str, *, peel: bool = True) -> Sha | None:
    repo = pygit2.Repository(str(path))
    try:
        found = repo.references.get(ref)
        if found is None:
            return None
        return Sha(str(found.peel(pygit2.Commit).id if peel else found.resolve().target))
    except (ValueError, pygit2.GitError, KeyError):
        return None
    finally:
        repo.free()


def resolve(path: Path, rev: str) -> Sha | None:
    if not rev or len(rev) > 300 or "\0" in rev:
        return None
    if rev == "HEAD":
        return find_ref(path, MAIN)
    if SHA.fullmatch(rev):
        return _commit_of(path, rev)
    for name in (f"refs/heads/{rev}", f"refs/tags/{rev}", rev if rev.startswith("refs/") else ""):
        if name and (found := find_ref(path, name)) is not None:
            return found
    if 7 <= len(rev) < 40 and all(c in "0123456789abcdef" for c in rev):
        return _commit_of(path, rev)
    return None


def _commit_of(path: Path, prefix: str) -> Sha | None:
    repo = pygit2.Repository(str(path))
    try:
        found = repo.get(prefix)
        return Sha(str(found.peel(pygit2.Commit).id)) if isinstance(found, (pygit2.Commit, pygit2.Tag)) else None
    except (ValueError, pygit2.GitError, KeyError):
        return None
    finally:
        repo.free()


def commit_at(repo: pygit2.Repository, sha: str) -> pygit2.Commit:
    """The commit object of a known commit."""
    return repo[sha].peel(pygit2.Commit)


def _lookup(repo: pygit2.Repository, sha: str, path: str) -> pygit2.Object | None:
    try:
        node: pygit2.Object = repo[sha].peel(pygit2.Tree)
        for part in path.split("/"):
            if not isinstance(node, pygit2.Tree):
                return None
            node = node[part]
        return node
    except (KeyError, ValueError, pygit2.GitError):
        return None


def entry(path: Path, sha: str, name: str) -> TreeEntry | None:
    repo = pygit2.Repository(str(path))
    try:
        node = _lookup(repo, sha, name)
        if node is None:
            return None
        if isinstance(node, pygit2.Tree):
            return TreeEntry(name, is_dir=True, oid=str(node.id))
        if not isinstance(node, pygit2.Blob):
            return TreeEntry(name, is_dir=False, oid=str(node.id), is_submodule=True)
        link = node.filemode == FileMode.LINK
        lfs = None if link or node.size >= pointers.MAX_POINTER_BYTES else pointers.parse(node.data)
        return TreeEntry(
            name,
            is_dir=False,
            oid=str(node.id),
            size=lfs.size if lfs else node.size,
            lfs=lfs,
            is_symlink=link,
            is_executable=node.filemode == FileMode.BLOB_EXECUTABLE,
        )
    finally:
        repo.free()


def read(path: Path, sha: str, name: str) -> bytes | None:
    repo = pygit2.Repository(str(path))
    try:
        node = _lookup(repo, sha, name)
        return bytes(node.data) if isinstance(node, pygit2.Blob) else None
    finally:
        repo.free()


def parse_listing(path: Path, listing: bytes, prefix: str) -> tuple[TreeEntry, ...]:
    """Entries of `git ls-tree -z -l`, with pointers resolved."""
    repo = pygit2.Repository(str(path))
    found = []
    try:
        for line in listing.split(b"\0"):
            if not line:
                continue
            facts, _, raw = line.partition(b"\t")
            mode, kind, oid, size = facts.decode().split()
            name = prefix + raw.decode(errors="replace")
            if kind == "tree":
                found.append(TreeEntry(name, is_dir=True, oid=oid))
            elif kind == "commit":
                found.append(TreeEntry(name, is_dir=False, oid=oid, is_submodule=True))
            else:
                length, link = int(size), mode == "120000"
                lfs = pointers.parse(repo[oid].read_raw()) if not link and 120 <= length < pointers.MAX_POINTER_BYTES else None
                found.append(
                    TreeEntry(
                        name,
                        is_dir=False,
                        oid=oid,
                        size=lfs.size if lfs else length,
                        lfs=lfs,
                        is_symlink=link,
                        is_executable=mode == "100755",
                    )
                )
    finally:
        repo.free()
    return tuple(found)


def last_commits(path: Path, sha: str, names: Sequence[str]) -> dict[str, Commit]:
    """For each path the newest commit in which it differs from every parent; absent paths are left out."""
    repo = pygit2.Repository(str(path))
    try:
        pending = {name for name in names if _lookup(repo, sha, name) is not None}
        found: dict[str, Commit] = {}
        commit = None
        for walked, commit in enumerate(repo.walk(sha, SortMode.TOPOLOGICAL | SortMode.TIME)):
            if not pending or walked >= _LAST_COMMIT_WALK:
                break
            parents = commit.parents
            if any(p.tree_id == commit.tree_id for p in parents):
                continue
            for name in _changed(commit.tree, [p.tree for p in parents], pending):
                found[name] = commit_of(commit)
                pending.discard(name)
        if commit is not None:
            found.update({name: commit_of(commit) for name in pending})
        return found
    finally:
        repo.free()


def _changed(tree: pygit2.Tree, parents: Sequence[pygit2.Tree], names: set[str]) -> list[str]:
    def ids(name: str, cache: dict[str, pygit2.Tree | None], root: pygit2.Tree) -> str | None:
        folder, _, leaf = name.rpartition("/")
        if folder not in cache:
            try:
                node = root[folder] if folder else root
                cache[folder] = node if isinstance(node, pygit2.Tree) else None
            except KeyError:
                cache[folder] = None
        parent = cache[folder]
        try:
            return str(parent[leaf].id) if parent is not None else None
        except KeyError:
            return None

    caches: list[dict[str, pygit2.Tree | None]] = [{} for _ in range(len(parents) + 1)]
    changed = []
    for name in names:
        own = ids(name, caches[0], tree)
        if own is not None and all(ids(name, cache, parent) != own for cache, parent in zip(caches[1:], parents, strict=True)):
            changed.append(name)
    return changed


def commit_of(commit: pygit2.Commit) -> Commit:
    message = commit.message.rstrip("\n")
    return Commit(
        sha=Sha(str(commit.id)),
        title=message.split("\n", 1)[0].strip(),
        message=message,
        author=commit.author.name,
        author_email=commit.author.email,
        at=datetime.fromtimestamp(commit.author.time, UTC),
        parents=tuple(Sha(str(p)) for p in commit.parent_ids),
    )


async def pointers_in(git: GitBinary, repo: Path, tips: Sequence[str]) -> tuple[LfsPointer, ...]:
    """Every LFS pointer in the history of `tips`, each object once."""
    return tuple({found.pointer.oid: found.pointer for found in await pointer_blobs(git, repo, tips)}.values())


@dataclass(frozen=True, slots=True)
class PointerBlob:
    """A pointer as git holds it, and a path it has or had."""

    blob: str
    path: str
    pointer: LfsPointer


async def pointer_blobs(git: GitBinary, repo: Path, tips: Sequence[str]) -> tuple[PointerBlob, ...]:
    """The blobs in the history of `tips` that are LFS pointers; several may name one object."""
    listed = await git.run(
        repo,
        "rev-list",
        "--objects",
        "--filter=object:type=blob",
        "--filter-provided-objects",
        "--stdin",
        input="\n".join(tips).encode() + b"\n",
        timeout_s=300,
    )
    paths = {name: path for name, _, path in (line.partition(b" ") for line in listed.splitlines())}
    checked = await git.run(
        repo, "cat-file", "--batch-check=%(objectname) %(objecttype) %(objectsize)", input=b"\n".join(paths) + b"\n", timeout_s=300
    )
    small = [
        line.split()[0] for line in checked.splitlines() if b" blob " in line and 120 <= int(line.split()[2]) < pointers.MAX_POINTER_BYTES
    ]
    found = await _pointers_of(git, repo, [s.decode() for s in small])
    return tuple(PointerBlob(blob, paths[blob.encode()].decode(errors="replace"), pointer) for blob, pointer in found)


async def read_pointers(git: GitBinary, repo: Path, oids: Sequence[str], env: dict[str, str] | None = None) -> list[LfsPointer]:
    """The pointers among some small blobs."""
    return [pointer for _, pointer in await _pointers_of(git, repo, oids, env)]


async def _pointers_of(git: GitBinary, repo: Path, oids: Sequence[str], env: dict[str, str] | None = None) -> list[tuple[str, LfsPointer]]:
    """(blob, pointer) of those among some small blobs that are pointers."""
    if not oids:
        return []
    out = await git.run(repo, "cat-file", "--batch", input="\n".join(oids).encode() + b"\n", env=env, timeout_s=300)
    found, at = [], 0
    while at < len(out):
        stop = out.index(b"\n", at)
        name, _, length = out[at:stop].split()
        size = int(length)
        pointer = pointers.parse(out[stop + 1 : stop + 1 + size])
        if pointer is not None:
            found.append((name.decode(), pointer))
        at = stop + size + 2
    return found
