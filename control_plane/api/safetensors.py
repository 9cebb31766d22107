"""What the headers of a model's safetensors files say, without their tensors: of one file, or of every shard that an index names."""

from __future__ import annotations

import asyncio
import json
import math
import posixpath
import re
import struct
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from control_plane.api.deps import Hub
from control_plane.domain.accounts import Action
from control_plane.domain.errors import EntryNotFound, Rejected
from control_plane.domain.ids import RepoId, Sha
from control_plane.ports.git import GitStore, LfsStore

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_MAX_HEADER_BYTES = 25_000_000  # the client's own bound
_MAX_INDEX_BYTES = 64 << 20
_MAX_SHARDS = 1000
_MAX_TOTAL_BYTES = 100 << 20  # of all headers in one answer
_COUNTS_KEPT = 256
_DTYPE = re.compile(r"[A-Za-z0-9_]{1,20}")


def router(hub: Hub) -> APIRouter:
    api = APIRouter(tags=["files"])
    reader = HeaderReader(hub.services.git, hub.services.lfs)

    @api.get("/api/{kind:kind}/{ns:seg}/{name:seg}/safetensors-metadata/{path:tail}")
    async def safetensors_metadata(request: Request, kind: str, ns: str, name: str, path: str) -> Response:
        """On `main`. A file: its header. An index (`….json`): `{index, headers: {shard: header}}`; its map only repeats the headers."""
        _, repo = await hub.repo(request, kind, ns, name, Action.READ_FILES)
        sha = await hub.resolve(repo, "main")
        if not path.endswith(".json"):
            return await _answer(path, await reader.header(repo.id, sha, path))
        index, headers = await reader.shards(repo.id, sha, path)
        return await _answer(path, {"index": index, "headers": headers})

    return api


class HeaderReader:
    """Rejected for what is not as the format says, EntryNotFound for what is not there."""

    def __init__(self, git: GitStore, lfs: LfsStore) -> None:
        self._git = git
        self._lfs = lfs
        self._counts: OrderedDict[tuple[RepoId, Sha], dict[str, Any] | None] = OrderedDict()

    async def parameters(self, repo_id: RepoId, sha: Sha, files: Collection[str]) -> dict[str, Any] | None:
        """`{parameters: {dtype: count}, total}` of a model with these files; None when it has no safetensors that can be read."""
        if SINGLE not in files and INDEX not in files:
            return None
        key = (repo_id, sha)
        if key not in self._counts:
            try:
                if SINGLE in files:
                    headers = [await self.header(repo_id, sha, SINGLE)]
                else:
                    headers = [*(await self.shards(repo_id, sha, INDEX))[1].values()]
                self._counts[key] = await asyncio.to_thread(_counted, headers)
            except (Rejected, EntryNotFound):
                self._counts[key] = None
            if len(self._counts) > _COUNTS_KEPT:
                self._counts.popitem(last=False)
        return self._counts[key]

    async def header(self, repo_id: RepoId, sha: Sha, path: str) -> dict[str, Any]:
        return (await self._header(repo_id, sha, path))[0]

    async def shards(self, repo_id: RepoId, sha: Sha, path: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """The index without its map, and the header of each file that the map names."""
        index = await _object(path, await self._bytes(repo_id, sha, path, 0, _MAX_INDEX_BYTES))
        weights = index.pop("weight_map", None)
        names = sorted({str(shard) for shard in weights.values()}) if isinstance(weights, dict) else []
        if not 0 < len(names) <= _MAX_SHARDS:
            raise Rejected(f"'{path[:200]}' is not an index of safetensors files: its weight_map names {len(names)} files")
        headers, total = {}, 0
        for shard in names:
            headers[shard], size = await self._header(repo_id, sha, posixpath.join(posixpath.dirname(path), shard))
            total += size
            if total > _MAX_TOTAL_BYTES:
                raise Rejected(f"the headers are larger than {_MAX_TOTAL_BYTES} bytes together; ask for one file at a time")
        return index, headers

    async def _header(self, repo_id: RepoId, sha: Sha, path: str) -> tuple[dict[str, Any], int]:
        """The header and its size in bytes."""
        start = await self._bytes(repo_id, sha, path, 0, 8)
        size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < size <= _MAX_HEADER_BYTES:
            raise Rejected(f"'{path[:200]}' is not a safetensors file: it should begin with the size of its header")
        return await _object(path, await self._bytes(repo_id, sha, path, 8, size)), size

    async def _bytes(self, repo_id: RepoId, sha: Sha, path: str, offset: int, count: int) -> bytes:
        entry = await self._git.entry(repo_id, sha, path)
        if entry.is_dir or entry.is_submodule:
            raise EntryNotFound(f"'{path}' is a folder, not a file", commit=sha)
        if entry.lfs is None:
            return (await self._git.read(repo_id, sha, path))[offset : offset + count]
        file = await self._lfs.file_path(repo_id, entry.lfs.oid)
        if file is None:
            raise EntryNotFound(f"the content of '{path}' was never uploaded; push it with git lfs", commit=sha)
        return await asyncio.to_thread(_part, file, offset, count)


def _part(file: str, offset: int, count: int) -> bytes:
    with Path(file).open("rb") as opened:
        opened.seek(offset)
        return opened.read(count)


def _counted(headers: list[dict[str, Any]]) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for header in headers:
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            shape = tensor.get("shape") if isinstance(tensor, dict) else None
            if not isinstance(shape, list) or not all(isinstance(n, int) and 0 <= n < 1 << 48 for n in shape) or len(shape) > 32:
                raise Rejected("a tensor without a shape")
            dtype = str(tensor.get("dtype"))
            if _DTYPE.fullmatch(dtype) is None:
                raise Rejected("a tensor without a type")
            counts[dtype] = counts.get(dtype, 0) + math.prod(shape)
    return {"parameters": counts, "total": sum(counts.values())}


async def _object(path: str, raw: bytes) -> dict[str, Any]:
    try:
        found = await asyncio.to_thread(json.loads, raw)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Rejected(f"'{path[:200]}' does not hold what a safetensors file or index says about itself")
    return found


async def _answer(path: str, body: dict[str, Any]) -> Response:
    try:  # what Python reads as JSON may be more than JSON: NaN, half a surrogate pair
        content = await asyncio.to_thread(json.dumps, body, allow_nan=False)
    except ValueError:
        raise Rejected(f"'{path[:200]}' holds numbers that are none") from None
    return Response(content, media_type="application/json")
