"""Quota checks over a real SQLite file: they are about what a transaction sees, which a fake would have to repeat."""

# ruff: noqa: PT017  (in a property, either outcome is allowed and both are looked at)
from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.accounts import quotas
from control_plane.accounts.metering import by_day, meter_build, meter_replica
from control_plane.builds.record import record_event
from control_plane.db.engine import Database, create_database
from control_plane.domain.accounts import Account, AccountKind
from control_plane.domain.builds import Artifact, ArtifactKind, BuildEvent, BuildEventKind, BuildResult, BuildStatus, LaunchPlan
from control_plane.domain.errors import QuotaExceeded, Rejected
from control_plane.domain.hardware import FlavorCatalog
from control_plane.domain.ids import AccountId, BuildId, ReplicaId, RepoId, Sha, SpaceId, new_id
from control_plane.domain.quotas import Held, QuotaKey, parse_key, parse_value
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaState
from control_plane.domain.spaces import Build, Deployment, DesiredState, Replica, Repo, RepoType, Sdk, Space, SpaceConfig, Visibility
from control_plane.ports.stores import UnitOfWork
from tests.fakes.clock import FixedClock

NOW = datetime(2026, 8, 20, 12, 0, tzinfo=UTC)
CATALOG = FlavorCatalog()


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = create_database(f"sqlite:///{tmp_path}/v.db")
    await database.migrate()
    yield database
    await database.close()


@pytest.fixture
async def ann(db: Database) -> Account:
    account = Account(AccountId(new_id()), AccountKind.USER, "Ann", "Ann", NOW)
    async with db.write() as work:
        await work.accounts.add(account)
    return account


async def add_space(db: Database, owner: Account, *, hardware: str = "cpu-basic", asleep: bool = True, replicas: int = 1) -> Space:
    name = new_id()
    repo = Repo(RepoId(new_id()), RepoType.SPACE, owner.id, owner.name, name, Visibility.PUBLIC, NOW, NOW, owner.id, storage_bytes=10**9)
    space = Space(
        SpaceId(repo.id), name, Sdk.GRADIO, SpaceConfig(Sdk.GRADIO), hardware=hardware, asleep=asleep, generation=1, replicas=replicas
    )
    artifact = Artifact(ArtifactKind.BUNDLE, "r")
    async with db.write() as work:
        await work.repos.add(repo)
        await work.spaces.add(space)
        await work.deployments.add(
            Deployment(space.id, 1, BuildId("b"), Sha("a" * 40), artifact, LaunchPlan(), hardware, NOW, space.config)
        )
    return space


async def limit(db: Database, subject: str, **values: float | None) -> None:
    async with db.write() as work:
        for key, value in values.items():
            await work.quotas.set_limit(subject, key.replace("__", ".").replace("_", "-"), value)


async def refused(db: Database, account: Account, key: str, asked: float, space_id: SpaceId | None = None) -> QuotaExceeded | None:
    async with db.write() as work:
        try:
            await quotas.check(work, account, key, asked, catalog=CATALOG, now=NOW, space_id=space_id)
        except QuotaExceeded as error:
            return error
    return None


async def wake(db: Database, account: Account, space: Space) -> bool:
    async with db.write() as work:
        current = await work.spaces.get(space.id)
        assert current is not None
        if not current.asleep:
            return True
        try:
            await quotas.check(work, account, f"running.{space.hardware}", space.replicas, catalog=CATALOG, now=NOW)
        except QuotaExceeded:
            return False
        await work.spaces.save(replace(current, asleep=False))
    return True


async def test_the_nearest_value_wins(db: Database, ann: Account) -> None:
    await limit(db, "", spaces=3, running=2)
    await limit(db, "ann", spaces=None)
    async with db.read() as work:
        found = await quotas.effective(work, ann)
    assert (found["spaces"].limit, found["spaces"].source) == (None, "user")
    assert (found["running"].limit, found["running"].source) == (2, "default")
    assert (found["vcpu"].limit, found["vcpu"].source) == (None, "built-in")


async def test_a_refusal_tells_the_limit_the_use_and_the_way_out(db: Database, ann: Account) -> None:
    await add_space(db, ann)
    await limit(db, "ann", spaces=1)
    error = await refused(db, ann, "spaces", 1)
    assert error is not None
    assert error.facts["limit"] == 1
    assert error.facts["used"] == 1
    assert error.facts["asked"] == 1
    assert error.facts["frees_at"] is None
    assert "Delete a Space" in str(error.facts["how"])
    await limit(db, "ann", spaces=2)
    assert await refused(db, ann, "spaces", 1) is None


async def test_zero_forbids_a_flavor_before_anything_runs(db: Database, ann: Account) -> None:
    await limit(db, "", running__t4_small=0)
    error = await refused(db, ann, "running.t4-small", 0)
    assert error is not None
    assert "switched off" in str(error.facts["how"])
    assert await refused(db, ann, "running.cpu-basic", 1) is None


