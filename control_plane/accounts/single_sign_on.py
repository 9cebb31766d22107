"""Accounts of people who sign in at an identity provider: found by issuer and subject, made at the first sign-in.

A name or an e-mail address of the provider never opens an account that exists already: whoever controls the provider's
user names would own it. A taken name gets a number instead. Groups of the provider become memberships, and only those
that came from a group are taken back when the group is gone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from control_plane.accounts import people
from control_plane.accounts.audit import record
from control_plane.domain.accounts import Account, AccountKind, Actor, OrgRole, Via
from control_plane.domain.errors import Forbidden, Rejected
from control_plane.domain.ids import AccountId
from control_plane.ports.clock import Clock
from control_plane.ports.signals import Signals
from control_plane.ports.stores import UnitOfWork

IDENTITY_KIND = "sso-identity"
_NAMES_TRIED = 100


@dataclass(frozen=True, slots=True)
class Identity:
    """What the provider vouches for. `subject` is its own id of the person, never reused."""

    issuer: str
    subject: str
    user_name: str = ""
    fullname: str = ""
    email: str = ""
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupRules:
    """`members`: group → organisation and role. `admins`: the group whose members are platform admins, "" = none decides."""

    members: Mapping[str, Sequence[tuple[str, OrgRole]]]
    admins: str = ""


def parse_groups(text: str) -> dict[str, list[tuple[str, OrgRole]]]:
    """`GROUP=ORG:ROLE`, comma-separated. Rejected names the part that cannot be used."""
    found: dict[str, list[tuple[str, OrgRole]]] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        group, equals, target = part.rpartition("=")
        org, colon, role = target.partition(":")
        if not (group and equals and org and colon) or role not in set(OrgRole):
            raise Rejected(f"'{part}' is not GROUP=ORG:ROLE with a role of {', '.join(OrgRole)}")
        people.check_name(org, "organisation name")
        found.setdefault(group, []).append((org, OrgRole(role)))
    return found


async def account_for(uow: UnitOfWork, clock: Clock, signals: Signals, identity: Identity, rules: GroupRules, *, address: str) -> Account:
    """The account of this person, with memberships as the groups say. Forbidden when it is suspended."""
    key = f"{identity.issuer}|{identity.subject}"
    known = await uow.documents.get(IDENTITY_KIND, key)
    account = await uow.accounts.get(AccountId(str(known["user_id"]))) if known else None
    if account is None:
        account = await _new_account(uow, clock, identity)
        actor = Actor(via=Via.SESSION, user=account, address=address)
        await record(uow, actor, "user.add", f"user:{account.name}", {"by": "single sign-on"}, clock.now())
        known = None
    if account.is_suspended:
        raise Forbidden("This account is suspended; an operator can lift that.")
    actor = Actor(via=Via.SESSION, user=account, address=address)
    given = dict(known["orgs"]) if known else {}
    orgs = await _follow_groups(uow, clock, signals, actor, account, identity, rules, given)
    made_admin = bool(known and known.get("admin"))
    account, made_admin = await _follow_admins(uow, clock, actor, account, identity, rules, made_admin)
    body = {"user_id": account.id, "orgs": orgs, "admin": made_admin}
    await uow.documents.put(IDENTITY_KIND, key, account.id, body)
    return account


async def _new_account(uow: UnitOfWork, clock: Clock, identity: Identity) -> Account:
    wanted = identity.user_name or identity.email.partition("@")[0] or "user"
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", wanted)
    plain = re.sub(r"-{2,}|\.{2,}", "-", plain).strip("-.")[:80] or "user"
    if plain.lower().endswith((".git", ".ipynb")):
        plain = plain.rpartition(".")[0]
    email = identity.email if people.is_email(identity.email) else None
    fullname = identity.fullname if identity.fullname.isprintable() else ""
    for number in range(1, _NAMES_TRIED):
        name = plain if number == 1 else f"{plain}-{number}"
        if name.lower() in people.RESERVED_NAMES or await uow.accounts.by_name(name) is not None:
            continue
        return await people.add_user(uow, clock, name, fullname=fullname[:200], email=email)
    raise Rejected(f"no free user name like '{plain}' was found; ask an operator")


async def _follow_groups(
    uow: UnitOfWork,
    clock: Clock,
    signals: Signals,
    actor: Actor,
    account: Account,
    identity: Identity,
    rules: GroupRules,
    given: Mapping[str, str],
) -> dict[str, str]:
    """Organisation → role that the groups give now; what they gave before and give no more is taken back."""
    wanted: dict[str, OrgRole] = {}
    for group in identity.groups:
        for org_name, role in rules.members.get(group, ()):
            if org_name not in wanted or role.includes(wanted[org_name]):
                wanted[org_name] = role
    has = {org.name: role for org, role in await uow.accounts.memberships(account.id)}
    kept: dict[str, str] = {}
    for org_name, role in wanted.items():
        org = await uow.accounts.by_name(org_name)
        if org is None:
            org = await people.add_org(uow, clock, org_name)
            await record(uow, actor, "org.add", f"org:{org.name}", {"by": "single sign-on"}, clock.now())
        if org.kind is not AccountKind.ORG:
            continue  # a user has this name; an operator sees it in the settings, the person cannot help it
        kept[org.name] = role.value
        if has.get(org.name) is not role:
            try:
                await people.set_member(uow, signals, org, account, role)
            except Rejected:
                continue  # the last admin of an organisation stays one
            before = has[org.name].value if org.name in has else None
            facts = {"user": account.name, "before": before, "after": role.value, "by": "single sign-on"}
            await record(uow, actor, "org.member", f"org:{org.name}", facts, clock.now())
    for org_name in set(given) - set(kept):
        org = await uow.accounts.by_name(org_name)
        if org is None or org_name not in has:
            continue
        try:
            await people.remove_member(uow, signals, org, account)
        except Rejected:
            kept[org_name] = given[org_name]
            continue
        facts = {"user": account.name, "before": has[org_name].value, "after": None, "by": "single sign-on"}
        await record(uow, actor, "org.member", f"org:{org_name}", facts, clock.now())
    return kept


async def _follow_admins(
    uow: UnitOfWork, clock: Clock, actor: Actor, account: Account, identity: Identity, rules: GroupRules, made_admin: bool
) -> tuple[Account, bool]:
    """Platform rights by group. Rights that an operator gave by hand are left alone."""
    is_in = bool(rules.admins) and rules.admins in identity.groups
    if is_in == account.is_admin or (not is_in and not made_admin):
        return account, made_admin and account.is_admin
    changed = replace(account, is_admin=is_in)
    await uow.accounts.save(changed)
    facts = {"before": account.is_admin, "after": is_in, "by": "single sign-on"}
    await record(uow, actor, "user.admin", f"user:{account.name}", facts, clock.now())
    return changed, is_in
