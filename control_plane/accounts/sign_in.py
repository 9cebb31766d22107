"""Finding out who calls: tokens, browser sessions, passwords, one-time links. Nothing here knows HTTP types.

Every request reads the database (two indexed rows); no cache, so a revoked token or a suspended user is out at once.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta

import argon2

from control_plane.accounts.throttle import Throttle, neighbourhood
from control_plane.accounts.tokens import hash_text, is_well_formed
from control_plane.domain.accounts import (
    ANONYMOUS,
    Account,
    AccountKind,
    Actor,
    Session,
    Token,
    Via,
)
from control_plane.domain.errors import NotSignedIn, Rejected
from control_plane.domain.ids import AccountId, SessionId, TokenId, new_id
from control_plane.ports.clock import Clock
from control_plane.ports.signals import Signals
from control_plane.ports.stores import UnitOfWork, UnitOfWorkFactory

BAD_CREDENTIALS = "Invalid credentials in Authorization header"
SESSION_LIFE = timedelta(days=30)
LINK_LIFE = timedelta(hours=24)
LINK_KIND = "sign-in-link"
PASSWORD_MIN = 8
PASSWORD_MAX = 1024  # bytes; bounds the work of one hash
_LAST_USED_STEP = timedelta(hours=1)
_HASHER = argon2.PasswordHasher()  # Argon2id, 64 MiB, 3 passes: the library's RFC 9106 low-memory profile
# The hash of 256 random bits that nobody kept, made with the parameters of `_HASHER`: unknown names cost the same time as wrong passwords.
DECOY_HASH = "$argon2id$v=19$m=65536,t=3,p=4$VdAkPx+LcHd8yRgUyitXGQ$Lu5mGr71+jjWAcZ1pJ6MH4wIMRxhX8HKrVvHo4XwwIA"
_HASHING = asyncio.Semaphore(2)  # two hashes at once bound the memory a flood of sign-ins can take


def token_of_header(authorization: str) -> str:
    """The token inside an Authorization header: Bearer, or Basic with the token as password (or as user name alone).

    Raises NotSignedIn(bad_credentials) for anything else. An account password is never accepted here.
    """
    scheme, _, value = authorization.partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer" and value:
        return value
    if scheme.lower() == "basic" and len(value) <= 4096:
        try:
            user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise NotSignedIn(BAD_CREDENTIALS, bad_credentials=True) from None
        return password or user
    raise NotSignedIn(BAD_CREDENTIALS, bad_credentials=True)


async def authenticate(
    uow_factory: UnitOfWorkFactory,
    clock: Clock,
    *,
    authorization: str | None = None,
    cookie: str | None = None,
    address: str = "",
) -> Actor:
    """Who is calling. A bad or ended token is an error; a bad or ended cookie is just anonymous."""
    if authorization:
        return await actor_of_token(uow_factory, clock, token_of_header(authorization), address=address)
    if cookie and len(cookie) <= 256:
        return await _actor_of_cookie(uow_factory, clock, cookie, address)
    return replace(ANONYMOUS, address=address)


async def actor_of_token(uow_factory: UnitOfWorkFactory, clock: Clock, text: str, *, address: str = "") -> Actor:
    if not is_well_formed(text):
        raise NotSignedIn(BAD_CREDENTIALS, bad_credentials=True)
    now = clock.now()
    async with uow_factory.read() as uow:
        token = await uow.tokens.by_hash(hash_text(text))
        user = await uow.accounts.get(token.user_id) if token and is_live(token, now) else None
        if token is None or user is None or user.is_suspended:
            raise NotSignedIn(BAD_CREDENTIALS, bad_credentials=True)
        memberships = await uow.accounts.memberships(user.id)
    if token.last_used_at is None or now - token.last_used_at > _LAST_USED_STEP:
        await _note_use(uow_factory, token, now)
    roles = {org.name.lower(): role for org, role in memberships}
    return Actor(via=Via.TOKEN, user=user, token=token, roles=roles, address=address)


async def renewed(uow_factory: UnitOfWorkFactory, clock: Clock, actor: Actor) -> Actor:
    """The same caller with the rights of this moment, for what stays open. NotSignedIn once the account, token or session ended."""
    if actor.user is None:
        return actor
    token_id, session_id = actor.token.id if actor.token else "", actor.session.id if actor.session else ""
    fresh = await actor_of_ids(uow_factory, clock, actor.user.id, token_id=token_id, session_id=session_id)
    if fresh is None:
        raise NotSignedIn(BAD_CREDENTIALS, bad_credentials=True)
    return replace(fresh, via=actor.via, address=actor.address)


async def actor_of_ids(
    uow_factory: UnitOfWorkFactory, clock: Clock, user_id: str, *, token_id: str = "", session_id: str = ""
) -> Actor | None:
    """Whom something of ours speaks for that was signed a while ago; None once the account, or what it was made with, has ended.

    No `user_id`: a visitor without an account.
    """
    if not user_id:
        return ANONYMOUS
    now = clock.now()
    async with uow_factory.read() as uow:
        user = await uow.accounts.get(AccountId(user_id))
        token = await uow.tokens.get(TokenId(token_id)) if token_id else None
        sessions = await uow.tokens.sessions_of(AccountId(user_id)) if session_id else ()
        memberships = await uow.accounts.memberships(AccountId(user_id))
    session = next((s for s in sessions if s.id == session_id and s.expires_at > now), None)
    ended = (token_id and (token is None or token.user_id != user_id or not is_live(token, now))) or (session_id and session is None)
    if user is None or user.is_suspended or ended:
        return None
    roles = {org.name.lower(): role for org, role in memberships}
    return Actor(via=Via.TOKEN if token else Via.SESSION, user=user, token=token, session=session, roles=roles)


def is_live(token: Token, now: datetime) -> bool:
    return token.revoked_at is None and (token.expires_at is None or token.expires_at > now)


async def _note_use(uow_factory: UnitOfWorkFactory, token: Token, now: datetime) -> None:
    async with uow_factory.write() as uow:
        fresh = await uow.tokens.get(token.id)  # read again: a revocation in between must not be written over
        if fresh is not None and fresh.revoked_at is None:
            await uow.tokens.save(replace(fresh, last_used_at=now))


async def _actor_of_cookie(uow_factory: UnitOfWorkFactory, clock: Clock, cookie: str, address: str) -> Actor:
    async with uow_factory.read() as uow:
        session = await uow.tokens.session_by_hash(hash_text(cookie))
        if session is None or session.expires_at <= clock.now():
            return replace(ANONYMOUS, address=address)
        user = await uow.accounts.get(session.user_id)
        if user is None or user.is_suspended:
            return replace(ANONYMOUS, address=address)
        memberships = await uow.accounts.memberships(user.id)
    return Actor(
        via=Via.SESSION,
        user=user,
        session=session,
        roles={org.name.lower(): role for org, role in memberships},
        address=address,
    )


def csrf_matches(actor: Actor, supplied: str | None) -> bool:
    """Whether a changing request of a browser session carries its page token. Token callers need none."""
    if actor.session is None:
        return True
    return bool(supplied) and secrets.compare_digest(str(supplied).encode(), actor.session.csrf.encode())


async def hash_password(password: str) -> str:
    """Argon2id in a thread. Rejected when it is too short or too long."""
    if len(password) < PASSWORD_MIN or len(password.encode()) > PASSWORD_MAX:
        raise Rejected(f"a password needs {PASSWORD_MIN} characters or more, and at most {PASSWORD_MAX} bytes")
    async with _HASHING:
        return await asyncio.to_thread(_HASHER.hash, password)


async def check_password(account: Account | None, password: str) -> bool:
    if len(password.encode(errors="surrogatepass")) > PASSWORD_MAX:
        return False
    stored = account.password_hash if account and account.kind is AccountKind.USER and not account.is_suspended else None
    async with _HASHING:
        return await asyncio.to_thread(_verify, stored or DECOY_HASH, password) and stored is not None


def _verify(stored: str, password: str) -> bool:
    try:
        return _HASHER.verify(stored, password)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False


async def sign_in(
    uow_factory: UnitOfWorkFactory,
    clock: Clock,
    throttle: Throttle,
    *,
    name: str,
    password: str,
    address: str = "",
    user_agent: str = "",
) -> tuple[Session, str]:
    """A browser signs in by password: the session and its cookie value. RateLimited, or NotSignedIn with one text for all."""
    where = neighbourhood(address)
    name_key, mark = f"name:{name.lower()[:96]}", f"{name.lower()[:96]} {where}"
    keys = [f"address:{where}"] if await throttle.knows(mark) else [f"address:{where}", name_key]
    await throttle.attempt(*keys)
    async with uow_factory.read() as uow:
        account = await uow.accounts.by_name(name) if 0 < len(name) <= 96 else None
    if not await check_password(account, password) or account is None:
        raise NotSignedIn("Wrong user name or password.", bad_credentials=True)
    await throttle.give_back(*keys)
    await throttle.remember(mark)
    async with uow_factory.write() as uow:
        return await open_session(uow, clock, account, address=address, user_agent=user_agent)


async def open_session(
    uow: UnitOfWork,
    clock: Clock,
    user: Account,
    *,
    address: str = "",
    user_agent: str = "",
) -> tuple[Session, str]:
    """A new session with fresh secrets (no fixation): 256 bits in the cookie, its hash in the database."""
    now = clock.now()
    cookie = secrets.token_urlsafe(32)
    session = Session(
        id=SessionId(new_id()),
        user_id=user.id,
        secret_sha256=hash_text(cookie),
        csrf=secrets.token_urlsafe(24),
        created_at=now,
        expires_at=now + SESSION_LIFE,
        user_agent=user_agent[:200],
        address=address[:64],
    )
    await uow.tokens.add_session(session)
    return session, cookie


async def end_sessions(uow: UnitOfWork, signals: Signals, user: Account, session_ids: Collection[SessionId]) -> None:
    """Browser sessions end, and within a second what they opened: cookies of private apps, sockets, streams."""
    for session_id in session_ids:
        await uow.tokens.remove_session(session_id)
    uow.after_commit(lambda: signals.notify("access", user.id))


async def create_sign_in_link(uow: UnitOfWork, clock: Clock, user: Account) -> str:
    """The secret of a link that signs `user` in once within 24 hours. Only its hash is kept."""
    secret = secrets.token_urlsafe(32)
    expires = (clock.now() + LINK_LIFE).isoformat()
    await uow.documents.put(
        LINK_KIND,
        hash_text(secret),
        user.id,
        {"user_id": user.id, "expires_at": expires},
    )
    return secret


async def redeem_sign_in_link(
    uow_factory: UnitOfWorkFactory,
    clock: Clock,
    secret: str,
    *,
    address: str = "",
    user_agent: str = "",
) -> tuple[Session, str, Account]:
    """Use a link up. NotSignedIn when it is unknown, used or too old."""
    refused = NotSignedIn(
        "This sign-in link was used already or is too old; ask for a new one.",
        bad_credentials=True,
    )
    if not secret or len(secret) > 128:
        raise refused
    async with uow_factory.write() as uow:
        key = hash_text(secret)
        body = await uow.documents.get(LINK_KIND, key)
        user = await uow.accounts.get(AccountId(str(body["user_id"]))) if body else None
        if body is None or user is None or user.is_suspended or datetime.fromisoformat(str(body["expires_at"])) <= clock.now():
            raise refused
        await uow.documents.remove(LINK_KIND, key)
        session, cookie = await open_session(uow, clock, user, address=address, user_agent=user_agent)
    return session, cookie, user
