"""The audit line of a change that people make together: who, on which repository, what; never the text of a comment."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from control_plane.domain.accounts import Actor
from control_plane.domain.spaces import Repo
from control_plane.ports.stores import UnitOfWork


async def note(uow: UnitOfWork, actor: Actor, action: str, subject: str, facts: Mapping[str, object], now: datetime) -> None:
    """Call it in the transaction that makes the change. `subject` is `kind:name`."""
    await uow.audit.append(at=now, actor=actor.name, action=action, subject=subject[:200], address=actor.address, facts=facts)


def repo_subject(repo: Repo) -> str:
    return f"{repo.type.value}:{repo.full_name}"
