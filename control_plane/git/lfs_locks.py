"""The git-lfs locks API: who works on which file. Small documents, one per locked path."""

from __future__ import annotations

import builtins
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fastapi import Request
from starlette.responses import JSONResponse, Response

from control_plane.domain.errors import Forbidden, NotFound, Rejected
from control_plane.domain.spaces import RepoType
from control_plane.git.bodies import read_json
from control_plane.git.names import check_path
from control_plane.git.smart_http import Authorize, RepoAccess, Service, access_to, repo_path
from control_plane.ports.stores import UnitOfWork, UnitOfWorkFactory

KIND = "lfs-lock"
_MEDIA_TYPE = "application/vnd.git-lfs+json"
_MAX_PER_REPO = 10_000


class Locks:
    def __init__(self, uow: UnitOfWorkFactory, authorize: Authorize) -> None:
        self._uow, self._authorize = uow, authorize

    async def list(self, request: Request, repo_type: RepoType) -> Response:
        access = await self._access(request, repo_type, Service.LFS_DOWNLOAD)
        path, lock_id = request.query_params.get("path"), request.query_params.get("id")
        locks = [_public(k) for k in await self._all(access) if path in (None, k["path"]) and lock_id in (None, k["id"])]
        return JSONResponse({"locks": locks}, media_type=_MEDIA_TYPE)

    async def verify(self, request: Request, repo_type: RepoType) -> Response:
        access = await self._access(request, repo_type, Service.LFS_UPLOAD)
        ours: builtins.list[dict[str, Any]] = []
        theirs: builtins.list[dict[str, Any]] = []
        for lock in await self._all(access):
            (ours if lock["owner"] == access.actor.name else theirs).append(_public(lock))
        return JSONResponse({"ours": ours, "theirs": theirs}, media_type=_MEDIA_TYPE)

    async def create(self, request: Request, repo_type: RepoType) -> Response:
        access = await self._access(request, repo_type, Service.LFS_UPLOAD)
        path = check_path(str((await read_json(request)).get("path", "")))
        lock_id = hashlib.sha256(path.encode()).hexdigest()[:32]
        async with self._uow.write() as uow:
            present = await uow.documents.get(KIND, f"{access.repo_id}:{lock_id}")
            if present is None:
                if len(await uow.documents.list(KIND, access.repo_id)) >= _MAX_PER_REPO:
                    raise Rejected(f"a repository may have at most {_MAX_PER_REPO} locks")
                lock = {
                    "id": lock_id,
                    "path": path,
                    "locked_at": datetime.now(UTC).isoformat(timespec="seconds"),
                    "owner": access.actor.name,
                }
                await uow.documents.put(KIND, f"{access.repo_id}:{lock_id}", access.repo_id, lock)
                await _note(uow, access, "lfs.lock", {"path": path[:200]})
        if present is not None:
            return JSONResponse({"lock": _public(present), "message": "already created lock"}, 409, media_type=_MEDIA_TYPE)
        return JSONResponse({"lock": _public(lock)}, 201, media_type=_MEDIA_TYPE)

    async def unlock(self, request: Request, repo_type: RepoType) -> Response:
        access = await self._access(request, repo_type, Service.LFS_UPLOAD)
        force = (await read_json(request)).get("force") is True
        key = f"{access.repo_id}:{request.path_params['lock_id'][:64]}"
        async with self._uow.write() as uow:
            lock = await uow.documents.get(KIND, key)
            if lock is None:
                raise NotFound("there is no such lock", code="LockNotFound")
            if lock["owner"] != access.actor.name and not force:
                raise Forbidden(f"the lock belongs to {lock['owner']}; use --force to break it")
            await uow.documents.remove(KIND, key)
            await _note(uow, access, "lfs.unlock", {"path": str(lock["path"])[:200], "owner": lock["owner"]})
        return JSONResponse({"lock": _public(lock)}, media_type=_MEDIA_TYPE)

    async def _access(self, request: Request, repo_type: RepoType, service: Service) -> RepoAccess:
        return await access_to(self._authorize, request, repo_path(request, repo_type), service)

    async def _all(self, access: RepoAccess) -> tuple[dict[str, Any], ...]:
        async with self._uow.read() as uow:
            return await uow.documents.list(KIND, access.repo_id)


async def _note(uow: UnitOfWork, access: RepoAccess, action: str, facts: Mapping[str, object]) -> None:
    repo = await uow.repos.get(access.repo_id)
    subject = f"{repo.type.value}:{repo.full_name}" if repo else f"repo:{access.repo_id}"
    actor = access.actor
    await uow.audit.append(at=datetime.now(UTC), actor=actor.name, action=action, subject=subject, address=actor.address, facts=facts)


def _public(lock: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": lock["id"], "path": lock["path"], "locked_at": lock["locked_at"], "owner": {"name": lock["owner"]}}
