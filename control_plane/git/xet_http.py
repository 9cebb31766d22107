"""The Xet protocol over HTTP: tokens, xorbs, shards and how to put files together, under `/_cas/<repo id>/<generation>/…`.

Tokens are short-lived, sealed by us, good for one repository, and end with the right of whom they were made for. Downloads are
plain HTTP elsewhere; the reading half (`xet_read`) is for clients that were told a file's Xet name, which only `paths-info` tells
them, because they copy files by it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from control_plane.domain.errors import Forbidden, NotFound, NotSignedIn, QuotaExceeded, Rejected, TooLarge, VitrineError
from control_plane.domain.ids import RepoId
from control_plane.domain.spaces import RepoType
from control_plane.git import xet_format as wire
from control_plane.git import xet_read as reading
from control_plane.git.bodies import read_body
from control_plane.git.downloads import byte_range
from control_plane.git.lfs import FileLfsStore
from control_plane.git.lfs_http import Storage, lfs_error
from control_plane.git.names import check_repo_id
from control_plane.git.signing import Signer
from control_plane.git.smart_http import Authorize, RepoAccess, Service, StillAllowed, access_to, base_url, repo_path
from control_plane.git.xet import XetStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class XetToken:
    """What the `xet-write-token` route answers: JSON body and headers, both are read by current clients."""

    access_token: str
    exp: int
    cas_url: str

    def body(self) -> dict[str, object]:
        return {"accessToken": self.access_token, "exp": self.exp, "casUrl": self.cas_url}

    def headers(self) -> dict[str, str]:
        return {"X-Xet-Cas-Url": self.cas_url, "X-Xet-Access-Token": self.access_token, "X-Xet-Token-Expiration": str(self.exp)}


@dataclass(frozen=True, slots=True)
class XetDeps:
    """`root` is the folder of the xorbs, `key` at least 32 bytes. `storage` reserves room, or raises QuotaExceeded. Times in seconds."""

    root: Path
    lfs: FileLfsStore
    key: bytes
    authorize: Authorize
    still_allowed: StillAllowed
    storage: Storage | None = None
    valid_s: int = 3600
    read_valid_s: int = 600  # clients renew it
    idle_s: float = 120.0
    now: Callable[[], float] = time.time

    @property
    def store(self) -> XetStore:
        return XetStore(self.root, self.lfs)


def issue_token(deps: XetDeps, access: RepoAccess, base_url: str, *, write: bool) -> XetToken:
    """For a caller whose rights were checked. `base_url` is scheme and host as the caller knows us."""
    exp = int(deps.now()) + (deps.valid_s if write else deps.read_valid_s)
    token = Signer(deps.key, "xet").seal({"repo": access.repo_id, "by": access.holder, "op": "write" if write else "read", "exp": exp})
    return XetToken(token, exp, f"{base_url}/_cas/{access.repo_id}/{deps.store.generation(access.repo_id)}")


def xet_router(deps: XetDeps) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    server = _Server(deps)
    root = "/_cas/{repo_id}/{generation}"

    def add(path: str, methods: list[str], handler: Callable[[Request, RepoId], Awaitable[Response]]) -> None:
        async def route(request: Request) -> Response:
            try:
                return await handler(request, await server.granted(request))
            except VitrineError as error:
                return _error(error)
            except ConnectionError:
                return _error(Rejected("the upload was not completed"))

        router.add_api_route(root + path, route, methods=methods, response_model=None)

    add("/v1/chunks/{prefix}/{name}", ["GET"], server.unknown)
    add("/v1/xorb-grants/{prefix}/{name}", ["POST"], server.unknown)
    add("/v1/reconstructions/{name}", ["GET"], server.reconstruction)
    add("/v2/reconstructions/{name}", ["GET"], server.unknown)  # readers then ask for version 1
    add("/v1/xorbs/{prefix}/{name}", ["POST"], server.put_xorb)
    add("/v1/xorbs/{prefix}/{name}", ["HEAD"], server.has_xorb)
    add("/v1/shards", ["POST"], server.put_shard)
    add("/v2/shards", ["POST"], server.put_shard_events)

    async def xorb(request: Request) -> Response:
        try:
            return await server.xorb(request)
        except Forbidden as error:  # readers take a 403 for an address whose time is over, and ask for another
            return JSONResponse({"error": error.message}, 403, {"X-Error-Code": error.code, "X-Error-Message": error.message})
        except VitrineError as error:
            return _error(error)

    router.add_api_route("/_cas/{repo_id}/files/{oid}/{number:int}", xorb, methods=["GET"], response_model=None)

    async def telemetry(_: Request) -> Response:
        return Response(status_code=204)  # nothing is kept

    for repo_type in RepoType:
        for use in ("write", "read"):
            path = f"/api/{repo_type.plural}/{{owner}}/{{name}}/xet-{use}-token/{{rev:path}}"
            router.add_api_route(path, _token_route(deps, repo_type, use == "write"), methods=["GET"], response_model=None)
    router.add_api_route("/v1/telemetry", telemetry, methods=["POST"], response_model=None)
    return router


def _token_route(deps: XetDeps, repo_type: RepoType, write: bool) -> Callable[[Request], Awaitable[Response]]:
    async def route(request: Request) -> Response:
        # Whoever may read a repository may propose a change to it, and then brings the bytes first.
        proposes = request.query_params.get("create_pr") == "1"
        try:
            service = (Service.LFS_PROPOSE if proposes else Service.LFS_UPLOAD) if write else Service.LFS_DOWNLOAD
            access = await access_to(deps.authorize, request, repo_path(request, repo_type), service)
            if write and access.actor.is_anonymous:
                raise NotSignedIn()
            token = issue_token(deps, access, base_url(request), write=write)
        except VitrineError as error:
            return lfs_error(error, anonymous="authorization" not in request.headers)
        return JSONResponse(token.body(), headers={**token.headers(), "Cache-Control": "no-store"})

    return route


def _error(error: VitrineError) -> Response:
    status = (
        401 if isinstance(error, Forbidden) else 404 if isinstance(error, NotFound) else 413 if isinstance(error, TooLarge)
        else 403 if isinstance(error, QuotaExceeded) else 400 if isinstance(error, Rejected) else 503
    )  # fmt: skip
    return JSONResponse({"error": error.message, "message": error.message}, status, {"X-Error-Code": error.code})


class _Server:
    def __init__(self, deps: XetDeps) -> None:
        self._deps, self._signer, self._store = deps, Signer(deps.key, "xet"), deps.store
        self._reads = Signer(deps.key, "xet-read")

    async def granted(self, request: Request) -> RepoId:
        """The repository of the address, when the token is for writing to it. A token for anything else is refused."""
        repo_id = check_repo_id(request.path_params["repo_id"])
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Forbidden("a Xet token is needed")
        fields: Mapping[str, str] = self._signer.open(token, now=self._deps.now())
        if fields["repo"] != repo_id or (fields["op"] != "write" and request.method == "POST"):
            raise Forbidden("the token is for something else")
        request.state.holder = fields.get("by", "")
        service = Service.LFS_PROPOSE if fields["op"] == "write" else Service.LFS_DOWNLOAD
        await self._deps.still_allowed(RepoId(repo_id), request.state.holder, service)
        if request.path_params["generation"] != self._store.generation(RepoId(repo_id)):
            raise Rejected("this store has moved; ask for a new token", code="StoreMoved")
        return RepoId(repo_id)

    async def unknown(self, request: Request, repo_id: RepoId) -> Response:
        raise NotFound("not known here")

    async def reconstruction(self, request: Request, repo_id: RepoId) -> Response:
        """How to put a stored file together; its name here is its sha256."""
        oid = request.path_params["name"]
        size = await self._deps.lfs.has(repo_id, oid)
        if not size:
            raise NotFound("this file is not stored here")
        try:
            first, last = byte_range(request.headers.get("range"), size) or (0, size - 1)
        except ValueError:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
        exp, holder = int(self._deps.now()) + self._deps.read_valid_s, request.state.holder

        def url(number: int) -> str:
            signature = self._reads.sign({"repo": repo_id, "oid": oid, "number": number, "exp": exp, "by": holder})
            return f"{base_url(request)}/_cas/{repo_id}/files/{oid}/{number}?exp={exp}&by={holder}&sig={signature}"

        return JSONResponse(reading.reconstruction(oid, size, first, last, url))

    async def xorb(self, request: Request) -> Response:
        """Part of a file as chunks; the address says which and is the permission."""
        repo_id, oid, number = check_repo_id(request.path_params["repo_id"]), request.path_params["oid"], request.path_params["number"]
        expires, holder = request.query_params.get("exp", ""), request.query_params.get("by", "")
        fields: dict[str, str | int] = {"repo": repo_id, "oid": oid, "number": number, "exp": expires, "by": holder}
        self._reads.check(fields, request.query_params.get("sig", ""), expires=expires, now=self._deps.now())
        await self._deps.still_allowed(RepoId(repo_id), holder, Service.LFS_DOWNLOAD)
        path, size = await self._deps.lfs.file_path(RepoId(repo_id), oid), await self._deps.lfs.has(RepoId(repo_id), oid)
        total = reading.serialized_size(size or 0, number)
        if path is None or size is None or not total:
            raise NotFound("this file is not stored here")
        try:
            span = byte_range(request.headers.get("range"), total)
        except ValueError:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{total}"})
        first, last = span or (0, total - 1)
        headers = {"Content-Length": str(last - first + 1), "Content-Type": "application/octet-stream"}
        if span is not None:
            headers["Content-Range"] = f"bytes {first}-{last}/{total}"
        return StreamingResponse(_chunks(path, size, number, first, last), 206 if span else 200, headers)

    async def has_xorb(self, request: Request, repo_id: RepoId) -> Response:
        return Response(status_code=200 if await self._store.has_xorb(repo_id, request.path_params["name"]) else 404)

    async def put_xorb(self, request: Request, repo_id: RepoId) -> Response:
        name = request.path_params["name"]
        if self._deps.storage is not None:
            length = request.headers.get("content-length", "0")
            coming = int(length) if length.isascii() and length.isdigit() else 0
            await self._deps.storage.hold(repo_id, {f"xorb-{name[:64]}": coming})
        body = read_body(request, wire.MAX_SERIALIZED_XORB_BYTES, self._deps.idle_s)
        fresh = await self._store.put_xorb(repo_id, name, body)
        return JSONResponse({"was_inserted": fresh})

    async def put_shard(self, request: Request, repo_id: RepoId) -> Response:
        return JSONResponse({"result": await self._register(request, repo_id)})

    async def put_shard_events(self, request: Request, repo_id: RepoId) -> Response:
        result = await self._register(request, repo_id)
        return Response(json.dumps({"type": "result", "result": result}) + "\n", media_type="application/x-ndjson")

    async def _register(self, request: Request, repo_id: RepoId) -> int:
        raw = b"".join([chunk async for chunk in read_body(request, wire.MAX_SHARD_BYTES, self._deps.idle_s)])
        files = await asyncio.to_thread(wire.read_shard, raw)
        total = sum(file.size for file in files)
        if any(file.size > self._deps.lfs.max_object_bytes for file in files):
            raise TooLarge(f"the limit for one file is {self._deps.lfs.max_object_bytes} bytes")
        shard = f"shard-{hashlib.sha256(raw).hexdigest()[:32]}"
        if self._deps.storage is not None:
            # The same bytes as files now: what was reserved for the xorbs makes room for them.
            await self._deps.storage.settle(repo_id, *{f"xorb-{wire.hash_text(term.xorb)}" for file in files for term in file.terms})
            await self._deps.storage.hold(repo_id, {shard: total})
        try:
            fresh = [await self._store.register(repo_id, file) for file in files]
        finally:
            if self._deps.storage is not None:
                await self._deps.storage.settle(repo_id, shard)
        log.info("xet shard registered", extra={"repo": repo_id, "files": len(files), "bytes": total})
        return int(any(fresh))


async def _chunks(path: str, size: int, number: int, first: int, last: int) -> AsyncIterator[bytes]:
    descriptor = await asyncio.to_thread(os.open, path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while first <= last:
            stop = min(last, first + reading.PIECE - 1)
            yield await asyncio.to_thread(reading.serialized, lambda at, n: os.pread(descriptor, n, at), size, number, first, stop)
            first = stop + 1
    finally:
        os.close(descriptor)
