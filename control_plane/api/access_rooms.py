"""The access table of the rooms beside the Hub API: git, large files, administration, builds, pages.

Pages ask the same rights as the API routes that do the same thing; `{P}` stands for each type's prefix.
"""

from __future__ import annotations

from control_plane.api.access_table import Access, Right
from control_plane.domain.accounts import Action

_PREFIXES = ("", "/datasets", "/spaces")
_KINDS = ("models", "datasets", "spaces")

_FIXED: dict[Right, tuple[str, ...]] = {
    Access.OPEN: (
        "GET /healthz", "GET /readyz", "GET /metrics", "POST /v1/telemetry",
        "GET /", "GET /spaces", "GET /models", "GET /datasets", "GET /{owner:seg}",
        "GET /login", "GET /sign-in", "POST /sign-in", "GET /sign-in/once", "POST /sign-in/once", "GET /join",
        "GET /sign-up", "POST /sign-up", "GET /sign-in/sso", "GET /sign-in/sso/callback",
        "POST /sign-out", "GET /-/language", "GET /collections/{owner:seg}/{slug:seg}",
        *(f"{method} /{{name:seg}}/{word}/{{rev:seg}}/{{path:tail}}" for method in ("GET", "HEAD") for word in ("resolve", "raw")),
    ),
    Access.SIGNED_IN: (
        "GET /settings", "GET /settings/account", "GET /settings/tokens", "POST /settings/tokens", "POST /settings/tokens/revoke",
        "POST /settings/sessions/end", "POST /settings/password", "GET /new-space", "POST /new-space",
        "GET /notifications", "POST /notifications/open", "POST /notifications/mark", "GET /-/notifications/events",
        "GET /organizations/new", "POST /organizations/new",
    ),
    Access.SIGNED_IN_WRITE: ("POST /collections/{owner:seg}/{slug:seg}/remove-item", "POST /collections/{owner:seg}/{slug:seg}/delete"),
    Access.VIEW_AND_WRITE_TOKEN: ("POST /spaces/{owner:seg}/{name:seg}/collect",),
    Access.ORG_ADMIN: (
        "GET /organizations/{name:seg}/settings",
        *(f"POST /organizations/{{name:seg}}/settings/{word}" for word in ("name", "member", "remove")),
    ),
    Access.PLATFORM_ADMIN: ("ANY /admin", "ANY /admin/{page}", "ANY /api/admin/{rest}"),
    Access.INTERNAL: ("ANY /internal/builds/{rest}",),
    Access.SIGNED_LINK: ("ANY /_lfs/{rest}", "ANY /_cas/{rest}"),
    Access.IMAGE: ("GET /v2", "GET /v2/", "GET /v2/token", "ANY /v2/{rest:tail}"),
    Action.VIEW: (
        "GET /spaces/{owner:seg}/{name:seg}", "GET /-/spaces/{owner:seg}/{name:seg}/panel", "GET /-/spaces/{owner:seg}/{name:seg}/events",
        "GET /spaces/{owner:seg}/{name:seg}/share", "GET /datasets/{owner:seg}/{name:seg}", "GET /{owner:seg}/{name:seg}",
        "GET /-/thumbnails/{space_id:seg}/{name:seg}",
    ),
    Access.READ_FILES_AND_CREATE: ("GET /spaces/{owner:seg}/{name:seg}/duplicate", "POST /spaces/{owner:seg}/{name:seg}/duplicate"),
    Action.WRITE: (
        "GET /spaces/{owner:seg}/{name:seg}/logs", "GET /-/spaces/{owner:seg}/{name:seg}/logs/{which}",
        "GET /-/spaces/{owner:seg}/{name:seg}/logs/{which}/download", "GET /spaces/{owner:seg}/{name:seg}/analytics",
        *(
            f"POST /spaces/{{owner:seg}}/{{name:seg}}/settings/{word}"
            for word in (
                "hardware", "sleep", "replicas", "variable", "secret", "variable-remove", "secret-remove", "pause", "restart", "rebuild",
                "deploy", "cancel-build", "storage", "storage-remove", "volume", "volume-remove",
            )
        ),
        "POST /spaces/{owner:seg}/{name:seg}/discussions/{number:int}/preview",
        "POST /spaces/{owner:seg}/{name:seg}/discussions/{number:int}/preview-end",
    ),
}  # fmt: skip

