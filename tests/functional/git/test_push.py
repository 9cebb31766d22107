from __future__ import annotations

import asyncio
import gzip
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from control_plane.git.receive import ReceiveLimits
from control_plane.git.smart_http import PushReceived
from tests.functional.git.conftest import SPACE, Work, World


async def test_push_then_clone(world: World, work: Work, another: Callable[[str], Work]) -> None:
    sha = await work.commit(**{"app.py": "print(1)\n", "README.md": "---\nsdk: gradio\n---\n"})
    done = await work.git("push", world.remote(), "main")
    assert "remote: Checked \ufffd[31mall" in done.text and f"remote: Building {world.url}" in done.text
    assert await world.store.resolve(SPACE, "main") == sha
    push = world.pushes[0]
    assert (push.actor.name, push.updates[0].ref, push.updates[0].new) == ("alice", "refs/heads/main", sha) and push.env == {}
    for n, remote in enumerate(
        [
            world.remote(None),
            world.remote(None) + ".git",
            world.remote(None, "spaces/ALICE/Demo"),
            world.remote(None, "spaces/alice/oldname"),
        ]
    ):
        copy = another(f"copy{n}")
        await copy.git("clone", "-q", "--filter=blob:none", remote, ".")
        assert (copy.folder / "app.py").read_text() == "print(1)\n"
    assert not list(Path(world.store.path(SPACE), "objects").glob("tmp_objdir*"))
    subprocess.run(["git", "-C", world.store.path(SPACE), "fsck", "--strict"], check=True, capture_output=True)


async def test_a_second_push_force_push_and_branches(world: World, work: Work) -> None:
    first = await work.commit(a="1")
    await work.git("push", world.remote(), "main", "main:dev", "main:refs/tags/v1")
    assert {u.ref for u in world.pushes[0].updates} == {"refs/heads/main", "refs/heads/dev", "refs/tags/v1"}
    second = await work.commit(a="2")
    await work.git("push", world.remote(), "main")
    await work.git("reset", "-q", "--hard", first)
    third = await work.commit(a="3")
    assert (await work.git("push", world.remote(), "main", ok=False)).code != 0
    assert await world.store.resolve(SPACE, "main") == second
    await work.git("push", "-f", world.remote(), "main")
    assert await world.store.resolve(SPACE, "main") == third
    await work.git("push", world.remote(), ":dev")
    done = await work.git("push", world.remote(), ":main", ok=False)
    assert done.code != 0 and "cannot be deleted" in done.text


