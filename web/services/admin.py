"""The operator's pages: figures, people, quotas, usage, audit."""

from __future__ import annotations

from datetime import timedelta

from control_plane.accounts import maintenance, people, suspension
from control_plane.accounts.usage import usage
from control_plane.domain.accounts import Account, AccountKind, Actor
from control_plane.domain.audit_words import change_words
from control_plane.domain.errors import NotFound, Rejected
from control_plane.domain.ids import RepoId
from control_plane.domain.quotas import QuotaKey, check_limit, limit_text, parse_key, parse_value
from control_plane.domain.repo_query import RepoQuery
from control_plane.domain.spaces import RepoType
from web.services.gallery import GalleryFamily
from web.services.people import PeopleFamily
from web.services.spaces import build_row
from web.views import AdminBuildRow, AdminOverview, AuditRow, Measure, PoolRow, QuotaRow, UsageRow, UserRow

AUDIT_ROWS = 300
USAGE_DAYS = 30


class AdminFamily(PeopleFamily, GalleryFamily):
    def _admin(self, actor: Actor) -> Account:
        if actor.user is None or not actor.is_admin:
            raise NotFound("There is no page at this address.")
        return actor.user

    async def admin_overview(self, actor: Actor) -> AdminOverview:
        self._admin(actor)
        async with self.d.uow.read() as uow:
            running = await uow.repos.list(RepoQuery(RepoType.SPACE, see_all=True, running_only=True), sort="updated", limit=100)
            builds = await uow.builds.open()
            names = {b.space_id: await uow.repos.get(RepoId(b.space_id)) for b in builds[:50]}
            counts = {kind: await uow.repos.count(kind) for kind in RepoType}
            accounts = await uow.accounts.list(AccountKind.USER)
        rows = tuple(AdminBuildRow(repo.full_name, build_row(b)) for b in builds[:50] if (repo := names.get(b.space_id)) is not None)
        figures = (
            Measure("Spaces", f"{counts[RepoType.SPACE]:,}"), Measure("Running now", f"{len(running):,}"),
            Measure("Builds in line", f"{len(builds):,}"), Measure("People", f"{len(accounts):,}"),
            Measure("Models", f"{counts[RepoType.MODEL]:,}"), Measure("Datasets", f"{counts[RepoType.DATASET]:,}"),
        )  # fmt: skip
        pools = tuple(
            PoolRow(str(r["pool"]), str(r["flavor"]), r["nodes"], r["total"], r["used"], r["free"], r["queued"])
            for r in await self.d.pool_facts()
        )
        async with self.d.uow.read() as uow:
            notice = await maintenance.current(uow)
        words = notice.message if notice else None
        return AdminOverview(figures, await self.cards(running), rows, pools, words, maintenance.DEFAULT_WORDS)

    async def admin_maintenance(self, actor: Actor, message: str | None) -> None:
        admin = self._admin(actor)
        words = " ".join(message.split()) if message is not None else None
        if words is not None and not (words and words.isprintable() and len(words) <= maintenance.MAX_WORDS):
            raise Rejected(f"the message of a maintenance is one printable line of at most {maintenance.MAX_WORDS} characters")
        now = self.d.clock.now()
        async with self.d.uow.write() as uow:
            before = await maintenance.current(uow)
            await maintenance.switch(uow, maintenance.Notice(words, admin.name, now) if words is not None else None)
            facts = {"before": before.message if before else "off", "after": words if words is not None else "off"}
            await uow.audit.append(
                at=now, actor=admin.name, action="platform.maintenance", subject="platform", address=actor.address, facts=facts
            )

    async def admin_users(self, actor: Actor) -> tuple[UserRow, ...]:
        self._admin(actor)
        async with self.d.uow.read() as uow:
            accounts = await uow.accounts.list()
            return tuple(
                [
                    UserRow(
                        a.name,
                        a.fullname,
                        a.kind.value,
                        a.is_admin,
                        a.is_suspended,
                        a.created_at,
                        await uow.repos.count(RepoType.SPACE, owner_id=a.id),
                    )
                    for a in accounts[:1000]
                ]
            )

    async def admin_quotas(self, actor: Actor, subject: str) -> tuple[QuotaRow, ...]:
        """Of one account with what it uses; the defaults for everyone when `subject` is empty."""
        self._admin(actor)
        if subject:
            return await self.quotas_of(await self.account_named(subject))
        async with self.d.uow.read() as uow:
            limits = await uow.quotas.limits("")
        return tuple(QuotaRow(key, limits.get(key), 0.0, "default") for key in (*QuotaKey, *(k for k in limits if k not in set(QuotaKey))))

    async def admin_set_quota(self, actor: Actor, subject: str, key: str, value: str) -> None:
        admin = self._admin(actor)
        key = parse_key(key, self.d.catalog().names)
        limit = check_limit(key, parse_value(value))
        async with self.d.uow.write() as uow:
            name = (await people.find_account(uow, subject)).name if subject else ""
            before = await uow.quotas.limits(name)
            await uow.quotas.set_limit(name, key, limit)
            facts = {"keys": {key: {"before": limit_text(before[key]) if key in before else "unset", "after": limit_text(limit)}}}
            await uow.audit.append(
                at=self.d.clock.now(), actor=admin.name, action="quota.set", subject=f"quota:{name or 'defaults'}", address=actor.address,
                facts=facts,
            )  # fmt: skip

    async def admin_usage(self, actor: Actor) -> tuple[UsageRow, ...]:
        self._admin(actor)
        now = self.d.clock.now()
        since = (now - timedelta(days=USAGE_DAYS)).strftime("%Y-%m-%d")
        amounts: dict[tuple[str, str, str], float] = {}
        costs: dict[tuple[str, str, str], float] = {}
        async with self.d.uow.read() as uow:
            for line in await usage(uow, self.d.catalog(), now, since_day=since):
                index = str(line.account_id), line.key, line.flavor
                amounts[index] = amounts.get(index, 0.0) + line.amount
                costs[index] = costs.get(index, 0.0) + (line.cost_usd or 0.0)
            names = {str(a.id): a.name for a in await uow.accounts.list()}
        found = (
            UsageRow(names.get(account, account), key, flavor, amount, costs[account, key, flavor])
            for (account, key, flavor), amount in amounts.items()
        )
        return tuple(sorted(found, key=lambda u: (u.account, u.key, u.flavor)))

    async def admin_audit(self, actor: Actor) -> tuple[tuple[AuditRow, ...], bool]:
        self._admin(actor)
        async with self.d.uow.read() as uow:
            found = await uow.audit.list(limit=AUDIT_ROWS)
            whole = await uow.audit.verify() is None
        rows = (
            AuditRow(
                r["at"],
                str(r["actor"]),
                str(r["action"]),
                str(r["subject"]),
                str(r["address"]),
                change_words(r["facts"]),
            )
            for r in found
        )
        return tuple(rows), whole

    async def admin_suspend(self, actor: Actor, name: str, suspended: bool) -> None:
        self._admin(actor)
        await suspension.suspend(self.d.uow, self.d.clock, self.d.signals, actor, name, suspended, lambda done, total: None)

    async def admin_add_user(self, actor: Actor, name: str, email: str, password: str, *, admin: bool) -> None:
        operator = self._admin(actor)
        async with self.d.uow.write() as uow:
            await people.add_user(uow, self.d.clock, name, email=email or None, password=password, is_admin=admin)
            await uow.audit.append(
                at=self.d.clock.now(), actor=operator.name, action="user.add", subject=f"user:{name}", address=actor.address,
                facts={"admin": admin},
            )  # fmt: skip
