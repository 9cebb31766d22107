"""Organisations: making one, and who is in it with which role."""

from __future__ import annotations

from dataclasses import replace

from control_plane.accounts import audit, people, policy
from control_plane.domain.accounts import Account, AccountKind, Actor, OrgRole
from control_plane.domain.errors import Forbidden, Rejected
from control_plane.ports.stores import UnitOfWork
from web.services.people import PeopleFamily
from web.views import MemberRow, OrgPage


class OrgsFamily(PeopleFamily):
    def may_make_org(self, actor: Actor) -> bool:
        return actor.is_admin or (self.d.org_creation and actor.user is not None)

    async def create_org(self, actor: Actor, name: str, fullname: str) -> str:
        """The maker is its first admin. Gives its name."""
        user = policy.require_user(actor, write=True)
        if not self.may_make_org(actor):
            raise Forbidden("Only administrators of this platform make organisations; ask one.")
        async with self.d.uow.write() as uow:
            org = await people.add_org(uow, self.d.clock, name, fullname=fullname, creator=user)
            await self._note(uow, actor, "org.add", org, {})
        return org.name

    async def org(self, actor: Actor, name: str) -> OrgPage:
        """For its members; Forbidden for others."""
        user = policy.require_user(actor)
        async with self.d.uow.read() as uow:
            org = await people.find_account(uow, name, AccountKind.ORG)
            members = await uow.accounts.members(org.id)
        may_manage = policy.may_manage_org(actor, org)
        if not may_manage and user.id not in {member.id for member, _ in members}:
            raise Forbidden(f"Only members of {org.name} see its settings.")
        rows = sorted((MemberRow(m.name, m.fullname, role.value, m.id == user.id) for m, role in members), key=lambda m: m.name.lower())
        quotas = await self.quotas_of(org) if may_manage else ()
        return OrgPage(org.name, org.fullname, may_manage, tuple(rows), tuple(reversed([role.value for role in OrgRole])), quotas)

    async def rename_org(self, actor: Actor, name: str, fullname: str) -> None:
        async with self.d.uow.write() as uow:
            org = await self._managed(uow, actor, name)
            await uow.accounts.save(replace(org, fullname=people.checked_fullname(fullname, org.name)))
            await self._note(uow, actor, "org.rename", org, {"before": org.fullname, "after": fullname[:200]})

    async def set_org_member(self, actor: Actor, name: str, user_name: str, role: str) -> None:
        if role not in set(OrgRole):
            raise Rejected(f"a role is one of {', '.join(OrgRole)}")
        async with self.d.uow.write() as uow:
            org = await self._managed(uow, actor, name)
            user = await people.find_account(uow, user_name, AccountKind.USER)
            before = next((r.value for m, r in await uow.accounts.members(org.id) if m.id == user.id), None)
            await people.set_member(uow, self.d.signals, org, user, OrgRole(role))
            await self._note(uow, actor, "org.member", org, {"user": user.name, "before": before, "after": role})

    async def remove_org_member(self, actor: Actor, name: str, user_name: str) -> None:
        """Its admins remove anybody but the last admin; everybody may leave."""
        me = policy.require_user(actor, write=True)
        async with self.d.uow.write() as uow:
            user = await people.find_account(uow, user_name, AccountKind.USER)
            if user.id == me.id:
                org = await people.find_account(uow, name, AccountKind.ORG)
            else:
                org = await self._managed(uow, actor, name)
            if user.id not in {member.id for member, _ in await uow.accounts.members(org.id)}:
                raise Rejected(f"{user.name} is not a member of {org.name}.")
            await people.remove_member(uow, self.d.signals, org, user)
            await self._note(uow, actor, "org.member", org, {"user": user.name, "after": None})

    async def _managed(self, uow: UnitOfWork, actor: Actor, name: str) -> Account:
        org = await people.find_account(uow, name, AccountKind.ORG)
        if not policy.may_manage_org(actor, org):
            raise Forbidden(f"Only admins of {org.name} may change who is in it.")
        return org

    async def _note(self, uow: UnitOfWork, actor: Actor, action: str, org: Account, facts: dict[str, object]) -> None:
        await audit.record(uow, actor, action, f"org:{org.name}", facts, self.d.clock.now())
