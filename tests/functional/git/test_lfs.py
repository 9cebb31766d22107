from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest

from tests.fakes.cut_wire import cut_wire
from tests.functional.git.conftest import PRIVATE, SPACE, Work, World

ALICE, BOB = ("alice", "alice-token"), ("bob", "bob-token")
BATCH = "/spaces/alice/demo.git/info/lfs/objects/batch"


def oid_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def batch(
    client: httpx.AsyncClient, operation: str, *objects: dict[str, Any], path: str = BATCH, auth: Any = ALICE, **more: Any
) -> httpx.Response:
    return await client.post(path, json={"operation": operation, "objects": list(objects), **more}, auth=auth)


async def test_git_lfs_pushes_clones_and_locks(world: World, work: Work, another: Callable[[str], Work]) -> None:
    data = os.urandom(3 << 20)
    await work.git("lfs", "install", "--local")
    await work.git("lfs", "track", "*.bin")
    await work.git("remote", "add", "origin", world.remote())
    await work.commit(**{"model.bin": data, "app.py": "x"})
    await work.git("push", "origin", "main")
    assert await world.lfs.has(SPACE, oid_of(data)) == len(data)
    head = await world.store.resolve(SPACE, "main")
    entry = await world.store.entry(SPACE, head, "model.bin")
    assert entry.size == len(data) and entry.lfs is not None
    copy = another("copy")
    await copy.git("init", "-q", "-b", "main")
    await copy.git("lfs", "install", "--local")
    await copy.git("remote", "add", "origin", world.remote(None))
    await copy.git("pull", "-q", "origin", "main")
    assert (copy.folder / "model.bin").read_bytes() == data
    await work.git("branch", "-q", "-u", "origin/main", ok=False)
    assert "Locked model.bin" in (await work.git("lfs", "lock", "model.bin")).text
    assert "alice" in (await work.git("lfs", "locks")).text
    assert (await work.git("lfs", "lock", "model.bin", ok=False)).code != 0
    await work.git("lfs", "unlock", "model.bin")
    assert "model.bin" not in (await work.git("lfs", "locks")).text


async def test_git_lfs_goes_on_where_a_download_broke(world: World, work: Work, another: Callable[[str], Work]) -> None:
    data = os.urandom(6 << 20)
    await work.git("lfs", "install", "--local")
    await work.git("lfs", "track", "*.bin")
    await work.commit(**{"model.bin": data})
    await work.git("push", world.remote(), "main")
    copy = another("broken")
    await copy.git("init", "-q", "-b", "main")
    await copy.git("lfs", "install", "--local")
    with cut_wire(urlsplit(world.url).port or 0) as wire:
        wire.cut_after = 4 << 20
        await copy.git("remote", "add", "origin", f"http://127.0.0.1:{wire.port}/spaces/alice/demo")
        await copy.git("pull", "-q", "origin", "main")
        assert (copy.folder / "model.bin").read_bytes() == data
        assert wire.cut_after is None and [start for start in wire.asked_from if start > 1 << 20], wire.asked_from


