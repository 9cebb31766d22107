"""Signing in at an OpenID Connect provider: authorization code with PKCE, state and nonce (OpenID Connect Core 1.0, RFC 7636).

    GET /sign-in/sso ─303─▶ provider ─▶ GET /sign-in/sso/callback?code&state ─▶ token endpoint ─▶ id token ─▶ session

What must come back unchanged (state, nonce, verifier, where to go next) travels in a cookie that only this site can have
sealed and only this browser has, for ten minutes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

import httpx
import jwt
from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from control_plane.accounts.audit import record
from control_plane.accounts.sign_in import open_session
from control_plane.accounts.single_sign_on import GroupRules, Identity, account_for
from control_plane.accounts.throttle import Throttle, neighbourhood
from control_plane.api.deps import cookie_name
from control_plane.domain.accounts import Actor, Via
from control_plane.domain.errors import Forbidden, Rejected, Unavailable
from control_plane.http.addresses import caller_address
from control_plane.ports.clock import Clock
from control_plane.ports.signals import Signals
from control_plane.ports.stores import UnitOfWorkFactory

log = logging.getLogger("vitrine.sso")
START, CALLBACK = "/sign-in/sso", "/sign-in/sso/callback"
_COOKIE = "vitrine-sso"
_LIFE_S = 600
_TIMEOUT_S = 10.0
_METADATA_S = 600.0
_LEEWAY_S = 60
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA")
_FAILED = "Signing in did not work. Begin again; if it stays so, tell an operator."


@dataclass(frozen=True, slots=True)
class Provider:
    """`issuer` without a trailing slash. `ca_bundle`: PEM file of authorities beside the usual ones, "" = none."""

    issuer: str
    client_id: str
    client_secret: str
    rules: GroupRules
    ca_bundle: str = ""

    def __post_init__(self) -> None:
        parts = urlsplit(self.issuer)
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        if parts.scheme != "https" and not (parts.scheme == "http" and local):
            raise Rejected(f"setting oidc_issuer: '{self.issuer}' must be an https address")
        if not self.client_id or not self.client_secret:
            raise Rejected("settings oidc_client_id and oidc_client_secret are needed with oidc_issuer")


class Services(Protocol):
    @property
    def uow(self) -> UnitOfWorkFactory: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def signals(self) -> Signals: ...
    @property
    def throttle(self) -> Throttle: ...
    @property
    def public_url(self) -> str: ...
    @property
    def signing_key(self) -> bytes: ...


class Relying:
    """Our side of the protocol."""

    def __init__(self, provider: Provider, redirect_uri: str) -> None:
        self.provider, self._redirect_uri = provider, redirect_uri
        self._metadata: tuple[float, dict[str, Any]] | None = None
        self._keys: dict[str, jwt.PyJWK] = {}

    async def begin(self, state: str, nonce: str, verifier: str) -> str:
        """Where to send the browser."""
        metadata = await self._discover()
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code", "client_id": self.provider.client_id, "redirect_uri": self._redirect_uri,
            "scope": " ".join(self._scopes(metadata)), "state": state, "nonce": nonce, "code_challenge": challenge,
            "code_challenge_method": "S256",
        }  # fmt: skip
        address = str(metadata["authorization_endpoint"])
        return f"{address}{'&' if urlsplit(address).query else '?'}{urlencode(query)}"

    def _scopes(self, metadata: Mapping[str, Any]) -> tuple[str, ...]:
        offered = metadata.get("scopes_supported")
        wants_groups = isinstance(offered, list) and "groups" in offered
        return ("openid", "profile", "email", *(("groups",) if wants_groups else ()))

    async def finish(self, code: str, nonce: str, verifier: str) -> Identity:
        """The person behind a code. Forbidden when anything does not fit."""
        metadata = await self._discover()
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": self._redirect_uri, "code_verifier": verifier}
        methods = metadata.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        auth: httpx.BasicAuth | None = httpx.BasicAuth(self.provider.client_id, self.provider.client_secret)
        if "client_secret_basic" not in methods:
            auth, form = None, {**form, "client_id": self.provider.client_id, "client_secret": self.provider.client_secret}
        async with self._client() as client:
            answer = await client.post(str(metadata["token_endpoint"]), data=form, auth=auth or httpx.USE_CLIENT_DEFAULT)
            if answer.status_code != 200:
                raise _refused("the provider gave no token", status=answer.status_code)
            tokens = _object(answer)
            claims = await self._claims(client, metadata, str(tokens.get("id_token", "")), nonce)
            if "userinfo_endpoint" in metadata and tokens.get("access_token") and not {"email", "groups"} <= set(claims):
                headers = {"Authorization": f"Bearer {tokens['access_token']}"}
                more = _object(await client.get(str(metadata["userinfo_endpoint"]), headers=headers))
                if more.get("sub") == claims["sub"]:  # else it is about somebody else, whoever mixed them up
                    claims = {**more, **claims}
        groups = claims.get("groups")
        return Identity(
            issuer=self.provider.issuer,
            subject=str(claims["sub"]),
            user_name=str(claims.get("preferred_username") or claims.get("nickname") or "")[:200],
            fullname=str(claims.get("name") or "")[:200],
            email=str(claims.get("email") or "") if claims.get("email_verified", True) is True else "",
            groups=tuple(str(g) for g in groups[:1000]) if isinstance(groups, list) else (),
        )

    async def _claims(self, client: httpx.AsyncClient, metadata: Mapping[str, Any], token: str, nonce: str) -> dict[str, Any]:
        try:
            head = jwt.get_unverified_header(token)
            key = await self._key(client, metadata, str(head.get("kid", "")))
            claims: dict[str, Any] = jwt.decode(
                token, key.key, algorithms=_ALGORITHMS, audience=self.provider.client_id, issuer=str(metadata["issuer"]), leeway=_LEEWAY_S,
                options={"require": ["exp", "iat", "iss", "aud", "sub"]},
            )  # fmt: skip
        except jwt.InvalidTokenError as error:
            raise _refused(f"the id token is not good: {error}") from error
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
            raise _refused("the id token was made for another sign-in")
        if isinstance(claims["aud"], list) and len(claims["aud"]) > 1 and claims.get("azp") != self.provider.client_id:
            raise _refused("the id token was made for another client")
        return claims

    async def _key(self, client: httpx.AsyncClient, metadata: Mapping[str, Any], kid: str) -> jwt.PyJWK:
        if kid not in self._keys:
            found = _object(await client.get(str(metadata["jwks_uri"]))).get("keys")
            usable = [k for k in found or () if isinstance(k, dict) and k.get("use", "sig") == "sig" and k.get("kty") != "oct"]
            self._keys = {str(k.get("kid", "")): jwt.PyJWK(k) for k in usable}
        if kid not in self._keys:
            raise _refused("the id token is signed with a key that the provider does not publish")
        return self._keys[kid]

    async def _discover(self) -> dict[str, Any]:
        if self._metadata is None or time.monotonic() - self._metadata[0] > _METADATA_S:
            async with self._client() as client:
                found = _object(await client.get(f"{self.provider.issuer}/.well-known/openid-configuration"))
            if str(found.get("issuer", "")).rstrip("/") != self.provider.issuer:
                raise _refused("the provider calls itself by another name than oidc_issuer", named=str(found.get("issuer"))[:200])
            if not {"authorization_endpoint", "token_endpoint", "jwks_uri"} <= set(found):
                raise _refused("the provider's description lacks an address")
            self._metadata = time.monotonic(), found
        return self._metadata[1]

    def _client(self) -> httpx.AsyncClient:
        import ssl

        context = ssl.create_default_context()
        if self.provider.ca_bundle:
            context.load_verify_locations(self.provider.ca_bundle)
        return httpx.AsyncClient(timeout=_TIMEOUT_S, verify=context, follow_redirects=False, headers={"Accept": "application/json"})


def _object(answer: httpx.Response) -> dict[str, Any]:
    try:
        body = answer.raise_for_status().json() if len(answer.content) < 1 << 20 else None
    except (httpx.HTTPStatusError, ValueError):
        body = None
    if not isinstance(body, dict):
        raise _refused("the provider's answer is not understood", status=answer.status_code)
    return body


def _refused(why: str, **facts: object) -> Forbidden:
    """The reason goes to the log; the person reads the same words whatever it was."""
    log.warning("sso.refused", extra={"why": why, **facts})
    return Forbidden(_FAILED)


def sso_router(services: Services, provider: Provider) -> APIRouter:
    api = APIRouter(include_in_schema=False)
    relying = Relying(provider, f"{services.public_url}{CALLBACK}")
    secure = services.public_url.startswith("https:")
    seal_key = hmac.new(services.signing_key, b"single sign-on", hashlib.sha256).digest()

    def forget(response: Response) -> Response:
        response.delete_cookie(_COOKIE, path=START, secure=secure, httponly=True, samesite="lax")
        return response

    @api.get(START)
    async def begin(request: Request) -> Response:
        address = caller_address(request)
        await services.throttle.check(f"sso:{neighbourhood(address)}")
        flow = {"state": secrets.token_urlsafe(24), "nonce": secrets.token_urlsafe(24), "verifier": secrets.token_urlsafe(48)}
        try:
            target = await relying.begin(flow["state"], flow["nonce"], flow["verifier"])
        except httpx.HTTPError as error:
            log.warning("sso.provider_down", extra={"error": str(error)})
            raise Unavailable("The sign-in provider does not answer; try again in a moment.") from error
        sealed = jwt.encode(
            {**flow, "next": _local(request.query_params.get("next")), "exp": int(time.time()) + _LIFE_S}, seal_key, "HS256"
        )
        response = RedirectResponse(target, 303, {"Cache-Control": "no-store"})
        # Lax: the provider sends the browser back by a link, and that must carry the cookie.
        response.set_cookie(_COOKIE, sealed, max_age=_LIFE_S, path=START, secure=secure, httponly=True, samesite="lax")
        return response

    @api.get(CALLBACK)
    async def callback(request: Request) -> Response:
        address = caller_address(request)
        await services.throttle.check(f"sso:{neighbourhood(address)}")
        try:
            identity, target = await _returned(request)
            async with services.uow.write() as work:
                account = await account_for(work, services.clock, services.signals, identity, provider.rules, address=address)
                agent = request.headers.get("user-agent", "")
                session, cookie = await open_session(work, services.clock, account, address=address, user_agent=agent)
                actor = Actor(via=Via.SESSION, user=account, address=address)
                await record(work, actor, "session.open", f"user:{account.name}", {"by": "single sign-on"}, services.clock.now())
        except Forbidden:
            await services.throttle.failed(f"sso:{neighbourhood(address)}")
            raise
        except httpx.HTTPError as error:
            log.warning("sso.provider_down", extra={"error": str(error)})
            raise Unavailable("The sign-in provider does not answer; try again in a moment.") from error
        response = RedirectResponse(target, 303, {"Cache-Control": "no-store"})
        response.set_cookie(
            cookie_name(services.public_url), cookie, expires=session.expires_at, path="/", secure=secure, httponly=True, samesite="lax"
        )
        return forget(response)

    async def _returned(request: Request) -> tuple[Identity, str]:
        query = request.query_params
        try:
            flow = jwt.decode(request.cookies.get(_COOKIE, ""), seal_key, algorithms=["HS256"], options={"require": ["exp"]})
        except jwt.InvalidTokenError as error:
            raise _refused("the browser brought no sign-in that was begun here") from error
        if not hmac.compare_digest(query.get("state", "").encode(), str(flow["state"]).encode()):
            raise _refused("the state is another one")
        if "error" in query or not query.get("code"):
            raise _refused("the provider said no", error=query.get("error", "")[:100])
        return await relying.finish(query["code"][:4096], str(flow["nonce"]), str(flow["verifier"])), str(flow["next"])

    return api


def _local(target: str | None) -> str:
    """A path of this site, never another site's address."""
    if not target or not target.startswith("/") or target.startswith(("//", "/\\")) or len(target) > 2000 or not target.isprintable():
        return "/"
    return target