async def test_a_hundred_parallel_wakes_at_limit_one_let_one_in(db: Database, ann: Account) -> None:
    await limit(db, "ann", running=1)
    sleepers = [await add_space(db, ann) for _ in range(20)]
    results = await asyncio.gather(*(wake(db, ann, space) for space in sleepers for _ in range(5)))
    awake = []
    async with db.read() as work:
        awake = [s for s in await work.spaces.get_many([x.id for x in sleepers]) if not s.asleep]
        assert sum(sum(f.values()) for f in (await work.quotas.held(ann.id)).running.values()) == 1
    assert len(awake) == 1
    assert sum(results) >= 1


async def test_running_stands_for_vcpu_memory_and_gpu_hours(db: Database, ann: Account) -> None:
    await add_space(db, ann, asleep=False)  # 2 vCPU, 16 GB
    for key, value, flavor in (("vcpu", 5, "t4-small"), ("memory-gb", 30, "t4-small"), ("gpu-hours", 0, "t4-small")):
        async with db.write() as work:
            await work.quotas.set_limit("ann", key, value)
        error = await refused(db, ann, f"running.{flavor}", 1)
        assert error is not None
        assert error.facts["key"] == key
        async with db.write() as work:
            await work.quotas.unset_limit("ann", key)
    await limit(db, "ann", gpu_hours=0)
    assert await refused(db, ann, "running.cpu-basic", 1) is None


async def test_a_space_that_changes_does_not_stand_in_its_own_way(db: Database, ann: Account) -> None:
    space = await add_space(db, ann, asleep=False)
    await limit(db, "ann", running=1)
    assert await refused(db, ann, "running.t4-small", 1) is not None
    assert await refused(db, ann, "running.t4-small", 1, space.id) is None


async def test_two_generations_during_a_switch_count_once_and_what_failed_or_sleeps_not_at_all(db: Database, ann: Account) -> None:
    space = await add_space(db, ann, asleep=False, replicas=2)

    async def running() -> dict[str, int]:
        async with db.read() as work:
            return dict((await work.quotas.held(ann.id)).running.get(space.id, {}))

    async with db.write() as work:
        for generation in (1, 1, 2):
            await work.deployments.save_replica(Replica(ReplicaId(new_id()), space.id, generation, ReplicaState.READY, NOW))
    assert await running() == {"cpu-basic": 2}
    async with db.write() as work:
        for replica in await work.deployments.replicas(space.id):
            await work.deployments.save_replica(replace(replica, state=ReplicaState.STOPPED))
    assert await running() == {"cpu-basic": 2}
    async with db.write() as work:
        deployment = await work.deployments.get(space.id, 1)
        assert deployment is not None
        await work.deployments.save(replace(deployment, failed_reason=Reason.APP_EXITED))
    assert await running() == {}
    async with db.write() as work:
        await work.deployments.save(deployment)
        await work.spaces.save(replace(space, desired=DesiredState.PAUSED))
    assert await running() == {}
    async with db.write() as work:
        await work.spaces.save(replace(space, desired=DesiredState.DELETED))
        held = await work.quotas.held(ann.id)
    assert (held.spaces, held.storage_bytes) == (0, 0)


class _Quiet:
    async def notify(self, topic: str, key: str) -> None: ...

    async def subscribe(self, *topics: str) -> AsyncIterator[tuple[str, str]]:
        return
        yield


async def test_a_first_version_over_the_limit_sleeps_and_one_that_is_up_is_never_stopped(db: Database, ann: Account) -> None:
    await limit(db, "ann", running=1)
    up, new = await add_space(db, ann, asleep=False), await add_space(db, ann, asleep=False)
    async with db.write() as work:
        await work.spaces.save(replace(up, live_generation=1))

    async def admit(work: UnitOfWork, space: Space) -> None:
        await quotas.check(work, ann, f"running.{space.hardware}", space.replicas, catalog=CATALOG, now=NOW, space_id=space.id)

    async def meter(work: UnitOfWork, build: Build) -> None: ...

    async def built(space: Space) -> Space:
        build = Build(BuildId(new_id()), space.id, Sha("a" * 40), BuildStatus.RUNNING, NOW, started_at=NOW)
        async with db.write() as work:
            await work.builds.add(build)
        result = BuildResult(Artifact(ArtifactKind.BUNDLE, "r"), LaunchPlan())
        event = BuildEvent(build.id, 1, BuildEventKind.SUCCEEDED, result=result)
        await record_event(db, FixedClock(NOW), _Quiet(), event, meter=meter, admit=admit)
        async with db.read() as work:
            found = await work.spaces.get(space.id)
        assert found is not None
        return found

    assert (await built(up)).asleep is False
    refused_one = await built(new)
    assert refused_one.asleep is True
    async with db.read() as work:
        assert (await work.events.of_space(new.id))[-2].facts["reason"] == "QUOTA"
    await limit(db, "ann", running=0)
    assert (await built(up)).asleep is False
    await limit(db, "ann", running=2)
    assert (await built(refused_one)).asleep is False


