"""The proxy's door: may this credential use the app on that host; and the browser's way into a private app."""

from __future__ import annotations

import hmac
from urllib.parse import quote, urlsplit

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, RedirectResponse, Response

from control_plane.accounts import policy
from control_plane.accounts.sign_in import actor_of_ids, actor_of_token
from control_plane.api import app_access
from control_plane.api.deps import Hub, ok
from control_plane.domain.accounts import Action, Actor
from control_plane.domain.errors import NotFound, NotSignedIn, Rejected
from control_plane.domain.ids import RepoId
from control_plane.domain.spaces import Repo, Space

KINDS = ("bearer", "hf_bearer", "sign", "cookie")


class AuthorizeBody(BaseModel):
    """`host` with or without port; `credential` without its scheme word."""

    host: str = Field(max_length=300)
    kind: str = Field(max_length=20)
    credential: str = Field(max_length=8192)


def router(hub: Hub) -> APIRouter:
    api = APIRouter(include_in_schema=False)
    services = hub.services

    def check_secret(request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if not services.internal_secret or not hmac.compare_digest(given, services.internal_secret.encode()):
            raise NotSignedIn("this door is for the platform's own processes", bad_credentials=True)

    async def space_of_host(host: str) -> tuple[Repo, Space] | None:
        """The Space behind a public host: `sub.apps-domain`, also with a `--suffix` behind the name."""
        name = urlsplit(f"//{host}").hostname or ""
        subdomain, dot, domain = name.partition(".")
        if not dot or domain.lower() != services.apps_domain.lower():
            return None
        async with services.uow.read() as uow:
            space = await uow.spaces.by_subdomain(subdomain.partition("--")[0].lower())
            repo = await uow.repos.get(RepoId(space.id)) if space else None
        return (repo, space) if repo and space else None

    async def actor_behind(body: AuthorizeBody, space: Space) -> Actor | None:
        if body.kind in ("bearer", "hf_bearer"):
            try:
                return await actor_of_token(services.uow, services.clock, body.credential)
            except NotSignedIn:
                return None
        proof = app_access.read(services.signing_key, services.clock, body.credential, space.id, cookie=body.kind == "cookie")
        if proof is None:
            return None
        return await actor_of_ids(services.uow, services.clock, proof.user_id, token_id=proof.token_id, session_id=proof.session_id)

    @api.post("/internal/authorize")
    async def authorize(request: Request, body: AuthorizeBody) -> JSONResponse:
        """Never says why not: to a stranger, a private app is an absent one."""
        check_secret(request)
        if body.kind not in KINDS:
            raise Rejected(f"kind: not one of {', '.join(KINDS)}")
        found = await space_of_host(body.host)
        if found is None:
            return ok({"allowed": False, "user": ""})
        repo, space = found
        actor = await actor_behind(body, space)
        if actor is None or not policy.allowed(actor, Action.USE_APP, repo):
            return ok({"allowed": False, "user": ""})
        answer: dict[str, object] = {"allowed": True, "user": actor.user.name if actor.user else ""}
        if body.kind == "sign":
            answer["cookie"] = app_access.issue(services.signing_key, services.clock, actor, space.id, cookie=True)
            answer["max_age_s"] = int(app_access.COOKIE_LIFE.total_seconds())
        return ok(answer)

    @api.get("/oauth/app-access")
    async def app_access_page(request: Request) -> Response:
        """A browser at a private app's door: signed in → back with a short proof; else to the sign-in page first."""
        host, target = request.query_params.get("host", "")[:300], _path(request.query_params.get("next", "/"))
        actor = await hub.actor(request)
        if actor.is_anonymous:
            here = f"/oauth/app-access?host={quote(host, safe='')}&next={quote(target, safe='')}"
            return RedirectResponse(f"/sign-in?next={quote(here, safe='')}", status_code=303)
        found = await space_of_host(host)
        if found is None or not policy.allowed(actor, Action.USE_APP, found[0]):
            raise NotFound("There is no app at this address, or you may not use it.")
        return RedirectResponse(_signed(hub, actor, found[1], target), status_code=303, headers={"Referrer-Policy": "no-referrer"})

    return api


def _path(text: str) -> str:
    """A path on the app's own host; anything that could lead elsewhere becomes `/`."""
    if not text.startswith("/") or text.startswith(("//", "/\\")) or "\\" in text or not text.isprintable() or len(text) > 2000:
        return "/"
    return text


def _signed(hub: Hub, actor: Actor, space: Space, target: str) -> str:
    proof = app_access.issue(hub.services.signing_key, hub.services.clock, actor, space.id)
    path, mark, query = target.partition("?")
    query = query.partition("#")[0]
    return f"{hub.app_url(space.subdomain)}{quote(path, safe='/%:@!$&()*+,;=~-._')}?{f'{query}&' if mark and query else ''}__sign={proof}"