async def test_waiting_follows_to_the_end_and_survives_a_lost_client(world: World, work: Work) -> None:
    sha = await work.commit(a="1")
    waiting = asyncio.create_task(work.git("push", "-o", "wait", world.remote(), "main"))
    while not world.pushes:
        await asyncio.sleep(0.01)
    assert await world.store.resolve(SPACE, "main") == sha and not waiting.done()
    world.gate.set()
    assert "remote: Live" in (await waiting).text
    world.gate.clear()
    world.finished.clear()
    sha = await work.commit(a="2")
    env = {"PATH": os.defpath, "HOME": str(work.home), "GIT_TERMINAL_PROMPT": "0"}
    client = await asyncio.create_subprocess_exec(
        "git", "push", "-o", "wait", world.remote(), "main", cwd=work.folder, env=env, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while len(world.pushes) < 2:
        await asyncio.sleep(0.01)
    os.killpg(client.pid, 9)
    await client.wait()
    world.gate.set()
    async with asyncio.timeout(60):
        await world.finished.wait()
    assert await world.store.resolve(SPACE, "main") == sha


async def test_who_may_do_what(world: World, work: Work) -> None:
    await work.commit(a="1")
    for user, path, code, words in (
        (None, "spaces/alice/demo", 128, "could not read Username"),
        ("bob", "spaces/alice/demo", 128, "403"),
        ("bob", "spaces/alice/private", 128, "not found"),
        ("bob", "spaces/alice/absent", 128, "not found"),
        (None, "spaces/alice/absent", 128, "could not read Username"),
        (None, "spaces/alice/private", 128, "could not read Username"),
    ):
        done = await work.git("push", world.remote(user, path), "main", ok=False)
        assert done.code == code and words in done.text, (user, path, done.text)
    wrong = world.remote("alice").replace("alice-token", "bad")
    assert "Authentication failed" in (await work.git("push", wrong, "main", ok=False)).text
    assert not world.checked and await world.store.refs(SPACE) == ()
    async with httpx.AsyncClient(base_url=world.url) as client:
        private = await client.get("/spaces/alice/private/info/refs?service=git-upload-pack")
        absent = await client.get("/spaces/alice/absent/info/refs?service=git-upload-pack")
        assert private.status_code == absent.status_code == 401 and private.content == absent.content
        assert private.headers["www-authenticate"].startswith("Basic realm=")


async def test_a_large_file_is_refused_with_the_command_that_fixes_it(world: World, work: Work) -> None:
    sha = await work.commit(a="1")
    await work.git("push", world.remote(), "main")
    await work.commit(**{"model.bin": os.urandom(11 << 20)})
    done = await work.git("push", world.remote(), "main", ok=False)
    assert done.code == 1 and "pre-receive hook declined" in done.text
    assert "Your push was rejected because it contains files larger than 10 MiB." in done.text
    assert "  - model.bin (ref: refs/heads/main)" in done.text and 'git lfs migrate import --include="model.bin" --everything' in done.text
    assert await world.store.resolve(SPACE, "main") == sha and len(world.pushes) == 1
    assert await world.store.size_bytes(SPACE) < 1 << 20


async def raw_tree(work: Work, *lines: tuple[str, str, bytes]) -> str:
    body = b""
    for mode, oid, name in lines:
        body += f"{mode} ".encode() + name + b"\0" + bytes.fromhex(oid)
    made = (await work.git("hash-object", "-w", "--literally", "-t", "tree", "--stdin", stdin=body)).text.strip()
    return (await work.git("commit-tree", "-m", "x", made)).text.strip()


async def blob(work: Work, data: bytes) -> str:
    return (await work.git("hash-object", "-w", "--stdin", stdin=data)).text.strip()


HOSTILE: list[tuple[str, bytes, bytes]] = [
    ("100644", b".git", b"x"),
    ("100644", b".GIT", b"x"),
    ("100644", b"git~1", b"x"),
    ("100644", b".g\xe2\x80\x8cit", b"x"),
    ("100644", b"..", b"x"),
    ("100644", b"a/b", b"x"),
    ("120000", b"README.md", b"/etc/passwd"),
    ("120000", b"app.py", b"../../../../etc/shadow"),
    ("120000", b".gitattributes", b"a"),
    ("120000", b".gitmodules", b"a"),
    ("100644", b".gitmodules", b'[submodule "x"]\n\tpath = x\n\turl = -u./x\n'),
    ("100644", b"x" * 5000, b"x"),
    ("100644", b"a\n\x1b[2J", b"x"),
    ("100644", b"a\xff", b"x"),
    ("120000", b"l", b"a/../../b"),
    ("120000", b"l", b".git/config"),
    ("100644", b".git.", b"x"),
    ("100644", b".git::$INDEX_ALLOCATION", b"x"),
    ("100644", b"a\\b", b"x"),
    ("120000", b"readme.md", b"a"),
]


async def test_hostile_trees_are_refused_and_move_nothing(world: World, work: Work) -> None:
    for n, (mode, name, data) in enumerate(HOSTILE):
        sha = await raw_tree(work, (mode, await blob(work, data), name))
        done = await work.git("push", world.remote(), f"{sha}:refs/heads/t{n}", ok=False)
        assert done.code != 0, (name, done.text)
        assert "internal error" not in done.text and "\x1b" not in done.text
    assert await world.store.refs(SPACE) == () and not world.pushes


async def test_a_submodule_is_kept_but_said_to_be_inert(world: World, work: Work) -> None:
    sha = await raw_tree(work, ("160000", "1" * 40, b"lib"))
    done = await work.git("push", world.remote(), f"{sha}:refs/heads/main")
    assert "lib is a submodule" in done.text
    assert [c async for c in world.store.archive(SPACE, await world.store.resolve(SPACE, "main"))]


async def test_a_tree_that_unfolds_is_refused(world: World, work: Work) -> None:
    oid = await blob(work, b"x")
    mode = "100644"
    for _ in range(10):
        lines = b"".join(f"{mode} f{i}".encode() + b"\0" + bytes.fromhex(oid) for i in range(10))
        oid = (await work.git("hash-object", "-w", "-t", "tree", "--stdin", stdin=lines)).text.strip()
        mode = "40000"
    sha = (await work.git("commit-tree", "-m", "x", oid)).text.strip()
    done = await work.git("push", world.remote(), f"{sha}:refs/heads/main", ok=False)
    assert done.code != 0 and "11111111110 files" in done.text
    deep = await blob(work, b"x")
    mode = "100644"
    for _ in range(100):
        deep = (
            await work.git("hash-object", "-w", "-t", "tree", "--stdin", stdin=f"{mode} d".encode() + b"\0" + bytes.fromhex(deep))
        ).text.strip()
        mode = "40000"
    sha = (await work.git("commit-tree", "-m", "x", deep)).text.strip()
    done = await work.git("push", world.remote(), f"{sha}:refs/heads/main", ok=False)
    assert done.code != 0 and "levels deep" in done.text


@pytest.mark.parametrize(
    "ref",
    [
        "refs/replace/" + "1" * 40,
        "refs/pr/1",
        "refs/convert/parquet",
        "refs/pull/1/head",
        "refs/notes/x",
        "refs/heads/$(id)",
        "refs/heads/-c",
        "refs/heads/--upload-pack=x",
        "refs/heads/" + "1" * 40,
        "refs/heads/HEAD",
        "refs/heads/" + "x" * 240 + "y" * 10,
        "refs/x",
    ],
)
async def test_odd_refs_are_refused(world: World, work: Work, ref: str) -> None:
    sha = await work.commit(a="1")
    done = await work.git("push", world.remote(), f"{sha}:{ref}", ok=False)
    assert done.code != 0 and await world.store.refs(SPACE) == ()


async def test_an_lfs_pointer_needs_its_object(world: World, work: Work) -> None:
    await work.commit(**{"m.bin": f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 5\n"})
    done = await work.git("push", world.remote(), "main", ok=False)
    assert done.code != 0 and "git lfs push --all origin" in done.text and "a" * 64 in done.text


async def test_two_pushes_at_once_one_wins(world: World, work: Work, another: Callable[[str], Work]) -> None:
    await work.commit(a="1")
    await work.git("push", world.remote(), "main")
    other = another("other")
    await other.git("clone", "-q", world.remote(), ".")
    await other.commit(b="1")
    await work.commit(c="1")
    codes = [r.code for r in await asyncio.gather(*(w.git("push", world.remote(), "main", ok=False) for w in (work, other)))]
    assert sorted(codes) == [0, 1]
    assert len(world.pushes) == 2


@pytest.mark.parametrize(
    ("method", "path", "body", "headers"),
    [
        ("GET", "info/refs", b"", {}),
        ("GET", "info/refs?service=git-evil", b"", {}),
        ("GET", "config", b"", {}),
        ("GET", "objects/info/packs", b"", {}),
        ("GET", "HEAD", b"", {}),
        ("GET", "..%2f..%2fetc/passwd", b"", {}),
        ("POST", "git-receive-pack", b"0000", {"content-type": "text/plain"}),
        ("POST", "git-receive-pack", b"zzzz", {}),
        ("POST", "git-receive-pack", b"fff", {}),
        ("POST", "git-receive-pack", b"0005x", {}),
        ("POST", "git-receive-pack", b"", {"content-encoding": "gzip"}),
        ("POST", "git-receive-pack", b"nozip", {"content-encoding": "gzip"}),
        ("POST", "git-receive-pack", b"x", {"content-encoding": "br"}),
        ("POST", "git-upload-pack", b"0000", {}),
        ("POST", "git-upload-pack", b"zzzz", {}),
    ],
)
async def test_broken_requests_get_no_file_and_no_500(world: World, method: str, path: str, body: bytes, headers: dict[str, str]) -> None:
    kind = path.split("?")[0]
    async with httpx.AsyncClient(base_url=world.url, auth=("alice", "alice-token")) as client:
        base = {"content-type": f"application/x-{kind}-request"} if method == "POST" else {}
        reply = await client.request(method, f"/spaces/alice/demo/{path}", content=body, headers=base | headers)
    assert reply.status_code < 500 and b"[core]" not in reply.content
    assert await world.store.refs(SPACE) == ()


async def test_ten_thousand_files_are_pushed(world: World, work: Work) -> None:
    oid = await blob(work, b"x")
    lines = "".join(f"100644 {oid} 0\td{i % 100}/f{i}\n" for i in range(10_000))
    await work.git("update-index", "--add", "--index-info", stdin=lines.encode())
    await work.git("commit", "-q", "-m", "many")
    await work.git("push", world.remote(), "main")
    assert len(await world.store.tree(SPACE, await world.store.resolve(SPACE, "main"), recursive=True)) == 10_100


async def test_a_blob_that_inflates_is_refused_and_leaves_nothing(world: World, work: Work) -> None:
    await work.commit(**{"zeros.dat": bytes(100 << 20)})
    done = await work.git("push", world.remote(), "main", ok=False)
    assert done.code == 1 and "files larger than 10 MiB" in done.text and "zeros.dat" in done.text
    assert await world.store.size_bytes(SPACE) < 100_000


async def test_a_gzip_bomb_and_an_endless_body_are_cut(world: World) -> None:
    head = f"{'0' * 40} {'1' * 40} refs/heads/main\0report-status side-band-64k".encode()
    body = b"%04x" % (len(head) + 4) + head + b"0000PACK"
    headers = {"content-type": "application/x-git-receive-pack-request"}
    async with httpx.AsyncClient(base_url=world.url, auth=("alice", "alice-token"), timeout=30) as client:
        url = "/spaces/alice/demo/git-receive-pack"
        zipped = await client.post(url, content=gzip.compress(body + bytes(200 << 20), 1), headers={**headers, "content-encoding": "gzip"})
        assert zipped.status_code == 200 and (b"ng refs/heads/main" in zipped.content or b"more than 67108864 bytes" in zipped.content)
        announced = await client.post(url, content=bytes(65 << 20), headers=headers)
        assert announced.status_code == 413
        many = await client.post(
            "/spaces/alice/demo/git-upload-pack", content=bytes(40 << 20), headers={"content-type": "application/x-git-upload-pack-request"}
        )
        assert many.status_code == 413
    assert await world.store.refs(SPACE) == () and await world.store.size_bytes(SPACE) < 100_000


async def test_a_client_that_leaves_in_the_middle_changes_nothing(world: World, work: Work) -> None:
    sha = await work.commit(data=os.urandom(1 << 20))
    pack = await asyncio.to_thread(
        subprocess.run,
        ["git", "pack-objects", "--stdout", "--revs", "-q"],
        cwd=work.folder,
        input=b"main\n",
        capture_output=True,
        check=True,
    )
    head = f"{'0' * 40} {sha} refs/heads/main\0report-status side-band-64k".encode()
    body = b"%04x" % (len(head) + 4) + head + b"0000" + pack.stdout
    host, port = world.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /spaces/alice/demo/git-receive-pack HTTP/1.1\r\nHost: x\r\nAuthorization: Basic YWxpY2U6YWxpY2UtdG9rZW4=\r\n"
        b"Content-Type: application/x-git-receive-pack-request\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    writer.write(body[: len(body) // 2])
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    async with asyncio.timeout(60):
        while list(Path(world.store.path(SPACE), "objects").glob("*incoming*")) or not reader.at_eof():
            await asyncio.sleep(0.02)
    assert await world.store.refs(SPACE) == () and not world.checked
    async with httpx.AsyncClient(base_url=world.url, auth=("alice", "alice-token")) as client:
        done = await client.post(
            "/spaces/alice/demo/git-receive-pack", content=body, headers={"content-type": "application/x-git-receive-pack-request"}
        )
    assert b"unpack ok" in done.content and await world.store.resolve(SPACE, "main") == sha


async def test_umask_does_not_open_the_hooks(world: World, tmp_path: Path) -> None:
    for path in (tmp_path / "hooks").iterdir():
        assert path.stat().st_mode & 0o077 == 0
    assert not (Path(world.store.path(SPACE)) / "hooks").exists()


async def test_a_shallow_copy_can_push(world: World, work: Work, another: Callable[[str], Work]) -> None:
    await work.commit(a="1")
    await work.commit(a="2")
    await work.git("push", world.remote(), "main")
    copy = another("shallow")
    await copy.git("clone", "-q", "--depth=1", world.remote(), ".")
    sha = await copy.commit(b="3")
    await copy.git("push", "origin", "main")
    assert await world.store.resolve(SPACE, "main") == sha
    assert await world.store.commit_count(SPACE, await world.store.resolve(SPACE, "main")) == 3


async def test_a_slow_push_is_ended_and_frees_its_place(world: World, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    sha = await work.commit(a="1")

    async def stuck(push: PushReceived) -> AsyncIterator[str]:
        yield "thinking"
        await asyncio.Event().wait()

    monkeypatch.setattr(world, "check_push", stuck)
    world.rebuild(ReceiveLimits(unpack_s=0.5), parallel=1)
    for _ in range(2):
        done = await work.git("push", world.remote(), "main", ok=False)
        assert done.code != 0 and "thinking" in done.text and "took more than 0.5 s" in done.text
    assert await world.store.refs(SPACE) == () and sha
    assert not list(Path(world.store.path(SPACE), "objects").glob("tmp_objdir*"))
