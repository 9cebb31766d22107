"""The name of a static Space's tree as routes carry it over TCP: signed, so that only the scheduler can make one."""

from __future__ import annotations

import hmac


def signed_site(key: bytes, ref: str) -> str:
    return f"{ref}~{hmac.new(key, b'site ' + ref.encode(), 'sha256').hexdigest()[:32]}"


def opened_site(key: bytes, name: str) -> str:
    """The ref inside, "" when the signature is not ours."""
    ref = name.partition("~")[0]
    return ref if hmac.compare_digest(signed_site(key, ref).encode(), name.encode("utf-8", "replace")) else ""
