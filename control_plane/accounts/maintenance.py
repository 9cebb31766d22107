"""Maintenance: reading and running apps go on, changes are refused with the operator's words until it is over.

One document in the database says so; every process reads it when it is about to change something, so the switch works
at once and everywhere, and stays over a restart.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from control_plane.domain.errors import Maintenance
from control_plane.ports.stores import UnitOfWork

_KIND, _KEY = "maintenance", "platform"
DEFAULT_WORDS = "The platform is being looked after. Apps run and everything can be read; changes wait until it is over."
MAX_WORDS = 500


@dataclass(frozen=True, slots=True)
class Notice:
    """Maintenance as it is announced. `by` and `since`: who switched it on, and when."""

    message: str
    by: str
    since: datetime


async def current(uow: UnitOfWork) -> Notice | None:
    """None when the platform works as always."""
    body = await uow.documents.get(_KIND, _KEY)
    return Notice(str(body["message"]), str(body["by"]), datetime.fromisoformat(str(body["since"]))) if body else None


async def switch(uow: UnitOfWork, notice: Notice | None) -> None:
    if notice is None:
        await uow.documents.remove(_KIND, _KEY)
        return
    body = {"message": notice.message, "by": notice.by, "since": notice.since.isoformat()}
    await uow.documents.put(_KIND, _KEY, "", body)


async def refuse_changes(uow: UnitOfWork) -> None:
    """Raises Maintenance with the operator's words while it lasts."""
    notice = await current(uow)
    if notice is not None:
        raise Maintenance(notice.message, facts={"since": notice.since.isoformat()})
