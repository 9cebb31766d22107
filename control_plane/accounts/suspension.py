"""Suspending a user: every right ends at once; then every app of theirs stops and every build. Nothing is deleted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from control_plane.accounts import people
from control_plane.accounts.audit import record
from control_plane.accounts.metering import meter_ended_build
from control_plane.domain.accounts import Account, AccountKind, Actor
from control_plane.domain.builds import BuildChange, advance_build
from control_plane.domain.errors import Rejected
from control_plane.domain.ids import SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.repo_query import RepoQuery
from control_plane.domain.spaces import RepoType
from control_plane.ports.clock import Clock
from control_plane.ports.signals import Signals
from control_plane.ports.stores import UnitOfWork, UnitOfWorkFactory

Told = Callable[[int, int], None]
_PAGE = 500
_AT_ONCE = 50  # Spaces per transaction: other writers come in between
_OPEN_BUILDS = 20  # a new build supersedes the open ones: two at a time are many


async def suspend(
    units: UnitOfWorkFactory, clock: Clock, signals: Signals, actor: Actor, name: str, suspended: bool, told: Told
) -> tuple[Account, int]:
    """The changed account and how many Spaces it touched. `told` hears how many of their Spaces are done, of how many.

    Lifting it brings tokens and Spaces back as they were; what was being built is not taken up again: the next push or a restart builds it.
    Rights end with the first transaction, however many Spaces follow; what an end in the middle left is done by asking again.
    """
    spaces: list[SpaceId] = []
    async with units.write() as uow:
        user = await people.find_account(uow, name, AccountKind.USER)
        if suspended and actor.user is not None and user.id == actor.user.id:
            raise Rejected("You cannot suspend yourself.")
        changed = await people.set_suspended(uow, signals, user, suspended)
        query = RepoQuery(RepoType.SPACE, owner=user.name, see_all=True)
        while page := await uow.repos.list(query, sort="created", limit=_PAGE, offset=len(spaces)):
            spaces += [SpaceId(repo.id) for repo in page]
        facts = {"before": user.is_suspended, "after": suspended, "spaces": len(spaces)}
        await record(uow, actor, "user.suspend" if suspended else "user.resume", f"user:{user.name}", facts, clock.now())
    touched = 0
    for begin in range(0, len(spaces), _AT_ONCE):
        told(begin, len(spaces))
        async with units.write() as uow:
            for space in await uow.spaces.get_many(spaces[begin : begin + _AT_ONCE]):
                if space.suspended is suspended:
                    continue
                await uow.spaces.save(replace(space, suspended=suspended))
                if suspended:
                    await _end_builds(uow, clock, space.id)
                uow.after_commit(_tell(signals, space.id))
                touched += 1
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
