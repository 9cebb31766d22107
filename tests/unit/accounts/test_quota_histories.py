"""The quota ledger under the real use cases: random histories, a death at any step of any transaction, clocks that jump, and crowds.

Each history runs on SQLite and on PostgreSQL. After every step the shown use equals a recount from the rows, and no step has
brought it above a limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control_plane.domain.errors import Conflict, NameTaken, QuotaExceeded, Rejected, RepoNotFound, Unavailable
from control_plane.domain.ids import RepoId
from control_plane.domain.quotas import STORAGE_HOLD
from control_plane.domain.reasons import Reason
from control_plane.domain.repo_query import RepoQuery
from control_plane.domain.sensitive import Sensitive
from control_plane.domain.spaces import RepoType, Sdk, Visibility
from control_plane.ports.space_actions import NewRepo, SettingInput
from tests.fakes.postgres import needed_server, postgres_server
from tests.fakes.quota_world import MB, Died, Places, World

DATABASES = ("sqlite", "postgresql")


@pytest.fixture(scope="module", params=DATABASES)
def places(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    folder = tmp_path_factory.mktemp("quotas")
    if request.param == "sqlite":
        yield Places(folder, None)
        return
    with postgres_server(needed_server()) as server:
        yield Places(folder, server)


# --- crowds ----------------------------------------------------------------------------------------------------------
async def _how_many(calls: list[Callable[[], Awaitable[object]]]) -> int:
    """How many were let in; every other one was refused by the quota."""

    async def patiently(call: Callable[[], Awaitable[object]]) -> bool:
        for _ in range(60):
            try:
                await call()
            except QuotaExceeded:
                return False
            except Unavailable:  # a hundred at once wait for eight connections on a busy machine: come again, as clients do
                continue
            except NameTaken:  # made the last time, when the answer was lost
                pass
            return True
        raise AssertionError("the database was busy all the time")

    return sum(await asyncio.gather(*map(patiently, calls)))


async def test_a_hundred_creates_at_once_with_room_for_seven(places: Places) -> None:
    async with places.world() as world:
        await world.limit("spaces", 7)
        assert await _how_many([partial(world.create, f"s{n}") for n in range(100)]) == 7
        assert (await world.shown())["spaces"].used == 7 == (await world.recount())["spaces"]


async def test_a_hundred_starts_at_once_with_room_for_three(places: Places) -> None:
    async with places.world() as world:
        for n in range(10):
            await world.create(f"s{n}")
            await world.built(f"s{n}")
        await world.limit("running", 3)
        spaces = [await world.space(f"s{n}") for n in range(10)]
        await _how_many([partial(world.actions.restart, world.actor, space) for space in spaces for _ in range(10)])
        assert (await world.shown())["running"].used == 3 == (await world.recount())["running"]


async def test_a_hundred_hardware_changes_at_once_with_room_for_some(places: Places) -> None:
    async with places.world() as world:
        for n in range(5):
            await world.create(f"s{n}")
            await world.built(f"s{n}")
            await world.actions.restart(world.actor, await world.space(f"s{n}"))
        await world.limit("vcpu", 5 * 2 + 2 * 6)  # two may go from 2 to 8
        spaces = [await world.space(f"s{n}") for n in range(5)]
        change = world.actions.request_hardware
        await _how_many([partial(change, world.actor, space, "cpu-upgrade", None) for space in spaces for _ in range(20)])
        used = (await world.shown())["vcpu"].used
        assert used == (await world.recount())["vcpu"] <= 22
        assert used == 22


@pytest.mark.parametrize("way", ["restart", "factory", "variable", "rollback"])
async def test_what_failed_asks_again_before_it_comes_up(places: Places, way: str) -> None:
    """A Space whose newest version failed holds nothing; another may have taken its room since."""
    async with places.world() as world:
        await world.limit("running", 1)
        for name in ("s0", "s1"):
            await world.create(name)
            await world.built(name)
        await world.actions.restart(world.actor, await world.space("s0"))
        await world.built("s0", failed=True)
        await world.actions.restart(world.actor, await world.space("s1"))
        failed = await world.space("s0")
        if way == "variable":
            await world.actions.put_variable(world.actor, failed, SettingInput("V", Sensitive("1"), ""))
            assert (await world.space("s0")).sleep_reason is Reason.QUOTA
        elif way == "rollback":
            with pytest.raises(QuotaExceeded):
                await world.actions.rollback(world.actor, failed, 1)
        else:
            with pytest.raises(QuotaExceeded):
                await world.actions.restart(world.actor, failed, factory=way == "factory")
        assert (await world.shown())["running"].used == 1 == (await world.recount())["running"]


async def test_a_static_space_needs_no_room(places: Places) -> None:
    async with places.world() as world:
        order = NewRepo(RepoType.SPACE, world.owner, "page", Visibility.PUBLIC, sdk=Sdk.STATIC)
        await world.actions.create_repo(world.actor, order)
        space = await world.space("page")
        async with world.db.write() as work:  # the one card of this git says gradio
            await work.spaces.save(replace(space, sdk=Sdk.STATIC))
        await world.built("page")
        await world.built("page", failed=True)
        await world.limit("running", 0)
        await world.actions.restart(world.actor, await world.space("page"))
        assert (await world.shown())["running"].used == 0


# --- histories -------------------------------------------------------------------------------------------------------
STEPS = st.lists(
    st.tuples(
        st.sampled_from([
            "create", "create", "model", "delete", "built", "failed", "restart", "restart", "pause", "hardware", "replicas", "variable",
            "upload", "asleep", "clock", "limits",
        ]),
        st.integers(0, 3),
        st.one_of(st.none(), st.none(), st.integers(0, 25)),  # the step of the transaction at which the process dies
    ),
    min_size=5,
    max_size=25,
)  # fmt: skip
EXPECTED = (QuotaExceeded, NameTaken, RepoNotFound, Rejected, Conflict)


async def _one(world: World, verb: str, number: int) -> None:
    name = f"s{number}"
    match verb:
        case "create":
            await world.create(name)
        case "model":
            await world.create(name, RepoType.MODEL)
        case "built" | "failed":
            await world.built(name, failed=verb == "failed")
        case "upload":
            await world.upload(name, (3, 40, 90, 1)[number] * MB)
        case "clock":
            world.offset += timedelta(days=(-40, 400, 1, 31)[number])
        case "limits":
            await world.limit(("spaces", "running", "storage-gb", "vcpu")[number], (2, 1, 0.05, None)[number])
        case "asleep":
            space = await world.space(name)
            async with world.db.write() as work:
                await work.spaces.save(replace(space, asleep=True))
        case _:
            space = await world.space(name)
            if verb == "delete":
                async with world.db.read() as work:
                    repo = await work.repos.get(RepoId(space.id))
                assert repo is not None
                await world.actions.delete_repo(world.actor, repo)
            elif verb == "restart":
                await world.actions.restart(world.actor, space)
            elif verb == "pause":
                await world.actions.pause(world.actor, space)
            elif verb == "hardware":
                await world.actions.request_hardware(world.actor, space, ("cpu-basic", "cpu-upgrade")[number % 2], None)
            elif verb == "replicas":
                await world.actions.set_replicas(world.actor, space, 1 + number)
            else:
                await world.actions.put_variable(world.actor, space, SettingInput("V", Sensitive(str(number)), ""))


@given(STEPS)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_random_histories_with_deaths_at_any_step(places: Places, steps: list[tuple[str, int, int | None]]) -> None:
    async def history() -> None:
        async with places.world() as world:
            for key, value in (("spaces", 3.0), ("running", 2.0), ("storage-gb", 0.1), ("vcpu", 12.0)):
                await world.limit(key, value)
            before = {key: use.used for key, use in (await world.shown()).items()}
            for verb, number, death in steps:
                world.mortal.left = death
                try:
                    await _one(world, verb, number)
                except (*EXPECTED, Died):
                    pass
                finally:
                    world.mortal.left = None
                shown, counted = await world.shown(), await world.recount()
                for key, amount in counted.items():
                    assert shown[key].used == pytest.approx(amount), (verb, number, death, key)
                    limit = shown[key].limit
                    allowed = before[key] if limit is None else max(limit, before[key])
                    assert limit is None or amount <= allowed + 1e-9, (verb, number, death, key, amount, allowed)
                before = counted
            world.offset += timedelta(days=4000)
            await world.room.settle_overdue()
            async with world.db.read() as work:
                assert await work.documents.list(STORAGE_HOLD) == (), "what the dead reserved is given back"
                repos = [
                    repo
                    for kind in RepoType
                    for repo in await work.repos.list(RepoQuery(kind, see_all=True, owner="ann"), sort="created", limit=500)
                ]
            for repo in repos:
                await world.room.settle(RepoId(repo.id))
            on_disk = sum(world.git.sizes.get(repo.id, 0) for repo in repos)
            assert (await world.shown())["storage-gb"].used == pytest.approx(on_disk / 1e9)

    asyncio.run(history())
