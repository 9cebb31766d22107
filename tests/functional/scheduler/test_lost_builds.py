"""How long a build waits whose worker is gone, counted on a clock that the test moves: real record, real scans, whatever was said last."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from control_plane.builds.record import record_event
from control_plane.db.engine import Database, create_database
from control_plane.domain.builds import (
    MAX_ATTEMPTS,
    BuildEvent,
    BuildEventKind,
    BuildPhase,
    BuildRequest,
    BuildStatus,
    BuildTry,
    BuildVerdict,
)
from control_plane.domain.ids import SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.spaces import Build
from control_plane.scheduler.reconcile import REPAIR_EVERY_S
from tests.contract.stores.rows import build, repo, space, user
from tests.fakes.clock import FixedClock
from tests.functional.scheduler.test_hardware_line import World

PROMISED_S = 15.0
REST_S = 0.5  # for the look itself and for the next worker to take the message
WORDS = (None, BuildEventKind.STARTED, BuildEventKind.HEARTBEAT, *BuildPhase)


class Queue:
    """`waits`: what no worker has taken."""

    def __init__(self) -> None:
        self.submitted: list[BuildRequest] = []
        self.waits: set[BuildTry] = set()

    async def submit(self, request: BuildRequest) -> None:
        self.submitted.append(request)
        self.waits.add((request.build_id, request.attempt))

    async def waiting(self) -> frozenset[BuildTry]:
        return frozenset(self.waits)

    def take(self) -> BuildRequest:
        self.waits.discard((self.submitted[-1].build_id, self.submitted[-1].attempt))
        return self.submitted[-1]


class Place:
    def __init__(self, database: Database, clock: FixedClock) -> None:
        self.database, self.clock, self.queue = database, clock, Queue()
        self.world = World(database, clock, self.queue)

    async def push(self, **more: Any) -> SpaceId:
        account = user()
        its_repo = repo(account, "demo")
        its = space(its_repo, subdomain="demo")
        async with self.database.write() as work:
            await work.accounts.add(account)
            await work.repos.add(its_repo)
            await work.spaces.add(its)
            await work.builds.add(build(its, **more))
        await self.world.scheduler.reconcile_space(its.id)
        return its.id

    async def say(self, request: BuildRequest, kind: BuildEventKind, phase: BuildPhase | None = None) -> BuildVerdict:
        event = BuildEvent(request.build_id, request.attempt, kind, worker="w", phase=phase)
        return await record_event(self.database, self.clock, self.world, event, meter=self.world._metered)  # type: ignore[arg-type]

    async def latest(self, space_id: SpaceId) -> Build:
        async with self.database.read() as work:
            found = await work.builds.latest(space_id)
        assert found is not None
        return found

    async def scan(self, space_id: SpaceId) -> None:
        await self.world.scheduler._repair_builds()
        await self.world.scheduler._repair_messages()
        await self.world.scheduler.reconcile_space(space_id)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    clock = FixedClock()
    database = create_database(f"sqlite:///{tmp_path / 'v.db'}", clock=clock)
    await database.migrate()
    made = Place(database, clock)
    yield made
    await made.world.scheduler.close()
    await database.close()


async def killed_after(place: Place, word: BuildEventKind | BuildPhase | None, **more: Any) -> tuple[SpaceId, datetime]:
    """A worker that took the message, said everything up to `word`, and was killed at that moment; a scan has just looked."""
    space_id = await place.push(**more)
    request = place.queue.take()
    if word is not None:
        assert await place.say(request, BuildEventKind.STARTED) is BuildVerdict.GO_ON
    if word is BuildEventKind.HEARTBEAT:
        assert await place.say(request, BuildEventKind.HEARTBEAT) is BuildVerdict.GO_ON
    for phase in list(BuildPhase)[: list(BuildPhase).index(word) + 1] if isinstance(word, BuildPhase) else ():
        place.clock.advance(3)
        assert await place.say(request, BuildEventKind.PHASE, phase) is BuildVerdict.GO_ON
    await place.scan(space_id)
    return space_id, place.clock.now()


@pytest.mark.parametrize("word", WORDS, ids=str)
async def test_a_build_is_with_the_next_worker_in_time(place: Place, word: BuildEventKind | BuildPhase | None) -> None:
    space_id, crash = await killed_after(place, word)
    while len(place.queue.submitted) == 1:
        place.clock.advance(REPAIR_EVERY_S)
        await place.scan(space_id)
        assert (place.clock.now() - crash).total_seconds() <= PROMISED_S - REST_S
    again = place.queue.take()
    assert again.attempt == (1 if word is None else 2)
    assert await place.say(again, BuildEventKind.STARTED) is BuildVerdict.GO_ON
    assert (await place.latest(space_id)).status is BuildStatus.RUNNING


@pytest.mark.parametrize("word", WORDS[1:], ids=str)
async def test_the_last_try_fails_with_its_reason_in_time(place: Place, word: BuildEventKind | BuildPhase) -> None:
    space_id, crash = await killed_after(place, word, attempt=MAX_ATTEMPTS)
    while not (ended := await place.latest(space_id)).status.is_terminal:
        place.clock.advance(REPAIR_EVERY_S)
        await place.scan(space_id)
        assert (place.clock.now() - crash).total_seconds() <= PROMISED_S - REST_S
    assert (ended.status, ended.reason) == (BuildStatus.FAILED, Reason.BUILD_LOST) and "went away" in ended.message


async def test_a_message_that_waits_is_not_sent_again(place: Place) -> None:
    """However long the line is: else each look would make it longer."""
    space_id = await place.push()
    for _ in range(20):
        place.clock.advance(REPAIR_EVERY_S)
        await place.scan(space_id)
    assert len(place.queue.submitted) == 1


async def test_a_message_that_never_arrived_is_sent_again(place: Place) -> None:
    space_id = await place.push()
    place.queue.waits.clear()
    for _ in range(5):
        place.clock.advance(REPAIR_EVERY_S)
        await place.scan(space_id)
    assert [one.attempt for one in place.queue.submitted] == [1, 1]
