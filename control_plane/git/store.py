"""Bare repositories on disk: `root/<repo_id>.git`.

Reading and object making use libgit2 in threads; history, ref moves and copies between repositories use the git program.
A ref moves only by compare-and-swap (`git update-ref` with the expected value), after its objects are synced, so API
commits, pushes and other processes cannot lose each other's work.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pygit2

from control_plane.domain.errors import Broken, Conflict, EntryNotFound, NameTaken, Rejected, RepoNotFound, RevisionNotFound, StaleParent
from control_plane.domain.ids import RepoId, Sha
from control_plane.git import archives, objects, rewrite, tree_writer
from control_plane.git.gitbin import PINNED, GitBinary, GitFailed, end
from control_plane.git.lfs import sync_folder
from control_plane.git.listings import Listings
from control_plane.git.names import SHA, ZERO_SHA, check_path, check_ref, check_repo_id
from control_plane.git.objects import MAIN
from control_plane.git.packing import blob_pack
from control_plane.git.xet import XetStore
from control_plane.ports.git import Commit, CommitRequest, LfsStore, Ref, RefMove, TreeEntry

pygit2.option(pygit2.enums.Option.ENABLE_FSYNC_GITDIR, True)
pygit2.option(pygit2.enums.Option.SET_OWNER_VALIDATION, False)

_LOG_FORMAT = "--format=%H%x00%P%x00%an%x00%ae%x00%at%x00%B"
_CAS_TRIES = 12
_PACK_FROM = 20  # new files of one commit; each loose object costs a sync of its own
_PACK_FROM_BYTES = 1 << 20  # loose objects are deflated anew by every clone, those of a pack are copied
_TIDY_PACKS, _TIDY_LOOSE = 20, 1000
_MAINTAINED = "maintained"  # in the repository; its time says when
STALE_WORDS = "The branch was updated since you opened this page. Please refresh and try again."


class BareGitStore:
    """GitStore over plain directories. `lfs` gives the true sizes and, in archives, the content of large files.

    What `lfs` and `chunks` keep of a repository goes with it.
    """

    def __init__(self, root: Path, lfs: LfsStore, *, chunks: XetStore | None = None, program: str = "git") -> None:
        self.root = self._root = root
        self._lfs = lfs
        self._chunks = chunks
        empty = root / ".no-hooks"
        empty.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.git = GitBinary(hooks_path=empty, program=program)
        self._listings = Listings()
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def path(self, repo_id: RepoId) -> str:
        return str(self._dir(repo_id))

    async def create(self, repo_id: RepoId) -> None:
        """NameTaken when it exists. Made under a temporary name and renamed, so that a half-made repository is never seen."""
        target = self._dir(repo_id)
        if target.exists():
            raise NameTaken("the repository exists already")
        draft = self._root / f".new-{repo_id}-{os.urandom(4).hex()}"
        try:
            await asyncio.to_thread(_init, draft)
            draft.rename(target)
            await asyncio.to_thread(sync_folder, self._root)
        except OSError as error:
            if target.exists():
                raise NameTaken("the repository exists already") from error
            raise
        finally:
            await asyncio.to_thread(shutil.rmtree, draft, True)

    async def remove(self, repo_id: RepoId) -> None:
        """With its large files. Harmless when it is gone. Renamed first, so that a reader sees it whole or not at all."""
        doomed = self._root / f".gone-{repo_id}-{os.urandom(4).hex()}"
        with contextlib.suppress(FileNotFoundError):
            self._dir(repo_id).rename(doomed)
            await asyncio.to_thread(shutil.rmtree, doomed, True)
        await self._lfs.remove_repo(repo_id)
        if self._chunks is not None:
            await self._chunks.remove_repo(repo_id)

    async def duplicate(self, source: RepoId, target: RepoId, ref: str = MAIN) -> None:
        """`target` becomes a new repository with `ref` of `source` as its main and the large files that its history names."""
        await self.create(target)
        try:
            await self.bring(source, target, ref)
        except BaseException:
            await self.remove(target)
            raise

    async def bring(self, source: RepoId, target: RepoId, ref: str) -> None:
        """main of `target` becomes what `ref` of `source` is, with its large files; nothing happens where `ref` is not there."""
        origin = self._existing(source)
        head = await asyncio.to_thread(objects.find_ref, origin, check_ref(ref))
        if head is None:
            return
        owned = {oid for oid, _ in await self._lfs.oids(source)}
        for pointer in await objects.pointers_in(self.git, origin, (head,)):
            if pointer.oid in owned:
                await self._lfs.link(source, target, pointer.oid)
        await self.git.run(self._dir(target), "fetch", "--quiet", "--no-tags", "--", str(origin), f"+{ref}:{MAIN}", timeout_s=600)

    # ---- reading

    async def resolve(self, repo_id: RepoId, rev: str) -> Sha:
        """A full or short commit id, branch, tag or full ref name. Never an expression such as `main~1` or `HEAD@{1}`."""
        found = await asyncio.to_thread(objects.resolve, self._existing(repo_id), rev)
        if found is None:
            raise RevisionNotFound(f"Invalid rev id: {rev[:200]}")
        return found

    async def refs(self, repo_id: RepoId) -> tuple[Ref, ...]:
        out = await self.git.run(self._existing(repo_id), "for-each-ref", "--format=%(refname) %(objectname) %(*objectname)")
        found = []
        for line in out.decode().splitlines():
            ref, direct, *peeled = line.split(" ")
            target = peeled[0] if peeled and peeled[0] else direct
            name = ref.removeprefix("refs/heads/").removeprefix("refs/tags/")
            found.append(Ref(name, ref, Sha(target)))
        return tuple(found)

    async def commits(self, repo_id: RepoId, sha: Sha, *, limit: int = 50, offset: int = 0, path: str | None = None) -> tuple[Commit, ...]:
        words = ["log", "-z", "--no-mailmap", "--encoding=UTF-8", _LOG_FORMAT, f"--skip={max(0, offset)}", f"--max-count={max(0, limit)}"]
        out = await self._ask(repo_id, *words, _full(sha), "--", *([check_path(path)] if path else []))
        fields = out.decode(errors="replace").split("\0")
        return tuple(_commit(fields[i : i + 6]) for i in range(0, len(fields) - 5, 6))

    async def commit_count(self, repo_id: RepoId, sha: Sha) -> int:
        return int(await self._ask(repo_id, "rev-list", "--count", _full(sha), "--"))

    async def tree(self, repo_id: RepoId, sha: Sha, path: str = "", *, recursive: bool = False) -> tuple[TreeEntry, ...]:
        if path:
            path = check_path(path.rstrip("/"))
            if not (await self.entry(repo_id, sha, path)).is_dir:
                raise EntryNotFound(f"{path} is a file, not a folder", commit=sha)
        repo = self._existing(repo_id)
        key = repo_id, sha, path, recursive
        if (known := self._listings.get(key)) is not None:  # a process each time would hold up everybody in this one
            return known
        words = ["ls-tree", "-z", "-l", *(["-r", "-t"] if recursive else [])]
        out = await self._ask(repo_id, *words, f"{_full(sha)}:{path}" if path else _full(sha))
        found = await asyncio.to_thread(objects.parse_listing, repo, out, f"{path}/" if path else "")
        self._listings.keep(key, found)
        return found

    async def entry(self, repo_id: RepoId, sha: Sha, path: str) -> TreeEntry:
        found = await asyncio.to_thread(objects.entry, self._existing(repo_id), _full(sha), check_path(path.rstrip("/")))
        if found is None:
            raise EntryNotFound(f"Entry not found: {path}", commit=sha)
        return found

    async def last_commits(self, repo_id: RepoId, sha: Sha, paths: Sequence[str]) -> Mapping[str, Commit]:
        return await asyncio.to_thread(objects.last_commits, self._existing(repo_id), _full(sha), tuple(check_path(p) for p in paths))

    async def read(self, repo_id: RepoId, sha: Sha, path: str, *, max_bytes: int | None = None) -> bytes:
        """The blob as git has it, or its first `max_bytes` bytes."""
        data = await asyncio.to_thread(objects.read, self._existing(repo_id), _full(sha), check_path(path))
        if data is None:
            raise EntryNotFound(f"Entry not found: {path}", commit=sha)
        return data if max_bytes is None else data[:max_bytes]

    async def diff(self, repo_id: RepoId, sha: Sha, *, base: Sha | None = None, max_bytes: int = 1 << 20) -> str:
        words = ["diff-tree", "-p", "-M", "--root", "--no-commit-id", "--no-ext-diff", "--no-textconv", "--no-color"]
        process = await self.git.spawn(
            self._existing(repo_id), *words, *([_full(base)] if base else []), _full(sha), "--", stderr=asyncio.subprocess.DEVNULL
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(60):
                kept = bytearray()
                while len(kept) <= max_bytes and (chunk := await process.stdout.read(1 << 16)):
                    kept += chunk
        finally:
            await end(process)
        text = kept[:max_bytes].decode(errors="replace")
        return text if len(kept) <= max_bytes else f"{text}\n… cut after {max_bytes} bytes\n"

    async def size_bytes(self, repo_id: RepoId) -> int:
        """Bytes on disk: objects and refs, and the large files that this repository owns."""
        return await asyncio.to_thread(_disk_use, self._existing(repo_id)) + await self._lfs.total_bytes(repo_id)

    async def archive(self, repo_id: RepoId, sha: Sha) -> AsyncIterator[bytes]:
        """A tar stream. Rejected before the first byte when a link leaves the tree or a large file is missing."""
        entries = await self.tree(repo_id, sha, recursive=True)
        async for chunk in archives.stream(self.git, self._existing(repo_id), repo_id, self._lfs, entries):
            yield chunk

    # ---- writing

    async def commit(self, repo_id: RepoId, request: CommitRequest) -> Sha:
        """All changes or none. Without `parent`, a commit that lost the race is made again on the new head.

        Returns the present head when nothing would change. Raises StaleParent, RevisionNotFound, EntryNotFound, Rejected.
        """
        check_ref(request.ref)
        repo = self._existing(repo_id)
        changes = [tree_writer.checked(change) for change in request.changes]
        missing = [c.lfs.oid for c in changes if c.lfs and await self._lfs.has(repo_id, c.lfs.oid) != c.lfs.size]
        if missing:
            raise Rejected(
                f"these LFS objects were not uploaded to this repository: {', '.join(missing[:20])}",
                code="LfsObjectMissing",
                hint="Upload the bytes first, then commit.",
                facts={"oids": missing[:1000]},
            )
        new_files = [c.content for c in changes if c.content is not None]
        if len(new_files) > _PACK_FROM or sum(map(len, new_files)) > _PACK_FROM_BYTES:
            pack = await asyncio.to_thread(blob_pack, new_files)
            await self.git.run(repo, "index-pack", "--stdin", input=pack, timeout_s=600)
        async with self._lock(repo_id):
            for _ in range(_CAS_TRIES):
                head = await asyncio.to_thread(objects.find_ref, repo, request.ref)
                if request.parent is not None and request.parent != (head or ZERO_SHA):
                    raise StaleParent(STALE_WORDS)
                if head is None and request.ref != MAIN:
                    raise RevisionNotFound(f"Invalid rev id: {request.ref}")
                new = await asyncio.to_thread(tree_writer.write_commit, repo, head, request, changes)
                if new == head or await self._swap(repo, request.ref, Sha(new), head):
                    return Sha(new)
                if request.parent is not None:
                    raise StaleParent(STALE_WORDS)
        raise Conflict("the branch moved too often while this commit was made; try again")

    async def set_ref(self, repo_id: RepoId, ref: str, target: Sha | None, *, expected: Sha | None = None) -> None:
        """Create, move or (target None) delete a ref. `expected` None = whatever it is now; else StaleParent when it differs."""
        check_ref(ref)
        if target is None and ref == MAIN:
            raise Rejected("main is the branch that is served and cannot be deleted", code="ProtectedBranch")
        repo = self._existing(repo_id)
        if target is not None and await asyncio.to_thread(objects.resolve, repo, _full(target)) is None:
            raise RevisionNotFound(f"Invalid rev id: {target}")
        async with self._lock(repo_id):
            now = await asyncio.to_thread(objects.find_ref, repo, ref, peel=False)
            if expected is not None and now != expected:
                raise StaleParent(STALE_WORDS)
            if target is None and now is None:
                raise RevisionNotFound(f"Invalid rev id: {ref}")
            if not await self._swap(repo, ref, target, now):
                raise Conflict(f"{ref} could not be changed: it moved meanwhile, or a ref of a like name is in its way")

    async def squash(self, repo_id: RepoId, branch: str, message: str, author: str, author_email: str) -> Sha:
        """Replace the history of a branch by one commit with the same tree."""
        repo, ref = self._existing(repo_id), check_ref(f"refs/heads/{branch}")
        async with self._lock(repo_id):
            head = await asyncio.to_thread(objects.find_ref, repo, ref)
            if head is None:
                raise RevisionNotFound(f"Invalid rev id: {branch}")

            new = Sha(await asyncio.to_thread(tree_writer.write_root, repo, head, message, author, author_email))
            if not await self._swap(repo, ref, new, head):
                raise StaleParent(STALE_WORDS)
            return new

    async def empty_commit(self, repo_id: RepoId, message: str, author: str, author_email: str) -> Sha:
        """A commit without files or history, which nothing names yet."""
        repo = self._existing(repo_id)
        return Sha(await asyncio.to_thread(tree_writer.write_root, repo, None, message, author, author_email))

    async def lfs_paths(self, repo_id: RepoId) -> dict[str, str]:
        """A path that each large file has or had, by the object's name."""
        repo = self._existing(repo_id)
        tips = [ref.target for ref in await self.refs(repo_id)]
        return {f.pointer.oid: f.path for f in await objects.pointer_blobs(self.git, repo, tips)} if tips else {}

    async def forget_lfs(self, repo_id: RepoId, oids: frozenset[str]) -> tuple[RefMove, ...]:
        """Every ref leads to a history in which the pointers to these large files never were; the files themselves stay stored."""
        repo = self._existing(repo_id)
        async with self._lock(repo_id):
            listed = await self.git.run(repo, "for-each-ref", "--format=%(refname) %(objectname)")
            tips = dict(line.split(" ", 1) for line in listed.decode().splitlines())
            blobs = await objects.pointer_blobs(self.git, repo, [*tips.values()]) if tips else ()
            doomed = frozenset(f.blob for f in blobs if f.pointer.oid in oids)
            moved = await asyncio.to_thread(rewrite.without_blobs, repo, doomed, tips) if doomed else {}
            if not moved:
                return ()
            lines = "".join(f"update {ref}\0{new}\0{tips[ref]}\0" for ref, new in moved.items())
            try:
                await self.git.run(repo, "update-ref", "--no-deref", "-z", "--stdin", input=lines.encode(), timeout_s=300)
            except GitFailed as error:
                if "cannot lock ref" in error.stderr:
                    raise StaleParent(STALE_WORDS) from error
                raise Broken(str(error)) from error
            for folder in {(repo / ref).parent for ref in moved}:
                if folder.is_dir():
                    await asyncio.to_thread(sync_folder, folder)
            peeled = {ref.ref: ref.target for ref in await self.refs(repo_id)}
            return tuple(RefMove(ref, Sha(tips[ref]), peeled[ref]) for ref in moved)

    async def _swap(self, repo: Path, ref: str, target: Sha | None, expected: Sha | None) -> bool:
        """Compare-and-swap of a ref; False when it was not `expected` any more (None = absent)."""
        line = f"update {ref}\0{target}\0{expected or ZERO_SHA}\0" if target else f"delete {ref}\0{expected}\0"
        try:
            await self.git.run(repo, "update-ref", "--no-deref", "-z", "--stdin", input=line.encode())
        except GitFailed as error:
            if "cannot lock ref" in error.stderr:
                return False
            raise Broken(str(error)) from error
        folder = (repo / ref).parent
        if folder.is_dir():
            await asyncio.to_thread(sync_folder, folder)
        return True

    async def lfs_in_use(self, repo_id: RepoId) -> frozenset[str]:
        """The objects that some commit of some ref names; the others may go (`FileLfsStore.drop_unreferenced`)."""
        repo = self._existing(repo_id)
        tips = [ref.target for ref in await self.refs(repo_id)]
        return frozenset(p.oid for p in await objects.pointers_in(self.git, repo, tips)) if tips else frozenset()

    async def tidy(self, repo_id: RepoId) -> bool:
        """Roll many small packs and loose objects into few packs, each at least twice the next; whether there was need.

        Cheap beside `maintain`: it touches the small ones only, so that the work stays in proportion to what was pushed.
        """
        repo = self._existing(repo_id)
        packs, loose = await asyncio.to_thread(_pack_state, repo)
        if packs <= _TIDY_PACKS and loose <= _TIDY_LOOSE:
            return False
        await self.git.run(repo, "repack", "-d", "-l", "-q", "--geometric=2", timeout_s=3600)
        return True

    async def maintain(self, repo_id: RepoId) -> None:
        """Repack and drop what no ref has named for two weeks. Safe beside readers and pushes; run it now and then."""
        repo = self._existing(repo_id)
        await self.git.run(repo, "gc", "--quiet", "--prune=2.weeks.ago", timeout_s=3600)
        (repo / _MAINTAINED).touch(mode=0o600)

    async def maintained_ago_s(self, repo_id: RepoId) -> float:
        """Seconds since the last `maintain`, or since the repository was made."""
        repo = self._existing(repo_id)
        known = repo / _MAINTAINED
        return time.time() - (known if known.exists() else repo / "config").stat().st_mtime

    async def _ask(self, repo_id: RepoId, *args: str) -> bytes:
        try:
            return await self.git.run(self._existing(repo_id), *args)
        except GitFailed as error:
            raise RevisionNotFound("Invalid rev id") from error

    def _dir(self, repo_id: str) -> Path:
        return self._root / f"{check_repo_id(repo_id)}.git"

    def _existing(self, repo_id: str) -> Path:
        path = self._dir(repo_id)
        if not path.is_dir():
            raise RepoNotFound()
        return path

    def _lock(self, repo_id: str) -> asyncio.Lock:
        lock = self._locks.get(repo_id)
        if lock is None:
            lock = self._locks[repo_id] = asyncio.Lock()
        return lock


