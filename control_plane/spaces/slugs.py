"""From `namespace/name` to one DNS label, one Space per label, ever."""

from __future__ import annotations

import hashlib
import re

from control_plane.domain.errors import Rejected

MAX_LABEL = 56  # a DNS label holds 63; `--7887`-like suffixes must still fit
RESERVED = frozenset(
    {"www", "api", "app", "apps", "admin", "git", "ssh", "ftp", "mail", "cdn", "static", "assets", "docs", "status", "health"}
    | {"auth", "oauth", "login", "hub", "internal", "datasets-server", "localhost", "vitrine", "registry", "metrics"}
)
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?\Z")


def subdomain_of(namespace: str, name: str, *, salt: str = "") -> str:
    """The public service's rule: lower case, everything else than letters and digits becomes one dash.

    `salt` (the Space's id) gives the second Space with the same plain label a label of its own.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", f"{namespace}-{name}".lower()).strip("-") or "space"
    suffix = "-" + hashlib.sha256(salt.encode()).hexdigest()[:7] if salt else ""
    if len(plain) + len(suffix) > MAX_LABEL and not suffix:
        suffix = "-" + hashlib.sha256(plain.encode()).hexdigest()[:7]
    return plain[: MAX_LABEL - len(suffix)].rstrip("-") + suffix


def check_name(name: str) -> str:
    """A repository or account name that clients accept; Rejected says what is allowed."""
    if not _NAME.match(name) or "--" in name or ".." in name or name.endswith((".git", ".ipynb")):
        raise Rejected(
            f"'{name[:100]}' is not a usable name: 1 to 96 letters, digits, '-', '_' or '.', without '--' or '..', "
            "not starting or ending with '-' or '.', not ending in '.git'"
        )
    return name
