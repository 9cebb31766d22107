"""The OAuth and OpenID provider: endpoints for apps with `hf_oauth: true`, and the device flow of `hf auth login`."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from control_plane.accounts import oauth
from control_plane.accounts.audit import record
from control_plane.accounts.oauth import Client, Issued, OAuthError
from control_plane.accounts.sign_in import authenticate, csrf_matches
from control_plane.accounts.throttle import neighbourhood
from control_plane.api import views
from control_plane.api.deps import Hub, cookie_name, ok, read_body
from control_plane.domain.accounts import OAUTH_SCOPES, Account, Actor
from control_plane.domain.errors import Forbidden, NotSignedIn, Rejected
from control_plane.domain.ids import RepoId, SpaceId
from control_plane.domain.sensitive import Sensitive
from control_plane.http.addresses import base_url, caller_address
from control_plane.http.consent import EVERYTHING, ConsentPages, Question
from control_plane.ports.stores import UnitOfWork

_MAX_FORM = 64 << 10
_KEY_KIND, _KEY_ID, _KEY_CONTEXT = "oauth-key", "1", "oauth-key:1"
_DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
Form = Mapping[str, str]


def router(hub: Hub, consent: ConsentPages) -> APIRouter:
    api = APIRouter(tags=["sign-in for apps"])
    services = hub.services

    async def client_of(uow: UnitOfWork, client_id: str) -> Client | None:
        if client_id == oauth.CLI_CLIENT_ID:
            return oauth.CLI
        space_id = SpaceId(client_id.removeprefix("space-"))
        space = await uow.spaces.get(space_id) if client_id.startswith("space-") and len(client_id) <= 64 else None
        repo = await uow.repos.get(RepoId(space_id)) if space else None
        if space is None or repo is None or not space.config.hf_oauth:
            return None
        config = space.config
        minutes = max(1, min(config.hf_oauth_expiration_minutes, oauth.MAX_EXPIRATION_MINUTES))
        return Client(
            id=client_id,
            name=repo.full_name,
            secret=oauth.space_credentials(services.signing_key, space.id)[1],
            hosts=(hub.app_url(space.subdomain).partition("//")[2],),
            scopes=("openid", "profile", *config.hf_oauth_scopes),
            token_life=timedelta(minutes=minutes),
            authorized_orgs=config.hf_oauth_authorized_org,
        )

    async def browser(request: Request) -> Actor:
        """Who sits at the browser: the session cookie only, never a token."""
        return await authenticate(
            services.uow, services.clock, cookie=request.cookies.get(cookie_name(services.public_url)), address=caller_address(request)
        )

    async def signing_key() -> rsa.RSAPrivateKey:
        """The platform's RSA key for id tokens, made once and sealed in the database."""
        async with services.uow.read() as uow:
            body = await uow.documents.get(_KEY_KIND, _KEY_ID)
        if body is None:
            fresh = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            pem = fresh.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
            async with services.uow.write() as uow:
                body = await uow.documents.get(_KEY_KIND, _KEY_ID)  # another process may have been faster
                if body is None:
                    body = {"sealed": services.secret_box.seal(Sensitive(pem), context=_KEY_CONTEXT)}
                    await uow.documents.put(_KEY_KIND, _KEY_ID, "", body)
        pem = services.secret_box.open(str(body["sealed"]), context=_KEY_CONTEXT).reveal()
        key = serialization.load_pem_private_key(pem.encode(), None)
        assert isinstance(key, rsa.RSAPrivateKey)
        return key

    @api.get("/.well-known/openid-configuration")
    @api.get("/.well-known/oauth-authorization-server")
    async def discovery(request: Request) -> JSONResponse:
        """The browser's page is at the public address; the rest at the address by which the app reached us."""
        here = base_url(request)
        return ok(
            {
                "issuer": here,
                "authorization_endpoint": f"{services.public_url}/oauth/authorize",
                "device_authorization_endpoint": f"{here}/oauth/device",
                "token_endpoint": f"{here}/oauth/token",
                "revocation_endpoint": f"{here}/oauth/revoke",
                "userinfo_endpoint": f"{here}/oauth/userinfo",
                "jwks_uri": f"{here}/oauth/jwks",
                "scopes_supported": OAUTH_SCOPES,
                "response_types_supported": ["code"],
                "grant_types_supported": ["authorization_code", "refresh_token", _DEVICE_GRANT],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
                "code_challenge_methods_supported": ["S256"],
                "claims_supported": ["sub", "name", "preferred_username", "profile", "picture", "email", "email_verified", "orgs"],
            }
        )

    @api.get("/oauth/jwks")
    async def jwks() -> JSONResponse:
        public = (await signing_key()).public_key()
        key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(public))
        return ok({"keys": [key | {"kid": _KEY_ID, "use": "sig", "alg": "RS256"}]})

    async def checked(params: Form, actor: Actor) -> tuple[Client, tuple[str, ...]]:
        """The client and scopes of an authorization request whose redirect address may be trusted."""
        async with services.uow.read() as uow:
            client = await client_of(uow, params.get("client_id", ""))
        if client is None or client.is_cli:
            raise Rejected("there is no app with this client id; its README must say hf_oauth: true")
        if not oauth.redirect_allowed(client, params.get("redirect_uri", "")):
            raise Rejected(f"this app may send people only to its own host: {', '.join(client.hosts)}")
        if params.get("response_type", "code") != "code":
            raise Rejected("response_type must be code")
        if params.get("code_challenge") and params.get("code_challenge_method") != "S256":
            raise Rejected("code_challenge_method must be S256")
        orgs = {o.lower() for o in client.authorized_orgs}
        if actor.user is not None and orgs and not orgs & {*actor.roles, actor.user.name.lower()}:
            raise Forbidden(f"this app is for members of {', '.join(client.authorized_orgs)}")
        return client, oauth.chosen_scopes(client, params.get("scope", ""))

    def landing(client: Client, params: Form) -> str:
        return oauth.landing(client, params["redirect_uri"], urlsplit(services.public_url).scheme)

    async def send_back(params: Form, client: Client, user: Account, scopes: Sequence[str]) -> Response:
        async with services.uow.write() as uow:
            code = await oauth.new_code(
                uow, services.clock, client, user, redirect_uri=params["redirect_uri"], scope=" ".join(scopes),
                challenge=params.get("code_challenge", ""), challenge_method=params.get("code_challenge_method", ""),
                nonce=params.get("nonce", ""),
            )  # fmt: skip
        return _redirect(params, landing(client, params), {"code": code})

    @api.get("/oauth/authorize")
    async def authorize(request: Request) -> Response:
        params = {k: v[:4000] for k, v in request.query_params.items()}
        if request.headers.get("sec-fetch-dest") in ("iframe", "frame"):
            return await consent.in_frame(request, f"/oauth/authorize?{urlencode(params)}")
        actor = await browser(request)
        client, scopes = await checked(params, actor)
        if actor.user is None or actor.session is None:
            here = f"/oauth/authorize?{urlencode(params)}"
            return RedirectResponse(f"/sign-in?next={quote(here, safe='')}", status_code=303)
        async with services.uow.read() as uow:
            known = await oauth.consented(uow, client, actor.user, scopes)
        if known and params.get("prompt") != "consent":
            return await send_back(params, client, actor.user, scopes)
        origin = "{0.scheme}://{0.netloc}".format(urlsplit(landing(client, params)))
        fields = {k: v for k, v in params.items() if k not in ("decision", "csrf")}
        return await consent.ask(request, Question(client.name, actor.user.name, scopes, "/oauth/authorize", fields, origin))

    @api.post("/oauth/authorize")
    async def decide(request: Request) -> Response:
        params = await _form(request)
        actor = await browser(request)
        if actor.user is None or not csrf_matches(actor, params.get("csrf")):
            raise Forbidden("This page is too old or the request did not come from it; go back to the app and try again.")
        client, scopes = await checked(params, actor)
        if params.get("decision") != "allow":
            return _redirect(params, landing(client, params), {"error": "access_denied", "error_description": "the person said no"})
        async with services.uow.write() as uow:
            await oauth.remember_consent(uow, client, actor.user, scopes)
            await record(uow, actor, "oauth.allow", f"oauth:{client.id}", {"scopes": list(scopes)}, services.clock.now())
        return await send_back(params, client, actor.user, scopes)

    @api.post("/oauth/token")
    async def token(request: Request) -> Response:
        try:
            params = await _form(request)
            async with services.uow.write() as uow:
                client = await _authenticated(uow, request, params)
                match params.get("grant_type", ""):
                    case "authorization_code":
                        issued = await oauth.redeem_code(
                            uow, services.clock, client, params.get("code", ""), redirect_uri=params.get("redirect_uri", ""),
                            verifier=params.get("code_verifier", ""),
                        )  # fmt: skip
                    case "refresh_token":
                        issued = await oauth.refresh(uow, services.clock, services.signals, client, params.get("refresh_token", ""))
                    case word if word == _DEVICE_GRANT:
                        issued = await oauth.redeem_device(uow, services.clock, client, params.get("device_code", ""))
                    case _:
                        raise OAuthError("unsupported_grant_type", "use authorization_code, refresh_token or device_code")
                facts = {"id": issued.token.id, "role": issued.token.role.value, "app": client.id, "scope": issued.scope}
                person = Actor(user=issued.user, address=caller_address(request))
                verb = "token.renew" if params["grant_type"] == "refresh_token" else "token.add"
                await record(uow, person, verb, f"user:{issued.user.name}", facts, services.clock.now())
            return ok(await _token_body(request, client, issued), {"Cache-Control": "no-store"})
        except OAuthError as error:
            status = 401 if error.code == "invalid_client" else 400
            return JSONResponse({"error": error.code, "error_description": error.message}, status, {"Cache-Control": "no-store"})

    @api.post("/oauth/revoke")
    async def revoke(request: Request) -> Response:
        """An app gives a token back: it and its refresh token end, and the app has to ask the person again."""
        try:
            params = await _form(request)
            async with services.uow.write() as uow:
                client = await _authenticated(uow, request, params)
                ended = await oauth.revoke(uow, services.clock, services.signals, client, params.get("token", ""))
                owner = await uow.accounts.get(ended.user_id) if ended else None
                if ended is not None and owner is not None:
                    facts = {"id": ended.id, "name": ended.name, "app": client.id}
                    person = Actor(user=owner, address=caller_address(request))
                    await record(uow, person, "token.revoke", f"user:{owner.name}", facts, services.clock.now())
            return ok({})
        except OAuthError as error:
            return JSONResponse({"error": error.code, "error_description": error.message}, 401)

    async def _authenticated(uow: UnitOfWork, request: Request, params: Form) -> Client:
        client_id, secret = params.get("client_id", ""), params.get("client_secret", "")
        header = request.headers.get("authorization", "")
        if header.lower().startswith("basic "):
            try:
                client_id, _, secret = (unquote(p) for p in base64.b64decode(header[6:], validate=True).decode().partition(":"))
            except (binascii.Error, UnicodeDecodeError):
                raise OAuthError("invalid_client", "the client credentials cannot be read") from None
        client = await client_of(uow, client_id)
        if client is None:
            raise OAuthError("invalid_client", "there is no app with this client id")
        needs_secret = params.get("grant_type") != _DEVICE_GRANT
        if client.secret and needs_secret and not hmac.compare_digest(secret.encode(), client.secret.encode()):
            raise OAuthError("invalid_client", "the client secret is wrong")
        return client

    async def _token_body(request: Request, client: Client, issued: Issued) -> dict[str, Any]:
        body: dict[str, Any] = {
            "access_token": issued.access_token,
            "token_type": "bearer",
            "expires_in": issued.expires_in_s,
            "refresh_token": issued.refresh_token,
            "scope": issued.scope,
        }
        if "openid" in issued.scope.split():
            now = int(services.clock.now().timestamp())
            async with services.uow.read() as uow:
                claims = await _claims(uow, issued.user, issued.scope.split())
            # Apps keep this token in a cookie of at most 4 kB, so a person's organisations are in userinfo only.
            claims.pop("orgs", None)
            claims |= {"iss": base_url(request), "aud": client.id, "iat": now, "exp": now + issued.expires_in_s}
            if issued.nonce:
                claims["nonce"] = issued.nonce
            body["id_token"] = jwt.encode(claims, await signing_key(), algorithm="RS256", headers={"kid": _KEY_ID})
        return body

    async def _claims(uow: UnitOfWork, user: Account, scopes: Sequence[str]) -> dict[str, Any]:
        """Addresses in it are for people's browsers: the public one, not the one by which an app reaches us."""
        base = services.public_url
        claims: dict[str, Any] = {"sub": user.id}
        if "profile" in scopes:
            memberships = await uow.accounts.memberships(user.id)
            claims |= {
                "name": user.fullname or user.name,
                "preferred_username": user.name,
                "profile": f"{base}/{user.name}",
                "picture": views.avatar_url(base, user.name),
                "website": "",
                "isPro": False,
                "canPay": False,
                "orgs": [
                    {
                        "sub": org.id,
                        "name": org.fullname or org.name,
                        "preferred_username": org.name,
                        "picture": views.avatar_url(base, org.name),
                        "isEnterprise": False,
                        "roleInOrg": role.value,
                    }
                    for org, role in memberships
                ],
            }
        if "email" in scopes:
            claims |= {"email": user.email, "email_verified": bool(user.email)}
        return claims

    @api.get("/oauth/userinfo")
    @api.post("/oauth/userinfo")
    async def userinfo(request: Request) -> JSONResponse:
        header = request.headers.get("authorization")
        if not header:
            raise NotSignedIn("send the access token as `Authorization: Bearer …`")
        actor = await authenticate(services.uow, services.clock, authorization=header, address=caller_address(request))
        assert actor.user is not None
        assert actor.token is not None
        async with services.uow.read() as uow:
            scopes = await oauth.scope_of(uow, actor.token)
            return ok(await _claims(uow, actor.user, scopes))

    @api.post("/oauth/device")
    async def device(request: Request) -> JSONResponse:
        params = await _form(request)
        async with services.uow.write() as uow:
            client = await client_of(uow, params.get("client_id", oauth.CLI_CLIENT_ID))
            if client is None:
                return JSONResponse({"error": "invalid_client", "error_description": "there is no app with this client id"}, 401)
            scope = " ".join(oauth.chosen_scopes(client, params.get("scope", "") or "openid profile"))
            code, user_code = await oauth.start_device(uow, services.clock, client, scope)
        here = base_url(request)
        return ok(
            {
                "device_code": code,
                "user_code": user_code,
                "verification_uri": f"{here}/oauth/device",
                "verification_uri_complete": f"{here}/oauth/device?user_code={user_code}",
                "expires_in": int(oauth.DEVICE_LIFE.total_seconds()),
                "interval": oauth.POLL_INTERVAL_S,
            }
        )

    @api.get("/oauth/device")
    async def device_page(request: Request) -> Response:
        user_code = request.query_params.get("user_code", "")[:20]
        actor = await browser(request)
        if actor.user is None or actor.session is None:
            here = f"/oauth/device?{urlencode({'user_code': user_code})}" if user_code else "/oauth/device"
            return RedirectResponse(f"/sign-in?next={quote(here, safe='')}", status_code=303)
        if not user_code:
            return await consent.ask_code(request)
        key = f"device:{neighbourhood(caller_address(request))}"
        await services.throttle.check(key)
        try:
            async with services.uow.read() as uow:
                _, waiting = await oauth.device_behind(uow, services.clock, user_code)
                client = await client_of(uow, str(waiting["client_id"]))
        except Rejected:
            await services.throttle.failed(key)
            raise
        shown = oauth.plain_user_code(user_code)
        powers = (EVERYTHING,) if client and client.is_cli else tuple(str(waiting["scope"]).split())
        code = f"{shown[:4]}-{shown[4:]}"
        question = Question(
            client.name if client else "?", actor.user.name, powers, "/oauth/device/decide", {"user_code": shown}, code=code
        )  # fmt: skip
        return await consent.ask(request, question)

    @api.post("/oauth/device/decide")
    async def device_decide(request: Request) -> Response:
        params = await _form(request)
        actor = await browser(request)
        if actor.user is None or not csrf_matches(actor, params.get("csrf")):
            raise Forbidden("This page is too old or the request did not come from it; open it again.")
        allow = params.get("decision") == "allow"
        async with services.uow.write() as uow:
            await oauth.decide_device(uow, services.clock, params.get("user_code", ""), actor.user, allow=allow)
            await record(uow, actor, "oauth.device", f"user:{actor.user.name}", {"allowed": allow}, services.clock.now())
        return await consent.decided(request, allowed=allow)

    return api


async def _form(request: Request) -> dict[str, str]:
    """Form fields, or the members of a JSON object; each once, as text."""
    raw = await read_body(request, _MAX_FORM)
    if "json" in request.headers.get("content-type", ""):
        try:
            body = json.loads(raw or b"{}")
        except (ValueError, RecursionError):
            raise Rejected("the body is not JSON") from None
        if not isinstance(body, dict):
            raise Rejected("the body must be a JSON object")
        return {str(k): str(v) for k, v in body.items()}
    try:
        return {k: v[-1] for k, v in parse_qs(raw.decode(), keep_blank_values=True, max_num_fields=100).items()}
    except ValueError:
        raise Rejected("the form cannot be read") from None


def _redirect(params: Form, uri: str, answer: Mapping[str, str]) -> Response:
    state = {"state": params["state"]} if "state" in params else {}
    mark = "&" if urlsplit(uri).query else "?"
    return RedirectResponse(f"{uri}{mark}{urlencode({**answer, **state})}", status_code=303, headers={"Referrer-Policy": "no-referrer"})
