"""Suspending a user: every right ends at once and every app of theirs stops; nothing is deleted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from control_plane.accounts.people import set_suspended
from control_plane.domain.accounts import Account
from control_plane.domain.ids import SpaceId
from control_plane.domain.repo_query import RepoQuery
from control_plane.domain.spaces import RepoType
from control_plane.ports.signals import Signals
from control_plane.ports.stores import UnitOfWork

_PAGE = 500


async def suspend(uow: UnitOfWork, signals: Signals, user: Account, suspended: bool) -> tuple[Account, int]:
    """The changed account and how many Spaces it touches. Lifting it brings tokens and Spaces back as they were."""
    changed = await set_suspended(uow, signals, user, suspended)
    touched = 0
    offset = 0
    while True:
        query = RepoQuery(RepoType.SPACE, owner=user.name, see_all=True)
        page = await uow.repos.list(query, sort="created", limit=_PAGE, offset=offset)
        for space in await uow.spaces.get_many([repo.id for repo in page]):
            if space.suspended is not suspended:
                await uow.spaces.save(replace(space, suspended=suspended))
                uow.after_commit(_tell(signals, space.id))
                touched += 1
        offset += _PAGE
        if len(page) < _PAGE:
            return changed, touched


def _tell(signals: Signals, space_id: SpaceId) -> Callable[[], Awaitable[None]]:
    async def told() -> None:
        await signals.notify("reconcile", space_id)
        await signals.notify("events", space_id)

    return told