async def test_a_month_rolls_over_in_utc(db: Database, ann: Account) -> None:
    async with db.write() as work:
        for day in ("2026-07-31", "2026-08-01"):
            await work.quotas.add_usage(account_id=ann.id, space_id=SpaceId("s"), key="build-minutes", flavor="", day=day, amount=30)
    await limit(db, "ann", build_minutes=30)
    error = await refused(db, ann, "build-minutes", 0)
    assert error is not None
    assert error.facts["frees_at"] == "2026-09-01T00:00:00Z"
    assert quotas.next_month(datetime(2026, 12, 31, 23, 30, tzinfo=UTC)) == datetime(2027, 1, 1, tzinfo=UTC)


async def test_what_ends_is_metered_by_day_also_after_its_repo_went(db: Database, ann: Account) -> None:
    space = await add_space(db, ann, hardware="a10g-largex2")
    start = datetime(2026, 7, 31, 23, 0, tzinfo=UTC)
    replica = Replica(
        ReplicaId(new_id()),
        space.id,
        1,
        ReplicaState.STOPPED,
        start,
        "a10g-largex2",
        started_at=start,
        stopped_at=start + timedelta(hours=3),
    )
    build = Build(
        BuildId(new_id()), space.id, Sha("a" * 40), BuildStatus.FAILED, start, started_at=start, finished_at=start + timedelta(minutes=90)
    )
    async with db.write() as work:
        repo = await work.repos.get(RepoId(space.id))
        await meter_build(work, repo, build, NOW)
        await meter_build(work, repo, replace(build, started_at=None), NOW)
        await work.repos.remove(RepoId(space.id))
        await meter_replica(work, None, replica, CATALOG, NOW)
        await meter_replica(work, None, replace(replica, space_id=SpaceId("never")), CATALOG, NOW)
        rows = {(r["key"], r["day"]): r["amount"] for r in await work.quotas.usage(account_id=ann.id, since_day="2026-07-01")}
    assert rows == {
        ("build-minutes", "2026-07-31"): 60,
        ("build-minutes", "2026-08-01"): 30,
        ("hours", "2026-07-31"): 1,
        ("hours", "2026-08-01"): 2,
        ("gpu-hours", "2026-07-31"): 2,
        ("gpu-hours", "2026-08-01"): 4,
    }


async def test_a_clock_that_jumps_over_the_months_end_counts_nothing_twice_and_loses_nothing(db: Database, ann: Account) -> None:
    space = await add_space(db, ann, hardware="t4-small")
    end_of_july = datetime(2026, 7, 31, 23, 0, tzinfo=UTC)
    running = Replica(ReplicaId(new_id()), space.id, 1, ReplicaState.STOPPED, end_of_july, "t4-small", started_at=end_of_july)

    async def used(now: datetime) -> float:
        async with db.read() as work:
            return next(use.used for use in await quotas.show(work, ann, CATALOG, now) if use.key == "gpu-hours")

    async with db.write() as work:
        repo = await work.repos.get(RepoId(space.id))
        await meter_replica(work, repo, replace(running, stopped_at=end_of_july + timedelta(hours=3)), CATALOG, NOW)
        # It began, and then the clock was set back by a day before it ended: nobody knows how long it ran, so it is not charged.
        await meter_replica(work, repo, replace(running, stopped_at=end_of_july - timedelta(days=1)), CATALOG, NOW)
    jumps = [timedelta(), timedelta(days=1), timedelta(days=-40), timedelta(days=400), timedelta(days=1), timedelta()]
    found = [await used(end_of_july + jump) for jump in jumps]
    assert found == [1, 2, 0, 0, 2, 1], "each month has its own figure, whichever way the clock came to it"


# --- properties ----------------------------------------------------------------------------------------------------
AMOUNTS = st.one_of(st.none(), st.floats(0, 1e6, allow_nan=False), st.integers(0, 1000).map(float))


@given(st.lists(st.tuples(st.sampled_from(CATALOG.names), st.integers(1, 20)), max_size=8))
def test_use_is_the_sum_over_spaces(placed: list[tuple[str, int]]) -> None:
    held = Held(running={str(i): {name: count} for i, (name, count) in enumerate(placed)})
    sizes = {f.name: f for f in CATALOG.flavors}
    amount = {key: quotas.amount(held, {}, key, CATALOG, NOW) for key in ("running", "vcpu", "memory-gb")}
    assert amount["running"] == sum(count for _, count in placed)
    assert math.isclose(amount["vcpu"], sum(sizes[n].vcpu * c for n, c in placed))
    assert math.isclose(amount["memory-gb"], sum(sizes[n].memory_gb * c for n, c in placed))
    assert sum(quotas.amount(held, {}, f"running.{n}", CATALOG, NOW) for n in CATALOG.names) == amount["running"]
    assert quotas.amount(held, {}, "running", CATALOG, NOW, without="0") == sum(count for _, count in placed[1:])


