"""Branches, tags, commits, trees and stored large files of a repository."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from control_plane.accounts import policy
from control_plane.api import views
from control_plane.api.deps import Hub, json_object, ok, read_body, texts
from control_plane.domain.accounts import Account, Action, Actor
from control_plane.domain.errors import EntryNotFound, Forbidden, NameTaken, NotSignedIn, Rejected, RevisionNotFound, TooLarge
from control_plane.domain.ids import Sha
from control_plane.domain.spaces import Repo
from control_plane.http.pagination import flag, next_link, page_bounds
from control_plane.ports.git import TreeEntry

_MAX_PATHS = 1000
_TREE_PAGE = 1000
_EXPANDED_PAGE = 100  # finding last commits walks history
MAIN = "refs/heads/main"


class BranchBody(BaseModel):
    startingPoint: str | None = Field(default=None, max_length=255)
    emptyBranch: bool = False
    overwrite: bool = False


class TagBody(BaseModel):
    tag: str = Field(max_length=255)
    message: str | None = Field(default=None, max_length=10_000)


class SquashBody(BaseModel):
    message: str | None = Field(default=None, max_length=10_000)


def signature(user: Account) -> tuple[str, str]:
    """Author name and address of commits made for `user`. Without an e-mail, one that cannot be anybody's."""
    return user.name, user.email or f"{user.name}@users.noreply.invalid"


