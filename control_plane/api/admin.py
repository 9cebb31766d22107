"""The operators' API under /api/admin: what `vitrine admin` and the admin pages are made of. Platform admins only.

Every change writes exactly one audit event in its own transaction. Listings are `{"items": […]}`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from datetime import datetime, timedelta
from typing import Any, Protocol, cast

import httpx
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from control_plane.accounts import people, policy, sign_in, tokens
from control_plane.accounts.audit import record
from control_plane.accounts.storage import StorageRoom
from control_plane.accounts.suspension import suspend
from control_plane.api import admin_care, admin_quotas, admin_spaces
from control_plane.api.backup import SnapshotSource
from control_plane.api.deps import Hub
from control_plane.api.deps import Services as HubServices
from control_plane.domain.accounts import Account, AccountKind, Actor, OrgRole, Token, TokenRole
from control_plane.domain.capacity import Capacity
from control_plane.domain.errors import Rejected
from control_plane.domain.ids import TokenId
from control_plane.domain.spaces import RepoType
from control_plane.http import raw_path  # registers the path convertor that the routes name
from control_plane.http.long_work import Tell, follow
from control_plane.ports.stores import UnitOfWork

assert raw_path.SLASH
MAX_EXPIRY = timedelta(days=3650)


class AdminServices(HubServices, Protocol):
    """What these routes need beyond the Hub API's slice."""

    @property
    def pools(self) -> Callable[[], Any]: ...  # scheduler.pools.Hardware: flavors and node pools in force
    @property
    def settings(self) -> Any: ...  # settings.Settings
    @property
    def database(self) -> SnapshotSource: ...
    @property
    def keys(self) -> Any: ...  # bootstrap.Keys: `box` with the master keys
    @property
    def storage(self) -> StorageRoom: ...
    @property
    def registry_auth(self) -> httpx.Auth | None: ...
    @property
    def change_master_key(self) -> Callable[..., None]: ...  # retire=…, signing=…
    @property
    def remove_environments(self) -> Callable[[Collection[str]], Awaitable[None]]: ...


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewUser(_Body):
    name: str
    email: str | None = None
    password: str | None = Field(default=None, repr=False)
    admin: bool = False


class NewOrg(_Body):
    name: str


class Suspension(_Body):
    suspended: bool = True


class MemberRole(_Body):
    role: OrgRole


class NewToken(_Body):
    user: str
    role: TokenRole
    name: str = "cli"
    expires_s: int | None = Field(default=None, gt=0)


class Door:
    """First steps of every route: an admin calls, and one unit of work."""

    def __init__(self, services: AdminServices) -> None:
        self.services = services
        self._hub = Hub(services)

    async def admin(self, request: Request) -> Actor:
        actor = await self._hub.actor(request)
        policy.require_admin(actor)
        return actor

    async def note(self, uow: UnitOfWork, actor: Actor, action: str, subject: str, **facts: object) -> None:
        await record(uow, actor, action, subject, facts, self.services.clock.now())

    async def capacity(self) -> Capacity | None:
        """None when no scheduler tells (it is down, or this platform has none)."""
        ask = cast(Callable[[], Awaitable[Capacity | None]] | None, getattr(self.services, "capacity", None))
        return await ask() if ask is not None else None


def when(moment: datetime | None) -> str | None:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}" if moment else None


def account_json(account: Account) -> dict[str, Any]:
    return {
        "id": account.id,
        "name": account.name,
        "kind": account.kind.value,
        "email": account.email,
        "admin": account.is_admin,
        "suspended": account.is_suspended,
        "created_at": when(account.created_at),
    }


def token_json(token: Token, user: str) -> dict[str, Any]:
    return {
        "id": token.id,
        "user": user,
        "name": token.name,
        "role": token.role.value,
        "created_at": when(token.created_at),
        "expires_at": when(token.expires_at),
        "revoked_at": when(token.revoked_at),
        "last_used_at": when(token.last_used_at),
    }


def items(found: Any) -> JSONResponse:
    return JSONResponse({"items": list(found)})


def admin_router(services: AdminServices) -> APIRouter:
    door = Door(services)
    api = APIRouter(prefix="/api/admin", tags=["admin"])
    _accounts(api, door)
    _tokens(api, door)
    admin_care.routes(api, door)
    admin_quotas.routes(api, door)
    admin_spaces.routes(api, door)
    return api


