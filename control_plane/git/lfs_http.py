"""Large files over HTTP: the git-lfs batch API (basic and multipart), signed transfer addresses, verify and locks.

`objects/batch` is asked with the caller's credentials and answers with addresses that work without any, each bound to one
operation, repository, object, size, time and caller (`/_lfs/<repo id>/<oid>?…`). They end with the caller's right.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from control_plane.domain.errors import Forbidden, NotFound, NotSignedIn, QuotaExceeded, Rejected, TooLarge, Unavailable, VitrineError
from control_plane.domain.ids import RepoId
from control_plane.domain.spaces import RepoType
from control_plane.git.bodies import FileAnswer, read_body, read_json
from control_plane.git.lfs import FileLfsStore
from control_plane.git.lfs_locks import Locks
from control_plane.git.names import OID, check_oid, check_repo_id
from control_plane.git.signing import Signer
from control_plane.git.smart_http import PREFIXES, REALM, Authorize, RepoAccess, Service, StillAllowed, access_to, base_url, repo_path
from control_plane.ports.stores import UnitOfWorkFactory

MEDIA_TYPE = "application/vnd.git-lfs+json"
_UPLOAD_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


class Storage(Protocol):
    """Room of a repository's owner: reserved before an object is sent, counted when it is in place."""

    async def hold(
        self, repo_id: RepoId, sizes: Mapping[str, int], *, life_s: float = 600.0, is_ours: bool = False
    ) -> None: ...  # QuotaExceeded
    async def keep(self, repo_id: RepoId, name: str, *, life_s: float, is_ours: bool = False) -> bool: ...  # False: nothing is held
    async def settle(self, repo_id: RepoId, *names: str) -> None: ...


@dataclass(frozen=True, slots=True)
class LfsDeps:
    """`key`: at least 32 bytes, the platform's own. `uow` None = no locks API. Sizes in bytes, times in seconds."""

    lfs: FileLfsStore
    authorize: Authorize
    still_allowed: StillAllowed
    key: bytes
    uow: UnitOfWorkFactory | None = None
    storage: Storage | None = None
    batch_objects: int = 1000
    part_bytes: int = 64 << 20
    max_parts: int = 1000
    valid_s: int = 6 * 3600
    held_s: float = 1800.0  # how long an announced upload has its room without a byte coming
    idle_s: float = 120.0
    now: Callable[[], float] = time.time


def lfs_router(deps: LfsDeps) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    server = _Server(deps)

    def add(path: str, methods: list[str], handler: Callable[..., Awaitable[Response]], repo_type: RepoType | None = None) -> None:
        async def route(request: Request) -> Response:
            try:
                return await (handler(request) if repo_type is None else handler(request, repo_type))
            except VitrineError as error:
                return lfs_error(error, anonymous="authorization" not in request.headers and repo_type is not None)
            except ConnectionError:
                return lfs_error(Rejected("The upload was not completed.", code="Incomplete"), anonymous=False)

        router.add_api_route(path, route, methods=methods, response_model=None)

    for repo_type, prefix in PREFIXES.items():
        root = f"/{prefix}{{owner}}/{{name}}/info/lfs"
        add(f"{root}/objects/batch", ["POST"], server.batch, repo_type)
        add(f"{root}/objects/verify", ["POST"], server.verify, repo_type)
        if deps.uow is not None:
            locks = Locks(deps.uow, deps.authorize)
            add(f"{root}/locks", ["GET"], locks.list, repo_type)
            add(f"{root}/locks", ["POST"], locks.create, repo_type)
            add(f"{root}/locks/verify", ["POST"], locks.verify, repo_type)
            add(f"{root}/locks/{{lock_id}}/unlock", ["POST"], locks.unlock, repo_type)
    add("/_lfs/{repo_id}/{oid}", ["PUT"], server.put)
    add("/_lfs/{repo_id}/{oid}", ["GET", "HEAD"], server.get)
    add("/_lfs/{repo_id}/{oid}/parts/{number}", ["PUT"], server.put_part)
    add("/_lfs/{repo_id}/{oid}/verify", ["POST"], server.verify_signed)
    add("/_lfs/{repo_id}/{oid}/complete", ["POST"], server.complete)
    return router


