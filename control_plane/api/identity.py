"""Who am I, who are they: whoami, overviews, members, likes, the caller's own repositories."""

from __future__ import annotations

from dataclasses import replace

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from control_plane.accounts import oauth, people, policy
from control_plane.accounts.audit import record
from control_plane.accounts.tokens import revoke_leaked
from control_plane.api import views
from control_plane.api.deps import Hub, json_object, ok
from control_plane.community import likes
from control_plane.domain.accounts import ANONYMOUS, GATED_SCOPE, Account, AccountKind, Action, Actor, TokenRole
from control_plane.domain.errors import Rejected
from control_plane.domain.repo_query import RepoQuery
from control_plane.domain.spaces import RepoType
from control_plane.http.addresses import base_url, caller_address
from control_plane.http.pagination import next_link, page_bounds
from control_plane.ports.stores import UnitOfWork


def router(hub: Hub) -> APIRouter:
    api = APIRouter(tags=["identity"])
    services = hub.services

    @api.get("/api/whoami-v2")
    async def whoami(request: Request) -> JSONResponse:
        actor, user = await hub.user(request)
        base = base_url(request)
        async with services.uow.read() as uow:
            memberships = await uow.accounts.memberships(user.id)
            shows_email = actor.token is None or "email" in await oauth.scope_of(uow, actor.token)
        email = user.email if shows_email else None
        body = {
            "type": "user",
            "id": user.id,
            "name": user.name,
            "fullname": user.fullname or user.name,
            "email": email,
            "emailVerified": bool(email),
            "canPay": False,
            "periodEnd": None,
            "billingMode": "prepaid",
            "isPro": False,
            "isAdmin": user.is_admin,
            "avatarUrl": views.avatar_url(base, user.name),
            "orgs": [views.membership_json(org, role, base) for org, role in memberships],
            "auth": _auth_json(actor),
        }
        return ok(body)

    @api.get("/api/users/{name:seg}/overview")
    async def user_overview(request: Request, name: str) -> JSONResponse:
        return await _overview(request, name, AccountKind.USER)

    @api.get("/api/organizations/{name:seg}/overview")
    async def org_overview(request: Request, name: str) -> JSONResponse:
        return await _overview(request, name, AccountKind.ORG)

    async def _overview(request: Request, name: str, kind: AccountKind) -> JSONResponse:
        actor = await hub.actor(request)
        base = base_url(request)
        async with services.uow.read() as uow:
            account = await people.find_account(uow, name, kind)
            counts = {t: await _visible_count(uow, actor, t, account) for t in RepoType}
            members = await uow.accounts.members(account.id) if kind is AccountKind.ORG else ()
            orgs = await uow.accounts.memberships(account.id) if kind is AccountKind.USER else ()
            likes = len(await uow.repos.liked_by(account.id)) if kind is AccountKind.USER else 0
        body = views.person_json(account, base) | {
            "numModels": counts[RepoType.MODEL],
            "numDatasets": counts[RepoType.DATASET],
            "numSpaces": counts[RepoType.SPACE],
            "numLikes": likes,
            "numFollowers": 0,
            "numFollowing": 0,
            "createdAt": views.when(account.created_at),
        }
        if kind is AccountKind.ORG:
            body |= {"numUsers": len(members), "details": "", "isVerified": False}
        else:
            body["orgs"] = [views.person_json(org, base) | {"name": org.name} for org, _ in orgs]
        return ok(body)

    @api.get("/api/organizations/{name:seg}/members")
    async def org_members(request: Request, name: str) -> JSONResponse:
        await hub.actor(request)
        async with services.uow.read() as uow:
            org = await people.find_account(uow, name, AccountKind.ORG)
            members = await uow.accounts.members(org.id)
        limit, offset = page_bounds(request)
        page = members[offset : offset + limit]
        more = offset + limit if len(members) > offset + limit else None
        base = base_url(request)
        return ok([views.person_json(m, base) | {"role": role.value} for m, role in page], next_link(request, more))

    @api.get("/api/organizations/{name:seg}/followers")
    @api.get("/api/users/{name:seg}/followers")
    @api.get("/api/users/{name:seg}/following")
    async def followers(request: Request, name: str) -> JSONResponse:
        """Nobody follows anybody here; the account must exist."""
        await hub.actor(request)
        async with services.uow.read() as uow:
            await people.find_account(uow, name)
        return ok([])

    @api.get("/api/users/{name:seg}/likes")
    async def user_likes(request: Request, name: str) -> JSONResponse:
        actor = await hub.actor(request)
        async with services.uow.read() as uow:
            account = await people.find_account(uow, name, AccountKind.USER)
            liked = [(r, at) for r, at in await uow.repos.liked_by(account.id) if policy.allowed(actor, Action.VIEW, r)]
        limit, offset = page_bounds(request)
        page = [
            {"createdAt": views.when(at), "repo": {"name": repo.full_name, "type": repo.type.value}}
            for repo, at in liked[offset : offset + limit]
        ]
        return ok(page, next_link(request, offset + limit if len(liked) > offset + limit else None))

    @api.get("/api/settings/repositories")
    async def my_repositories(request: Request) -> JSONResponse:
        actor, user = await hub.user(request)
        return await _repositories(request, actor, user)

    @api.get("/api/organizations/{name:seg}/settings/repositories")
    async def org_repositories(request: Request, name: str) -> JSONResponse:
        actor, _ = await hub.user(request)
        async with services.uow.read() as uow:
            org = await people.find_account(uow, name, AccountKind.ORG)
        return await _repositories(request, actor, org)

    async def _repositories(request: Request, actor: Actor, owner: Account) -> JSONResponse:
        limit, offset = page_bounds(request)
        rows = []
        async with services.uow.read() as uow:
            for of_type in RepoType:
                rows += [
                    r
                    for r in await uow.repos.list(RepoQuery(of_type, see_all=True, owner=owner.name), limit=10_000)
                    if policy.allowed(actor, Action.VIEW, r)
                ]
        total = sum(r.storage_bytes for r in rows) or 1
        rows.sort(key=lambda r: (-r.storage_bytes, r.full_name))
        page = [
            {
                "id": r.full_name,
                "type": r.type.value,
                "updatedAt": views.when(r.updated_at),
                "visibility": r.visibility.value,
                "storage": r.storage_bytes,
                "storagePercent": round(100 * r.storage_bytes / total, 2),
            }
            for r in rows[offset : offset + limit]
        ]
        return ok(page, next_link(request, offset + limit if len(rows) > offset + limit else None))

    @api.get("/api/{kind:kind}/{ns:seg}/{name:seg}/auth-check")
    async def auth_check(request: Request, kind: str, ns: str, name: str) -> JSONResponse:
        await hub.repo(request, kind, ns, name, Action.READ_FILES)
        return ok({})

    @api.get("/api/{kind:kind}/{ns:seg}/{name:seg}/auth-check/write")
    async def auth_check_write(request: Request, kind: str, ns: str, name: str) -> JSONResponse:
        await hub.repo(request, kind, ns, name, Action.WRITE)
        return ok({})

    @api.post("/api/{kind:kind}/{ns:seg}/{name:seg}/like")
    async def like(request: Request, kind: str, ns: str, name: str) -> JSONResponse:
        return await _like(request, kind, ns, name, True)

    @api.delete("/api/{kind:kind}/{ns:seg}/{name:seg}/like")
    async def unlike(request: Request, kind: str, ns: str, name: str) -> JSONResponse:
        return await _like(request, kind, ns, name, False)

    async def _like(request: Request, kind: str, ns: str, name: str, liked: bool) -> JSONResponse:
        actor, repo = await hub.repo(request, kind, ns, name, Action.VIEW)
        user = policy.require_user(actor, write=True)
        async with services.uow.write() as uow:
            await likes.like(uow, actor, user, repo, liked, services.clock.now())
        return ok({"liked": liked})

    @api.get("/api/{kind:kind}/{ns:seg}/{name:seg}/likers")
    async def likers(request: Request, kind: str, ns: str, name: str) -> JSONResponse:
        _, repo = await hub.repo(request, kind, ns, name, Action.VIEW)
        async with services.uow.read() as uow:
            accounts = await uow.repos.likers(repo.id)
        limit, offset = page_bounds(request)
        more = offset + limit if len(accounts) > offset + limit else None
        base = base_url(request)
        return ok([views.person_json(a, base) for a in accounts[offset : offset + limit]], next_link(request, more))

    @api.post("/api/tokens/revoke-leaked", status_code=202)
    async def leaked(request: Request) -> Response:
        """For secret scanners: token texts seen in public. Always 202, so that it tells nothing about a guess."""
        actor = replace(ANONYMOUS, address=caller_address(request))  # a scanner is nobody here; its address is kept
        body = await json_object(request)
        texts = body.get("tokens")
        if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
            raise Rejected('the body must be {"tokens": ["hf_…", …]}')
        async with services.uow.write() as uow:
            for user, token in await revoke_leaked(uow, services.clock, services.signals, texts):
                facts = {"id": token.id, "name": token.name, "why": "reported as leaked"}
                await record(uow, actor, "token.revoke", f"user:{user}", facts, services.clock.now())
        return Response(status_code=202)

    return api


