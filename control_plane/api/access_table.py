"""Which right each route asks for: the one declarative table. A route that is not here fails a test.

The table is read by tests (every identity × every route × every visibility) and by people; the routes themselves call
`accounts.policy` with the same action, and the test holds the two together.
"""

from __future__ import annotations

from enum import StrEnum

from control_plane.domain.accounts import Action


class Access(StrEnum):
    """Rights that are not about one repository, or are more than one action on it."""

    OPEN = "open"  # anybody; what it shows is narrowed to what the caller may see
    SIGNED_IN = "signed-in"
    SIGNED_IN_WRITE = "signed-in-write"  # with a token that may change things
    VIEW_AND_WRITE_TOKEN = "view-and-write-token"  # signed in, may see the repository
    READ_FILES_AND_CREATE = "read-files-and-create"  # may read it and make repositories elsewhere
    READ_FILES_AND_WRITE_TARGET = "read-files-and-write-target"  # may read it and write to the repository that the body names
    READ_CODE_AND_WRITE_TOKEN = "read-code-and-write-token"  # signed in, may read the code
    ORG_ADMIN = "org-admin"  # of the organisation in the address, or of the platform
    PLATFORM_ADMIN = "platform-admin"
    GIT = "git"  # fetch: read the files; push, upload and locks: write
    IMAGE = "image"  # pull: may change the Space, with a token that reads it
    SIGNED_LINK = "signed-link"  # the address or its short-lived token is the right
    INTERNAL = "internal"  # the platform's own processes, by shared secret


Right = Access | Action

