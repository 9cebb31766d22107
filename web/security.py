"""Cookies, CSRF and response headers of pages. Pure functions over request headers.

Apps live on sub-domains of the same site, so SameSite cookies alone do not keep them out: every form is checked for the
page's own origin and for a token that only this page could have given out.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping
from urllib.parse import urlsplit

CSRF_FIELD = "csrf"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{20,128}")

FRAME_SANDBOX = " ".join(
    f"allow-{what}"
    for what in ("scripts", "same-origin", "forms", "modals", "popups", "popups-to-escape-sandbox", "downloads", "pointer-lock")
)
FRAME_ALLOW = "; ".join(
    ("camera", "microphone", "clipboard-read", "clipboard-write", "fullscreen", "autoplay", "gamepad", "midi", "web-share")
)


def session_cookie(secure: bool) -> str:
    """`__Host-` cookies cannot be set from a sub-domain; browsers accept the prefix over https only."""
    return "__Host-vitrine" if secure else "vitrine"


def form_cookie(secure: bool) -> str:
    """The token of forms of people who are not signed in."""
    return "__Host-vitrine-form" if secure else "vitrine-form"


def new_form_token() -> str:
    return secrets.token_urlsafe(24)


def is_form_token(text: str | None) -> bool:
    return bool(text and _TOKEN.fullmatch(text))


def same_token(expected: str, given: str) -> bool:
    return bool(expected) and hmac.compare_digest(expected.encode(), given.encode())


def is_same_origin(headers: Mapping[str, str], own: tuple[str, ...]) -> bool:
    """Whether a POST comes from a page of this site. A browser always says; a client without either header is no browser."""
    origin = headers.get("origin")
    if origin is not None:
        given = urlsplit(origin).netloc.lower()
        return bool(given) and given in {urlsplit(url).netloc.lower() for url in own}
    return headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")


def page_headers(frame_source: str, *, https: bool) -> dict[str, str]:
    """Headers of every page: nothing inline runs, nobody frames us, no address leaks."""
    policy = [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: https:",
        "connect-src 'self'",
        "font-src 'self'",
        "media-src 'self' https:",
        "manifest-src 'self'",
        f"frame-src 'self' {frame_source}".rstrip(),  # itself: an app's sign-in button leads its frame to our page
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
    headers = {
        "Content-Security-Policy": "; ".join(policy),
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "private, no-cache",
        "Vary": "Cookie, Accept-Language",
    }
    if https:
        headers["Strict-Transport-Security"] = "max-age=31536000"
    return headers


# Users' bytes under our own name: no script, no style, no frame, no plug-in, whatever their type says.
RAW_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; media-src 'self'; style-src 'unsafe-inline'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cache-Control": "private, no-cache",
}


def safe_next(path: str | None) -> str:
    """A local path to go on to, `/` for anything that could lead elsewhere."""
    if not path or not path.startswith("/") or path.startswith(("//", "/\\")) or any(ord(c) < 33 or c == "\\" for c in path):
        return "/"
    return path
