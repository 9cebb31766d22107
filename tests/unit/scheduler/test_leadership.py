"""Two schedulers never both act: taking over, losing, freezing and thawing, on a real database and a clock of ours."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control_plane.db.engine import Database, create_database
from control_plane.db.file_leadership import FileLeadership
from control_plane.domain.errors import Unavailable
from control_plane.scheduler.leadership import DatabaseLeadership, Fence, FencedRoutes, FencedRuntime, FencedUnits, Identity

TTL_S = 9.0


class Monotonic:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    made = create_database(f"sqlite:///{tmp_path / 'vitrine.db'}")
    await made.migrate()
    yield made
    await made.close()


@pytest.fixture
def clock() -> Monotonic:
    return Monotonic()


def scheduler(database: Database, clock: Monotonic, place: str, pid: int = 1) -> DatabaseLeadership:
    return DatabaseLeadership(database, Identity(place, pid), ttl_s=TTL_S, monotonic=clock)


async def test_one_leads_and_the_other_takes_over_after_silence(database: Database, clock: Monotonic) -> None:
    first, second = scheduler(database, clock, "a"), scheduler(database, clock, "b")
    assert await first.attempt() is True
    assert await second.attempt() is False
    for _ in range(5):  # a leader that renews is never replaced
        clock.now += TTL_S * 0.6
        assert (await first.attempt(), await second.attempt()) == (True, False)
    clock.now += TTL_S * 2 / 3
    assert not first.is_leading(), "it stops believing before anybody may take over"
    assert await second.attempt() is False
    clock.now += TTL_S / 3
    assert await second.attempt() is True
    assert await first.attempt() is False
    assert not (first.is_leading() and second.is_leading())


async def test_a_released_lead_is_free_at_once_and_a_dead_neighbour_is_seen(database: Database, clock: Monotonic) -> None:
    first, second = scheduler(database, clock, "a"), scheduler(database, clock, "b")
    assert await first.attempt() is True
    await first.release()
    assert await second.attempt() is True
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    await second.release()
    here = Identity()
    assert await DatabaseLeadership(database, Identity(here.place, int(gone.stdout)), monotonic=clock).attempt() is True
    assert await DatabaseLeadership(database, here, monotonic=clock).attempt() is True, "a process of this machine that is gone"
    alive = Identity(here.place, os.getppid())
    assert not alive.outlived(str(here))
    assert not Identity("elsewhere").outlived(str(here))
    assert Identity(here.place, here.pid).outlived(str(here)), "our own number, an earlier process"


async def test_a_leader_that_thaws_writes_nothing(database: Database, clock: Monotonic) -> None:
    class Inner:
        calls = 0

        async def stop(self, replica_id: str) -> None:
            self.calls += 1

        async def withdraw(self, host: str) -> None:
            self.calls += 1

        async def capacity(self) -> str:
            return "asked"

    old, new = scheduler(database, clock, "a"), scheduler(database, clock, "b")
    assert await old.attempt() is True
    fence = Fence(database, old)
    await fence.begin()
    units, inner = FencedUnits(database, fence), Inner()
    runtime, routes = FencedRuntime(inner, fence), FencedRoutes(inner, fence)
    async with units.write() as uow:
        await uow.documents.put("note", "1", "", {"by": "old"})
    await runtime.stop("r")
    await routes.withdraw("h")
    assert inner.calls == 2

    async with units.write() as uow:  # frozen inside its own pass, with a belief that is still warm
        pass
    await new.attempt()
    clock.now += TTL_S
    assert await new.attempt() is True
    await Fence(database, new).begin()
    clock.now = 1000.0  # the old one's clock stood still: it believes
    assert old.is_leading()
    with pytest.raises(Unavailable, match="another scheduler leads"):
        async with units.write() as uow:
            await uow.documents.put("note", "1", "", {"by": "thawed"})
    clock.now += TTL_S
    with pytest.raises(Unavailable, match="cannot show"):
        await runtime.stop("r")
    with pytest.raises(Unavailable, match="cannot show"):
        await routes.withdraw("h")
    assert inner.calls == 2
    assert await runtime.capacity() == "asked", "looking is free"
    async with database.read() as uow:
        assert await uow.documents.get("note", "1") == {"by": "old"}


async def test_a_database_that_is_away_costs_nobody_the_lead(clock: Monotonic, tmp_path: Path) -> None:
    nowhere = create_database("postgresql://nobody@127.0.0.1:1/none")
    try:
        assert await DatabaseLeadership(nowhere, monotonic=clock).attempt() is None
    finally:
        await nowhere.close()


async def test_beside_a_file_the_lock_decides(tmp_path: Path) -> None:
    path = tmp_path / "scheduler.lock"
    code = (
        "import asyncio, pathlib, sys\n"
        "from control_plane.db.file_leadership import FileLeadership\n"
        f"one = FileLeadership(pathlib.Path({str(path)!r})); asyncio.run(one.acquire()); print('leads', flush=True); sys.stdin.read()\n"
    )
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[3]
    )
    assert other.stdout is not None
    assert await other.stdout.readline() == b"leads\n"
    mine = FileLeadership(path)
    waiting = asyncio.create_task(mine.acquire())
    done, _ = await asyncio.wait({waiting}, timeout=0.5)
    assert not done and not mine.is_leading()
    other.kill()
    await other.wait()
    await asyncio.wait_for(waiting, 60)
    assert mine.is_leading()
    await mine.release()
    assert not mine.is_leading()