def router(hub: Hub) -> APIRouter:
    api = APIRouter(tags=["repository contents"])
    services = hub.services
    git = services.git

    @api.get("/api/{kind:kind}/{ns:seg}/{name:seg}/refs")
    async def refs(request: Request, kind: str, ns: str, name: str) -> JSONResponse:
        _, repo = await hub.repo(request, kind, ns, name, Action.READ_CODE)
        groups: dict[str, list[dict[str, Any]]] = {"branches": [], "converts": [], "tags": []}
        pulls: list[dict[str, Any]] = []
        for ref in await git.refs(repo.id):
            body = {"name": ref.name, "ref": ref.ref, "targetCommit": ref.target}
            for prefix, group in (("refs/heads/", "branches"), ("refs/tags/", "tags"), ("refs/convert/", "converts")):
                if ref.ref.startswith(prefix):
                    groups[group].append(body | {"name": ref.ref.removeprefix(prefix)})
            if ref.ref.startswith("refs/pr/"):
                pulls.append(body | {"name": ref.ref})
        return ok({**groups, "pullRequests": pulls} if flag(request, "include_prs") else groups)

    async def _find(repo: Repo, ref: str) -> Sha | None:
        return next((r.target for r in await git.refs(repo.id) if r.ref == ref), None)

    async def _changed(actor: Actor, repo: Repo, ref: str, old: Sha | None, new: Sha | None) -> None:
        await services.actions.accept_commit(actor, repo, ref, old, new)
        await hub.deliveries.content(repo, ref, old, new)

    @api.post("/api/{kind:kind}/{ns:seg}/{name:seg}/branch/{branch:seg}")
    async def create_branch(request: Request, kind: str, ns: str, name: str, branch: str, body: BranchBody | None = None) -> JSONResponse:
        actor, repo = await hub.repo(request, kind, ns, name, Action.WRITE)
        body = body or BranchBody()
        ref = f"refs/heads/{branch}"
        if branch.startswith("refs/"):
            raise Rejected(f"'{branch[:100]}' is not a branch name; leave out refs/heads/")
        old = await _find(repo, ref)
        if old is not None and not body.overwrite:
            raise NameTaken(f"Reference {ref} already exists")
        if branch == "main" and old is not None:
            raise Forbidden("the branch main cannot be overwritten; commit to it instead")
        if body.emptyBranch:
            author, email = signature(policy.require_user(actor))
            target = await git.empty_commit(repo.id, "initial commit", author, email)
        else:
            target = await hub.resolve(repo, body.startingPoint or "main")
        await git.set_ref(repo.id, ref, target, expected=old)
        await _changed(actor, repo, ref, old, target)
        return ok({})

    @api.delete("/api/{kind:kind}/{ns:seg}/{name:seg}/branch/{branch:seg}")
    async def delete_branch(request: Request, kind: str, ns: str, name: str, branch: str) -> JSONResponse:
        actor, repo = await hub.repo(request, kind, ns, name, Action.WRITE)
        if branch == "main":
            raise Forbidden("the branch main cannot be deleted; delete the repository instead")
        return await _delete_ref(actor, repo, f"refs/heads/{branch}")

    async def _delete_ref(actor: Actor, repo: Repo, ref: str) -> JSONResponse:
        old = await _find(repo, ref)
        if old is None:
            raise RevisionNotFound(f"Reference {ref} does not exist")
        await git.set_ref(repo.id, ref, None, expected=old)
        await _changed(actor, repo, ref, old, None)
        return ok({})

    @api.post("/api/{kind:kind}/{ns:seg}/{name:seg}/tag/{rev:seg}")
    async def create_tag(request: Request, kind: str, ns: str, name: str, rev: str, body: TagBody) -> JSONResponse:
        actor, repo = await hub.repo(request, kind, ns, name, Action.WRITE)
        ref = f"refs/tags/{body.tag}"
        if await _find(repo, ref) is not None:
            raise NameTaken(f"Reference {ref} already exists")
        target = await hub.resolve(repo, rev)
        await git.set_ref(repo.id, ref, target)
        await _changed(actor, repo, ref, None, target)
        return ok({})

    @api.delete("/api/{kind:kind}/{ns:seg}/{name:seg}/tag/{tag:seg}")
    async def delete_tag(request: Request, kind: str, ns: str, name: str, tag: str) -> JSONResponse:
        actor, repo = await hub.repo(request, kind, ns, name, Action.WRITE)
        return await _delete_ref(actor, repo, f"refs/tags/{tag}")

    @api.get("/api/{kind:kind}/{ns:seg}/{name:seg}/commits/{rev:seg}")
    async def commits(request: Request, kind: str, ns: str, name: str, rev: str) -> JSONResponse:
        _, repo = await hub.repo(request, kind, ns, name, Action.READ_CODE)
        limit, offset = page_bounds(request, default=50)
        sha = await hub.resolve(repo, rev)
        rows = await git.commits(repo.id, sha, limit=limit + 1, offset=offset)
        formatted = "formatted" in request.query_params.getlist("expand[]") + request.query_params.getlist("expand")
        headers = next_link(request, offset + limit if len(rows) > limit else None)
        headers["X-Total-Count"] = str(await git.commit_count(repo.id, sha))
        return ok([views.commit_json(c, formatted=formatted) for c in rows[:limit]], headers)

    @api.get("/api/{kind:kind}/{ns:seg}/{name:seg}/tree/{rev:seg}")
    async def tree_root(request: Request, kind: str, ns: str, name: str, rev: str) -> JSONResponse:
        return await _tree(request, kind, ns, name, rev, "")

    @api.get("/api/{kind:kind}/{ns:seg}/{name:seg}/tree/{rev:seg}/{path:tail}")
    async def tree(request: Request, kind: str, ns: str, name: str, rev: str, path: str) -> JSONResponse:
        return await _tree(request, kind, ns, name, rev, path.strip("/"))

    async def _tree(request: Request, kind: str, ns: str, name: str, rev: str, path: str) -> JSONResponse:
        _, repo = await hub.repo(request, kind, ns, name, Action.READ_CODE)
        sha = await hub.resolve(repo, rev)
        expand = flag(request, "expand")
        limit, offset = page_bounds(
            request, default=_EXPANDED_PAGE if expand else _TREE_PAGE, most=_EXPANDED_PAGE if expand else _TREE_PAGE
        )
        if path and not (await git.entry(repo.id, sha, path)).is_dir:
            raise EntryNotFound(f"'{path}' is a file; its folder can be listed", commit=sha)
        entries = await git.tree(repo.id, sha, path, recursive=flag(request, "recursive"))
        page = [e for e in entries if not e.is_submodule][offset : offset + limit + 1]
        headers = next_link(request, offset + limit if len(page) > limit else None)
        return ok(await _entries(repo, sha, page[:limit], expand), headers)

    async def _entries(repo: Repo, sha: Sha, entries: list[TreeEntry], expand: bool) -> list[dict[str, Any]]:
        last = await git.last_commits(repo.id, sha, [e.path for e in entries]) if expand and entries else {}
        return [views.entry_json(e, last.get(e.path), expand=expand) for e in entries]

    @api.post("/api/{kind:kind}/{ns:seg}/{name:seg}/paths-info/{rev:seg}")
    async def paths_info(request: Request, kind: str, ns: str, name: str, rev: str) -> JSONResponse:
        _, repo = await hub.repo(request, kind, ns, name, Action.READ_CODE)
        if "json" in request.headers.get("content-type", ""):
            body = await json_object(request, most=8 << 20)
            listed = body.get("paths", [])
            if not isinstance(listed, (list, str)) or (isinstance(listed, list) and not all(isinstance(p, str) for p in listed)):
                raise Rejected("paths must be a list of texts")
            paths, expand = texts(listed), body.get("expand") in (True, "true", "True")
        else:
            from urllib.parse import parse_qs

            form = parse_qs((await read_body(request, 8 << 20)).decode(errors="replace"), keep_blank_values=True, max_num_fields=5000)
            paths, expand = tuple(form.get("paths", [])), form.get("expand", [""])[0].lower() == "true"
        if len(paths) > _MAX_PATHS:
            raise TooLarge(f"at most {_MAX_PATHS} paths a call; send the rest in further calls")
        sha = await hub.resolve(repo, rev)
        found: list[TreeEntry] = []
        for path in paths:
            if clean := path.strip("/"):
                try:
                    found.append(await git.entry(repo.id, sha, clean))
                except EntryNotFound:
                    continue
        rows = await _entries(repo, sha, found, expand)
        for entry, row in zip(found, rows, strict=True):
            # Only here, where a client looks before it copies to another repository: with it in trees, downloads would not be plain HTTP.
            if entry.lfs is not None and await services.lfs.has(repo.id, entry.lfs.oid):
                row["xetHash"] = entry.lfs.oid
        return ok(rows)

    @api.post("/api/{kind:kind}/{ns:seg}/{name:seg}/super-squash/{branch:seg}")
    async def squash(request: Request, kind: str, ns: str, name: str, branch: str, body: SquashBody | None = None) -> JSONResponse:
        actor, repo = await hub.repo(request, kind, ns, name, Action.WRITE)
        if actor.user is None:
            raise NotSignedIn()
        ref = branch if branch.startswith("refs/") else f"refs/heads/{branch}"
        old = await _find(repo, ref)
        if old is None:
            raise RevisionNotFound(f"Reference {ref} does not exist")
        message = (body.message if body else None) or f"Super-squash branch '{branch}'"
        author, email = signature(actor.user)
        new = await git.squash(repo.id, ref.removeprefix("refs/heads/"), message, author, email)
        await _changed(actor, repo, ref, old, new)
        return ok({"commitOid": new})

    return api
