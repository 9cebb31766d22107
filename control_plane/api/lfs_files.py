"""Large files of a repository: listed, deleted for good, given to another repository."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from control_plane.accounts import policy
from control_plane.accounts.audit import record
from control_plane.api import views
from control_plane.api.deps import Hub, find_repo, json_object, ok
from control_plane.domain.accounts import Action
from control_plane.domain.errors import Rejected
from control_plane.domain.spaces import Repo, RepoType
from control_plane.http.addresses import repo_type
from control_plane.http.pagination import next_link, page_bounds

_MAX_OIDS = 1000


class CopyTarget(BaseModel):
    type: str = Field(max_length=40)
    name: str = Field(max_length=200)


class CopiedFile(BaseModel):
    """`xetHash` is what `paths-info` gave; the sha256 says the same and is what counts here."""

    sha256: str = Field(max_length=64)
    xetHash: str = Field(default="", max_length=64)
    filename: str = Field(default="", max_length=4096)


class CopyBody(BaseModel):
    target: CopyTarget
    files: list[CopiedFile] = Field(max_length=_MAX_OIDS)


def router(hub: Hub) -> APIRouter:
    api = APIRouter(tags=["large files"])
    services = hub.services
    git = services.git

    @api.get("/api/{kind:kind}/{ns:seg}/{name:seg}/lfs-files")
    async def lfs_files(request: Request, kind: str, ns: str, name: str) -> JSONResponse:
        _, repo = await hub.repo(request, kind, ns, name, Action.WRITE)
        limit, offset = page_bounds(request)
        named, before = await _lfs_names(repo), await git.lfs_paths(repo.id)
        rows = sorted(await services.lfs.oids(repo.id))
        page = [
            {
                "fileOid": oid, "oid": oid, "size": size, "pushedAt": views.when(repo.updated_at),
                "filename": named[oid][0] if oid in named else before.get(oid, oid), "ref": named[oid][1] if oid in named else None,
            }
            for oid, size in rows[offset : offset + limit]
        ]  # fmt: skip
        return ok(page, next_link(request, offset + limit if len(rows) > offset + limit else None))

    async def _lfs_names(repo: Repo) -> dict[str, tuple[str, str]]:
        """Large files that a ref's head names: oid → (path, ref)."""
        named: dict[str, tuple[str, str]] = {}
        for ref in await git.refs(repo.id):
            for entry in await git.tree(repo.id, ref.target, recursive=True):
                if entry.lfs is not None:
                    named.setdefault(entry.lfs.oid, (entry.path, ref.ref))
        return named

    @api.post("/api/{kind:kind}/{ns:seg}/{name:seg}/lfs-files/duplicate")
    async def lfs_duplicate(request: Request, kind: str, ns: str, name: str, body: CopyBody) -> JSONResponse:
        """Large files of this repository become the target's too, without their bytes being sent again; a commit there then names them."""
        actor, source = await hub.repo(request, kind, ns, name, Action.READ_FILES)
        if body.target.type not in set(RepoType):
            raise Rejected(f"target: the type '{body.target.type}' is not one of {', '.join(RepoType)}")
        owner, _, target_name = body.target.name.partition("/")
        async with services.uow.read() as uow:
            found, _ = await find_repo(uow, repo_type(body.target.type), owner, target_name)
        target = policy.require(actor, Action.WRITE, found)
        # Only what the source's files name now or did: an object of a proposal that nobody merged is not its content.
        named = await git.lfs_paths(source.id)
        failed: list[dict[str, str]] = []
        fresh: dict[str, int] = {}
        for file in body.files:
            size = await services.lfs.has(source.id, file.sha256) if file.sha256 in named else None
            if size is None:
                failed.append({"sha256": file.sha256, "error": f"{source.full_name} has no such large file"})
            elif await services.lfs.has(target.id, file.sha256) is None:
                fresh[file.sha256] = size
        async with services.actions.room(target, sum(fresh.values())):
            for oid in fresh:
                await services.lfs.link(source.id, target.id, oid)
        return ok({"failed": failed})

    @api.post("/api/{kind:kind}/{ns:seg}/{name:seg}/lfs-files/batch")
    async def lfs_delete(request: Request, kind: str, ns: str, name: str) -> JSONResponse:
        """Drops stored objects for good. With `rewriteHistory` no commit names them any more; without, their pointers stay."""
        actor, repo = await hub.repo(request, kind, ns, name, Action.ADMIN)
        body = await json_object(request)
        deletions = body.get("deletions")
        wanted = deletions.get("sha") if isinstance(deletions, dict) else None
        if not isinstance(wanted, list) or not all(isinstance(o, str) for o in wanted) or len(wanted) > _MAX_OIDS:
            raise Rejected(f'the body must be {{"deletions": {{"sha": ["<oid>", …]}}}} with at most {_MAX_OIDS} oids')
        if isinstance(deletions, dict) and deletions.get("rewriteHistory") is True:
            for move in await git.forget_lfs(repo.id, frozenset(wanted)):
                await services.actions.accept_commit(actor, repo, move.ref, move.old, move.new)
                await hub.deliveries.content(repo, move.ref, move.old, move.new)
        gone: dict[str, int] = {}
        async with services.actions.room(repo, 0):  # counts what is left
            for oid in wanted:
                if (size := await services.lfs.has(repo.id, oid)) is not None:
                    await services.lfs.drop(repo.id, oid)
                    gone[oid] = size
        if gone:
            facts = {"objects": len(gone), "bytes": sum(gone.values()), "oids": [*gone][:50]}
            async with services.uow.write() as uow:
                await record(uow, actor, "repo.delete_lfs", f"{repo.type.value}:{repo.full_name}", facts, services.clock.now())
        return ok({})

    return api