def _init(path: Path) -> None:
    """An empty bare repository, synced. Written by hand: no template, no hooks, nothing that the machine's git would add."""
    for folder in ("objects/info", "objects/pack", "refs/heads", "refs/tags"):
        (path / folder).mkdir(parents=True, mode=0o700)
    sections: dict[str, list[str]] = {"core": ["repositoryformatversion = 0", "filemode = true", "bare = true", "hooksPath = /dev/null"]}
    for key, value in PINNED:
        section, _, name = key.partition(".")
        if section not in ("safe", "protocol"):  # those two are heard on the command line only
            sections.setdefault(section, []).append(f"{name} = {value}")
    config = "".join(f"[{section}]\n" + "".join(f"\t{line}\n" for line in lines) for section, lines in sections.items())
    for name, text in (("HEAD", f"ref: {MAIN}\n"), ("config", config)):
        with (path / name).open("x") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    for folder in ("objects", "refs", ""):
        sync_folder(path / folder)


def _full(sha: str) -> str:
    if not SHA.fullmatch(sha):
        raise RevisionNotFound(f"Invalid rev id: {sha[:200]}")
    return sha


def _commit(fields: Sequence[str]) -> Commit:
    sha, parents, author, email, at, message = fields
    return Commit(
        sha=Sha(sha.strip()),
        title=message.split("\n", 1)[0].strip(),
        message=message.rstrip("\n"),
        author=author,
        author_email=email,
        at=datetime.fromtimestamp(int(at or 0), UTC),
        parents=tuple(Sha(p) for p in parents.split()),
    )


def _pack_state(repo: Path) -> tuple[int, int]:
    """Packs, and loose objects as git estimates them: by one folder of 256."""
    sample = repo / "objects" / "17"
    loose = len(os.listdir(sample)) * 256 if sample.is_dir() else 0
    return sum(name.endswith(".pack") for name in os.listdir(repo / "objects" / "pack")), loose


def _disk_use(path: Path) -> int:
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                continue
    return total
