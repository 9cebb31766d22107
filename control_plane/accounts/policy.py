"""Who may do what with a repository: one table, read by every door.

Rights on a repository are a `Standing`. A public repository gives everybody STRANGER or VISITOR standing; membership
raises it; a token can only lower it. Hidden repositories answer exactly like absent ones.
"""

from __future__ import annotations

from enum import IntEnum

from control_plane.domain.accounts import (
    GATED_SCOPE,
    Account,
    AccountKind,
    Action,
    Actor,
    OrgRole,
    TokenRole,
)
from control_plane.domain.errors import Forbidden, GatedRepo, NotSignedIn, RepoNotFound
from control_plane.domain.gates import AccessRequest, Gate, RequestStatus
from control_plane.domain.spaces import Repo, Visibility


class Standing(IntEnum):
    """How close the caller is to a repository; each includes the ones before it."""

    STRANGER = 0  # anonymous
    VISITOR = 1  # signed in, no tie to the repository
    READER = 2
    WRITER = 3
    OWNER = 4


# The one table: the least standing that each action needs, by visibility.
NEEDS: dict[Action, dict[Visibility, Standing]] = {
    Action.VIEW: {
        Visibility.PUBLIC: Standing.STRANGER,
        Visibility.PROTECTED: Standing.STRANGER,
        Visibility.PRIVATE: Standing.READER,
    },
    Action.USE_APP: {
        Visibility.PUBLIC: Standing.STRANGER,
        Visibility.PROTECTED: Standing.STRANGER,
        Visibility.PRIVATE: Standing.READER,
    },
    Action.READ_CODE: {
        Visibility.PUBLIC: Standing.STRANGER,
        Visibility.PROTECTED: Standing.READER,
        Visibility.PRIVATE: Standing.READER,
    },
    Action.READ_FILES: {
        Visibility.PUBLIC: Standing.STRANGER,
        Visibility.PROTECTED: Standing.READER,
        Visibility.PRIVATE: Standing.READER,
    },
    Action.DISCUSS: {
        Visibility.PUBLIC: Standing.VISITOR,
        Visibility.PROTECTED: Standing.READER,
        Visibility.PRIVATE: Standing.READER,
    },
    Action.WRITE: dict.fromkeys(Visibility, Standing.WRITER),
    Action.ADMIN: dict.fromkeys(Visibility, Standing.OWNER),
}

# Actions that change something: a token must carry write rights for them.
CHANGES = frozenset({Action.DISCUSS, Action.WRITE, Action.ADMIN})

_ROLE_STANDING = {
    OrgRole.READ: Standing.READER,
    OrgRole.CONTRIBUTOR: Standing.READER,
    OrgRole.WRITE: Standing.WRITER,
    OrgRole.ADMIN: Standing.OWNER,
}


def standing(actor: Actor, repo: Repo) -> Standing:
    """The caller's tie to the repository before the token narrows it. A contributor owns what they made."""
    user = actor.user
    if user is None or user.is_suspended:
        return Standing.STRANGER
    if user.is_admin or repo.owner_id == user.id:
        return Standing.OWNER
    role = actor.roles.get(repo.owner_name.lower())
    if role is None:
        return Standing.VISITOR
    if role is OrgRole.CONTRIBUTOR and repo.created_by == user.id:
        return Standing.OWNER
    return _ROLE_STANDING[role]


def _token_right(actor: Actor, owner: str, name: str = "") -> str:
    """What the token lets its user do there: "write", "read" or "" (nothing beyond what the public may do)."""
    token = actor.token
    if token is None or token.role is TokenRole.WRITE:
        return "write"
    if token.role is TokenRole.READ:
        return "read"
    scopes = {k.lower(): v for k, v in token.scopes.items()}
    right = scopes.get(owner.lower(), "")
    if name and right != "write":
        right = scopes.get(f"{owner}/{name}".lower(), right)
    return right


def allowed(actor: Actor, action: Action, repo: Repo, request: AccessRequest | None = None) -> bool:
    """`request`: what the caller asked of a gated repository, from `gates.request_of`; without it nobody is let in by one."""
    needed = NEEDS[action][repo.visibility]
    if action is Action.READ_FILES and repo.gate is not Gate.OPEN:
        needed = max(needed, Standing.VISITOR if _is_let_in(actor, repo, request) else Standing.READER)
    if needed > standing(actor, repo):
        return False
    if needed is Standing.STRANGER:
        return True
    right = _token_right(actor, repo.owner_name, repo.name)
    if action in CHANGES:
        return right == "write"
    return right != "" or (action is Action.READ_FILES and repo.visibility is Visibility.PUBLIC and _reads_gated(actor))


def _reads_gated(actor: Actor) -> bool:
    return actor.token is not None and GATED_SCOPE in actor.token.scopes


def _is_let_in(actor: Actor, repo: Repo, request: AccessRequest | None) -> bool:
    if request is None or actor.user is None or (request.repo_id, request.user_id) != (repo.id, actor.user.id):
        return False
    return request.status is RequestStatus.ACCEPTED