@given(
    st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),
    st.timedeltas(timedelta(days=-2), timedelta(days=70)),
)
def test_days_add_up_to_the_interval(start: datetime, length: timedelta) -> None:
    pieces = list(by_day(start, start + length))
    assert math.isclose(sum(seconds for _, seconds in pieces), max(0.0, length.total_seconds()), abs_tol=1e-3)
    assert all(0 < seconds <= 86400 for _, seconds in pieces)
    assert [day for day, _ in pieces] == sorted({day for day, _ in pieces})


@given(st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)))
def test_a_month_is_a_calendar_month(now: datetime) -> None:
    start, end = quotas.month_start(now), quotas.next_month(now)
    assert start <= now < end
    assert (start.day, end.day, end.hour) == (1, 1, 0)
    assert 28 <= (end - start).days <= 31


@given(st.one_of(st.text(max_size=20), st.from_regex(r"-?[0-9.eE+_ ]{0,15}"), st.floats().map(str), st.integers().map(str)))
@settings(max_examples=300)
def test_a_value_is_a_plain_number_or_refused(text: str) -> None:
    try:
        value = parse_value(text)
    except Rejected as error:
        assert "unlimited" in error.message
        return
    if text == "unlimited":
        assert value is None
    else:
        assert value is not None
        assert 0 <= value < 1e13
        assert set(text) <= set("0123456789.")
        assert math.isfinite(value)


@pytest.mark.parametrize(
    "text", ["", "-1", "1e9", "nan", "inf", "Infinity", "1_000", " 1", "1 ", "٣", "²", ".", "1.2.3", "0x10", "Unlimited"]
)
def test_bad_values_are_refused(text: str) -> None:
    with pytest.raises(Rejected):
        parse_value(text)


@given(st.one_of(st.text(max_size=30), st.sampled_from(list(QuotaKey)).map(str), st.text(max_size=12).map(lambda t: f"running.{t}")))
def test_a_key_is_known_or_refused_with_the_list(text: str) -> None:
    try:
        assert parse_key(text, CATALOG.names) == text
    except Rejected as error:
        assert "gpu-hours" in error.message
        assert text not in set(QuotaKey)
        assert text.removeprefix("running.") not in CATALOG.names
    else:
        assert text in set(QuotaKey) or text.removeprefix("running.") in CATALOG.names


@given(
    st.lists(
        st.tuples(st.sampled_from(["wake", "sleep", "crash", "clock"]), st.integers(0, 5), st.sampled_from(["cpu-basic", "t4-small"])),
        max_size=25,
    ),
    st.integers(0, 4),
)
@settings(max_examples=25, deadline=None)
def test_random_histories_never_pass_the_limit(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, str]], most: int
) -> None:
    """Wakes, sleeps, crashes between check and commit, and clock jumps, in any order: use = recount ≤ limit, always."""

    async def history() -> None:
        database = create_database(f"sqlite:///{tmp_path_factory.mktemp('h')}/v.db")
        await database.migrate()
        owner = Account(AccountId(new_id()), AccountKind.USER, "Ann", "Ann", NOW)
        async with database.write() as work:
            await work.accounts.add(owner)
            await work.quotas.set_limit("", "running", float(most))
        spaces = [await add_space(database, owner) for _ in range(6)]
        now = NOW
        try:
            for verb, index, _ in steps:
                if verb == "clock":
                    now += timedelta(days=(-40, 400, 1, -1, 0, 31)[index])
                    continue
                try:
                    async with database.write() as work:
                        space = await work.spaces.get(spaces[index].id)
                        assert space is not None
                        if verb == "sleep":
                            await work.spaces.save(replace(space, asleep=True))
                        elif space.asleep:
                            await quotas.check(work, owner, "running.cpu-basic", 1, catalog=CATALOG, now=now)
                            await work.spaces.save(replace(space, asleep=False))
                            if verb == "crash":
                                raise ZeroDivisionError
                except (QuotaExceeded, ZeroDivisionError):
                    pass
                async with database.read() as work:
                    held = await work.quotas.held(owner.id)
                    awake = [s for s in await work.spaces.get_many([s.id for s in spaces]) if not s.asleep]
                assert quotas.amount(held, {}, "running", CATALOG, now) == len(awake) <= most
        finally:
            await database.close()

    asyncio.run(history())
