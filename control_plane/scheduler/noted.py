"""The scheduler's own changes in the audit log: what it did by itself, once, in the transaction that did it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from control_plane.domain.ids import RepoId, SpaceId
from control_plane.ports.stores import UnitOfWork

ACTOR = "scheduler"


async def note(uow: UnitOfWork, space_id: SpaceId, action: str, facts: Mapping[str, object], now: datetime) -> None:
    repo = await uow.repos.get(RepoId(space_id))
    subject = f"space:{repo.full_name if repo else space_id}"[:200]
    await uow.audit.append(at=now, actor=ACTOR, action=action, subject=subject, address="", facts=facts)