async def test_git_lfs_sends_parts_the_way_hf_sets_it_up(world: World, work: Work) -> None:
    """`hf lfs-enable-largefiles`: the client's own transfer program. Twelve parts, which git-lfs hands over in the order of their names."""
    data = os.urandom((11 << 20) + 7)
    hf, noted = Path(sys.executable).parent / "hf", work.home / "noted"
    wrapped = work.home / "hf"  # where PATH leads a person; notes that it was asked
    wrapped.write_text(f'#!/bin/sh\necho "$@" >>{noted}\nexec {hf} "$@"\n')
    wrapped.chmod(0o755)
    env = {"PATH": "/usr/bin:/bin", "HOME": str(work.home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    await asyncio.to_thread(subprocess.run, [hf, "lfs-enable-largefiles", work.folder], env=env, check=True, timeout=60)
    await work.git("config", "lfs.customtransfer.multipart.path", str(wrapped))
    await work.git("lfs", "install", "--local")
    await work.git("lfs", "track", "*.bin")
    await work.commit(**{"model.bin": data, "app.py": "x"})
    pushed = await work.git("push", world.remote(), "main")
    assert await world.lfs.has(SPACE, oid_of(data)) == len(data), pushed.text
    assert "lfs-multipart-upload" in noted.read_text()


async def test_the_migrate_command_of_the_refusal_fixes_the_push(world: World, work: Work) -> None:
    await work.commit(**{"a.txt": "1"})
    await work.git("push", world.remote(), "main")
    data = os.urandom(11 << 20)
    await work.commit(**{"model.bin": data})
    refused = await work.git("push", world.remote(), "main", ok=False)
    assert refused.code != 0
    await work.git("lfs", "install", "--local")
    await work.git("lfs", "migrate", "import", "--include=model.bin", "--everything")
    await work.git("push", "-f", world.remote(), "main")
    assert await world.lfs.has(SPACE, oid_of(data)) == len(data)


async def test_upload_download_ranges_and_possession(world: World) -> None:
    data = b"0123456789" * 100
    item = {"oid": oid_of(data), "size": len(data)}
    async with httpx.AsyncClient(base_url=world.url) as client:
        reply = (await batch(client, "upload", item)).json()["objects"][0]
        put = reply["actions"]["upload"]["href"]
        assert put.startswith(world.url)
        for wrong in (b"x" * len(data), data[:-1], data + b"x", b""):
            assert (await client.put(put, content=wrong)).status_code == 422
        assert await world.lfs.has(SPACE, item["oid"]) is None and not list(world.lfs.incoming("x").parent.iterdir())
        assert (await client.put(put, content=data)).status_code == 200
        assert (await client.put(put, content=b"y" * len(data))).status_code == 422
        assert (await client.post(reply["actions"]["verify"]["href"], json=item, auth=ALICE)).status_code == 200
        assert "actions" not in (await batch(client, "upload", item)).json()["objects"][0]
        got = (await batch(client, "download", item, auth=None)).json()["objects"][0]["actions"]["download"]["href"]
        assert (await client.get(got)).content == data
        part = await client.get(got, headers={"Range": "bytes=5-9"})
        assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"56789", f"bytes 5-9/{len(data)}")
        assert (await client.get(got, headers={"Range": "bytes=-3"})).content == b"789"
        assert (await client.get(got, headers={"Range": "bytes=990-"})).content == data[990:]
        assert (await client.get(got, headers={"Range": "bytes=5000-"})).status_code == 416
        assert len((await client.get(got, headers={"Range": "bytes=0-1,5-6"})).content) == len(data)
        assert (await client.head(got)).headers["content-length"] == str(len(data))
        # Another repository does not get it for knowing the oid, and has to send the bytes itself.
        other = "/spaces/alice/private.git/info/lfs/objects/batch"
        assert (await batch(client, "download", item, path=other)).json()["objects"][0]["error"]["code"] == 404
        assert "upload" in (await batch(client, "upload", item, path=other)).json()["objects"][0]["actions"]
        assert await world.lfs.has(PRIVATE, item["oid"]) is None


async def test_signed_addresses_are_good_for_one_thing_only(world: World) -> None:
    data = b"abc"
    item = {"oid": oid_of(data), "size": 3}
    async with httpx.AsyncClient(base_url=world.url) as client:
        put = (await batch(client, "upload", item)).json()["objects"][0]["actions"]["upload"]["href"]
        url = urlsplit(put)
        query = dict(parse_qsl(url.query))
        for changed in ({"size": "4"}, {"op": "get"}, {"exp": "99999999999"}, {"by": "bob."}, {"sig": "x"}, {"sig": ""}, {"size": "-1"}):
            assert (await client.put(f"{url.path}?{urlencode({**query, **changed})}", content=data)).status_code == 403
        for path in (url.path.replace(SPACE, PRIVATE), url.path.replace(item["oid"], oid_of(b"d"))):
            assert (await client.put(f"{path}?{url.query}", content=data)).status_code == 403
        assert (await client.get(put)).status_code == 403
        world.put_out.add("alice")
        ended = await client.put(put, content=data)
        assert (ended.status_code, ended.headers["x-error-code"]) == (403, "RightEnded"), "it ends with the right of whom it was made for"
        world.put_out.clear()
        world.now += 7 * 3600
        late = await client.put(put, content=data)
        assert late.status_code == 403 and late.headers["x-error-code"] == "Expired"
        assert (await batch(client, "upload", item, auth=BOB)).status_code == 403
        assert (await batch(client, "upload", item, auth=None)).status_code == 401
        reply = await client.post(f"{BATCH}?service=git-upload-pack", json={"operation": "upload", "objects": [item]}, auth=BOB)
        assert reply.status_code == 403


@pytest.mark.parametrize("oid", ["../" * 21 + "a", "A" * 64, "a" * 63, "a" * 65, "/etc/passwd", "a" * 63 + "\u0661", "", None, 5])
async def test_object_ids_are_checked(world: World, oid: object) -> None:
    async with httpx.AsyncClient(base_url=world.url) as client:
        for operation in ("upload", "download"):
            reply = await batch(client, operation, {"oid": oid, "size": 1})
            assert reply.status_code == 200 and reply.json()["objects"][0]["error"]["code"] == 422
        assert (await client.post(BATCH.replace("batch", "verify"), json={"oid": oid, "size": 1}, auth=ALICE)).status_code == 422


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 422),
        (b"[]", 422),
        (b"{}", 422),
        (b'{"operation":"upload"}', 422),
        (b'{"operation":"upload","objects":[1]}', 422),
        (b"[" * 100000, 422),
        (b'{"operation":"upload","objects":[' + b",".join([b"{}"] * 1001) + b"]}", 413),
        (b'{"operation":"upload","objects":[]}', 200),
        (b"x" * (5 << 20), 413),
    ],
)
async def test_bad_batches(world: World, body: bytes, status: int) -> None:
    async with httpx.AsyncClient(base_url=world.url) as client:
        assert (await client.post(BATCH, content=body, auth=ALICE)).status_code == status


