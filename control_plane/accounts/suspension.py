"""Suspending a user: every right ends at once, every app of theirs stops and every build; nothing is deleted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from control_plane.accounts.metering import meter_ended_build
from control_plane.accounts.people import set_suspended
from control_plane.domain.accounts import Account
from control_plane.domain.builds import BuildChange, advance_build
from control_plane.domain.ids import SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.repo_query import RepoQuery
from control_plane.domain.spaces import RepoType
from control_plane.ports.clock import Clock
from control_plane.ports.signals import Signals
from control_plane.ports.stores import UnitOfWork

_PAGE = 500
_OPEN_BUILDS = 20  # a new build supersedes the open ones: two at a time are many


async def suspend(uow: UnitOfWork, clock: Clock, signals: Signals, user: Account, suspended: bool) -> tuple[Account, int]:
    """The changed account and how many Spaces it touches. Lifting it brings tokens and Spaces back as they were.

    What was being built is not taken up again: the next push or a restart builds it.
    """
    changed = await set_suspended(uow, signals, user, suspended)
    touched = 0
    offset = 0
    while True:
        query = RepoQuery(RepoType.SPACE, owner=user.name, see_all=True)
        page = await uow.repos.list(query, sort="created", limit=_PAGE, offset=offset)
        for space in await uow.spaces.get_many([repo.id for repo in page]):
            if space.suspended is not suspended:
                await uow.spaces.save(replace(space, suspended=suspended))
                if suspended:
                    await _end_builds(uow, clock, space.id)
                uow.after_commit(_tell(signals, space.id))
                touched += 1
        offset += _PAGE
        if len(page) < _PAGE:
            return changed, touched


async def _end_builds(uow: UnitOfWork, clock: Clock, space_id: SpaceId) -> None:
    """A build is its owner's code as well; the worker learns it from the verdict on its next report."""
    now = clock.now()
    for build in await uow.builds.of_space(space_id, limit=_OPEN_BUILDS):
        if build.status.is_terminal:
            continue
        status = advance_build(build.status, BuildChange.CANCEL)
        ended = replace(build, status=status, finished_at=now, reason=Reason.OWNER_SUSPENDED)
        await uow.builds.save(ended)
        await meter_ended_build(uow, ended)
        await uow.events.add(space_id, now, "build.cancelled", {"build_id": build.id, "how": BuildChange.CANCEL.value})


def _tell(signals: Signals, space_id: SpaceId) -> Callable[[], Awaitable[None]]:
    async def told() -> None:
        await signals.notify("reconcile", space_id)
        await signals.notify("events", space_id)

    return told
