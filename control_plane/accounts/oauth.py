"""Sign-in for apps and for the command line: OAuth codes, device codes, refresh tokens. Nothing here knows HTTP types.

Apps of Spaces get client credentials derived from the Space's id and the platform's key, so nothing has to be stored or
handed over: the scheduler computes the same pair that this room checks. Codes and refresh tokens are kept as hashes and
used once.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

from control_plane.accounts.tokens import CONSENT, GRANT, OAUTH_PREFIX, create_token, hash_text, revoke_token
from control_plane.domain.accounts import GATED_SCOPE, OAUTH_SCOPES, Account, Token, TokenRole
from control_plane.domain.errors import Rejected, VitrineError
from control_plane.domain.ids import AccountId, SpaceId
from control_plane.ports.clock import Clock
from control_plane.ports.signals import Signals
from control_plane.ports.stores import UnitOfWork

# The public client id that `hf auth login` uses for its browser flow.
CLI_CLIENT_ID = "26be6b09-91c5-47da-9861-d2d2bb7a7e36"
CODE_LIFE = timedelta(minutes=5)
DEVICE_LIFE = timedelta(minutes=15)
CLI_TOKEN_LIFE = timedelta(days=30)
REFRESH_LIFE = timedelta(days=90)
POLL_INTERVAL_S = 5
MAX_EXPIRATION_MINUTES = 43_200

_READS = frozenset({"read-repos"})
_WRITES = frozenset({"write-repos", "manage-repos", "contribute-repos", "write-discussions"})
_CODE, _DEVICE, _USER_CODE, _REFRESH = "oauth-code", "oauth-device", "oauth-user-code", "oauth-refresh"
_USER_ALPHABET = "BCDFGHJKLMNPQRSTVWXZ"  # no vowels: no words; nothing that looks like a digit


class OAuthError(VitrineError):
    """An answer of RFC 6749 section 5.2: `code` is its `error` word."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message, code=code)


@dataclass(frozen=True, slots=True)
class Client:
    """An app that may ask. `secret` "" = a public client. `hosts`: where codes may be sent, with port."""

    id: str
    name: str
    secret: str = ""
    hosts: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ("openid", "profile")
    token_life: timedelta = timedelta(minutes=480)
    authorized_orgs: tuple[str, ...] = ()
    is_cli: bool = False


CLI = Client(CLI_CLIENT_ID, "Hugging Face command line", scopes=OAUTH_SCOPES, token_life=CLI_TOKEN_LIFE, is_cli=True)


@dataclass(frozen=True, slots=True)
class Code:
    client_id: str
    user_id: str
    redirect_uri: str
    scope: str
    expires_at: str
    challenge: str = ""
    challenge_method: str = ""
    nonce: str = ""


@dataclass(frozen=True, slots=True)
class Issued:
    """What a token request yields. Texts are shown once."""

    token: Token
    access_token: str
    refresh_token: str
    expires_in_s: int
    scope: str
    user: Account
    nonce: str = ""


def space_credentials(signing_key: bytes, space_id: SpaceId) -> tuple[str, str]:
    """(OAUTH_CLIENT_ID, OAUTH_CLIENT_SECRET) of a Space."""
    secret = hmac.new(signing_key, f"oauth-app:{space_id}".encode(), hashlib.sha256).hexdigest()
    return f"space-{space_id}", secret


def chosen_scopes(client: Client, asked: str) -> tuple[str, ...]:
    """What is granted: asked for, known, and allowed to this client; the defaults when nothing was asked."""
    words = asked.split() or ["openid", "profile"]
    return tuple(dict.fromkeys(w for w in words if w in OAUTH_SCOPES and w in client.scopes))


def redirect_allowed(client: Client, uri: str) -> bool:
    """Any path on the Space's own hosts, by http or https, without credentials or fragment."""
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or parts.username or parts.password or parts.fragment or "\\" in uri or not uri.isprintable():
        return False
    host = (parts.hostname or "") + (f":{port}" if port else "")
    # The library in the app always builds https; without a port it names the same host.
    return host in client.hosts or (not port and any(h.partition(":")[0] == host for h in client.hosts))


