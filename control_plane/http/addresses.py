"""The addresses we put into answers. Clients refuse URLs of another host than the one they called, so we mirror theirs.

`X-Forwarded-*` is trusted here: the API listens behind the proxy only, which replaces what a visitor sent.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from control_plane.domain.errors import Rejected
from control_plane.domain.replicas import HUB_HOST
from control_plane.domain.spaces import Repo, RepoType

_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")


def base_url(request: HTTPConnection) -> str:
    """Scheme and host by which the caller reached us, without a trailing slash. Rejected when Host is malformed."""
    host = (request.headers.get("x-forwarded-host") or request.headers.get("host") or "").partition(",")[0].strip()
    scheme = (request.headers.get("x-forwarded-proto") or request.url.scheme).partition(",")[0].strip()
    if not _HOST.fullmatch(host):
        raise Rejected("the Host header of this request is not a host name")
    return f"{'https' if scheme == 'https' else 'http'}://{host}"


def calls_from_app(request: HTTPConnection) -> bool:
    """Whether an app asks from inside its sandbox, where the Hub has a name of its own."""
    return base_url(request).rpartition("/")[2].partition(":")[0] == HUB_HOST


def caller_address(request: HTTPConnection) -> str:
    """The visitor's IP address as the proxy saw it."""
    forwarded = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
    return (forwarded or (request.client.host if request.client else ""))[:64]


def repo_url(request: HTTPConnection, repo: Repo) -> str:
    return f"{base_url(request)}/{repo.type.url_prefix}{repo.full_name}"


def app_url(public_url: str, apps_domain: str, subdomain: str) -> str:
    """The origin of a Space's app: the platform's scheme and port, the app's own host."""
    parts = urlsplit(public_url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme or 'http'}://{subdomain}.{apps_domain}{port}"


def repo_type(kind: str) -> RepoType:
    """The type of a plural path segment: `spaces` → SPACE."""
    return RepoType(kind.removesuffix("s"))
