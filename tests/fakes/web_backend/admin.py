"""The operator's pages."""

from __future__ import annotations

from control_plane.domain.accounts import Actor
from control_plane.domain.errors import Rejected
from tests.fakes.web_backend.people import People
from tests.fakes.web_backend.world import NEW
from web.views import AdminBuildRow, AdminOverview, AuditRow, BuildRow, Measure, PoolRow, QuotaRow, UsageRow, UserRow


class Admin(People):
    async def admin_overview(self, actor: Actor) -> AdminOverview:
        counts = (Measure("Spaces", "1,284"), Measure("Running now", "37"), Measure("People", "212"), Measure("Builds in line", "2"))
        builds = (AdminBuildRow("structbio/fold-viewer", BuildRow("b1", NEW, "x", "running", self.now, None, "61 of 74 packages")),)
        pools = (PoolRow("cpu", "cpu-basic", 4, 16, 6, 10, 0), PoolRow("t4", "t4-small", 2, 8, 5, 3, 2))
        return AdminOverview(counts, tuple(c for c in self.cards if c.stage.tone == "run"), builds, pools)

    async def admin_users(self, actor: Actor) -> tuple[UserRow, ...]:
        return (
            UserRow("alice", "Alice Liddell", "user", True, False, self.now, 4),
            UserRow("bob", "Bob", "user", False, True, self.now, 0),
            UserRow("lab-oslo", "Lab Oslo", "org", False, False, self.now, 1),
        )

    async def admin_quotas(self, actor: Actor, subject: str) -> tuple[QuotaRow, ...]:
        return await self.own_quotas(actor)

    async def admin_set_quota(self, actor: Actor, subject: str, key: str, value: str) -> None:
        if not value.isdigit() and value != "unlimited":
            raise Rejected(f"'{value}' is not a quota value")
        self.calls.append(("quota", subject, key, value))

    async def admin_usage(self, actor: Actor) -> tuple[UsageRow, ...]:
        return (UsageRow("alice", "gpu-hours", "t4-small", 1.6),)

    async def admin_audit(self, actor: Actor) -> tuple[tuple[AuditRow, ...], bool]:
        facts = self.any_text or "sdk gradio"
        return (AuditRow(self.now, "alice", "repo.create", "space:alice/marginalia", "10.0.0.7", facts),), True

    async def admin_suspend(self, actor: Actor, name: str, suspended: bool) -> None:
        self.calls.append(("suspend", name, suspended))

    async def admin_maintenance(self, actor: Actor, message: str | None) -> None:
        self.calls.append(("maintenance", message))

    async def admin_add_user(self, actor: Actor, name: str, email: str, password: str, *, admin: bool) -> None:
        self.calls.append(("add_user", name, admin))