def landing(client: Client, uri: str, scheme: str) -> str:
    """Where the browser really goes: the allowed address `uri` under the scheme and port at which apps answer here.

    Libraries build `https://HOST/…` whatever the platform speaks; on a laptop without TLS that would lead nowhere.
    """
    parts = urlsplit(uri)
    netloc = next((h for h in client.hosts if h.partition(":")[0] == parts.hostname), parts.netloc)
    return urlunsplit((scheme, netloc, parts.path, parts.query, ""))


async def new_code(
    uow: UnitOfWork, clock: Clock, client: Client, user: Account, *, redirect_uri: str, scope: str, challenge: str = "",
    challenge_method: str = "", nonce: str = "",
) -> str:  # fmt: skip
    text = secrets.token_urlsafe(32)
    code = Code(client.id, user.id, redirect_uri, scope, (clock.now() + CODE_LIFE).isoformat(), challenge, challenge_method, nonce)
    await uow.documents.put(_CODE, hash_text(text), user.id, asdict(code))
    return text


async def redeem_code(uow: UnitOfWork, clock: Clock, client: Client, text: str, *, redirect_uri: str, verifier: str) -> Issued:
    body = await _take(uow, clock, _CODE, text)
    code = Code(**body)
    if code.client_id != client.id or code.redirect_uri != redirect_uri:
        raise OAuthError("invalid_grant", "this code belongs to another app or address")
    if code.challenge:
        digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        given = digest if code.challenge_method == "S256" else verifier
        if not hmac.compare_digest(given.encode(), code.challenge.encode()):
            raise OAuthError("invalid_grant", "the code verifier does not fit")
    elif not client.secret:
        raise OAuthError("invalid_grant", "a public client needs a code challenge")
    return await _issue(uow, clock, client, code.user_id, code.scope, nonce=code.nonce)


async def _take(uow: UnitOfWork, clock: Clock, kind: str, text: str) -> dict[str, Any]:
    """Use a stored secret up. invalid_grant when it is unknown, used or too old."""
    body = await uow.documents.get(kind, hash_text(text)) if text and len(text) <= 256 else None
    if body is None or datetime.fromisoformat(str(body["expires_at"])) <= clock.now():
        raise OAuthError("invalid_grant", "this code or token is unknown, was used already, or is too old; sign in again")
    await uow.documents.remove(kind, hash_text(text))
    return body


async def refresh(uow: UnitOfWork, clock: Clock, signals: Signals, client: Client, text: str) -> Issued:
    """A new pair for a refresh token; the old access token ends."""
    body = await _take(uow, clock, _REFRESH, text)
    if body["client_id"] != client.id:
        raise OAuthError("invalid_grant", "this refresh token belongs to another app")
    old = await uow.tokens.get(body["token_id"])
    if old is not None and old.revoked_at is not None:
        raise OAuthError("invalid_grant", "access was taken back; sign in again")
    if old is not None:
        await uow.tokens.save(replace(old, revoked_at=clock.now()))
        ended = old.id
        uow.after_commit(lambda: signals.notify("access", ended))
    return await _issue(uow, clock, client, str(body["user_id"]), str(body["scope"]))


async def revoke(uow: UnitOfWork, clock: Clock, signals: Signals, client: Client, text: str) -> Token | None:
    """An app gives back an access or refresh token, with what belongs to it: the token that ended by that.

    Unknown and others' tokens are ignored (RFC 7009).
    """
    if not text or len(text) > 256:
        return None
    renewal = await uow.documents.get(_REFRESH, hash_text(text))
    token = await uow.tokens.get(renewal["token_id"]) if renewal else await uow.tokens.by_hash(hash_text(text))
    grant = await uow.documents.get(GRANT, token.id) if token else None
    if token is not None and grant is not None and grant["client_id"] == client.id:
        was_live = token.revoked_at is None
        await revoke_token(uow, clock, signals, token.id)
        if renewal is not None:
            await uow.documents.remove(_REFRESH, hash_text(text))
        return token if was_live else None
    return None