def _accounts(api: APIRouter, door: Door) -> None:
    uow, clock, signals = door.services.uow, door.services.clock, door.services.signals

    @api.get("/users")
    async def list_users(request: Request) -> JSONResponse:
        await door.admin(request)
        async with uow.read() as work:
            return items(account_json(a) for a in await work.accounts.list(AccountKind.USER))

    @api.post("/users", status_code=201)
    async def add_user(request: Request, body: NewUser) -> dict[str, Any]:
        actor = await door.admin(request)
        async with uow.write() as work:
            user = await people.add_user(work, clock, body.name, email=body.email, password=body.password, is_admin=body.admin)
            await door.note(work, actor, "user.add", f"user:{user.name}", admin=user.is_admin, email=user.email)
        return account_json(user)

    @api.post("/users/{name:seg}/suspension")
    async def suspend_user(request: Request, name: str, body: Suspension) -> Response:
        actor = await door.admin(request)

        async def work(tell: Tell) -> dict[str, Any]:
            changed, spaces = await suspend(
                uow, clock, signals, actor, name, body.suspended, lambda done, total: tell("Spaces", done, total)
            )
            return {**account_json(changed), "spaces": spaces}

        return await follow(request, work)

    @api.post("/users/{name:seg}/sign-in-link", status_code=201)
    async def sign_in_link(request: Request, name: str) -> dict[str, Any]:
        """An address that signs the user in once, for the first visit or a lost password. Only its hash is kept."""
        actor = await door.admin(request)
        async with uow.write() as work:
            user = await people.find_account(work, name, AccountKind.USER)
            if user.is_suspended:
                raise Rejected(f"{user.name} is suspended; lift that first")
            secret = await sign_in.create_sign_in_link(work, clock, user)
            expires = when(clock.now() + sign_in.LINK_LIFE)
            await door.note(work, actor, "user.link", f"user:{user.name}", expires_at=expires)
        return {"user": user.name, "link": f"{door.services.public_url}/sign-in/once?token={secret}", "expires_at": expires}

    @api.delete("/users/{name:seg}")
    async def remove_user(request: Request, name: str) -> dict[str, Any]:
        actor = await door.admin(request)
        async with uow.write() as work:
            user = await people.find_account(work, name, AccountKind.USER)
            await _check_removable(work, actor, user)
            await work.accounts.remove(user.id)
            work.after_commit(lambda: signals.notify("access", user.id))
            await door.note(work, actor, "user.remove", f"user:{user.name}")
        return account_json(user)

    @api.get("/orgs")
    async def list_orgs(request: Request) -> JSONResponse:
        await door.admin(request)
        async with uow.read() as work:
            found = []
            for org in await work.accounts.list(AccountKind.ORG):
                members = {user.name: role.value for user, role in await work.accounts.members(org.id)}
                found.append({**account_json(org), "members": members})
            return items(found)

    @api.post("/orgs", status_code=201)
    async def add_org(request: Request, body: NewOrg) -> dict[str, Any]:
        actor = await door.admin(request)
        async with uow.write() as work:
            org = await people.add_org(work, clock, body.name)
            await door.note(work, actor, "org.add", f"org:{org.name}")
        return account_json(org)

    @api.put("/orgs/{name:seg}/members/{user_name:seg}")
    async def set_member(request: Request, name: str, user_name: str, body: MemberRole) -> dict[str, Any]:
        actor = await door.admin(request)
        async with uow.write() as work:
            org, user = await people.find_account(work, name, AccountKind.ORG), await people.find_account(work, user_name, AccountKind.USER)
            before = next((role.value for member, role in await work.accounts.members(org.id) if member.id == user.id), None)
            await people.set_member(work, signals, org, user, body.role)
            await door.note(work, actor, "org.member", f"org:{org.name}", user=user.name, before=before, after=body.role.value)
        return {"org": org.name, "user": user.name, "role": body.role.value}

    @api.delete("/orgs/{name:seg}/members/{user_name:seg}")
    async def remove_member(request: Request, name: str, user_name: str) -> dict[str, Any]:
        actor = await door.admin(request)
        async with uow.write() as work:
            org, user = await people.find_account(work, name, AccountKind.ORG), await people.find_account(work, user_name, AccountKind.USER)
            before = next((role.value for member, role in await work.accounts.members(org.id) if member.id == user.id), None)
            await people.remove_member(work, signals, org, user)
            await door.note(work, actor, "org.member", f"org:{org.name}", user=user.name, before=before, after=None)
        return {"org": org.name, "user": user.name, "role": None}


async def _check_removable(work: UnitOfWork, actor: Actor, user: Account) -> None:
    if actor.user is not None and user.id == actor.user.id:
        raise Rejected("you cannot remove yourself; another admin can")
    owned = {kind.plural: await work.repos.count(kind, owner_id=user.id) for kind in RepoType}
    if any(owned.values()):
        what = ", ".join(f"{count} {kind if count > 1 else kind.removesuffix('s')}" for kind, count in owned.items() if count)
        raise Rejected(f"{user.name} still owns {what}; delete or move those first, or suspend the user")


def _tokens(api: APIRouter, door: Door) -> None:
    uow, clock, signals = door.services.uow, door.services.clock, door.services.signals

    @api.get("/tokens")
    async def list_tokens(request: Request, user: str) -> JSONResponse:
        await door.admin(request)
        async with uow.read() as work:
            account = await people.find_account(work, user, AccountKind.USER)
            return items(token_json(t, account.name) for t in await work.tokens.of_user(account.id))

    @api.post("/tokens", status_code=201)
    async def add_token(request: Request, body: NewToken) -> dict[str, Any]:
        actor = await door.admin(request)
        if body.role is TokenRole.FINE_GRAINED:
            raise Rejected("a fine-grained token is made by its user, who names what it may reach")
        life = timedelta(seconds=min(body.expires_s, int(MAX_EXPIRY.total_seconds()))) if body.expires_s else None
        async with uow.write() as work:
            account = await people.find_account(work, body.user, AccountKind.USER)
            expires = clock.now() + life if life else None
            made, text = await tokens.create_token(work, clock, account, body.name, body.role, expires)
            facts = {"id": made.id, "role": made.role.value, "name": made.name, "expires_at": when(expires)}
            await door.note(work, actor, "token.add", f"user:{account.name}", **facts)
        return {**token_json(made, account.name), "token": text}

    @api.delete("/tokens/{token_id:seg}")
    async def revoke_token(request: Request, token_id: str) -> dict[str, Any]:
        actor = await door.admin(request)
        async with uow.write() as work:
            token = await tokens.revoke_token(work, clock, signals, TokenId(token_id))
            owner = await work.accounts.get(token.user_id)
            name = owner.name if owner else ""
            await door.note(work, actor, "token.revoke", f"user:{name}", id=token.id, name=token.name)
        return token_json(token, name)
