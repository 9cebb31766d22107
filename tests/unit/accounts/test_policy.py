"""The rights table, by hand: standing × visibility × token."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from control_plane.accounts import policy
from control_plane.domain.accounts import GATED_SCOPE, Account, AccountKind, Action, Actor, OrgRole, Token, TokenRole
from control_plane.domain.errors import Forbidden, GatedRepo, NotSignedIn, RepoNotFound
from control_plane.domain.gates import AccessRequest, Gate, RequestStatus
from control_plane.domain.ids import AccountId, RepoId, TokenId
from control_plane.domain.spaces import Repo, RepoType, Visibility

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def user(name: str, **more: bool) -> Account:
    return Account(AccountId(name), AccountKind.USER, name, name, NOW, **more)  # type: ignore[arg-type]


def token(role: TokenRole, **scopes: str) -> Token:
    return Token(TokenId("t"), AccountId("u"), "t", role, "0" * 64, NOW, scopes={k.replace("__", "/"): v for k, v in scopes.items()})


def repo(visibility: Visibility, made_by: str = "founder") -> Repo:
    return Repo(RepoId("r"), RepoType.SPACE, AccountId("acme"), "Acme", "demo", visibility, NOW, NOW, AccountId(made_by))


def rights(actor: Actor, visibility: Visibility) -> str:
    letters = {Action.VIEW: "v", Action.USE_APP: "u", Action.READ_CODE: "r", Action.DISCUSS: "d", Action.WRITE: "w", Action.ADMIN: "a"}
    return "".join(letter for action, letter in letters.items() if policy.allowed(actor, action, repo(visibility)))


def member(role: OrgRole, held: Token | None = None) -> Actor:
    return Actor(user=user("m"), token=held, roles={"acme": role})


@pytest.mark.parametrize(
    ("actor", "public", "protected", "private"),
    [
        (Actor(), "vur", "vu", ""),
        (Actor(user=user("stranger")), "vurd", "vu", ""),
        (member(OrgRole.READ), "vurd", "vurd", "vurd"),
        (member(OrgRole.CONTRIBUTOR), "vurd", "vurd", "vurd"),
        (member(OrgRole.WRITE), "vurdw", "vurdw", "vurdw"),
        (member(OrgRole.ADMIN), "vurdwa", "vurdwa", "vurdwa"),
        (Actor(user=user("acme")), "vurdwa", "vurdwa", "vurdwa"),
        (Actor(user=user("root", is_admin=True)), "vurdwa", "vurdwa", "vurdwa"),
        (Actor(user=user("gone", is_suspended=True), roles={"acme": OrgRole.ADMIN}), "vur", "vu", ""),
        (member(OrgRole.ADMIN, token(TokenRole.READ)), "vur", "vur", "vur"),
        (member(OrgRole.ADMIN, token(TokenRole.FINE_GRAINED)), "vur", "vu", ""),
        (member(OrgRole.ADMIN, token(TokenRole.FINE_GRAINED, other="write")), "vur", "vu", ""),
        (member(OrgRole.ADMIN, token(TokenRole.FINE_GRAINED, acme="read")), "vur", "vur", "vur"),
        (member(OrgRole.WRITE, token(TokenRole.FINE_GRAINED, acme__demo="write")), "vurdw", "vurdw", "vurdw"),
        (member(OrgRole.READ, token(TokenRole.FINE_GRAINED, acme="write")), "vurd", "vurd", "vurd"),
    ],
)
def test_the_table(actor: Actor, public: str, protected: str, private: str) -> None:
    assert rights(actor, Visibility.PUBLIC) == public
    assert rights(actor, Visibility.PROTECTED) == protected
    assert rights(actor, Visibility.PRIVATE) == private


def test_a_contributor_owns_what_they_made() -> None:
    assert policy.allowed(member(OrgRole.CONTRIBUTOR), Action.ADMIN, repo(Visibility.PRIVATE, made_by="m"))


def test_refusals_say_what_fits_and_hidden_is_absent() -> None:
    with pytest.raises(RepoNotFound):
        policy.require(Actor(), Action.VIEW, None)
    with pytest.raises(RepoNotFound):
        policy.require(Actor(user=user("x")), Action.WRITE, repo(Visibility.PRIVATE))
    with pytest.raises(NotSignedIn):
        policy.require(Actor(), Action.WRITE, repo(Visibility.PUBLIC))
    with pytest.raises(Forbidden, match="role write"):
        policy.require(member(OrgRole.WRITE, token(TokenRole.READ)), Action.WRITE, repo(Visibility.PUBLIC))
    with pytest.raises(Forbidden, match="ask its owner"):
        policy.require(Actor(user=user("x")), Action.WRITE, repo(Visibility.PUBLIC))


def test_who_may_create_where() -> None:
    org = Account(AccountId("acme"), AccountKind.ORG, "Acme", "", NOW)
    assert policy.may_create(member(OrgRole.CONTRIBUTOR), org)
    assert not policy.may_create(member(OrgRole.READ), org)
    assert not policy.may_create(member(OrgRole.ADMIN, token(TokenRole.READ)), org)
    assert policy.may_create(Actor(user=user("m")), user("m"))
    assert not policy.may_create(Actor(user=user("m")), user("other"))


def asked(status: RequestStatus, who: str = "x") -> AccessRequest:
    return AccessRequest("q", RepoId("r"), AccountId(who), status, NOW)


@pytest.mark.parametrize(
    ("actor", "request_", "may"),
    [
        (Actor(), None, False),
        (Actor(user=user("x")), None, False),
        (Actor(user=user("x")), asked(RequestStatus.PENDING), False),
        (Actor(user=user("x")), asked(RequestStatus.REJECTED), False),
        (Actor(user=user("x")), asked(RequestStatus.ACCEPTED), True),
        (Actor(user=user("x")), asked(RequestStatus.ACCEPTED, "y"), False),
        (Actor(user=user("x", is_suspended=True)), asked(RequestStatus.ACCEPTED), False),
        (Actor(user=user("x"), token=token(TokenRole.READ)), asked(RequestStatus.ACCEPTED), True),
        (Actor(user=user("x"), token=token(TokenRole.FINE_GRAINED)), asked(RequestStatus.ACCEPTED), False),
        (Actor(user=user("x"), token=token(TokenRole.FINE_GRAINED, acme="read")), asked(RequestStatus.ACCEPTED), True),
        (Actor(user=user("x"), token=token(TokenRole.FINE_GRAINED, **{GATED_SCOPE: "read"})), asked(RequestStatus.ACCEPTED), True),
        (Actor(user=user("x"), token=token(TokenRole.FINE_GRAINED, **{GATED_SCOPE: "read"})), None, False),
        (member(OrgRole.READ), None, True),
        (member(OrgRole.READ, token(TokenRole.FINE_GRAINED)), None, False),
        (Actor(user=user("root", is_admin=True)), None, True),
    ],
)
def test_a_gate(actor: Actor, request_: AccessRequest | None, may: bool) -> None:
    """The bytes are for members and for whom they let in; the token must cover it; everything else stays as it was."""
    model = replace(repo(Visibility.PUBLIC), type=RepoType.MODEL, gate=Gate.MANUAL)
    assert policy.allowed(actor, Action.READ_FILES, model, request_) is may
    assert policy.allowed(actor, Action.READ_CODE, model)
    assert policy.allowed(actor, Action.READ_FILES, replace(model, gate=Gate.OPEN))
    if not may:
        with pytest.raises(GatedRepo):
            policy.require(actor, Action.READ_FILES, model, request_)
    hidden = replace(model, visibility=Visibility.PRIVATE)
    if not policy.allowed(actor, Action.VIEW, hidden):
        with pytest.raises(RepoNotFound):
            policy.require(actor, Action.READ_FILES, hidden, request_)
