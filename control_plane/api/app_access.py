"""Short-lived proofs that let a browser or client into a private app: signed, bound to one Space, re-checked on use."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import jwt

from control_plane.domain.accounts import Account
from control_plane.domain.ids import SpaceId
from control_plane.ports.clock import Clock

SIGN_LIFE = timedelta(minutes=5)
COOKIE_LIFE = timedelta(hours=12)
SIGN_AUDIENCE = "vitrine:app-sign"
COOKIE_AUDIENCE = "vitrine:app-cookie"
_ALGORITHM = "HS256"


def issue(key: bytes, clock: Clock, user: Account | None, space_id: SpaceId, *, cookie: bool = False) -> str:
    """A `__sign` text (minutes), or with `cookie` the value of the edge cookie (hours)."""
    now = clock.now()
    claims = {
        "aud": COOKIE_AUDIENCE if cookie else SIGN_AUDIENCE,
        "sub": user.id if user else "",
        "space": space_id,
        "iat": int(now.timestamp()),
        "exp": int((now + (COOKIE_LIFE if cookie else SIGN_LIFE)).timestamp()),
    }
    return jwt.encode(claims, key, algorithm=_ALGORITHM)


def read(key: bytes, clock: Clock, text: str, space_id: SpaceId, *, cookie: bool = False) -> str | None:
    """The user id inside ("" = nobody in particular), or None when the text is not a live proof for this Space."""
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
    return str(claims["sub"])
