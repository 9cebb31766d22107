"""Quotas and usage, the audit chain, documents."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import text

from control_plane.db.engine import Database
from control_plane.domain.accounts import Account
from control_plane.domain.ids import AccountId, SpaceId
from tests.contract.stores.rows import NOW


async def test_quota_limits_and_usage_add_up(db: Database, ann: Account) -> None:
    async with db.write() as work:
        await work.quotas.set_limit("", "spaces", 3)
        await work.quotas.set_limit("Ann", "spaces", 5)
        await work.quotas.set_limit("ann", "running", None)
        for amount in (1.5, 2.0):
            await work.quotas.add_usage(
                account_id=ann.id, space_id=SpaceId("s"), key="gpu-hours", flavor="t4-small", day="2026-08-01", amount=amount
            )
        await work.quotas.add_usage(
            account_id=ann.id, space_id=SpaceId("s"), key="gpu-hours", flavor="t4-small", day="2026-09-01", amount=1
        )
    async with db.read() as work:
        assert await work.quotas.limits("ANN") == {"running": None, "spaces": 5}
        assert await work.quotas.limits("") == {"spaces": 3}
        assert await work.quotas.subjects() == ("ann",)
        rows = await work.quotas.usage(since_day="2026-08-01", until_day="2026-08-31")
        assert [dict(r) for r in rows] == [
            {"account_id": ann.id, "space_id": "s", "key": "gpu-hours", "flavor": "t4-small", "day": "2026-08-01", "amount": 3.5}
        ]
        assert len(await work.quotas.usage(account_id=ann.id, since_day="2026-08-01")) == 2
        assert await work.quotas.usage(account_id=AccountId("x"), since_day="2026-08-01") == ()
    async with db.write() as work:
        await work.quotas.unset_limit("ann", "spaces")
        assert await work.quotas.limits("ann") == {"running": None}


async def test_a_tampered_audit_row_is_found(db: Database) -> None:
    async with db.write() as work:
        for n in range(4):
            at = NOW + timedelta(hours=n)
            await work.audit.append(at=at, actor="ann" if n % 2 else "bob", action="a.b", subject="s", address="", facts={"n": n, "ü": "é"})
    async with db.read() as work:
        assert await work.audit.verify() is None
        rows = await work.audit.list()
        assert [r["facts"]["n"] for r in rows] == [3, 2, 1, 0]
        assert [r["facts"]["n"] for r in await work.audit.list(actor="ann", since=NOW + timedelta(hours=2))] == [3]
    victim = rows[1]["id"]
    async with db._writer.begin() as connection:
        await connection.execute(text("UPDATE audit SET subject = 'other' WHERE id = :id"), {"id": victim})
    async with db.read() as work:
        assert await work.audit.verify() == victim
    async with db._writer.begin() as connection:
        await connection.execute(text("DELETE FROM audit WHERE id = :id"), {"id": victim})
    async with db.read() as work:
        assert await work.audit.verify() == victim + 1


async def test_a_removed_end_of_the_audit_is_found(db: Database) -> None:
    async with db.write() as work:
        for n in range(3):
            await work.audit.append(at=NOW, actor="a", action="b", subject=str(n), address="", facts={})
        last = (await work.audit.list())[0]["id"]
    async with db._writer.begin() as connection:
        await connection.execute(text("DELETE FROM audit WHERE id = :id"), {"id": last})
    async with db.read() as work:
        assert await work.audit.verify() == last


async def test_documents_are_keyed_and_listed_in_order(db: Database) -> None:
    async with db.write() as work:
        await work.documents.put("hook", "2", "ann", {"n": 2})
        await work.documents.put("hook", "1", "ann", {"n": 1})
        await work.documents.put("hook", "2", "ann", {"n": 22})
        await work.documents.put("hook", "3", "bob", {"n": 3})
        assert await work.documents.get("hook", "2") == {"n": 22}
        assert await work.documents.get("other", "2") is None
        assert [d["n"] for d in await work.documents.list("hook")] == [22, 1, 3]
        assert [d["n"] for d in await work.documents.list("hook", "ann")] == [22, 1]
        await work.documents.remove("hook", "1")
        assert [d["n"] for d in await work.documents.list("hook", "ann")] == [22]
