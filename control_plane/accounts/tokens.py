"""Access tokens: minted once, kept as a hash, checked offline by their checksum before the database is asked.

Shape: prefix, 30 random base62 characters, and the CRC32 of all before as 6 base62 characters. The checksum lets
secret scanners and us drop look-alikes without a query.
"""

from __future__ import annotations

import hashlib
import secrets
import string
import zlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from control_plane.domain.accounts import Account, AccountKind, Token, TokenRole
from control_plane.domain.errors import NotFound, Rejected
from control_plane.domain.ids import TokenId, new_id
from control_plane.ports.clock import Clock
from control_plane.ports.signals import Signals
from control_plane.ports.stores import UnitOfWork

PREFIX = "hf_"
OAUTH_PREFIX = "hf_oauth_"
GRANT, CONSENT = "oauth-grant", "oauth-consent"  # documents: what a token was given for; what its person agreed to
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM_CHARS = 30
_CHECK_CHARS = 6  # 62^6 > 2^32
_MAX_NAME = 96
_MAX_TOKENS = 500


def mint(prefix: str = PREFIX) -> str:
    """A fresh token text of about 178 random bits."""
    body = prefix + "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_CHARS))
    return body + checksum(body)


def checksum(body: str) -> str:
    """CRC32 of `body` as 6 base62 digits, most significant first."""
    value = zlib.crc32(body.encode())
    digits = []
    for _ in range(_CHECK_CHARS):
        value, digit = divmod(value, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def is_well_formed(text: str) -> bool:
    """Whether `text` has the prefix, alphabet, length and checksum of a token of ours."""
    if not text.isascii() or len(text) > 64 or not text.startswith(PREFIX):
        return False
    prefix = OAUTH_PREFIX if text.startswith(OAUTH_PREFIX) else PREFIX
    rest = text[len(prefix) :]
    if len(rest) != _RANDOM_CHARS + _CHECK_CHARS or not rest.isalnum():
        return False
    return secrets.compare_digest(checksum(text[:-_CHECK_CHARS]), text[-_CHECK_CHARS:])


def hash_text(text: str) -> str:
    """What the database keeps of a token, cookie or link. Plain SHA-256: the inputs are random, not passwords."""
    return hashlib.sha256(text.encode()).hexdigest()


async def create_token(
    uow: UnitOfWork,
    clock: Clock,
    user: Account,
    name: str,
    role: TokenRole,
    expires: datetime | None = None,
    *,
    scopes: Mapping[str, str] | None = None,
    prefix: str = PREFIX,
) -> tuple[Token, str]:
    """The record and the text, which is shown once. `scopes` ("ns" or "ns/name" → read|write) only with fineGrained."""
    now = clock.now()
    name = name.strip()
    if not name or len(name) > _MAX_NAME or not name.isprintable():
        raise Rejected(f"a token needs a name of 1 to {_MAX_NAME} printable characters")
    if user.kind is not AccountKind.USER:
        raise Rejected(f"tokens belong to users; {user.name} is an organisation")
    if expires is not None and expires <= now:
        raise Rejected("the expiry of a token must lie in the future")
    if scopes and role is not TokenRole.FINE_GRAINED:
        raise Rejected("scopes are for tokens of role fineGrained; a read or write token covers everything its user may do")
    for subject, right in (scopes or {}).items():
        if right not in ("read", "write") or not subject or subject.count("/") > 1:
            raise Rejected(f"'{subject}: {right}' is not a scope; use NAMESPACE or NAMESPACE/NAME with read or write")
    if len([t for t in await uow.tokens.of_user(user.id) if t.revoked_at is None]) >= _MAX_TOKENS:
        raise Rejected(f"{user.name} has {_MAX_TOKENS} tokens already; revoke some first")
    text = mint(prefix)
    token = Token(
        id=TokenId(new_id()),
        user_id=user.id,
        name=name,
        role=role,
        sha256=hash_text(text),
        created_at=now,
        expires_at=expires,
        scopes={k.lower(): v for k, v in (scopes or {}).items()},
    )
    await uow.tokens.add(token)
    return token, text


async def revoke_token(
    uow: UnitOfWork,
    clock: Clock,
    signals: Signals,
    token_id: TokenId,
    *,
    owner: Account | None = None,
) -> Token:
    """End a token now. `owner` limits it to that user's tokens. NotFound for unknown ids; revoking twice is fine.

    When an app got it by sign-in, the app has to ask the person again.
    """
    token = await uow.tokens.get(token_id)
    if token is None or (owner is not None and token.user_id != owner.id):
        raise NotFound("there is no such token; `token list` shows the ids")
    if token.revoked_at is None:
        token = replace(token, revoked_at=clock.now())
        await uow.tokens.save(token)
    if (grant := await uow.documents.get(GRANT, token.id)) is not None:
        await uow.documents.remove(CONSENT, f"{token.user_id}/{grant['client_id']}")
    uow.after_commit(lambda: signals.notify("access", token.id))
    return token


async def revoke_leaked(uow: UnitOfWork, clock: Clock, signals: Signals, texts: list[str]) -> tuple[tuple[str, Token], ...]:
    """Revoke by token text, as a secret scanner reports them. Unknown texts are ignored; (user, token) of those that ended."""
    ended = []
    for text in texts[:1000]:
        found = await uow.tokens.by_hash(hash_text(text)) if is_well_formed(text) else None
        if found is not None and found.revoked_at is None:
            token = await revoke_token(uow, clock, signals, found.id)
            user = await uow.accounts.get(token.user_id)
            ended.append((user.name if user else "", token))
    return tuple(ended)