async def _visible_count(uow: UnitOfWork, actor: Actor, type: RepoType, owner: Account) -> int:
    """How many repositories of `owner` the caller may see; counted in the database when that is all of them."""
    sees_all = actor.is_admin or (actor.user is not None and (actor.user.id == owner.id or owner.name.lower() in actor.roles))
    if sees_all and actor.token is None:
        return await uow.repos.count(type, owner_id=owner.id)
    repos = await uow.repos.list(RepoQuery(type, see_all=True, owner=owner.name), limit=10_000)
    return sum(1 for r in repos if policy.allowed(actor, Action.VIEW, r))


def _auth_json(actor: Actor) -> dict[str, object]:
    token = actor.token
    if token is None:
        return {"type": "session"}
    access: dict[str, object] = {"displayName": token.name, "role": token.role.value, "createdAt": views.when(token.created_at)}
    if token.role is TokenRole.FINE_GRAINED:
        access["fineGrained"] = {
            "canReadGatedRepos": GATED_SCOPE in token.scopes,
            "global": [],
            "scoped": [
                {"entity": {"name": subject, "type": "repo" if "/" in subject else "user"}, "permissions": [f"repo.{right}"]}
                for subject, right in sorted(token.scopes.items())
                if subject != GATED_SCOPE
            ],
        }
    body: dict[str, object] = {"type": "access_token", "accessToken": access}
    if token.expires_at is not None:
        body["expiresAt"] = views.when(token.expires_at)
    return body