def lfs_error(error: VitrineError, *, anonymous: bool) -> Response:
    headers = {"X-Error-Code": error.code, "X-Error-Message": " ".join(error.message.split())[:500].encode("ascii", "replace").decode()}
    message = error.message
    if isinstance(error, NotSignedIn) or (anonymous and isinstance(error, (NotFound, Forbidden))):
        message = error.message if isinstance(error, NotSignedIn) else "Authentication required."
        headers = {"WWW-Authenticate": REALM, "LFS-Authenticate": REALM, "X-Error-Code": "Unauthorized", "X-Error-Message": message}
        status = 401
    elif isinstance(error, Forbidden):
        status = 403
    elif isinstance(error, NotFound):
        status = 404
    elif isinstance(error, TooLarge):
        status = 413
    elif isinstance(error, QuotaExceeded):
        status = 507
    elif isinstance(error, Unavailable):
        status = 503
    else:
        status = 422 if isinstance(error, Rejected) else 500
    body: dict[str, object] = {"message": message, "error": message}
    if isinstance(error, QuotaExceeded):
        body |= {name: value for name, value in error.facts.items() if value is not None}
    return JSONResponse(body, status, headers, media_type=MEDIA_TYPE)


class _Server:
    def __init__(self, deps: LfsDeps) -> None:
        self._deps = deps
        self._lfs = deps.lfs
        self._signer = Signer(deps.key, "lfs")

    # ---- asked with credentials

    async def batch(self, request: Request, repo_type: RepoType) -> Response:
        body = await read_json(request)
        operation = body.get("operation")
        if operation not in ("upload", "download"):
            raise Rejected("operation must be 'upload' or 'download'")
        path = repo_path(request, repo_type)
        access = await access_to(
            self._deps.authorize, request, path, Service.LFS_PROPOSE if operation == "upload" else Service.LFS_DOWNLOAD
        )
        if body.get("hash_algo", "sha256") != "sha256":
            raise Rejected("the only hash algorithm is sha256")
        objects = body.get("objects")
        if not isinstance(objects, list) or not all(isinstance(o, dict) for o in objects):
            raise Rejected("objects must be a list of objects")
        if len(objects) > self._deps.batch_objects:
            raise TooLarge(f"a batch may have at most {self._deps.batch_objects} objects; this one has {len(objects)}")
        wanted = body.get("transfers")
        names = wanted if isinstance(wanted, list) else []
        sizes = [o["size"] for o in objects if isinstance(o.get("size"), int)]
        multipart = operation == "upload" and "multipart" in names and max(sizes, default=0) > self._deps.part_bytes
        here = base_url(request)
        answers: list[dict[str, Any]] = []
        coming: dict[str, int] = {}
        for item in objects:
            answer, fresh = await self._answer(access, item, operation, here, multipart)
            answers.append(answer)
            if fresh:
                coming[str(answer["oid"])] = fresh
        if coming and self._deps.storage is not None:
            await self._deps.storage.hold(access.repo_id, coming, life_s=self._deps.held_s)
        return JSONResponse(
            {"transfer": "multipart" if multipart else "basic", "objects": answers, "hash_algo": "sha256"}, media_type=MEDIA_TYPE
        )

    async def _held(self, repo_id: RepoId, oid: str, size: int) -> None:
        """Its room while the bytes come in here, once more where the announcement is too long ago. QuotaExceeded when others have it."""
        storage, life_s = self._deps.storage, self._deps.held_s
        if storage is None or await storage.keep(repo_id, oid, life_s=life_s, is_ours=True):
            return
        if await self._lfs.has(repo_id, oid) is None:  # else it is sent again, and its bytes are counted already
            await storage.hold(repo_id, {oid: size}, life_s=life_s, is_ours=True)

    async def _keeping(self, repo_id: RepoId, oid: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Bytes that come keep the room for the object, however slow they are."""
        storage, life_s = self._deps.storage, self._deps.held_s
        renewed_at = self._deps.now()
        async for chunk in chunks:
            yield chunk
            if storage is not None and self._deps.now() - renewed_at > life_s / 4:
                renewed_at = self._deps.now()
                await storage.keep(repo_id, oid, life_s=life_s)

    async def _stored(self, repo_id: RepoId, oid: str) -> None:
        if self._deps.storage is not None:
            await self._deps.storage.settle(repo_id, oid)

    async def _answer(
        self, access: RepoAccess, item: Mapping[str, Any], operation: str, here: str, multipart: bool
    ) -> tuple[dict[str, Any], int]:
        oid, size, repo_id = item.get("oid"), item.get("size"), access.repo_id
        named = oid.encode(errors="replace").decode() if isinstance(oid, str) else ""
        shown: dict[str, Any] = {"oid": named, "size": size if isinstance(size, int) else 0}
        if not isinstance(oid, str) or not OID.fullmatch(oid):
            return {**shown, "oid": shown["oid"][:80], "error": {"code": 422, "message": "oid must be 64 lower-case hexadecimal digits"}}, 0
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 63:
            return {**shown, "size": 0, "error": {"code": 422, "message": "size must be a whole number of bytes"}}, 0
        owned = await self._lfs.has(repo_id, oid)
        if operation == "download":
            if owned is None:
                return {**shown, "error": {"code": 404, "message": "this object is not in this repository"}}, 0
            return {**shown, "authenticated": True, "actions": {"download": self._action(here, "get", access, oid, owned)}}, 0
        if owned is not None:
            if owned != size:
                return {**shown, "error": {"code": 422, "message": f"this object has {owned} bytes, not {size}"}}, 0
            return {**shown, "authenticated": True}, 0
        if size > self._lfs.max_object_bytes:
            return {**shown, "error": {"code": 422, "message": f"the limit for one file is {self._lfs.max_object_bytes} bytes"}}, 0
        upload = self._multipart(here, access, oid, size) if multipart else self._action(here, "put", access, oid, size)
        verify = {"href": self._href(here, "/verify", "verify", access, oid, size), "expires_in": self._deps.valid_s}
        return {**shown, "authenticated": True, "actions": {"upload": upload, "verify": verify}}, size

    def _href(self, here: str, tail: str, operation: str, access: RepoAccess, oid: str, size: int, **more: str | int) -> str:
        exp = int(self._deps.now()) + self._deps.valid_s
        fields = {"op": operation, "size": size, "exp": exp, "by": access.holder, **more}
        signature = self._signer.sign({**fields, "repo": access.repo_id, "oid": oid})
        return f"{here}/_lfs/{access.repo_id}/{oid}{tail}?{urlencode({**fields, 'sig': signature})}"

    def _action(self, here: str, operation: str, access: RepoAccess, oid: str, size: int) -> dict[str, Any]:
        return {"href": self._href(here, "", operation, access, oid, size), "expires_in": self._deps.valid_s}

    def _multipart(self, here: str, access: RepoAccess, oid: str, size: int) -> dict[str, Any]:
        chunk = max(self._deps.part_bytes, math.ceil(size / self._deps.max_parts))
        count, upload = max(1, math.ceil(size / chunk)), secrets.token_hex(16)
        header = {"chunk_size": str(chunk)}
        for number in range(1, count + 1):
            length = min(chunk, size - chunk * (number - 1))
            # As wide as the last: git-lfs hands the header on sorted as text, and the client's transfer program takes it in that order.
            header[str(number).zfill(len(str(count)))] = self._href(
                here, f"/parts/{number}", "part", access, oid, length, upload=upload, part=number
            )
        href = self._href(here, "/complete", "complete", access, oid, size, upload=upload, parts=count)
        return {"href": href, "header": header, "expires_in": self._deps.valid_s}

    async def verify(self, request: Request, repo_type: RepoType) -> Response:
        access = await access_to(self._deps.authorize, request, repo_path(request, repo_type), Service.LFS_PROPOSE)
        return await self._verified(request, access.repo_id)

    async def verify_signed(self, request: Request) -> Response:
        repo_id, *_ = await self._granted(request, "verify")
        return await self._verified(request, repo_id)

    async def _verified(self, request: Request, repo_id: RepoId) -> Response:
        body = await read_json(request)
        size = await self._lfs.has(repo_id, check_oid(body.get("oid", "")))
        if size is None:
            raise NotFound("this object was not uploaded to this repository", code="ObjectNotFound")
        if size != body.get("size"):
            raise Rejected(f"this object has {size} bytes, not {body.get('size')}")
        return JSONResponse({}, media_type=MEDIA_TYPE)

    # ---- asked with a signed address

    async def _granted(self, request: Request, operation: str, *more: str) -> tuple[RepoId, str, int, dict[str, str]]:
        repo_id, oid = check_repo_id(request.path_params["repo_id"]), check_oid(request.path_params["oid"])
        query = request.query_params
        fields = {name: query.get(name, "") for name in ("op", "size", "exp", "by", *more)}
        self._signer.check({**fields, "repo": repo_id, "oid": oid}, query.get("sig", ""), expires=fields["exp"], now=self._deps.now())
        if fields["op"] != operation:
            raise Forbidden("The address was signed for something else.", code="BadSignature")
        service = Service.LFS_DOWNLOAD if operation == "get" else Service.LFS_PROPOSE
        await self._deps.still_allowed(RepoId(repo_id), fields["by"], service)
        return RepoId(repo_id), oid, int(fields["size"]), fields

    async def put(self, request: Request) -> Response:
        repo_id, oid, size, _ = await self._granted(request, "put")
        _check_length(request, size)
        await self._held(repo_id, oid, size)
        await self._lfs.put(repo_id, oid, size, self._keeping(repo_id, oid, read_body(request, size, self._deps.idle_s)))
        await self._stored(repo_id, oid)
        return Response(status_code=200)

    async def get(self, request: Request) -> Response:
        repo_id, oid, size, _ = await self._granted(request, "get")
        path = await self._lfs.file_path(repo_id, oid)
        if path is None:
            raise NotFound("this object is not in this repository any more", code="ObjectNotFound")
        headers = {"ETag": f'"{oid}"', "Content-Type": "application/octet-stream", "Cache-Control": "private, max-age=3600"}
        return FileAnswer(path, size, request, {**headers, "Content-Disposition": "attachment", "X-Content-Type-Options": "nosniff"})

    async def put_part(self, request: Request) -> Response:
        repo_id, oid, size, fields = await self._granted(request, "part", "upload", "part")
        if request.path_params["number"] != fields["part"] or not _UPLOAD_ID.fullmatch(fields["upload"]):
            raise Forbidden("The address was signed for another part.", code="BadSignature")
        _check_length(request, size)
        target = self._lfs.incoming(f"{fields['upload']}.{fields['part']}")
        draft = self._lfs.incoming()
        digest, total = hashlib.sha256(), 0
        try:
            with draft.open("xb") as file:
                async for chunk in self._keeping(repo_id, oid, read_body(request, size, self._deps.idle_s)):
                    total += len(chunk)
                    digest.update(chunk)
                    await asyncio.to_thread(file.write, chunk)
            if total != size:
                raise Rejected(f"{total} bytes came for a part of {size}", code="SizeMismatch")
            await asyncio.to_thread(os.replace, draft, target)
            if self._deps.storage is not None:
                await self._deps.storage.keep(repo_id, oid, life_s=self._deps.held_s)
        finally:
            draft.unlink(missing_ok=True)
        return Response(status_code=200, headers={"ETag": f'"{digest.hexdigest()}"'})

    async def complete(self, request: Request) -> Response:
        repo_id, oid, size, fields = await self._granted(request, "complete", "upload", "parts")
        if not _UPLOAD_ID.fullmatch(fields["upload"]):
            raise Forbidden("The address was signed for something else.", code="BadSignature")
        count = int(fields["parts"])
        body = await read_json(request)
        listed = body.get("parts")
        numbers = {p.get("partNumber") for p in listed if isinstance(p, dict)} if isinstance(listed, list) else set()
        if body.get("oid", oid) != oid or numbers != set(range(1, count + 1)):
            raise Rejected(f"the list must name the parts 1 to {count} of object {oid}", code="PartsMismatch")
        parts = [self._lfs.incoming(f"{fields['upload']}.{n}") for n in range(1, count + 1)]
        if not all(part.exists() for part in parts):
            if await self._lfs.has(repo_id, oid) == size:
                return Response(status_code=200)  # asked again after the first answer got lost
            raise Rejected("some parts were not uploaded", code="PartsMissing")
        await self._held(repo_id, oid, size)
        try:
            await self._lfs.put(repo_id, oid, size, self._keeping(repo_id, oid, _joined(parts)))
        finally:
            for part in parts:
                part.unlink(missing_ok=True)
        await self._stored(repo_id, oid)
        return Response(status_code=200)


def _check_length(request: Request, size: int) -> None:
    length = request.headers.get("content-length")
    if length is not None and length != str(size) and "content-encoding" not in request.headers:
        raise Rejected(f"the Content-Length is {length[:20]}, the object has {size} bytes", code="SizeMismatch")


async def _joined(parts: list[Path]) -> AsyncIterator[bytes]:
    for part in parts:
        with part.open("rb") as file:
            while chunk := await asyncio.to_thread(file.read, 1 << 20):
                yield chunk
