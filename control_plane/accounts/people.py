"""Users, organisations and their members."""

from __future__ import annotations

import re
from dataclasses import replace

from control_plane.accounts.sign_in import hash_password
from control_plane.domain.accounts import Account, AccountKind, Membership, OrgRole
from control_plane.domain.errors import NotFound, Rejected
from control_plane.domain.ids import AccountId, new_id
from control_plane.ports.clock import Clock
from control_plane.ports.signals import Signals
from control_plane.ports.stores import UnitOfWork

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s]{1,190}")
# First path segments that the platform serves itself, and names that would mislead.
RESERVED_NAMES = frozenset(
    """admin api assets auth bucket buckets cas chat collections contact dashboard datasets docs enterprise explore favicon.ico
    health healthz help hf hub huggingface internal jobs join kernels login logout metrics metrics.json models new new-dataset
    new-model new-space notifications oauth openapi.json organizations papers pricing privacy private proxy public readyz
    redoc register resolve root search settings share sign-in sign-out sign-up signup spaces static status storage support
    system tasks telemetry terms token tokens uploads user users v1 v2 vitrine webhooks well-known www""".split()  # noqa: SIM905
)


def check_name(name: str, what: str = "name", *, reserved: bool = True) -> str:
    """`name` when it may be one part of a repository id; Rejected with the rule otherwise."""
    if not _NAME.fullmatch(name) or "--" in name or ".." in name or name.endswith((".git", ".ipynb")):
        raise Rejected(
            f"'{name[:100]}' is not a valid {what}: 1 to 96 letters, digits, '-', '_' and '.', without '--' or '..', "
            "not beginning or ending with '-' or '.', not ending in '.git'"
        )
    if reserved and name.lower() in RESERVED_NAMES:
        raise Rejected(f"the {what} '{name}' is kept for the platform; choose another")
    return name


def is_email(text: str) -> bool:
    return bool(_EMAIL.fullmatch(text))


async def add_user(
    uow: UnitOfWork,
    clock: Clock,
    name: str,
    *,
    fullname: str = "",
    email: str | None = None,
    password: str | None = None,
    is_admin: bool = False,
    reserved: bool = True,
) -> Account:
    """A new user. NameTaken when a user or organisation has the name. `reserved=False` is for the built-in admin."""
    check_name(name, "user name", reserved=reserved)
    if email is not None and not is_email(email):
        raise Rejected(f"'{email[:100]}' is not an e-mail address")
    account = Account(
        id=AccountId(new_id()),
        kind=AccountKind.USER,
        name=name,
        fullname=checked_fullname(fullname, name),
        created_at=clock.now(),
        email=email,
        is_admin=is_admin,
        password_hash=await hash_password(password) if password is not None else None,
    )
    await uow.accounts.add(account)
    return account


async def add_org(
    uow: UnitOfWork,
    clock: Clock,
    name: str,
    *,
    fullname: str = "",
    creator: Account | None = None,
) -> Account:
    """A new organisation; its creator becomes its first admin."""
    check_name(name, "organisation name")
    org = Account(
        id=AccountId(new_id()),
        kind=AccountKind.ORG,
        name=name,
        fullname=checked_fullname(fullname, name),
        created_at=clock.now(),
    )
    await uow.accounts.add(org)
    if creator is not None:
        await uow.accounts.set_member(Membership(org.id, creator.id, OrgRole.ADMIN))
    return org


def checked_fullname(fullname: str, name: str) -> str:
    """What an account calls itself, its name when that is nothing; Rejected when it cannot be shown in one line."""
    text = fullname.strip()
    if len(text) > 200 or not text.isprintable():
        raise Rejected("a full name has at most 200 printable characters")
    return text or name


async def set_member(uow: UnitOfWork, signals: Signals, org: Account, user: Account, role: OrgRole) -> None:
    if org.kind is not AccountKind.ORG or user.kind is not AccountKind.USER:
        raise Rejected(f"only users can be members, and only of organisations; got {user.name} in {org.name}")
    if role is not OrgRole.ADMIN:
        await _keep_an_admin(uow, org, user)
    await uow.accounts.set_member(Membership(org.id, user.id, role))
    uow.after_commit(lambda: signals.notify("access", user.id))


async def remove_member(uow: UnitOfWork, signals: Signals, org: Account, user: Account) -> None:
    await _keep_an_admin(uow, org, user)
    await uow.accounts.remove_member(org.id, user.id)
    uow.after_commit(lambda: signals.notify("access", user.id))


async def _keep_an_admin(uow: UnitOfWork, org: Account, leaving: Account) -> None:
    admins = [m.id for m, role in await uow.accounts.members(org.id) if role is OrgRole.ADMIN]
    if admins == [leaving.id]:
        raise Rejected(f"{leaving.name} is the last admin of {org.name}; make somebody else admin first")


async def set_password(uow: UnitOfWork, signals: Signals, user: Account, password: str) -> Account:
    """Replaces the password and ends every browser session of the user, with what they opened in private apps."""
    changed = replace(user, password_hash=await hash_password(password))
    await uow.accounts.save(changed)
    for session in await uow.tokens.sessions_of(user.id):
        await uow.tokens.remove_session(session.id)
    uow.after_commit(lambda: signals.notify("access", user.id))
    return changed


async def set_suspended(uow: UnitOfWork, signals: Signals, user: Account, suspended: bool) -> Account:
    """Suspension takes every right at once: tokens and sessions stop working; lifting it brings tokens back."""
    changed = replace(user, is_suspended=suspended)
    await uow.accounts.save(changed)
    if suspended:
        for session in await uow.tokens.sessions_of(user.id):
            await uow.tokens.remove_session(session.id)
    uow.after_commit(lambda: signals.notify("access", user.id))
    return changed


async def find_account(uow: UnitOfWork, name: str, kind: AccountKind | None = None) -> Account:
    found = await uow.accounts.by_name(name) if 0 < len(name) <= 96 else None
    if found is None or (kind is not None and found.kind is not kind):
        what = {
            AccountKind.USER: "user",
            AccountKind.ORG: "organisation",
            None: "account",
        }[kind]
        raise NotFound(f"there is no {what} '{name[:96]}'")
    return found