async def _issue(uow: UnitOfWork, clock: Clock, client: Client, user_id: str, scope: str, *, nonce: str = "") -> Issued:
    user = await uow.accounts.get(AccountId(user_id))
    if user is None or user.is_suspended:
        raise OAuthError("invalid_grant", "this account cannot sign in")
    now = clock.now()
    words = set(scope.split())
    role, rights = TokenRole.FINE_GRAINED, {}
    if client.is_cli:
        role = TokenRole.WRITE
    elif words & _WRITES:
        rights = {user.name: "write"}
    elif words & _READS:
        rights = {user.name: "read"}
    if "gated-repos" in words and not client.is_cli:
        rights[GATED_SCOPE] = "read"
    token, text = await create_token(
        uow, clock, user, f"App: {client.name}"[:96], role, now + client.token_life, scopes=rights or None, prefix=OAUTH_PREFIX
    )
    await uow.documents.put(GRANT, token.id, user.id, {"client_id": client.id, "scope": scope})
    renewal = secrets.token_urlsafe(32)
    body = {
        "client_id": client.id, "user_id": user.id, "scope": scope, "token_id": token.id, "expires_at": (now + REFRESH_LIFE).isoformat(),
    }  # fmt: skip
    await uow.documents.put(_REFRESH, hash_text(renewal), user.id, body)
    return Issued(token, text, renewal, int(client.token_life.total_seconds()), scope, user, nonce)


async def scope_of(uow: UnitOfWork, token: Token) -> tuple[str, ...]:
    """The OAuth scopes a token was given; a plain access token of a user has them all."""
    body = await uow.documents.get(GRANT, token.id)
    return tuple(str(body["scope"]).split()) if body else OAUTH_SCOPES


async def consented(uow: UnitOfWork, client: Client, user: Account, scopes: Sequence[str]) -> bool:
    body = await uow.documents.get(CONSENT, f"{user.id}/{client.id}")
    return body is not None and set(scopes) <= set(cast("list[str]", body["scopes"]))


async def remember_consent(uow: UnitOfWork, client: Client, user: Account, scopes: Sequence[str]) -> None:
    await uow.documents.put(CONSENT, f"{user.id}/{client.id}", user.id, {"scopes": list(scopes)})


async def start_device(uow: UnitOfWork, clock: Clock, client: Client, scope: str) -> tuple[str, str]:
    """(device code, user code "XXXX-XXXX")."""
    device, user_code = secrets.token_urlsafe(32), "".join(secrets.choice(_USER_ALPHABET) for _ in range(8))
    expires = (clock.now() + DEVICE_LIFE).isoformat()
    key = hash_text(device)
    await uow.documents.put(
        _DEVICE, key, client.id, {"client_id": client.id, "scope": scope, "expires_at": expires, "status": "pending", "user_id": ""}
    )
    await uow.documents.put(_USER_CODE, user_code, client.id, {"device": key, "expires_at": expires})
    return device, f"{user_code[:4]}-{user_code[4:]}"


def plain_user_code(text: str) -> str:
    return "".join(c for c in text.upper() if c in _USER_ALPHABET)[:8]


async def device_behind(uow: UnitOfWork, clock: Clock, user_code: str) -> tuple[str, dict[str, Any]]:
    """The waiting device of a user code: (key, record). Rejected when there is none."""
    found = await uow.documents.get(_USER_CODE, plain_user_code(user_code))
    body = await uow.documents.get(_DEVICE, str(found["device"])) if found else None
    if found is None or body is None or body["status"] != "pending" or datetime.fromisoformat(str(body["expires_at"])) <= clock.now():
        raise Rejected("this code is unknown, was used already, or is too old; start again on the device")
    return str(found["device"]), body


async def decide_device(uow: UnitOfWork, clock: Clock, user_code: str, user: Account, *, allow: bool) -> None:
    key, body = await device_behind(uow, clock, user_code)
    await uow.documents.put(_DEVICE, key, str(body["client_id"]), {**body, "status": "approved" if allow else "denied", "user_id": user.id})
    await uow.documents.remove(_USER_CODE, plain_user_code(user_code))


async def redeem_device(uow: UnitOfWork, clock: Clock, client: Client, device: str) -> Issued:
    """authorization_pending, access_denied or expired_token until the person has decided."""
    key = hash_text(device)
    body = await uow.documents.get(_DEVICE, key) if device and len(device) <= 256 else None
    if body is None or body["client_id"] != client.id or datetime.fromisoformat(str(body["expires_at"])) <= clock.now():
        raise OAuthError("expired_token", "this device code is unknown or too old; start again")
    if body["status"] == "pending":
        raise OAuthError("authorization_pending", "waiting for the person to allow it in the browser")
    await uow.documents.remove(_DEVICE, key)
    if body["status"] != "approved":
        raise OAuthError("access_denied", "the request was denied in the browser")
    return await _issue(uow, clock, client, str(body["user_id"]), str(body["scope"]))
