"""A new repository from another git server: over TLS through the one-host door, and everything that must not work."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane.domain.errors import Rejected
from control_plane.domain.ids import RepoId, new_id
from control_plane.git.connect_proxy import ConnectProxy
from control_plane.git.gitbin import GitBinary
from control_plane.git.lfs import FileLfsStore
from control_plane.git.policy import PushLimits
from control_plane.git.remote import ImportLimits, RemoteRepos
from control_plane.git.store import BareGitStore
from control_plane.net.public_address import addresses_of, is_public
from tests.functional.git.foreign_server import Foreign, git, repository, serving
from tests.functional.proxy.certificates import certificate


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[Foreign]:
    """A server over TLS with the repository `demo`: three commits and a branch `next`."""
    root = tmp_path / "foreign"
    bare = repository(root, "demo", [{"app.py": "print(1)\n"}, {"README.md": "# Demo\n"}, {"app.py": "print(2)\n"}])
    git(bare, "branch", "next", "main~1")
    with serving(root, certificate(tmp_path, "foreign", "localhost")) as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> BareGitStore:
    return BareGitStore(tmp_path / "repos", FileLfsStore(tmp_path / "lfs"))


def importer(tmp_path: Path, store: BareGitStore, *allow: str, ca: str = "foreign", **limits: object) -> RemoteRepos:
    bundle = str(tmp_path / f"{ca}.crt") if ca else ""
    made = ImportLimits(**limits)  # type: ignore[arg-type]
    return RemoteRepos(GitBinary(tmp_path / "none"), store, FileLfsStore(tmp_path / "lfs"), allow=allow, ca_bundle=bundle, limits=made)


async def no_limit(size: int) -> None:
    return


async def bring(imports: RemoteRepos, store: BareGitStore, url: str, branch: str = "") -> tuple[RepoId, list[str]]:
    repo, said = RepoId(new_id()), list[str]()
    await store.create(repo)
    await imports.bring(url, branch, repo, said.append, no_limit)
    return repo, said


async def test_the_history_of_the_default_branch_comes_over_tls(tmp_path: Path, store: BareGitStore, foreign: Foreign) -> None:
    imports = importer(tmp_path, store, f"localhost:{foreign.port}")
    repo, said = await bring(imports, store, f"{foreign.url}/demo")
    head = await store.resolve(repo, "main")
    assert head == git(foreign.root / "demo", "rev-parse", "main")
    assert [c.title for c in await store.commits(repo, head)] == ["Commit 2", "Commit 1", "Commit 0"]
    assert [r.ref for r in await store.refs(repo)] == ["refs/heads/main"], "nothing but main"
    assert said[0] == "Asking localhost" and said[-1] == "Checking what came"
    assert any(line.startswith("Receiving objects") for line in said)
    second, _ = await bring(imports, store, f"{foreign.url}/demo", "next")
    assert len(await store.commits(second, await store.resolve(second, "main"))) == 2


@pytest.mark.parametrize(
    ("path", "branch", "words"),
    [("/demo", "absent", "no branch 'absent'"), ("/nothing", "", "no such repository"), ("/demo", "../x", "cannot be")],
)
async def test_what_is_not_there_is_said(tmp_path: Path, store: BareGitStore, foreign: Foreign, path: str, branch: str, words: str) -> None:
    with pytest.raises(Rejected, match=words):
        await bring(importer(tmp_path, store, f"localhost:{foreign.port}"), store, foreign.url + path, branch)


async def test_a_private_server_is_never_asked_unless_the_operator_named_it(tmp_path: Path, store: BareGitStore, foreign: Foreign) -> None:
    with pytest.raises(Rejected, match="private network"):
        await bring(importer(tmp_path, store), store, f"{foreign.url}/demo")
    assert foreign.seen == []


@pytest.mark.parametrize(
    "url",
    [
        "", "http://example.org/a", "git://example.org/a", "ssh://git@example.org/a", "git@example.org:a/b", "file:///etc/passwd",
        "ext::sh -c id",
        "https://user:secret@example.org/a", "https://example.org", "https://example.org/", "https://example.org/a?b=c",
        "https://example.org/a#b", "https://example.org:99999/a", "https://-oProxyCommand=id/a", "https://exa mple.org/a",
        "https://example.org\\@localhost/a", "https://ex\u00e4mple.org/a", "https://example.org/a\n", "--upload-pack=id",
        "https://" + "a" * 600,
    ],
)  # fmt: skip
def test_an_address_that_can_never_be_is_refused_unasked(tmp_path: Path, store: BareGitStore, url: str) -> None:
    with pytest.raises(Rejected, match="https://"):
        importer(tmp_path, store, ca="").check(url, "")


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "[::1]",
        "10.0.0.8",
        "169.254.169.254",
        "192.168.1.1",
        "0.0.0.0",
        "[::ffff:127.0.0.1]",
        "[fd00::1]",
        "100.64.0.1",
        "2130706433",
    ],
)
async def test_no_spelling_of_a_private_address_is_asked(tmp_path: Path, store: BareGitStore, host: str) -> None:
    with pytest.raises(Rejected, match="private network"):
        await bring(importer(tmp_path, store, ca=""), store, f"https://{host}/a/b.git")


def test_public_and_private_addresses() -> None:
    assert [is_public(a) for a in ("1.1.1.1", "2606:4700::1111", "64:ff9b::7f00:1", "2002:7f00:1::", "224.0.0.1", "::")] == [
        True, True, False, False, False, False,
    ]  # fmt: skip


async def test_a_redirect_is_not_followed(tmp_path: Path, store: BareGitStore, foreign: Foreign) -> None:
    with serving(foreign.root) as other:
        foreign.redirect = other.url
        with pytest.raises(Rejected, match="sends elsewhere"):
            await bring(importer(tmp_path, store, f"localhost:{foreign.port}"), store, f"{foreign.url}/demo")
        assert foreign.seen and other.seen == []


async def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path, store: BareGitStore, foreign: Foreign) -> None:
    with pytest.raises(Rejected, match="not trusted"):
        await bring(importer(tmp_path, store, f"localhost:{foreign.port}", ca=""), store, f"{foreign.url}/demo")


async def test_more_than_may_come_is_cut_off(tmp_path: Path, store: BareGitStore, foreign: Foreign) -> None:
    repository(foreign.root, "large", [{"noise.bin": os.urandom(3 << 20)}])
    with pytest.raises(Rejected, match=r"larger than 1 MiB"):
        await bring(importer(tmp_path, store, f"localhost:{foreign.port}", max_bytes=1 << 20), store, f"{foreign.url}/large")


async def test_what_a_push_may_not_bring_an_import_may_not_either(tmp_path: Path, store: BareGitStore, foreign: Foreign) -> None:
    repository(foreign.root, "heavy", [{"model.dat": b"x" * 5000}])
    imports = importer(tmp_path, store, f"localhost:{foreign.port}", push=PushLimits(file_bytes=4096))
    with pytest.raises(Rejected, match="cannot be imported: it contains files larger"):
        await bring(imports, store, f"{foreign.url}/heavy")


async def test_large_files_come_along(tmp_path: Path, store: BareGitStore, foreign: Foreign) -> None:
    """Of the whole history, each object once, with the fields the server asked for and none that are ours to set."""
    old, new = os.urandom(3 << 20), b"weights" * 100
    text = foreign.pointer(new)
    repository(foreign.root, "lfs", [{"model.bin": foreign.pointer(old)}, {"model.bin": text, "same.bin": text}])
    imports = importer(tmp_path, store, f"localhost:{foreign.port}", max_bytes=1 << 20)
    repo, said = await bring(imports, store, f"{foreign.url}/lfs")
    lfs = FileLfsStore(tmp_path / "lfs")
    for content in (old, new):
        path = await lfs.file_path(repo, hashlib.sha256(content).hexdigest())
        assert path is not None and Path(path).read_bytes() == content
    assert sum(line.startswith("Large file ") for line in said) == 2 and said[-1] == "Checking what came"


async def test_large_files_need_room_before_any_comes(tmp_path: Path, store: BareGitStore, foreign: Foreign) -> None:
    repository(foreign.root, "lfs", [{"model.bin": foreign.pointer(b"x" * 700)}])
    asked: list[int] = []

    async def none_left(size: int) -> None:
        asked.append(size)
        raise Rejected("there is no room")

    repo = RepoId(new_id())
    await store.create(repo)
    with pytest.raises(Rejected, match="no room"):
        await importer(tmp_path, store, f"localhost:{foreign.port}").bring(f"{foreign.url}/lfs", "", repo, print, none_left)
    assert asked == [700] and not [path for path in foreign.seen if "lfs/objects" in path]
    with pytest.raises(Rejected, match=r"1 large files of 0 MiB; bring a clone"):
        await bring(importer(tmp_path, store, f"localhost:{foreign.port}", large_bytes=699), store, f"{foreign.url}/lfs")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("lost", "does not give the large file .*: we lost it"),
        ("changed", "have the sha256"),
        ("longer", "were announced|sends more"),
        ("private", "private network"),
        ("plain", "only https:// is asked"),
        ("metadata", "private network"),
        ("locked", "answers 403"),
        ("round", "again and again"),
    ],
)
async def test_a_large_file_that_cannot_be_had_ends_the_import(
    tmp_path: Path, store: BareGitStore, foreign: Foreign, fault: str, words: str
) -> None:
    content = b"x" * 5000
    repository(foreign.root, "lfs", [{"model.bin": foreign.pointer(content)}])
    (oid,) = foreign.large
    repo, lfs = RepoId(new_id()), FileLfsStore(tmp_path / "lfs")
    await store.create(repo)
    with serving(foreign.root, f"{tmp_path / 'foreign.crt'}:{tmp_path / 'foreign.key'}") as other:
        match fault:
            case "lost":
                foreign.large.clear()
            case "changed":
                foreign.large[oid] = b"y" * 5000
            case "longer":
                foreign.large[oid] = content * 1000
            case "private":
                foreign.large_at = other.url
            case "plain":
                foreign.large_at = "http://example.org"
            case "metadata":
                foreign.moved_to = "https://169.254.169.254"
            case "locked":
                foreign.moved_to, other.large = other.url, foreign.large
            case "round":
                foreign.moved_to = foreign.url
        allow = [f"localhost:{foreign.port}", *([f"localhost:{other.port}"] if fault == "locked" else [])]
        with pytest.raises(Rejected, match=words):
            await importer(tmp_path, store, *allow).bring(f"{foreign.url}/lfs", "", repo, print, no_limit)
        assert (fault == "locked") == bool(other.seen), "the key that one server gave is not shown to another"
    assert await lfs.has(repo, oid) is None and await store.refs(repo) == ()
    assert not list((tmp_path / "lfs" / "incoming").iterdir())


async def test_plain_http_is_for_servers_that_the_operator_named(tmp_path: Path, store: BareGitStore, foreign: Foreign) -> None:
    with serving(foreign.root) as plain:
        with pytest.raises(Rejected, match="https://"):
            await bring(importer(tmp_path, store), store, f"{plain.url}/demo")
        repo, _ = await bring(importer(tmp_path, store, f"localhost:{plain.port}"), store, f"{plain.url}/demo")
        assert await store.resolve(repo, "main")


async def test_the_door_leads_to_one_host_only(foreign: Foreign) -> None:
    addresses = await addresses_of("localhost", foreign.port, allow_private=True)
    proxy = ConnectProxy(f"localhost:{foreign.port}", addresses, foreign.port, 1 << 20)
    async with proxy.listening() as door:
        port = int(door.rpartition(":")[2])
        for asked in (b"CONNECT localhost:22 HTTP/1.1", b"CONNECT 169.254.169.254:80 HTTP/1.1", b"GET http://localhost/ HTTP/1.1"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(asked + b"\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 403")
            writer.close()
            await writer.wait_closed()
