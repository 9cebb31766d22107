"""What every GitStore and LfsStore promises, checked on the bare store."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control_plane.domain.errors import EntryNotFound, NameTaken, Rejected, RepoNotFound, RevisionNotFound, StaleParent
from control_plane.domain.ids import RepoId
from control_plane.git.lfs import FileLfsStore
from control_plane.git.store import BareGitStore
from control_plane.git.upkeep import Tidied, Upkeep
from control_plane.git.xet import XetStore
from control_plane.ports.git import CommitRequest, FileChange, GitStore, LfsPointer, LfsStore

MAIN = "refs/heads/main"
A, B = RepoId("a" * 24), RepoId("b" * 24)


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def oid_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def lfs(tmp_path: Path) -> FileLfsStore:
    return FileLfsStore(tmp_path / "lfs")


@pytest.fixture
def store(tmp_path: Path, lfs: FileLfsStore) -> BareGitStore:
    return BareGitStore(tmp_path / "repos", lfs)


def request(*changes: FileChange, parent: str | None = None, ref: str = MAIN, message: str = "Change\n\nmore") -> CommitRequest:
    return CommitRequest(ref, message, "Alice", "alice@example.org", changes, parent)  # type: ignore[arg-type]


def test_both_satisfy_their_ports(store: BareGitStore, lfs: FileLfsStore) -> None:
    git: GitStore = store
    large: LfsStore = lfs
    assert git is not None and large is not None


async def test_commit_and_read_back(store: BareGitStore) -> None:
    await store.create(A)
    with pytest.raises(NameTaken):
        await store.create(A)
    with pytest.raises(RevisionNotFound):
        await store.resolve(A, "main")
    first = await store.commit(A, request(FileChange("app.py", b"print(1)\n"), FileChange("docs/a.md", b"a")))
    second = await store.commit(A, request(FileChange("docs/b.md", b"b"), parent=first, message="Second"))
    assert await store.resolve(A, "main") == second == await store.resolve(A, second[:9]) == await store.resolve(A, MAIN)
    assert await store.read(A, second, "app.py") == b"print(1)\n"
    assert await store.read(A, second, "app.py", max_bytes=3) == b"pri"
    names = [e.path for e in await store.tree(A, second, recursive=True)]
    assert names == ["app.py", "docs", "docs/a.md", "docs/b.md"]
    assert [e.path for e in await store.tree(A, second, "docs")] == ["docs/a.md", "docs/b.md"]
    assert (await store.entry(A, second, "docs")).is_dir
    assert (await store.entry(A, second, "app.py")).size == 9
    history = await store.commits(A, second)
    assert [c.title for c in history] == ["Second", "Change"]
    assert history[0].parents == (first,) and history[1].message == "Change\n\nmore" and history[1].author == "Alice"
    assert [c.sha for c in await store.commits(A, second, path="app.py")] == [first]
    assert await store.commit_count(A, second) == 2
    last = await store.last_commits(A, second, ["app.py", "docs", "docs/a.md", "absent"])
    assert {k: v.sha for k, v in last.items()} == {"app.py": first, "docs": second, "docs/a.md": first}
    assert "+b" in await store.diff(A, second) and "+a" not in await store.diff(A, second)
    assert await store.size_bytes(A) > 100
    subprocess.run(["git", "-C", store.path(A), "fsck", "--strict"], check=True, capture_output=True)


async def test_absent_things_are_named(store: BareGitStore) -> None:
    with pytest.raises(RepoNotFound):
        await store.resolve(A, "main")
    await store.create(A)
    head = await store.commit(A, request(FileChange("a", b"1")))
    with pytest.raises(EntryNotFound) as caught:
        await store.read(A, head, "b")
    assert caught.value.commit == head
    for rev in ("main~1", "HEAD@{0}", "-x", "nope", ":/Change", "0" * 40, "a" * 7, "--all", ""):
        with pytest.raises(RevisionNotFound):
            await store.resolve(A, rev)
    with pytest.raises(EntryNotFound, match="A file with this name doesn't exist"):
        await store.commit(A, request(FileChange("gone")))


async def test_a_commit_is_all_or_nothing_and_guards_its_parent(store: BareGitStore) -> None:
    await store.create(A)
    first = await store.commit(A, request(FileChange("a", b"1")))
    second = await store.commit(A, request(FileChange("b", b"2"), parent=first))
    with pytest.raises(StaleParent):
        await store.commit(A, request(FileChange("c", b"3"), parent=first))
    with pytest.raises(EntryNotFound):
        await store.commit(A, request(FileChange("c", b"3"), FileChange("gone")))
    with pytest.raises(Rejected):
        await store.commit(A, request(FileChange("a/b", b"3")))
    with pytest.raises(RevisionNotFound):
        await store.commit(A, request(FileChange("c", b"3"), ref="refs/heads/other"))
    assert await store.resolve(A, "main") == second
    assert await store.commit(A, request(FileChange("b", b"2"))) == second


async def test_concurrent_commits_without_parent_all_land(store: BareGitStore) -> None:
    await store.create(A)
    await store.commit(A, request(FileChange("a", b"1")))
    await asyncio.gather(*(store.commit(A, request(FileChange(f"f{i}", b"x"))) for i in range(6)))
    head = await store.resolve(A, "main")
    assert await store.commit_count(A, head) == 7
    assert len(await store.tree(A, head)) == 7


@pytest.mark.parametrize(
    "path",
    [
        "/etc/x",
        "../x",
        "a/../b",
        "a//b",
        ".git/config",
        "a/.GIT/x",
        "git~1/x",
        ".g\u200cit/x",
        "a\\b",
        "",
        "a\nb",
        "a\x00b",
        "./a",
        "a/.",
        "x" * 300,
        ".git./x",
        ".git::$INDEX/x",
    ],
)
async def test_hostile_paths_are_refused_by_name(store: BareGitStore, path: str) -> None:
    await store.create(A)
    with pytest.raises(Rejected):
        await store.commit(A, request(FileChange("ok", b"1"), FileChange(path, b"1")))
    assert await store.refs(A) == ()


async def test_deleting_folders_and_files(store: BareGitStore) -> None:
    await store.create(A)
    await store.commit(A, request(FileChange("d/a", b"1"), FileChange("d/b/c", b"1"), FileChange("e", b"1")))
    head = await store.commit(A, request(FileChange("d/", is_folder=True)))
    assert [e.path for e in await store.tree(A, head, recursive=True)] == ["e"]


async def test_refs_move_by_compare_and_swap(store: BareGitStore) -> None:
    await store.create(A)
    first = await store.commit(A, request(FileChange("a", b"1")))
    second = await store.commit(A, request(FileChange("a", b"2")))
    await store.set_ref(A, "refs/heads/dev", first)
    await store.set_ref(A, "refs/tags/v1", second)
    await store.set_ref(A, "refs/pr/1", first)
    assert {r.ref: r.target for r in await store.refs(A)} == {
        MAIN: second,
        "refs/heads/dev": first,
        "refs/tags/v1": second,
        "refs/pr/1": first,
    }
    with pytest.raises(StaleParent):
        await store.set_ref(A, "refs/heads/dev", second, expected=second)
    with pytest.raises(Rejected):
        await store.set_ref(A, MAIN, None)
    for ref in ("refs/heads/-c", "refs/replace/x", "HEAD", "refs/heads/$(id)", "refs/heads/a..b", "../x", "refs/heads/a.lock"):
        with pytest.raises(Rejected):
            await store.set_ref(A, ref, first)
    await store.set_ref(A, "refs/heads/dev", None, expected=first)
    with pytest.raises(RevisionNotFound):
        await store.resolve(A, "dev")
    squashed = await store.squash(A, "main", "One", "Alice", "a@example.org")
    assert await store.commit_count(A, squashed) == 1
    assert await store.read(A, squashed, "a") == b"2"


async def test_large_files_are_hashed_owned_and_inlined(store: BareGitStore, lfs: FileLfsStore, tmp_path: Path) -> None:
    await store.create(A)
    data = b"large" * 1000
    oid = oid_of(data)
    pointer = LfsPointer(oid, len(data), 0)
    with pytest.raises(Rejected, match="not uploaded"):
        await store.commit(A, request(FileChange("m.bin", lfs=pointer)))
    for bad in (chunks(b"other"), chunks(data, b"x"), chunks(data[:-1])):
        with pytest.raises(Rejected):
            await lfs.put(A, oid, len(data), bad)
    assert await lfs.has(A, oid) is None
    await asyncio.gather(*(lfs.put(A, oid, len(data), chunks(data[:7], data[7:])) for _ in range(3)))
    assert await lfs.has(A, oid) == len(data) and await lfs.has(B, oid) is None
    assert not list((tmp_path / "lfs" / "incoming").iterdir())
    head = await store.commit(A, request(FileChange("m.bin", lfs=pointer), FileChange("d/run.sh", b"#!")))
    entry = await store.entry(A, head, "m.bin")
    assert entry.size == len(data) and entry.lfs is not None and entry.lfs.oid == oid
    tar = b"".join([c async for c in store.archive(A, head)])
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        assert sorted(archive.getnames()) == ["d", "d/run.sh", "m.bin"]
        member = archive.extractfile("m.bin")
        assert member is not None and member.read() == data
    await store.duplicate(A, B)
    assert await lfs.has(B, oid) == len(data) and await store.resolve(B, "main") == head
    await lfs.drop(A, oid)
    assert await lfs.has(B, oid) == len(data)
    await lfs.drop(B, oid)
    assert not list((tmp_path / "lfs" / "objects").glob("??/??/*"))
    await store.remove(B)
    with pytest.raises(RepoNotFound):
        await store.refs(B)


@pytest.mark.parametrize("oid", ["../" * 21 + "x", "/etc/passwd", "A" * 64, "a" * 63, "a" * 65, "a" * 63 + "\u0661", "a" * 63 + "\n", ""])
async def test_object_ids_are_checked_at_every_sink(lfs: FileLfsStore, oid: str) -> None:
    with pytest.raises(Rejected):
        await lfs.put(A, oid, 1, chunks(b"x"))
    for call in (lfs.has(A, oid), lfs.file_path(A, oid), lfs.drop(A, oid), lfs.link(A, B, oid)):
        with pytest.raises(Rejected):
            await call


async def test_links_that_leave_the_tree_are_not_archived(store: BareGitStore, tmp_path: Path) -> None:
    await store.create(A)
    work = tmp_path / "w"
    work.mkdir()
    git = ["git", "-C", str(work), "-c", "user.name=x", "-c", "user.email=x@x"]
    subprocess.run(["git", "init", "-q", "-b", "main", str(work)], check=True)
    (work / "in").symlink_to("a")
    (work / "a").write_text("a")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    subprocess.run([*git, "push", "-q", store.path(A), "main"], check=True)
    head = await store.resolve(A, "main")
    assert b"in" in b"".join([c async for c in store.archive(A, head)])
    (work / "d").symlink_to("b/../../etc")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    subprocess.run([*git, "push", "-q", store.path(A), "main"], check=True)
    head = await store.resolve(A, "main")
    with pytest.raises(Rejected, match="points outside"):
        _ = [c async for c in store.archive(A, head)]


async def test_sweep_removes_what_nobody_owns(lfs: FileLfsStore, tmp_path: Path) -> None:
    await lfs.put(A, oid_of(b"x"), 1, chunks(b"x"))
    lfs.incoming().write_bytes(b"half")
    assert await lfs.sweep(older_than_s=-1) == 1
    assert await lfs.has(A, oid_of(b"x")) == 1
    await lfs.remove_repo(A)
    assert await lfs.total_bytes(A) == 0


async def test_objects_that_no_commit_names_may_go(store: BareGitStore, lfs: FileLfsStore) -> None:
    await store.create(A)
    assert await store.lfs_in_use(A) == frozenset()
    for data in (b"used", b"old"):
        await lfs.put(A, oid_of(data), len(data), chunks(data))
    await store.commit(A, request(FileChange("m.bin", lfs=LfsPointer(oid_of(b"used"), 4, 0))))
    used = await store.lfs_in_use(A)
    assert used == {oid_of(b"used")}
    assert await lfs.drop_unreferenced(A, used) == 0
    assert await lfs.drop_unreferenced(A, used, older_than_s=-5) == 1
    assert await lfs.has(A, oid_of(b"used")) == 4 and await lfs.has(A, oid_of(b"old")) is None
    await store.maintain(A)
    assert await store.resolve(A, "main")


async def test_a_large_commit_is_one_pack_and_small_packs_are_rolled_together(store: BareGitStore) -> None:
    await store.create(A)
    objects = Path(store.path(A), "objects")
    await store.commit(A, request(FileChange("a.bin", content=os.urandom(3 << 20))))
    assert sum(p.stat().st_size for p in objects.glob("??/*")) < 100_000 and len(list(objects.glob("pack/*.pack"))) == 1
    assert not await store.tidy(A)
    for n in range(21):
        await store.commit(A, request(FileChange(f"{n}.bin", content=os.urandom(1_100_000))))
    head = await store.resolve(A, "main")
    assert await store.tidy(A) and len(list(objects.glob("pack/*.pack"))) < 5
    assert len(await store.tree(A, head)) == 22 and len(await store.read(A, head, "a.bin")) == 3 << 20
    subprocess.run(["git", "-C", store.path(A), "fsck", "--strict"], check=True, capture_output=True)


async def test_large_files_and_chunks_go_with_their_repository(lfs: FileLfsStore, tmp_path: Path) -> None:
    chunks_store = XetStore(tmp_path / "xet", lfs)
    store = BareGitStore(tmp_path / "repos", lfs, chunks=chunks_store)
    for repo in (A, B):
        await store.create(repo)
        await lfs.put(repo, oid_of(b"shared"), 6, chunks(b"shared"))
    await lfs.put(A, oid_of(b"mine"), 4, chunks(b"mine"))
    (tmp_path / "xet" / A).mkdir(parents=True)
    (tmp_path / "xet" / A / "xorb").write_bytes(b"x")
    await store.remove(A)
    assert not (tmp_path / "xet" / A).exists() and not (tmp_path / "lfs" / A).exists() and not list((tmp_path / "lfs/incoming").iterdir())
    kept = [p.name for p in (tmp_path / "lfs" / "objects").glob("??/??/*")]
    assert kept == [oid_of(b"shared")] and await lfs.has(B, oid_of(b"shared")) == 6
    await store.remove(A)


async def test_upkeep_looks_at_every_repository_and_alone(store: BareGitStore, lfs: FileLfsStore, tmp_path: Path) -> None:
    for repo in (A, B):
        await store.create(repo)
        await store.commit(repo, request(FileChange("a", content=b"x")))
    await lfs.put(A, oid_of(b"old"), 3, chunks(b"old"))
    measured: list[RepoId] = []

    async def note(repo: RepoId) -> None:
        measured.append(repo)

    async def repos() -> AsyncIterator[RepoId]:
        for repo in (A, RepoId("f" * 24), B):
            yield repo

    upkeep = Upkeep(store, lfs, XetStore(tmp_path / "xet", lfs), repos, note, unnamed_s=-5)
    assert await upkeep.once() == Tidied() and measured == []
    done = await upkeep.once(thorough=True)
    assert (done.repacked, done.large_files, measured) == (2, 1, [A, B]) and await store.maintained_ago_s(A) < 60
    async with asyncio.TaskGroup() as group:
        passes = [group.create_task(upkeep.once(thorough=True)) for _ in range(2)]
    assert sorted(p.result().skipped for p in passes) == [False, True]


async def test_large_files_leave_every_history(store: BareGitStore, lfs: FileLfsStore, tmp_path: Path) -> None:
    """Merges, annotated tags and folders that held nothing else; commits before the first such file keep their id."""
    doomed, kept = b"secret weights", b"good weights"
    await store.create(A)
    for data in (doomed, kept):
        await lfs.put(A, oid_of(data), len(data), chunks(data))
    pointer, other = LfsPointer(oid_of(doomed), len(doomed), 0), LfsPointer(oid_of(kept), len(kept), 0)
    first = await store.commit(A, request(FileChange("README.md", b"hi"), FileChange("good.bin", lfs=other)))
    second = await store.commit(
        A, request(FileChange("deep/only/bad.bin", lfs=pointer), FileChange("also.bin", lfs=pointer), message="Bad")
    )
    await store.set_ref(A, "refs/heads/side", second)
    await store.commit(A, request(FileChange("also.bin"), message="Gone from the head"))
    repo = store.path(A)

    def git(*words: str) -> str:
        names = {f"GIT_{who}_{what}": "a@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_DIR": repo, **names}
        return subprocess.run(["git", *words], env=env, capture_output=True, text=True, check=True).stdout.strip()

    merge = git("commit-tree", "main^{tree}", "-p", "main", "-p", "side", "-m", "Merge")
    git("update-ref", MAIN, merge)
    git("tag", "-a", "v1", "-m", "first", "side")
    git("tag", "old", first)
    assert set(await store.lfs_paths(A)) == {pointer.oid, other.oid}

    moves = {m.ref: m for m in await store.forget_lfs(A, frozenset({pointer.oid}))}
    assert set(moves) == {MAIN, "refs/heads/side", "refs/tags/v1"}
    assert moves[MAIN].old == merge and moves[MAIN].new == await store.resolve(A, "main")
    assert set(await store.lfs_paths(A)) == {other.oid}
    assert git("log", "--format=%s", "main").splitlines()[0] == "Merge"
    assert await store.commit_count(A, moves[MAIN].new) == 4
    assert git("ls-tree", "-r", "--name-only", "main").split() == ["README.md", "good.bin"]
    assert git("ls-tree", "-r", "--name-only", "v1") == git("ls-tree", "-r", "--name-only", "side")
    assert git("cat-file", "-p", "refs/tags/v1").endswith("first")
    assert git("rev-parse", "old") == first and git("merge-base", "--is-ancestor", first, "main") == ""
    git("fsck", "--strict")
    assert await store.forget_lfs(A, frozenset({pointer.oid})) == ()
    assert await store.forget_lfs(A, frozenset({"0" * 64})) == ()