# Under every type's prefix.
_PER_PREFIX: dict[Right, tuple[str, ...]] = {
    Access.VIEW_AND_WRITE_TOKEN: ("POST {P}/{owner:seg}/{name:seg}/like",),
    Access.READ_CODE_AND_WRITE_TOKEN: ("POST {P}/{owner:seg}/{name:seg}/gate/ask",),
    Access.GIT: (
        "GET {P}/{owner}/{name}/info/refs", "POST {P}/{owner}/{name}/git-upload-pack", "POST {P}/{owner}/{name}/git-receive-pack",
        "POST {P}/{owner}/{name}/info/lfs/objects/batch", "POST {P}/{owner}/{name}/info/lfs/objects/verify",
        "GET {P}/{owner}/{name}/info/lfs/locks", "POST {P}/{owner}/{name}/info/lfs/locks", "POST {P}/{owner}/{name}/info/lfs/locks/verify",
        "POST {P}/{owner}/{name}/info/lfs/locks/{lock_id}/unlock",
    ),
    Action.READ_CODE: (
        *(
            f"GET {{P}}/{{owner:seg}}/{{name:seg}}/{page}"
            for page in (
                "tree/{rev:seg}", "tree/{rev:seg}/{path:tail}", "commits/{rev:seg}", "discussions", "discussions/{number:int}",
            )
        ),
    ),
    Action.READ_FILES: tuple(
        f"GET {{P}}/{{owner:seg}}/{{name:seg}}/{page}"
        for page in ("blob/{rev:seg}/{path:tail}", "raw/{rev:seg}/{path:tail}", "commit/{sha:seg}")
    ),
    Action.DISCUSS: (
        "GET {P}/{owner:seg}/{name:seg}/discussions/new", "POST {P}/{owner:seg}/{name:seg}/discussions/new",
        "POST {P}/{owner:seg}/{name:seg}/discussions/{number:int}/comment",
        "POST {P}/{owner:seg}/{name:seg}/discussions/{number:int}/status",
    ),
    Action.WRITE: (
        *(
            f"{method} {{P}}/{{owner:seg}}/{{name:seg}}/{word}/{{rev:seg}}{file}"
            for method in ("GET", "POST")
            for word in ("new", "edit", "upload", "delete")
            for file in ("", "/{file:tail}")
        ),
        "GET {P}/{owner:seg}/{name:seg}/settings", "POST {P}/{owner:seg}/{name:seg}/settings/access",
    ),
    Action.ADMIN: tuple(f"POST {{P}}/{{owner:seg}}/{{name:seg}}/settings/{word}" for word in ("visibility", "rename", "delete", "gate")),
}  # fmt: skip

_XET: dict[Right, tuple[str, ...]] = {
    Action.WRITE: tuple(f"GET /api/{kind}/{{owner}}/{{name}}/xet-write-token/{{rev:path}}" for kind in _KINDS),
    Action.READ_FILES: tuple(f"GET /api/{kind}/{{owner}}/{{name}}/xet-read-token/{{rev:path}}" for kind in _KINDS),
}

ROOMS: dict[str, Right] = {
    **{row: right for right, rows in _FIXED.items() for row in rows},
    **{row.replace("{P}", prefix): right for right, rows in _PER_PREFIX.items() for row in rows for prefix in _PREFIXES},
    **{row: right for right, rows in _XET.items() for row in rows},
}

# Whole trees of addresses that ask for one right: "ANY /tree/{rest}" covers everything below.
_TREES = {row.removeprefix("ANY ").partition("{")[0]: right for row, right in ROOMS.items() if row.startswith("ANY ")}


def right_of_room(method: str, path: str) -> Right | None:
    """The right that a route of another room asks for; None when nobody declared it."""
    found = ROOMS.get(f"{method} {path}") or ROOMS.get(f"ANY {path}")
    return found or next((right for tree, right in _TREES.items() if tree.endswith("/") and path.startswith(tree)), None)
