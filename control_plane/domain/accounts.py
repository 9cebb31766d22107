"""People, organisations, tokens, and what a caller may do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from control_plane.domain.ids import AccountId, SessionId, TokenId


class AccountKind(StrEnum):
    USER = "user"
    ORG = "org"


class OrgRole(StrEnum):
    """Ordered: each role includes the ones before it."""

    READ = "read"
    CONTRIBUTOR = "contributor"
    WRITE = "write"
    ADMIN = "admin"

    def includes(self, other: OrgRole) -> bool:
        order = list(OrgRole)
        return order.index(self) >= order.index(other)


class TokenRole(StrEnum):
    READ = "read"
    WRITE = "write"
    FINE_GRAINED = "fineGrained"


@dataclass(frozen=True, slots=True)
class Account:
    """A user or an organisation; both live in one name space. `password_hash` is Argon2id, None = cannot sign in by password."""

    id: AccountId
    kind: AccountKind
    name: str  # canonical case; unique without regard to case
    fullname: str
    created_at: datetime
    email: str | None = None
    is_admin: bool = False
    is_suspended: bool = False
    password_hash: str | None = None


@dataclass(frozen=True, slots=True)
class Membership:
    org_id: AccountId
    user_id: AccountId
    role: OrgRole


@dataclass(frozen=True, slots=True)
class Token:
    """An access token. Only `sha256` of it is kept. `scopes` (fine-grained): "ns/name" or "ns" → "read" | "write".

    `space_id` marks a token the platform made for a running Space or a build; it dies with it.
    """

    id: TokenId
    user_id: AccountId
    name: str
    role: TokenRole
    sha256: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    scopes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Session:
    """A browser's sign-in. `secret_sha256` is the hash of the cookie value; `csrf` is the page token."""

    id: SessionId
    user_id: AccountId
    secret_sha256: str
    csrf: str
    created_at: datetime
    expires_at: datetime
    user_agent: str = ""
    address: str = ""


class Via(StrEnum):
    ANONYMOUS = "anonymous"
    SESSION = "session"
    TOKEN = "token"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who is calling, with everything authorisation needs. `roles`: lower-case org name → role."""

    via: Via = Via.ANONYMOUS
    user: Account | None = None
    token: Token | None = None
    session: Session | None = None
    roles: Mapping[str, OrgRole] = field(default_factory=dict)
    address: str = ""

    @property
    def is_anonymous(self) -> bool:
        return self.user is None

    @property
    def name(self) -> str:
        """As the audit log has it."""
        return self.user.name if self.user else "vitrine" if self.via is Via.INTERNAL else "anonymous"

    @property
    def is_admin(self) -> bool:
        """Platform admin acting with full rights (a read token does not carry them)."""
        return self.user is not None and self.user.is_admin and (self.token is None or self.token.role is TokenRole.WRITE)


ANONYMOUS = Actor()
PLATFORM = Actor(via=Via.INTERNAL)  # what the platform does by itself; it has no rights of a person
# Among the scopes of a fine-grained token: it reads public gated repositories that its user was let in to. No account has such a name.
GATED_SCOPE = ":gated"
# What an app may ask of a visitor who signs in with their account here: OpenID Connect's words and the public service's.
OAUTH_SCOPES = (
    "openid",
    "profile",
    "email",
    "read-billing",
    "read-memberships",
    "read-repos",
    "gated-repos",
    "contribute-repos",
    "write-repos",
    "manage-repos",
    "read-collections",
    "write-collections",
    "inference-api",
    "read-endpoints",
    "write-endpoints",
    "jobs",
    "webhooks",
    "write-discussions",
)


class Action(StrEnum):
    """What somebody wants to do with a repository or account."""

    VIEW = "view"  # see that it exists, its runtime
    READ_CODE = "read-code"  # names and history of files, discussions
    READ_FILES = "read-files"  # what is in them: download, git fetch, differences; a gate asks for more than READ_CODE
    USE_APP = "use-app"  # talk to the running app
    DISCUSS = "discuss"
    WRITE = "write"  # push, commit, settings, secrets, hardware, logs
    ADMIN = "admin"  # delete, move, visibility, members
