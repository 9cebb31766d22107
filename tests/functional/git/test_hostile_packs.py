"""Packs that no git would send (trust catalogue G3), requests that no git would make (G5), and ways into a hook (G-HOOK)."""

from __future__ import annotations

import asyncio
import hashlib
import random
import struct
import subprocess
import zlib
from pathlib import Path

import httpx
import pytest

from tests.functional.git.conftest import SPACE, Work, World

ZERO = "0" * 40
CAPABILITIES = "report-status side-band-64k object-format=sha1"


def line(text: bytes) -> bytes:
    return f"{len(text) + 4:04x}".encode() + text


def entry(kind: int, data: bytes, size: int | None = None, base: bytes = b"") -> bytes:
    left = len(data) if size is None else size
    head = bytearray([kind << 4 | left & 15])
    left >>= 4
    while left:
        head[-1] |= 0x80
        head.append(left & 0x7F)
        left >>= 7
    return bytes(head) + base + zlib.compress(data)


def pack(*entries: bytes, count: int | None = None, version: int = 2, magic: bytes = b"PACK") -> bytes:
    body = magic + struct.pack(">II", version, len(entries) if count is None else count) + b"".join(entries)
    return body + hashlib.sha1(body, usedforsecurity=False).digest()


def name(kind: str, data: bytes) -> str:
    return hashlib.sha1(f"{kind} {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()


BLOB = b"print(1)\n"
TREE = b"100644 app.py\0" + bytes.fromhex(name("blob", BLOB))
COMMIT = f"tree {name('tree', TREE)}\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nx\n".encode()
NEW = name("commit", COMMIT)
GOOD = pack(entry(1, COMMIT), entry(2, TREE), entry(3, BLOB))
TO_SELF = bytes.fromhex(name("blob", b"whatever"))


def chain(depth: int) -> bytes:
    """Deltas upon deltas: each copies what its base began with and ends otherwise."""
    found, base = [entry(1, COMMIT), entry(2, TREE), entry(3, BLOB)], bytes.fromhex(name("blob", BLOB))
    size = len(BLOB)
    for n in range(depth):
        added = struct.pack(">I", n)
        found.append(entry(7, bytes([size + 4 * (n > 0), size + 4, 0x90, size, 4]) + added, base=base))
        base = bytes.fromhex(name("blob", BLOB + added))
    return pack(*found)


BROKEN: dict[str, bytes] = {
    "empty": b"",
    "no trailer": GOOD[:-20],
    "wrong trailer": GOOD[:-1] + b"\0",
    "more objects than said": pack(entry(3, BLOB), entry(3, b"y"), count=1),
    "fewer objects than said": pack(entry(1, COMMIT), entry(2, TREE), entry(3, BLOB), count=9),
    "count of 2^32-1": pack(entry(3, BLOB), count=0xFFFFFFFF),
    "version 9": pack(entry(3, BLOB), version=9),
    "other magic": pack(entry(3, BLOB), magic=b"KCAP"),
    "a size that lies": pack(entry(1, COMMIT), entry(2, TREE), entry(3, BLOB, size=5)),
    "a size of 2^60": pack(entry(3, BLOB, size=1 << 60)),
    "kind 0": pack(entry(0, BLOB)),
    "kind 5": pack(entry(5, BLOB)),
    "a delta to nothing": pack(entry(7, b"\x01\x01\x90\x01", base=TO_SELF)),
    "an offset before the pack": pack(entry(6, b"\x01\x01\x90\x01", base=b"\xff\x7f")),
    "an offset of zero": pack(entry(6, b"\x01\x01\x90\x01", base=b"\0")),
    "zlib that is not": pack(bytes([0x3A]) + b"not zlib at all"),
    "without the tree": pack(entry(1, COMMIT)),
    "a commit that is a tree": pack(entry(2, COMMIT), entry(2, TREE), entry(3, BLOB)),
}


async def push(world: World, body: bytes, new: str = NEW, old: str = ZERO, ref: str = "refs/heads/main") -> httpx.Response:
    command = line(f"{old} {new} {ref}\0{CAPABILITIES}".encode()) + b"0000"
    headers = {"Content-Type": "application/x-git-receive-pack-request", "Authorization": "Bearer alice-token"}
    async with httpx.AsyncClient(timeout=60) as client:
        return await client.post(f"{world.url}/spaces/alice/demo.git/git-receive-pack", content=command + body, headers=headers)


async def unharmed(world: World) -> None:
    assert await world.store.refs(SPACE) == ()
    repo = world.store.path(SPACE)
    assert not list(Path(repo, "objects").glob("tmp_objdir*")) and not list(Path(repo, "objects/pack").glob("tmp_*"))
    await asyncio.to_thread(subprocess.run, ["git", "-C", repo, "fsck", "--strict"], check=True, capture_output=True)


@pytest.mark.parametrize("case", BROKEN)
async def test_a_broken_pack_changes_nothing(world: World, case: str) -> None:
    reply = await push(world, BROKEN[case])
    assert reply.status_code < 500 and b"unpack ok" not in reply.content
    await unharmed(world)
    assert not world.pushes


async def test_a_deep_chain_of_deltas_is_unpacked_in_steps(world: World) -> None:
    assert b"unpack ok" in (await push(world, chain(4000))).content
    assert await world.store.read(SPACE, await world.store.resolve(SPACE, "main"), "app.py") == BLOB
    await asyncio.to_thread(subprocess.run, ["git", "-C", world.store.path(SPACE), "fsck"], check=True, capture_output=True)


async def test_bytes_after_a_pack_are_refused_or_ignored(world: World) -> None:
    """Which of the two depends on how much git had read when it was done."""
    if b"unpack ok" in (await push(world, GOOD + b"more")).content:
        assert await world.store.resolve(SPACE, "main") == NEW
        await asyncio.to_thread(subprocess.run, ["git", "-C", world.store.path(SPACE), "fsck"], check=True, capture_output=True)
    else:
        await unharmed(world)


async def test_mutants_of_a_good_push_change_nothing_or_are_whole(world: World) -> None:
    """Bytes flipped, cut out and doubled. What git still accepts must pass its own check."""
    draw = random.Random(7)
    for _ in range(40):
        body = bytearray(GOOD)
        for _ in range(draw.randrange(1, 4)):
            at = draw.randrange(len(body))
            match draw.randrange(3):
                case 0:
                    body[at] ^= 1 << draw.randrange(8)
                case 1:
                    del body[at : at + draw.randrange(1, 9)]
                case _:
                    body[at:at] = body[at : at + draw.randrange(1, 9)]
        assert (await push(world, bytes(body))).status_code < 500
    await unharmed(world)
    assert b"unpack ok" in (await push(world, GOOD)).content and await world.store.resolve(SPACE, "main") == NEW


ODD_LINES = (
    b"", b"0000", b"0001", b"0003", b"fffe", b"zzzz", b"0004", b"0005\n", b"00ff" + b"a" * 20, line(b"x" * 300), line(b"\0" * 60),
    b"\xff" * 500,
    line(f"{ZERO} {NEW} refs/heads/{'a' * 300}/..\0{CAPABILITIES}".encode()) + b"0000" + GOOD,
    line(f"{ZERO} {NEW} refs/heads/main\0{CAPABILITIES}\0more".encode()) + b"0000" + GOOD[:30],
)  # fmt: skip


@pytest.mark.parametrize("raw", ODD_LINES, ids=range(len(ODD_LINES)))
@pytest.mark.parametrize("service", ["git-receive-pack", "git-upload-pack"])
async def test_bad_packet_lines_are_not_a_fault_of_ours(world: World, service: str, raw: bytes) -> None:
    headers = {"Content-Type": f"application/x-{service}-request", "Authorization": "Bearer alice-token"}
    async with httpx.AsyncClient(timeout=60) as client:
        for more in ({}, {"Git-Protocol": "version=2"}, {"Git-Protocol": "version=99:x"}):
            reply = await client.post(f"{world.url}/spaces/alice/demo/{service}", content=raw, headers=headers | more)
            assert reply.status_code < 500, reply.content
    await unharmed(world)


async def test_nothing_that_is_pushed_or_configured_runs(world: World, work: Work, tmp_path: Path) -> None:
    """A tree full of hooks and configuration, and a repository whose own files were tampered with: no program starts."""
    mark = tmp_path / "ran"
    script = f"#!/bin/sh\ntouch {mark}\n"
    repo = Path(world.store.path(SPACE))
    (repo / "hooks").mkdir()
    for hook in ("pre-receive", "update", "post-receive", "post-update", "reference-transaction", "proc-receive"):
        (repo / "hooks" / hook).write_text(script)
        (repo / "hooks" / hook).chmod(0o755)
    (tmp_path / "evil").write_text(script)
    (tmp_path / "evil").chmod(0o755)
    with (repo / "config").open("a") as file:
        file.write(f"[core]\n\thooksPath = {repo}/hooks\n\tfsmonitor = {tmp_path}/evil\n\tsshCommand = {tmp_path}/evil\n")
        file.write(f"\talternateRefsCommand = {tmp_path}/evil\n[include]\n\tpath = {tmp_path}/more\n")
        file.write(f"[uploadpack]\n\tpackObjectsHook = {tmp_path}/evil\n")
    (tmp_path / "more").write_text(f"[diff]\n\texternal = {tmp_path}/evil\n[core]\n\tpager = {tmp_path}/evil\n")
    files = {
        "hooks/pre-receive": script,
        ".githooks/post-checkout": script,
        "config": "[core]\n\tfsmonitor = evil\n",
        ".gitattributes": "* diff=evil\n",
    }
    sha = await work.commit(**files)
    await work.git("push", world.remote(), "main")
    assert await world.store.resolve(SPACE, "main") == sha
    assert "evil" in await world.store.diff(SPACE, await world.store.resolve(SPACE, "main"))
    assert [c async for c in world.store.archive(SPACE, await world.store.resolve(SPACE, "main"))]
    await work.git("fetch", world.remote(), "main")
    assert not mark.exists()
    assert sorted(p.name for p in (repo / "hooks").iterdir()) == sorted(
        ["pre-receive", "update", "post-receive", "post-update", "reference-transaction", "proc-receive"]
    )
