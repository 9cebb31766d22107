"""Short-lived proofs that let a browser or client into a private app: signed, bound to one Space, re-checked on use.

A proof also names the token or browser session it came from: it may do no more than that, and ends with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import jwt

from control_plane.domain.accounts import Actor
from control_plane.domain.ids import SpaceId
from control_plane.ports.clock import Clock

SIGN_LIFE = timedelta(minutes=5)
COOKIE_LIFE = timedelta(hours=12)
SIGN_AUDIENCE = "vitrine:app-sign"
COOKIE_AUDIENCE = "vitrine:app-cookie"
_ALGORITHM = "HS256"


@dataclass(frozen=True, slots=True)
class Proof:
    """Who it speaks for; "" = nobody in particular. At most one of `token_id` and `session_id` is set."""

    user_id: str
    token_id: str = ""
    session_id: str = ""


def issue(key: bytes, clock: Clock, actor: Actor, space_id: SpaceId, *, cookie: bool = False) -> str:
    """A `__sign` text (minutes), or with `cookie` the value of the edge cookie (hours)."""
    now = clock.now()
    claims = {
        "aud": COOKIE_AUDIENCE if cookie else SIGN_AUDIENCE,
        "sub": actor.user.id if actor.user else "",
        "tok": actor.token.id if actor.token else "",
        "ses": actor.session.id if actor.session else "",
        "space": space_id,
        "iat": int(now.timestamp()),
        "exp": int((now + (COOKIE_LIFE if cookie else SIGN_LIFE)).timestamp()),
    }
    return jwt.encode(claims, key, algorithm=_ALGORITHM)


def read(key: bytes, clock: Clock, text: str, space_id: SpaceId, *, cookie: bool = False) -> Proof | None:
    """What is inside, or None when the text is not a live proof for this Space."""
    if len(text) > 2048:
        return None
    try:
        claims: dict[str, Any] = jwt.decode(
            text,
            key,
            algorithms=[_ALGORITHM],
            audience=COOKIE_AUDIENCE if cookie else SIGN_AUDIENCE,
            options={"require": ["exp", "sub", "aud"], "verify_exp": False, "verify_iat": False},
        )
    except jwt.InvalidTokenError:
        return None
    expires = claims.get("exp")
    if claims.get("space") != space_id or not isinstance(expires, int) or expires <= clock.now().timestamp():
        return None
    return Proof(str(claims["sub"]), str(claims.get("tok", "")), str(claims.get("ses", "")))