@pytest.mark.parametrize("size", [-1, 1 << 63, 1.5, "5", None, True, (1 << 63) - 1])
async def test_bad_sizes(world: World, size: object) -> None:
    async with httpx.AsyncClient(base_url=world.url) as client:
        reply = await batch(client, "upload", {"oid": "a" * 64, "size": size})
        assert reply.json()["objects"][0]["error"]["code"] == 422


async def test_multipart(world: World) -> None:
    data = os.urandom((2 << 20) + 5)
    item = {"oid": oid_of(data), "size": len(data)}
    async with httpx.AsyncClient(base_url=world.url) as client:
        reply = (await batch(client, "upload", item, transfers=["basic", "multipart", "xet"])).json()
        assert reply["transfer"] == "multipart"
        action = reply["objects"][0]["actions"]["upload"]
        chunk = int(action["header"]["chunk_size"])
        parts = []
        for number in (2, 3, 1):
            sent = await client.put(action["header"][str(number)], content=data[chunk * (number - 1) : chunk * number])
            assert sent.status_code == 200
            parts.append({"partNumber": number, "etag": sent.headers["etag"]})
        assert (await client.post(action["href"], json={"oid": item["oid"], "parts": parts[:2]})).status_code == 422
        assert (await client.post(action["href"], json={"oid": item["oid"], "parts": parts})).status_code == 200
        assert (await client.post(action["href"], json={"oid": item["oid"], "parts": parts})).status_code == 200
    assert await world.lfs.has(SPACE, item["oid"]) == len(data)
    assert not list(world.lfs.incoming("x").parent.iterdir())
