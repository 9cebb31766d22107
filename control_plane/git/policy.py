"""What a push may bring. Decided on the new objects while they are still in quarantine, before anything is acknowledged.

git's own fsck runs first (`receive.fsckObjects`); it lets through links that leave the tree, odd names, bombs and odd refs,
which is what this module is for. A refusal is a `Rejected` whose message is the text for the person who pushes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pygit2
from pygit2.enums import FileMode

from control_plane.domain.errors import Rejected
from control_plane.domain.ids import RepoId
from control_plane.git import objects, pointers
from control_plane.git.archives import leaves_tree
from control_plane.git.gitbin import GitBinary, GitFailed
from control_plane.git.names import MAX_DEPTH, ZERO_SHA, path_problem, ref_problem
from control_plane.git.objects import MAIN
from control_plane.ports.git import LfsStore

# A link under one of these names changes what git or the platform itself reads.
_NO_LINK = frozenset({".gitattributes", ".gitmodules", ".gitignore", ".mailmap", ".lfsconfig", "readme.md"})
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class PushLimits:
    """Amounts one push may bring. `entries` and `depth` are of one checked-out tree, so a tree that unfolds is caught."""

    file_bytes: int = 10 << 20
    entries: int = 100_000
    depth: int = MAX_DEPTH
    new_objects: int = 500_000
    history_entries: int = 20_000_000  # file names in all new folders of the whole pushed history
    inflated_bytes: int = 4 << 30
    refs: int = 200
    link_bytes: int = 4096


@dataclass(frozen=True, slots=True)
class RefUpdate:
    """One ref of a push; `old` and `new` are 40 zeros for "absent"."""

    ref: str
    old: str
    new: str

    @property
    def is_delete(self) -> bool:
        return self.new == ZERO_SHA

    @property
    def is_create(self) -> bool:
        return self.old == ZERO_SHA


@dataclass(frozen=True, slots=True)
class PushFindings:
    """What a good push brings: remarks for its author, and sizes for quotas."""

    remarks: tuple[str, ...] = ()
    new_objects: int = 0
    inflated_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Blob:
    oid: str
    size: int
    path: str


def check_refs(updates: Sequence[RefUpdate], limits: PushLimits, *, may_write_pr: bool = True) -> None:
    """Rejected for refs that nobody may push. Pure."""
    if len(updates) > limits.refs:
        raise Rejected(f"Your push changes {len(updates)} refs at once; at most {limits.refs} are allowed.")
    for update in updates:
        shown = "".join(c if c.isprintable() else "?" for c in update.ref[:200])
        problem = ref_problem(update.ref)
        if problem is not None and not update.is_delete:
            raise Rejected(f"The ref '{shown}' was refused: {problem}.")
        if update.ref.startswith("refs/convert/"):
            raise Rejected(f"The ref '{shown}' was refused: refs/convert/ is written by the platform only.")
        if update.ref.startswith("refs/pr/") and (not may_write_pr or update.is_create or update.is_delete):
            raise Rejected(f"The ref '{shown}' was refused: pull requests are opened and closed on the website or with create_pr.")
        if update.ref == MAIN and update.is_delete:
            raise Rejected("main is the branch that is served and cannot be deleted. To start over, force-push a new history to main.")


async def inspect(
    git: GitBinary,
    repo: Path,
    repo_id: RepoId,
    lfs: LfsStore,
    updates: Sequence[RefUpdate],
    env: Mapping[str, str],
    limits: PushLimits | None = None,
) -> PushFindings:
    """Look at everything new. `env` names the quarantine (the GIT_* variables of the pre-receive hook). Raises Rejected."""
    limits = limits or PushLimits()
    tips = [u.new for u in updates if not u.is_delete]
    if not tips:
        return PushFindings()
    blobs, trees, total = await _new_objects(git, repo, tips, env, limits)
    ref = next(u.ref for u in updates if not u.is_delete)
    too_large = [b for b in blobs if b.size > limits.file_bytes]
    if too_large:
        raise Rejected(large_file_message(too_large, ref, limits.file_bytes))
    small = [b.oid for b in blobs if 120 <= b.size < pointers.MAX_POINTER_BYTES]
    named = {p.oid: p for p in await objects.read_pointers(git, repo, small, dict(env))}
    missing = [p for p in named.values() if await lfs.has(repo_id, p.oid) != p.size]
    if missing:
        lines = [f"  - {p.oid} ({p.size} bytes)" for p in missing[:_SHOWN]]
        raise Rejected(
            "Your push was rejected because LFS pointers point to files that were not uploaded.\nRun this, then push again:\n"
            "  git lfs push --all origin\nMissing objects:\n" + "\n".join(lines)
        )
    remarks = await asyncio.to_thread(_check_trees, repo, env, tips, trees, limits)
    return PushFindings(tuple(remarks), total, sum(b.size for b in blobs))


def large_file_message(files: Sequence[_Blob], ref: str, limit: int) -> str:
    """The public service's words first (people search for them), then the command that fixes it."""
    names = sorted({f.path for f in files})
    include = ",".join(names[:_SHOWN])
    lines = [
        f"Your push was rejected because it contains files larger than {limit >> 20} MiB.",
        "Please use https://git-lfs.github.com/ to store large files.",
        "Offending files:",
        *(f"  - {name} (ref: {ref})" for name in names[:_SHOWN]),
        *([f"  … and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []),
        "To fix it, run these and push again:",
        "  git lfs install",
        f"  git lfs migrate import --include={_quoted(include)} --everything",
    ]
    return "\n".join(lines)


async def _new_objects(
    git: GitBinary, repo: Path, tips: Sequence[str], env: Mapping[str, str], limits: PushLimits
) -> tuple[list[_Blob], list[str], int]:
    asked = "\n".join(tips) + "\n"
    try:
        listed = await git.run(repo, "rev-list", "--objects", "--stdin", "--not", "--all", input=asked.encode(), env=env, timeout_s=120)
    except GitFailed as error:
        raise Rejected(f"The pushed history cannot be read: {error.stderr.strip()[:300]}") from error
    lines = listed.splitlines()
    if len(lines) > limits.new_objects:
        raise Rejected(f"Your push brings {len(lines)} new objects; at most {limits.new_objects} are allowed in one push.")
    paths = {line[:40]: line[41:].decode(errors="replace") for line in lines}
    checked = await git.run(repo, "cat-file", "--batch-check", input=b"\n".join(paths) + b"\n", env=env, timeout_s=120)
    blobs, trees, total = [], [], 0
    for line in checked.splitlines():
        oid, kind, size = line.split()
        total += int(size)
        if kind == b"blob":
            blobs.append(_Blob(oid.decode(), int(size), paths[oid]))
        elif kind == b"tree":
            trees.append(oid.decode())
    if total > limits.inflated_bytes:
        raise Rejected(f"Your push unpacks to {total} bytes; at most {limits.inflated_bytes} are allowed. Store large files with Git LFS.")
    return blobs, trees, len(lines)


def _check_trees(path: Path, env: Mapping[str, str], tips: Sequence[str], trees: Sequence[str], limits: PushLimits) -> list[str]:
    """Names and modes in every new tree, then the unfolded size, depth and links of each tip. Returns remarks."""
    repo = pygit2.Repository(str(path))
    try:
        if quarantine := env.get("GIT_QUARANTINE_PATH"):
            repo.odb.add_disk_alternate(quarantine)
        # Histories repeat their names: each (name, is a link) is judged once, and the sum of entries is bounded too.
        judged: set[tuple[str, bool]] = set()
        looked_at = 0
        for oid in trees:
            looked_at += _check_names(repo, oid, limits, judged)
            if looked_at > limits.history_entries:
                raise Rejected(f"Your push was refused: its history lists more than {limits.history_entries} files. Push it in parts.")
        counts: dict[str, tuple[int, int]] = {}
        remarks: list[str] = []
        for tip in tips:
            target = repo[tip]
            root = target.peel(pygit2.Tree)
            entries, depth = _unfold(repo, str(root.id), counts, limits)
            if entries > limits.entries:
                raise Rejected(
                    f"Your push was refused: a check-out would have {entries} files and folders; at most {limits.entries} are allowed."
                )
            if depth > limits.depth:
                raise Rejected(f"Your push was refused: folders are nested {depth} levels deep; at most {limits.depth} are allowed.")
            _walk_links(repo, root, "", limits, remarks)
        return list(dict.fromkeys(remarks))
    except (KeyError, ValueError, pygit2.GitError) as error:
        raise Rejected("Your push was refused: an object is missing or is not what it should be.") from error
    finally:
        repo.free()


def _check_names(repo: pygit2.Repository, oid: str, limits: PushLimits, judged: set[tuple[str, bool]]) -> int:
    """How many entries the folder has. Rejected for a name that cannot be used."""
    tree = repo[oid].peel(pygit2.Tree)
    if len(tree) > limits.entries:
        raise Rejected(f"Your push was refused: one folder has {len(tree)} entries; at most {limits.entries} are allowed.")
    for node in tree:
        try:
            name = node.name or ""
        except UnicodeDecodeError:
            raise Rejected("Your push was refused: a file name is not valid UTF-8.") from None
        is_link = node.filemode == FileMode.LINK
        if (name, is_link) in judged:
            continue
        problem = "it holds a slash" if "/" in name else path_problem(name)
        if problem is not None:
            raise Rejected(f"Your push was refused: the file name {name[:200]!r} cannot be used: {problem}.")
        if is_link and name.lower() in _NO_LINK:
            raise Rejected(f"Your push was refused: {name} may not be a symbolic link.")
        judged.add((name, is_link))
    return len(tree)


def _unfold(repo: pygit2.Repository, root: str, counts: dict[str, tuple[int, int]], limits: PushLimits) -> tuple[int, int]:
    """(entries, depth) of a tree when checked out, each tree object read once. Iterative: depth is the attacker's choice."""
    stack = [(root, 1)]
    while stack:
        oid, level = stack[-1]
        if oid in counts:
            stack.pop()
            continue
        if level > limits.depth + 1:
            return 0, level
        tree = repo[oid]
        assert isinstance(tree, pygit2.Tree)
        below = [str(node.id) for node in tree if node.filemode == FileMode.TREE]
        waiting = [child for child in below if child not in counts]
        if waiting:
            stack.extend((child, level + 1) for child in dict.fromkeys(waiting))
            continue
        inner = [counts[child] for child in below]
        counts[oid] = (len(tree) + sum(n for n, _ in inner), 1 + max((d for _, d in inner), default=0))
        stack.pop()
    return counts[root]


def _walk_links(repo: pygit2.Repository, root: pygit2.Tree, prefix: str, limits: PushLimits, remarks: list[str]) -> None:
    stack: list[tuple[pygit2.Tree, str]] = [(root, prefix)]
    while stack:
        tree, at = stack.pop()
        for node in tree:
            name = f"{at}{node.name}"
            if node.filemode == FileMode.TREE:
                stack.append((repo[node.id], f"{name}/"))  # type: ignore[arg-type]
            elif node.filemode == FileMode.COMMIT:
                remarks.append(f"{name} is a submodule: it stays in the repository but is not fetched for the app")
            elif node.filemode == FileMode.LINK:
                blob = repo[node.id]
                assert isinstance(blob, pygit2.Blob)
                if blob.size > limits.link_bytes or leaves_tree(name, blob.data.decode(errors="replace")):
                    raise Rejected(f"Your push was refused: the symbolic link {name!r} points outside of the repository.")
            problem = path_problem(name)
            if problem is not None:
                raise Rejected(f"Your push was refused: the path {name[:200]!r} cannot be used: {problem}.")


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("`", "\\`") + '"'