def require(actor: Actor, action: Action, repo: Repo | None, request: AccessRequest | None = None) -> Repo:
    """The repository, or the error that fits: absent and hidden are one answer; then the gate; then sign in; then forbidden."""
    if repo is None or not allowed(actor, Action.VIEW, repo):
        raise RepoNotFound()
    if allowed(actor, action, repo, request):
        return repo
    if action is Action.READ_FILES and allowed(actor, Action.READ_CODE, repo):
        raise GatedRepo(_before_the_gate(actor, repo, request))
    if actor.is_anonymous:
        raise NotSignedIn("Sign in first: send a token as `Authorization: Bearer hf_…`.")
    if actor.token is not None and NEEDS[action][repo.visibility] <= standing(actor, repo):
        raise Forbidden(f"This token is not allowed to {words(action)} {repo.full_name}; use a token with role write.")
    raise Forbidden(f"{actor.name} is not allowed to {words(action)} {repo.full_name}; ask its owner for the right.")


def _before_the_gate(actor: Actor, repo: Repo, request: AccessRequest | None) -> str:
    thing = f"{repo.type.value} {repo.full_name}"
    if actor.is_anonymous:
        return f"Access to {thing} is restricted. Sign in with an account that was given access to it: send a token as a Bearer header."
    if _is_let_in(actor, repo, request):
        return f"This token does not cover the restricted {thing}; use a token with role read or write."
    if request is not None and request.status is RequestStatus.PENDING:
        return f"Your request to access {thing} awaits a decision of its authors."
    if request is not None and request.status is RequestStatus.REJECTED:
        return f"Your request to access {thing} was rejected by its authors."
    return f"Access to {thing} is restricted and you have not been given it. Ask for access on its page."


def words(action: Action) -> str:
    return {
        Action.VIEW: "see",
        Action.READ_CODE: "read the code of",
        Action.READ_FILES: "read the files of",
        Action.USE_APP: "use the app of",
        Action.DISCUSS: "discuss in",
        Action.WRITE: "change",
        Action.ADMIN: "administer",
    }[action]


def may_create(actor: Actor, owner: Account) -> bool:
    """Whether the caller may make repositories under that account."""
    user = actor.user
    if user is None or user.is_suspended or _token_right(actor, owner.name) != "write":
        return False
    if owner.id == user.id or user.is_admin:
        return True
    role = actor.roles.get(owner.name.lower())
    return owner.kind is AccountKind.ORG and role is not None and role.includes(OrgRole.CONTRIBUTOR)


def require_create(actor: Actor, owner: Account | None, name: str) -> Account:
    if actor.is_anonymous:
        raise NotSignedIn("Sign in first: send a token as `Authorization: Bearer hf_…`.")
    if owner is None or not may_create(actor, owner):
        raise Forbidden(f"You don't have the rights to create a repository under the namespace '{name}'.")
    return owner


def may_manage_org(actor: Actor, org: Account) -> bool:
    user = actor.user
    if user is None or user.is_suspended or _token_right(actor, org.name) != "write":
        return False
    return user.is_admin or actor.roles.get(org.name.lower()) is OrgRole.ADMIN


def is_member(actor: Actor, owner: Account) -> bool:
    """Whether the caller may see the private things of an account: its own, its organisation's; the token must cover it."""
    user = actor.user
    if user is None or user.is_suspended or not _token_right(actor, owner.name):
        return False
    return owner.id == user.id or user.is_admin or owner.name.lower() in actor.roles


def require_curator(actor: Actor, owner: Account) -> None:
    """Who may change the collections of an account: itself, and an organisation's members with role write or admin."""
    user = require_user(actor)
    role = actor.roles.get(owner.name.lower())
    may = owner.id == user.id or user.is_admin or (role is not None and role.includes(OrgRole.WRITE))
    if not may:
        raise Forbidden(f"{actor.name} is not allowed to change the collections of {owner.name}; ask for the role write there.")
    if _token_right(actor, owner.name) != "write":
        raise Forbidden(f"This token is not allowed to change the collections of {owner.name}; use a token with role write.")


def require_user(actor: Actor, *, write: bool = False) -> Account:
    """The signed-in user. `write`: the token must be able to change the user's own things."""
    if actor.user is None or actor.user.is_suspended:
        raise NotSignedIn("Sign in first: send a token as `Authorization: Bearer hf_…`.")
    if write and _token_right(actor, actor.user.name) != "write":
        raise Forbidden("This token may only read; use a token with role write.")
    return actor.user


def require_admin(actor: Actor) -> Account:
    user = require_user(actor)
    if not actor.is_admin:
        raise Forbidden("Only platform administrators may do this, with a token of role write.")
    return user


def may_pull_image(actor: Actor, repo: Repo) -> bool:
    """Whoever may change the Space, with any token that covers it: pulling changes nothing."""
    return standing(actor, repo) >= NEEDS[Action.WRITE][repo.visibility] and _token_right(actor, repo.owner_name, repo.name) != ""
