"""Lists, search and info of repositories, and the small look-ups of Spaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from control_plane.accounts import policy
from control_plane.accounts.mounting import shown
from control_plane.api import views
from control_plane.api.deps import Hub, ok
from control_plane.api.safetensors import HeaderReader
from control_plane.api.space_volumes import runtime_json
from control_plane.domain.accounts import Action, Actor
from control_plane.domain.errors import RepoNotFound, RevisionNotFound
from control_plane.domain.ids import RepoId, Sha
from control_plane.domain.repo_query import RepoQuery
from control_plane.domain.spaces import Repo, RepoType, Sdk, Space
from control_plane.http.addresses import repo_type
from control_plane.http.pagination import flag, next_link, page_bounds, values
from control_plane.ports.stores import UnitOfWork

_SORTS = {"trendingScore": "trending", "likes": "likes", "createdAt": "created", "lastModified": "updated", "downloads": "likes"}


def _choice(request: Request, name: str) -> bool | None:
    """A filter that may be left out."""
    return flag(request, name) if name in request.query_params else None


def router(hub: Hub) -> APIRouter:
    api = APIRouter(tags=["catalogue"])
    services = hub.services
    headers = HeaderReader(services.git, services.lfs)

    async def visible(
        uow: UnitOfWork, actor: Actor, query: RepoQuery, limit: int, offset: int = 0, sort: str = "trending"
    ) -> tuple[Repo, ...]:
        """Repositories the caller may see. The store narrows by membership, the policy by token."""
        if (user := actor.user) is not None:
            orgs = tuple(org.id for org, _ in await uow.accounts.memberships(user.id))
            query = replace(query, viewer=user.id, viewer_orgs=orgs, see_all=user.is_admin)
        repos = await uow.repos.list(query, sort=sort, limit=limit, offset=offset)
        return tuple(r for r in repos if policy.allowed(actor, Action.VIEW, r))

    async def infos(uow: UnitOfWork, actor: Actor, repos: Sequence[Repo], *, runtime: bool) -> list[dict[str, Any]]:
        """Full info objects of many repositories with a constant number of queries, and one for each volume of a runtime."""
        ids = [r.id for r in repos if r.type is RepoType.SPACE]
        spaces: dict[str, Space] = {s.id: s for s in await uow.spaces.get_many(ids)} if ids else {}
        running = await services.actions.runtime_views(list(spaces.values())) if runtime and spaces else {}
        made = []
        for repo in repos:
            space = spaces.get(repo.id)
            host = hub.app_url(space.subdomain) if space else ""
            view = running.get(repo.id)
            told = None
            if view is not None:
                volumes = [one.wire() for one in await shown(uow, actor, view.volumes)]
                told = views.runtime_json(view, host.partition("//")[2], services.catalog, volumes)
            made.append(views.repo_json(repo, space=space, host=host, runtime=told))
        return made

    @api.get("/api/{kind:kind}")
    async def listing(request: Request, kind: str) -> JSONResponse:
        actor = await hub.actor(request)
        of_type = repo_type(kind)
        limit, offset = page_bounds(request)
        filters = [f for value in values(request, "filter") for f in value.split(",") if f]
        filters += [f"{key}:{v}" for key in ("datasets", "models") if kind == "spaces" for v in values(request, key)]
        filters += [v for v in values(request, "pipeline_tag") if kind == "models"]
        sdks = tuple(f.removeprefix("sdk:") for f in (*filters, *values(request, "sdk")) if f.removeprefix("sdk:") in set(Sdk))
        tags = tuple(f for f in filters if f.removeprefix("sdk:") not in set(Sdk))
        expand = values(request, "expand")
        full = flag(request, "full")
        async with services.uow.read() as uow:
            asked = RepoQuery(
                of_type, owner=next(iter(values(request, "author")), None) or None, sdk=sdks, tags=tags,
                search=next(iter(values(request, "search")), None) or None, gated=_choice(request, "gated"),
            )  # fmt: skip
            # One row more than the page tells whether there is a next one.
            rows = await visible(uow, actor, asked, limit + 1, offset, _SORTS.get(request.query_params.get("sort", ""), "trending"))
            made = await infos(uow, actor, rows[:limit], runtime="runtime" in expand)
            if full or "siblings" in expand:
                for repo, body in zip(rows, made, strict=False):
                    body["siblings"] = await siblings(repo, Sha(repo.head), blobs=False) if repo.head else []
        shown = [views.select(b, expand) if expand else views.listed(b, full=full) for b in made]
        return ok(shown, next_link(request, offset + limit if len(rows) > limit else None))

    async def siblings(repo: Repo, sha: Sha, *, blobs: bool) -> list[dict[str, Any]]:
        entries = await services.git.tree(repo.id, sha, recursive=True)
        return [views.sibling_json(e, blobs=blobs) for e in entries if not e.is_dir and not e.is_submodule]

    @api.get("/api/spaces/semantic-search")
    async def search(request: Request) -> JSONResponse:
        """Text search over names, titles and descriptions; the score falls with the rank."""
        actor = await hub.actor(request)
        limit, offset = page_bounds(request, default=50, most=100)
        async with services.uow.read() as uow:
            asked = RepoQuery(
                RepoType.SPACE, search=next(iter(values(request, "q")), None) or None, tags=tuple(values(request, "filter")),
                sdk=tuple(s for s in values(request, "sdk") if s in set(Sdk)), running_only=not flag(request, "includeNonRunning", True),
            )  # fmt: skip
            repos = await visible(uow, actor, asked, limit, offset)
            made = await infos(uow, actor, repos, runtime=True)
        rows = [
            views.listed(body, full=False)
            | {
                "ai_short_description": body.get("shortDescription", ""),
                "ai_category": "",
                "semanticRelevancyScore": round(1 / (1 + rank), 4),
            }
            for rank, body in enumerate(made)
        ]
        return ok(rows)

    @api.get("/api/models-tags-by-type")
    @api.get("/api/datasets-tags-by-type")
    async def tags_by_type(request: Request) -> JSONResponse:
        actor = await hub.actor(request)
        of_type = RepoType.DATASET if "datasets" in request.scope["path"] else RepoType.MODEL
        async with services.uow.read() as uow:
            repos = await visible(uow, actor, RepoQuery(of_type), 1000)
        labels = sorted({t for r in repos for t in r.tags})
        return ok({"other": [{"id": t, "label": t, "type": "other"} for t in labels]})

    @api.get("/api/spaces/by-subdomain/{subdomain:seg}")
    async def by_subdomain(request: Request, subdomain: str) -> JSONResponse:
        actor = await hub.actor(request)
        async with services.uow.read() as uow:
            space = await uow.spaces.by_subdomain(subdomain.lower()) if len(subdomain) <= 63 else None
            repo = await uow.repos.get(RepoId(space.id if space else ""))  # in any case: a hidden one takes as long as an absent one
        repo = policy.require(actor, Action.VIEW, repo)
        if space is None:
            raise RepoNotFound()
        return ok(
            {
                "id": repo.full_name,
                "subdomain": space.subdomain,
                "runtime": await runtime_json(hub, actor, space, await services.actions.runtime_view(space)),
            }
        )

    @api.get("/api/{kind:kind}/{name:seg}")
    async def legacy_info(request: Request, kind: str, name: str) -> JSONResponse:
        """Repositories without a namespace do not exist here."""
        await hub.actor(request)
        raise RepoNotFound()

    @api.get("/api/{kind:kind}/{ns:seg}/{name:seg}")
    async def info(request: Request, kind: str, ns: str, name: str) -> JSONResponse:
        return await _info(request, kind, ns, name, None)

    @api.get("/api/{kind:kind}/{ns:seg}/{name:seg}/revision/{rev:seg}")
    async def info_at(request: Request, kind: str, ns: str, name: str, rev: str) -> JSONResponse:
        return await _info(request, kind, ns, name, rev)

    async def _info(request: Request, kind: str, ns: str, name: str, rev: str | None) -> JSONResponse:
        actor, repo, space = await hub.found(request, kind, ns, name, Action.VIEW)
        reads_code = policy.allowed(actor, Action.READ_CODE, repo)
        if space is None and repo.type is RepoType.SPACE:
            raise RepoNotFound()
        expand = values(request, "expand")
        sha: Sha | None = None
        if rev is not None:
            policy.require(actor, Action.READ_CODE, repo)
            sha = await hub.resolve(repo, rev)
        else:
            try:
                sha = await hub.resolve(repo, "main")
            except RevisionNotFound:
                sha = None  # main was deleted or never made: the repository is still there
        files = None
        if sha and reads_code and (not expand or "siblings" in expand):
            files = await siblings(repo, sha, blobs=flag(request, "blobs"))
        runtime = None
        if space and (not expand or "runtime" in expand):
            runtime = await runtime_json(hub, actor, space, await services.actions.runtime_view(space))
        body = views.repo_json(
            repo, space=space, host=hub.app_url(space.subdomain) if space else "", runtime=runtime, sha=sha, siblings=files or []
        )
        if repo.type is RepoType.MODEL and sha and reads_code and (not expand or "safetensors" in expand):
            names = [e["rfilename"] for e in files] if files is not None else [e.path for e in await services.git.tree(repo.id, sha)]
            if (counted := await headers.parameters(repo.id, sha, names)) is not None:
                body["safetensors"] = counted
        if not reads_code:
            body |= {"sha": None, "siblings": []}
        if flag(request, "securityStatus"):
            body["securityRepoStatus"] = {"scansDone": False, "filesWithIssues": []}
        return ok(views.select(body, expand) if expand else body)

    @api.get("/api/spaces/{ns:seg}/{name:seg}/host")
    async def host(request: Request, ns: str, name: str) -> JSONResponse:
        _, repo, space = await hub.space(request, ns, name, Action.VIEW)
        return ok({"host": hub.app_url(space.subdomain), "subdomain": space.subdomain, "id": repo.full_name})

    return api
