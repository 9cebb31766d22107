"""The content-addressed store against the real `hf_xet`, driven by the real `huggingface_hub`."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import random
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import lz4.frame
import pytest
from fastapi import Request

from control_plane.domain.accounts import Account, AccountKind, Actor, Via
from control_plane.domain.ids import AccountId, RepoId
from control_plane.git import xet_format as wire
from control_plane.git.smart_http import RepoAccess
from control_plane.git.xet_http import XetDeps, issue_token, xet_router
from control_plane.ports.git import CommitRequest, FileChange, LfsPointer
from tests.functional.git.conftest import PRIVATE, SPACE, World


def access(repo_id: RepoId, user: str) -> RepoAccess:
    account = Account(AccountId(user), AccountKind.USER, user, user, None)  # type: ignore[arg-type]
    return RepoAccess(repo_id, Actor(via=Via.TOKEN, user=account), user == "alice")


def add_hub(world: World) -> None:
    """The two calls that an upload makes beside the store itself."""

    async def preupload(request: Request) -> dict[str, Any]:
        files = (await request.json())["files"]
        return {"files": [{"path": f["path"], "uploadMode": "lfs", "shouldIgnore": False} for f in files]}

    async def commit(request: Request) -> dict[str, Any]:
        changes = []
        for line in (await request.body()).splitlines():
            value = json.loads(line)["value"]
            if "oid" in value:
                changes.append(FileChange(value["path"], lfs=LfsPointer(value["oid"], value["size"], 0)))
            elif "content" in value:
                changes.append(FileChange(value["path"], base64.b64decode(value["content"])))
        sha = await world.store.commit(SPACE, CommitRequest("refs/heads/main", "Upload", "alice", "a@x", changes))
        return {"success": True, "commitOid": sha, "commitUrl": f"{world.url}/spaces/alice/demo/commit/{sha}", "hookOutput": ""}

    root = "/api/spaces/alice/demo"
    world.app.add_api_route(f"{root}/preupload/{{rev}}", preupload, methods=["POST"], response_model=None)
    world.app.add_api_route(f"{root}/commit/{{rev}}", commit, methods=["POST"], response_model=None)


UPLOAD = """
import sys
from huggingface_hub import CommitOperationAdd, HfApi
api = HfApi(endpoint=sys.argv[1], token="alice-token")
adds = [CommitOperationAdd(path_in_repo=p.rsplit("/", 1)[-1], path_or_fileobj=p) for p in sys.argv[2:]]
print(api.create_commit("alice/demo", adds, repo_type="space", commit_message="Upload").oid)
"""


async def upload(world: World, home: Path, *paths: Path) -> str:
    env = {
        "PATH": os.defpath,
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    words = [sys.executable, "-c", UPLOAD, world.url, *map(str, paths)]
    done = await asyncio.to_thread(subprocess.run, words, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


async def test_the_real_client_uploads_through_the_store(world: World, tmp_path: Path) -> None:
    pytest.importorskip("hf_xet")
    add_hub(world)
    noise = random.Random(7)
    first = noise.randbytes(3 << 20)
    floats = struct.pack(f"<{200_000}f", *(noise.gauss(0, 1) for _ in range(200_000)))
    text = b"the same line again and again\n" * 50_000
    contents = {
        "noise.bin": first,
        "floats.npy": floats,
        "text.bin": text,
        "small.bin": b"x",
        "edited.bin": first[: 2 << 20] + b"edit" + first[2 << 20 :],
    }
    paths = []
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
        paths.append(tmp_path / name)
    sha = await upload(world, tmp_path, *paths[:-1])
    assert await world.store.resolve(SPACE, "main") == sha
    for name in list(contents)[:-1]:
        oid = hashlib.sha256(contents[name]).hexdigest()
        path = await world.lfs.file_path(SPACE, oid)
        assert path is not None and Path(path).read_bytes() == contents[name], name
    assert world.xet is not None
    before = await world.xet.store.total_bytes(SPACE)
    await upload(world, tmp_path, paths[-1])
    edited = contents["edited.bin"]
    assert await world.lfs.has(SPACE, hashlib.sha256(edited).hexdigest()) == len(edited)
    # Only the edited chunks travel: the client knows from its own cache what this address holds.
    assert await world.xet.store.total_bytes(SPACE) - before < 1 << 20
    await world.xet.store.compact(SPACE)
    assert await world.xet.store.total_bytes(SPACE) < 100
    paths[-1].write_bytes(edited + b"again")
    await upload(world, tmp_path, paths[-1])
    assert await world.lfs.has(SPACE, hashlib.sha256(edited + b"again").hexdigest()) == len(edited) + 5


async def test_after_a_restart_the_client_sends_only_what_is_new(world: World, tmp_path: Path) -> None:
    pytest.importorskip("hf_xet")
    add_hub(world)
    content = random.Random(8).randbytes(2 << 20)
    (tmp_path / "weights.bin").write_bytes(content)
    await upload(world, tmp_path, tmp_path / "weights.bin")
    assert world.xet is not None
    stored = await world.xet.store.total_bytes(SPACE)
    fresh = XetDeps(tmp_path / "xet", type(world.lfs)(tmp_path / "lfs"), b"x" * 32, world.authorize, world.still_allowed)
    routes = world.app.router.routes
    before = len(routes)
    world.app.include_router(xet_router(fresh))
    routes[:] = routes[before:] + routes[:before]
    edited = content[: 1 << 20] + b"edit" + content[1 << 20 :]
    (tmp_path / "weights.bin").write_bytes(edited)
    await upload(world, tmp_path, tmp_path / "weights.bin")
    path = await fresh.lfs.file_path(SPACE, hashlib.sha256(edited).hexdigest())
    assert path is not None and Path(path).read_bytes() == edited
    assert stored < await fresh.store.total_bytes(SPACE) < stored + (1 << 20)


def xorb_of(*chunks: bytes, scheme: int = 0) -> tuple[str, bytes]:
    body, hashes = b"", []
    for data in chunks:
        packed = data if scheme == 0 else lz4.frame.compress(data)
        body += b"\0" + len(packed).to_bytes(3, "little") + bytes([scheme]) + len(data).to_bytes(3, "little") + packed
        hashes.append((wire.chunk_hash(data), len(data)))
    return wire.hash_text(wire.root_hash(hashes)), body


def shard_of(
    xorb: str, *chunks: bytes, sha256: str | None = None, file_hash: bytes | None = None, size: int | None = None, end: int | None = None
) -> bytes:
    hashes = [(wire.chunk_hash(c), len(c)) for c in chunks]
    digest = sha256 or hashlib.sha256(b"".join(chunks)).hexdigest()
    return b"".join(
        (
            wire._SHARD_TAG + struct.pack("<QQ", 2, 0),
            (file_hash or wire.file_hash(hashes)) + struct.pack("<IIQ", 1 << 30, 1, 0),
            wire.hash_bytes(xorb)
            + struct.pack("<IIII", 0, sum(map(len, chunks)) if size is None else size, 0, len(chunks) if end is None else end),
            wire.hash_bytes(digest) + bytes(16),
            b"\xff" * 32 + bytes(16),
            b"\xff" * 32 + bytes(16),
        )
    )


async def test_only_what_has_its_hash_is_kept(world: World) -> None:
    assert world.xet is not None
    token = issue_token(world.xet, access(SPACE, "alice"), world.url, write=True)
    chunks = (b"one" * 1000, b"two" * 1000)
    name, body = xorb_of(*chunks, scheme=1)
    async with httpx.AsyncClient(base_url=token.cas_url, headers={"Authorization": f"Bearer {token.access_token}"}) as client:
        bomb = (
            b"\0"
            + (len(big := lz4.frame.compress(bytes(50 << 20)))).to_bytes(3, "little")
            + b"\1"
            + (128 << 10).to_bytes(3, "little")
            + big
        )
        for bad in (b"", body[:-1], body + b"\0", b"\1" + body[1:], xorb_of(b"other")[1], body[:4] + b"\7" + body[5:], bomb):
            assert (await client.post(f"v1/xorbs/default/{name}", content=bad)).status_code == 400
        for bad_name in ("A" * 64, "..%2f..%2fx", "0" * 63):
            assert (await client.post(f"v1/xorbs/default/{bad_name}", content=body)).status_code in (400, 404)
        assert (await client.post("v1/shards", content=shard_of(name, *chunks))).status_code == 400
        assert (await client.post(f"v1/xorbs/default/{name}", content=body)).json() == {"was_inserted": True}
        assert (await client.post(f"v1/xorbs/default/{name}", content=body)).json() == {"was_inserted": False}
        for bad in (
            b"",
            shard_of(name, *chunks)[:-60],
            shard_of(name, *chunks, sha256="a" * 64),
            shard_of(name, *chunks, file_hash=b"x" * 32),
            shard_of(name, *chunks, size=5),
            shard_of(name, *chunks, end=3),
            shard_of(name, *chunks, end=0),
        ):
            assert (await client.post("v1/shards", content=bad)).status_code == 400
        assert await world.lfs.oids(SPACE) == ()
        assert (await client.post("v1/shards", content=shard_of(name, *chunks))).json() == {"result": 1}
        assert (await client.post("v2/shards", content=shard_of(name, *chunks))).text == '{"type": "result", "result": 0}\n'
        assert await world.lfs.has(SPACE, hashlib.sha256(b"".join(chunks)).hexdigest()) == 6000
        assert (await client.get(f"v1/chunks/default/{name}")).status_code == 404
        world.put_out.add("alice")
        assert (await client.post(f"v1/xorbs/default/{name}", content=body)).status_code == 401
        assert (await client.post("v1/shards", content=shard_of(name, *chunks))).status_code == 401
    assert not list(world.lfs.incoming("x").parent.iterdir())


async def test_a_token_is_for_one_repository_and_one_use(world: World) -> None:
    assert world.xet is not None
    name, body = xorb_of(b"x")
    good = issue_token(world.xet, access(SPACE, "alice"), world.url, write=True)
    reader = issue_token(world.xet, access(SPACE, "bob"), world.url, write=False)
    other = issue_token(world.xet, access(PRIVATE, "alice"), world.url, write=True)
    async with httpx.AsyncClient() as client:
        for token in (None, "x", reader.access_token, other.access_token, good.access_token[:-2], f"{good.access_token}x", "a.b"):
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            assert (await client.post(f"{good.cas_url}/v1/xorbs/default/{name}", content=body, headers=headers)).status_code == 401
        old = {"Authorization": f"Bearer {good.access_token}"}
        assert (
            await client.post(f"{good.cas_url.rsplit('/', 1)[0]}/9/v1/xorbs/default/{name}", content=body, headers=old)
        ).status_code == 400
        assert (await client.post(f"{world.url}/v1/telemetry", content=b"{}")).status_code == 204
        for auth, code in (((None), 401), (("bob", "bob-token"), 403), (("alice", "alice-token"), 200)):
            reply = await client.get(f"{world.url}/api/spaces/alice/demo/xet-write-token/main", auth=auth)
            assert reply.status_code == code
        assert reply.json()["accessToken"] == reply.headers["x-xet-access-token"] and reply.json()["casUrl"] == good.cas_url
    assert await world.xet.store.total_bytes(SPACE) == 0


async def test_reading_by_name_needs_the_repository_and_an_address_of_ours(world: World) -> None:
    """Ranges are those of the file; another repository's file, a changed or old address, and odd names give nothing."""
    assert world.xet is not None
    data = random.Random(1).randbytes(300_000)
    oid = hashlib.sha256(data).hexdigest()

    async def once() -> AsyncIterator[bytes]:
        yield data

    await world.lfs.put(SPACE, oid, len(data), once())
    mine = issue_token(world.xet, access(SPACE, "bob"), world.url, write=False)
    other = issue_token(world.xet, access(PRIVATE, "bob"), world.url, write=False)
    headers = {"Authorization": f"Bearer {mine.access_token}"}
    async with httpx.AsyncClient() as client:
        where = f"{mine.cas_url}/v1/reconstructions"
        plan = (await client.get(f"{where}/{oid}", headers=headers)).json()
        [term] = plan["terms"]
        [part] = plan["fetch_info"][term["hash"]]
        assert (plan["offset_into_first_range"], term["unpacked_length"]) == (0, len(data))
        bounds = f"bytes={part['url_range']['start']}-{part['url_range']['end']}"
        answer = await client.get(part["url"], headers={"Range": bounds})
        assert answer.status_code == 206
        packed = memoryview(answer.content)
        assert b"".join(wire.unpack(bytes(packed[at : at + n]), scheme, size) for at, n, scheme, size in wire.read_xorb(packed)) == data
        part_of = (await client.get(f"{where}/{oid}", headers={**headers, "Range": "bytes=70000-70010"})).json()
        assert part_of["offset_into_first_range"] == 70000 % 65536 and part_of["terms"][0]["range"] == {"start": 1, "end": 2}
        assert (await client.get(f"{where}/{oid}", headers={**headers, "Range": "bytes=300000-"})).status_code == 416

        foreign = {"Authorization": f"Bearer {other.access_token}"}
        assert (await client.get(f"{other.cas_url}/v1/reconstructions/{oid}", headers=foreign)).status_code == 404
        assert (await client.get(f"{where}/{oid}", headers=foreign)).status_code == 401
        for odd in ("0" * 64, "x", "..%2f..%2fetc", oid.upper()):
            assert (await client.get(f"{where}/{odd}", headers=headers)).status_code in (400, 404)
        address = part["url"]
        for changed in (
            address.replace(oid, "0" * 64), address.replace(f"/{SPACE}/", f"/{PRIVATE}/"), address.replace(f"{oid}/0", f"{oid}/1"),
            address[:-2], address.partition("?")[0], address.replace("exp=", "exp=9"), address.replace("by=bob", "by=alice"),
        ):  # fmt: skip
            assert (await client.get(changed)).status_code == 403, changed
        world.put_out.add("bob")
        assert (await client.get(address, headers={"Range": bounds})).status_code == 403, "it ends with the right of whom it was made for"
        assert (await client.get(f"{where}/{oid}", headers=headers)).status_code == 401