_BY_RIGHT: dict[Right, tuple[str, ...]] = {
    Access.SIGNED_LINK: ("GET /api/volumes/{replica}/{number:int}",),
    Access.OPEN: (
        "GET /api/agent-harnesses",
        "GET /api/telemetry/{topic:tail}",
        "HEAD /api/telemetry/{topic:tail}",
        "ANY /api/{kind:kind}/{name:seg}/{part:part}/{rest:tail}",
        "ANY /api/{word:absent}",
        "ANY /api/{rest:tail}",
        "ANY /api/{word:absent}/{rest:tail}",
        "GET /api/users/{name:seg}/overview",
        "GET /api/users/{name:seg}/followers",
        "GET /api/users/{name:seg}/following",
        "GET /api/users/{name:seg}/likes",
        "GET /api/organizations/{name:seg}/overview",
        "GET /api/organizations/{name:seg}/members",
        "GET /api/organizations/{name:seg}/followers",
        "POST /api/tokens/revoke-leaked",
        "POST /api/validate-yaml",
        "POST /uploads",
        "GET /api/spaces/hardware",
        "GET /api/spaces/templates",
        "GET /api/spaces/semantic-search",
        "GET /api/spaces/by-subdomain/{subdomain:seg}",
        "GET /api/collections",
        "GET /api/collections/{ns:seg}/{slug:seg}",
        "GET /api/models-tags-by-type",
        "GET /api/datasets-tags-by-type",
        "GET /api/{kind:kind}",
        "GET /api/{kind:kind}/{name:seg}",
        "GET /oauth/app-access",
        "GET /.well-known/openid-configuration",
        "GET /.well-known/oauth-authorization-server",
        "GET /oauth/jwks",
        "GET /oauth/authorize",
        "POST /oauth/authorize",
        "POST /oauth/token",
        "POST /oauth/revoke",
        "GET /oauth/userinfo",
        "POST /oauth/userinfo",
        "POST /oauth/device",
        "GET /oauth/device",
        "POST /oauth/device/decide",
        "GET /avatars/{name:seg}",
    ),
    Access.SIGNED_IN: (
        "GET /api/whoami-v2",
        "GET /api/settings/repositories",
        "GET /api/settings/webhooks",
        "GET /api/settings/webhooks/{hook_id:seg}",
        "GET /api/organizations/{name:seg}/settings/repositories",
        "GET /api/spaces/zero-gpu/quota",
        "GET /api/notifications",
    ),
    Access.SIGNED_IN_WRITE: (
        "POST /api/repos/create",
        "POST /api/discussions/mark-as-read",
        "POST /api/settings/webhooks",
        "POST /api/settings/webhooks/{hook_id:seg}",
        "DELETE /api/settings/webhooks/{hook_id:seg}",
        "POST /api/settings/webhooks/{hook_id:seg}/enable",
        "POST /api/settings/webhooks/{hook_id:seg}/disable",
        "POST /api/collections",
        "PATCH /api/collections/{ns:seg}/{slug:seg}",
        "DELETE /api/collections/{ns:seg}/{slug:seg}",
        "POST /api/collections/{ns:seg}/{slug:seg}/items",
        "PATCH /api/collections/{ns:seg}/{slug:seg}/items/{item_id:seg}",
        "DELETE /api/collections/{ns:seg}/{slug:seg}/items/{item_id:seg}",
    ),
    Access.INTERNAL: ("POST /internal/authorize",),
    Action.VIEW: (
        "GET /api/{kind:kind}/{ns:seg}/{name:seg}",
        "GET /api/{kind:kind}/{ns:seg}/{name:seg}/likers",
        "GET /api/spaces/{ns:seg}/{name:seg}/runtime",
        "GET /api/spaces/{ns:seg}/{name:seg}/timeline",
        "GET /api/spaces/{ns:seg}/{name:seg}/events",
        "GET /api/spaces/{ns:seg}/{name:seg}/host",
        "GET /spaces/{ns:seg}/{name:seg}/agents.md",
    ),
    Action.USE_APP: ("GET /api/spaces/{ns:seg}/{name:seg}/jwt",),
    Access.VIEW_AND_WRITE_TOKEN: (
        "POST /api/{kind:kind}/{ns:seg}/{name:seg}/like",
        "DELETE /api/{kind:kind}/{ns:seg}/{name:seg}/like",
    ),
    Action.READ_CODE: (
        "GET /api/{kind:kind}/{ns:seg}/{name:seg}/revision/{rev:seg}",
        "GET /api/{kind:kind}/{ns:seg}/{name:seg}/refs",
        "GET /api/{kind:kind}/{ns:seg}/{name:seg}/commits/{rev:seg}",
        "GET /api/{kind:kind}/{ns:seg}/{name:seg}/tree/{rev:seg}",
        "GET /api/{kind:kind}/{ns:seg}/{name:seg}/tree/{rev:seg}/{path:tail}",
        "POST /api/{kind:kind}/{ns:seg}/{name:seg}/paths-info/{rev:seg}",
        "HEAD /api/{kind:kind}/{ns:seg}/{name:seg}/discussions",
        "GET /api/{kind:kind}/{ns:seg}/{name:seg}/discussions",
        "GET /api/{kind:kind}/{ns:seg}/{name:seg}/discussions/{num:int}",
    ),
    Action.READ_FILES: (
        "GET /api/{kind:kind}/{ns:seg}/{name:seg}/auth-check",
        "GET /api/{kind:kind}/{ns:seg}/{name:seg}/safetensors-metadata/{path:tail}",
        "GET /spaces/{ns:seg}/{name:seg}/resolve/{rev:seg}/{path:tail}",
        "HEAD /spaces/{ns:seg}/{name:seg}/resolve/{rev:seg}/{path:tail}",
        "GET /spaces/{ns:seg}/{name:seg}/raw/{rev:seg}/{path:tail}",
        "HEAD /spaces/{ns:seg}/{name:seg}/raw/{rev:seg}/{path:tail}",
        "GET /datasets/{ns:seg}/{name:seg}/resolve/{rev:seg}/{path:tail}",
        "HEAD /datasets/{ns:seg}/{name:seg}/resolve/{rev:seg}/{path:tail}",
        "GET /datasets/{ns:seg}/{name:seg}/raw/{rev:seg}/{path:tail}",
        "HEAD /datasets/{ns:seg}/{name:seg}/raw/{rev:seg}/{path:tail}",
        "GET /{ns:seg}/{name:seg}/resolve/{rev:seg}/{path:tail}",
        "HEAD /{ns:seg}/{name:seg}/resolve/{rev:seg}/{path:tail}",
        "GET /{ns:seg}/{name:seg}/raw/{rev:seg}/{path:tail}",
        "HEAD /{ns:seg}/{name:seg}/raw/{rev:seg}/{path:tail}",
    ),
    Access.READ_FILES_AND_WRITE_TARGET: ("POST /api/{kind:kind}/{ns:seg}/{name:seg}/lfs-files/duplicate",),
    Access.READ_FILES_AND_CREATE: ("POST /api/{kind:kind}/{ns:seg}/{name:seg}/duplicate",),
    Access.READ_CODE_AND_WRITE_TOKEN: ("POST /{ns:seg}/{name:seg}/ask-access", "POST /datasets/{ns:seg}/{name:seg}/ask-access"),
    Action.DISCUSS: (
        "POST /api/{kind:kind}/{ns:seg}/{name:seg}/discussions",
        "POST /api/{kind:kind}/{ns:seg}/{name:seg}/discussions/{num:int}/comment",
        "POST /api/{kind:kind}/{ns:seg}/{name:seg}/discussions/{num:int}/title",
        "POST /api/{kind:kind}/{ns:seg}/{name:seg}/discussions/{num:int}/status",
        "POST /api/{kind:kind}/{ns:seg}/{name:seg}/discussions/{num:int}/comment/{event_id:seg}/edit",
        "POST /api/{kind:kind}/{ns:seg}/{name:seg}/discussions/{num:int}/comment/{event_id:seg}/hide",
    ),
    Action.WRITE: (
        "GET /api/{kind:kind}/{ns:seg}/{name:seg}/auth-check/write",
        "POST /api/{kind:kind}/{ns:seg}/{name:seg}/preupload/{rev:seg}",
        "POST /api/{kind:kind}/{ns:seg}/{name:seg}/commit/{rev:seg}",
        "POST /api/{kind:kind}/{ns:seg}/{name:seg}/branch/{branch:seg}",
        "DELETE /api/{kind:kind}/{ns:seg}/{name:seg}/branch/{branch:seg}",
        "POST /api/{kind:kind}/{ns:seg}/{name:seg}/tag/{rev:seg}",
        "DELETE /api/{kind:kind}/{ns:seg}/{name:seg}/tag/{tag:seg}",
        "POST /api/{kind:kind}/{ns:seg}/{name:seg}/super-squash/{branch:seg}",
        "GET /api/{kind:kind}/{ns:seg}/{name:seg}/lfs-files",
        "GET /api/{kind:kind}/{ns:seg}/{name:seg}/user-access-request/{status:seg}",
        "POST /api/{kind:kind}/{ns:seg}/{name:seg}/user-access-request/handle",
        "POST /api/{kind:kind}/{ns:seg}/{name:seg}/user-access-request/grant",
        "POST /api/{kind:kind}/{ns:seg}/{name:seg}/discussions/{num:int}/merge",
        "POST /api/spaces/{ns:seg}/{name:seg}/hardware",
        "POST /api/spaces/{ns:seg}/{name:seg}/sleeptime",
        "POST /api/spaces/{ns:seg}/{name:seg}/pause",
        "POST /api/spaces/{ns:seg}/{name:seg}/restart",
        "POST /api/spaces/{ns:seg}/{name:seg}/rollback",
        "GET /api/spaces/{ns:seg}/{name:seg}/versions",
        "POST /api/spaces/{ns:seg}/{name:seg}/replicas",
        "POST /api/spaces/{ns:seg}/{name:seg}/dev-mode",
        "POST /api/spaces/{ns:seg}/{name:seg}/storage",
        "POST /api/spaces/{ns:seg}/{name:seg}/secrets",
        "POST /api/spaces/{ns:seg}/{name:seg}/variables",
        "DELETE /api/spaces/{ns:seg}/{name:seg}/volumes",
        "DELETE /api/spaces/{ns:seg}/{name:seg}/storage",
        "DELETE /api/spaces/{ns:seg}/{name:seg}/secrets",
        "DELETE /api/spaces/{ns:seg}/{name:seg}/variables",
        "PUT /api/spaces/{ns:seg}/{name:seg}/volumes",
        "GET /api/spaces/{ns:seg}/{name:seg}/secrets",
        "GET /api/spaces/{ns:seg}/{name:seg}/variables",
        "GET /api/spaces/{ns:seg}/{name:seg}/metrics",
        "GET /api/spaces/{ns:seg}/{name:seg}/logs/{which:seg}",
    ),
    Action.ADMIN: (
        "DELETE /api/repos/delete",
        "POST /api/repos/move",
        "PUT /api/{kind:kind}/{ns:seg}/{name:seg}/settings",
        "POST /api/{kind:kind}/{ns:seg}/{name:seg}/lfs-files/batch",
    ),
}

# "METHOD /path" → right. ANY stands for every method that the route has.
TABLE: dict[str, Right] = {route: right for right, routes in _BY_RIGHT.items() for route in routes}

# Pages about the API itself.
DOCUMENTATION = frozenset({"/openapi.json", "/docs"})


def right_of(method: str, path: str) -> Right | None:
    """The right that a route asks for; None when nobody declared it."""
    return TABLE.get(f"{method} {path}") or TABLE.get(f"ANY {path}")
