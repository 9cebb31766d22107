"""The quota ledger under the real use cases: random histories, a death at any step of any transaction, clocks that jump, and crowds.

Each history runs on SQLite and on PostgreSQL. After every step the shown use equals a recount from the rows, and no step has
brought it above a limit.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control_plane.accounts import people, quotas
from control_plane.accounts.storage import StorageRoom
from control_plane.bootstrap import Services, build_services
from control_plane.db.engine import create_database
from control_plane.domain.accounts import Account, Actor, Via
from control_plane.domain.builds import Artifact, ArtifactKind, LaunchPlan
from control_plane.domain.errors import Conflict, EntryNotFound, NameTaken, QuotaExceeded, Rejected, RepoNotFound, Unavailable
from control_plane.domain.ids import BuildId, RepoId, Sha, SpaceId, new_id
from control_plane.domain.quotas import STORAGE_HOLD
from control_plane.domain.reasons import Reason
from control_plane.domain.repo_query import RepoQuery
from control_plane.domain.sensitive import Sensitive
from control_plane.domain.spaces import Deployment, DesiredState, Repo, RepoType, Sdk, Space, Visibility
from control_plane.ports.space_actions import NewRepo, SettingInput
from control_plane.settings import Settings
from control_plane.spaces.actions import Actions
from tests.fakes.postgres import PostgresServer, find_server, postgres_server

MB = 10**6
DATABASES = ("sqlite", "postgresql")


class Died(BaseException):
    """The process is gone at this point."""


class Mortal:
    """A unit-of-work factory whose process dies before the step number `left`, be it a read, a write or a commit."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.left: int | None = None

    def step(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Died

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Any]:
        async with self._inner.read() as uow:
            yield _Watched(uow, self.step)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Any]:
        async with self._inner.write() as uow:
            yield _Watched(uow, self.step)
            self.step()
        self.step()


class _Watched:
    def __init__(self, uow: Any, step: Callable[[], None]) -> None:
        self._uow, self._step = uow, step

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._uow, name)
        return found if name == "after_commit" else _WatchedStore(found, self._step)


class _WatchedStore:
    def __init__(self, store: Any, step: Callable[[], None]) -> None:
        self._store, self._step = store, step

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self._step()
            return await method(*args, **kwargs)

        return call


@dataclass
class Bytes:
    """As much of a git store as creating and deleting needs: how many bytes each repository has."""

    sizes: dict[str, int] = field(default_factory=dict)

    async def create(self, repo_id: RepoId) -> None:
        self.sizes[repo_id] = 0

    async def commit(self, repo_id: RepoId, request: Any) -> Sha:
        self.sizes[repo_id] += MB
        return Sha(new_id().ljust(40, "0"))

    async def size_bytes(self, repo_id: RepoId) -> int:
        await asyncio.sleep(0)
        return self.sizes.get(repo_id, 0)

    async def remove(self, repo_id: RepoId) -> None:
        self.sizes.pop(repo_id, None)

    async def commits(self, repo_id: RepoId, sha: Sha, limit: int) -> tuple[()]:
        return ()

    async def read(self, repo_id: RepoId, sha: Sha, path: str, **_: Any) -> bytes:
        return b"---\nsdk: gradio\n---\n" if path == "README.md" else b""

    async def entry(self, repo_id: RepoId, sha: Sha, path: str) -> Any:
        raise EntryNotFound("there is none")

    async def tree(self, repo_id: RepoId, sha: Sha, *_: Any, **__: Any) -> tuple[()]:
        return ()


class World:
    """One account, Ann, with real use cases over a mortal process."""

    def __init__(self, services: Services, owner: Account) -> None:
        self.db, self.owner, self.git = services.database, owner, Bytes()
        self.mortal = Mortal(services.database)
        self.clock, self.services = services.clock, services
        self.offset = timedelta()
        outer = self

        class Jumping:
            def now(self) -> Any:
                return services.clock.now() + outer.offset

            def monotonic(self) -> float:
                return services.clock.monotonic()

        self.now = Jumping().now
        self.room = StorageRoom(self.mortal, Jumping(), lambda: services.catalog, self.git.size_bytes)

        async def no_usage(_: SpaceId) -> tuple[()]:
            return ()

        async def check(uow: Any, account: Account, key: str, asked: float, space_id: SpaceId | None = None) -> None:
            await quotas.check(uow, account, key, asked, catalog=services.catalog, now=self.now(), space_id=space_id)

        deps = replace(services.spaces, uow=self.mortal, clock=Jumping(), git=self.git, check_quota=check)  # type: ignore[arg-type]
        self.actions = Actions(deps, no_usage, self.room.room)
        self.actor = Actor(via=Via.TOKEN, user=owner)

    async def limit(self, key: str, value: float | None) -> None:
        async with self.db.write() as work:
            await work.quotas.set_limit(self.owner.name, key, value)

    async def space(self, name: str) -> Space:
        async with self.db.read() as work:
            repo = await work.repos.by_name(RepoType.SPACE, self.owner.name, name)
            space = await work.spaces.get(SpaceId(repo.id)) if repo else None
        if space is None:
            raise RepoNotFound()
        return space

    async def create(self, name: str, kind: RepoType = RepoType.SPACE) -> Repo:
        order = NewRepo(kind, self.owner, name, Visibility.PUBLIC, sdk=Sdk.GRADIO if kind is RepoType.SPACE else None)
        return await self.actions.create_repo(self.actor, order)

    async def built(self, name: str, *, failed: bool = False) -> None:
        """A version of this Space exists, asleep; or the newest one has failed."""
        space = await self.space(name)
        async with self.db.write() as work:
            current = await work.deployments.get(space.id, space.generation)
            if failed:
                if current is not None:
                    await work.deployments.save(replace(current, failed_reason=Reason.APP_EXITED))
                return
            if current is None:
                artifact = Artifact(ArtifactKind.BUNDLE, "r")
                fresh = Deployment(
                    space.id, 1, BuildId("b"), Sha("a" * 40), artifact, LaunchPlan(), space.hardware, self.now(), space.config
                )
                await work.deployments.add(fresh)
                await work.spaces.save(replace(space, generation=1, asleep=True))

    async def upload(self, name: str, size: int) -> None:
        repo_id = RepoId((await self.space(name)).id)
        async with self.room.room(repo_id, size):
            self.git.sizes[repo_id] = self.git.sizes.get(repo_id, 0) + size

    async def shown(self) -> dict[str, quotas.QuotaUse]:
        async with self.db.read() as work:
            return {use.key: use for use in await quotas.show(work, self.owner, self.services.catalog, self.now())}

    async def recount(self) -> dict[str, float]:
        """The same figures, counted one row at a time in another way."""
        found = {"spaces": 0.0, "running": 0.0, "vcpu": 0.0, "storage-gb": 0.0}
        async with self.db.read() as work:
            for kind in RepoType:
                for repo in await work.repos.list(RepoQuery(kind, see_all=True, owner=self.owner.name), sort="created", limit=500):
                    found["storage-gb"] += repo.storage_bytes / 1e9
                    space = await work.spaces.get(SpaceId(repo.id)) if kind is RepoType.SPACE else None
                    if space is None or space.desired is DesiredState.DELETED:
                        continue
                    found["spaces"] += 1
                    newest = await work.deployments.get(space.id, space.generation)
                    if newest is None or newest.failed_reason or space.asleep or space.desired is not DesiredState.RUNNING:
                        continue
                    flavor = self.services.catalog.find(space.hardware)
                    assert flavor is not None
                    found["running"] += space.replicas
                    found["vcpu"] += space.replicas * flavor.vcpu
            found["storage-gb"] += sum(int(body["bytes"]) for body in await work.documents.list(STORAGE_HOLD)) / 1e9
        return found


# --- databases: one migrated template, a copy of it for each history -------------------------------------------------
class Places:
    def __init__(self, folder: Path, server: PostgresServer | None) -> None:
        self._folder, self._server = folder, server
        self._template = folder / "template.db"
        url = f"sqlite:///{self._template}"
        if server is not None:
            server.sql("CREATE DATABASE quota_template")
            url = server.url("quota_template")
        asyncio.run(_migrate(url))

    @asynccontextmanager
    async def world(self) -> AsyncIterator[World]:
        name = f"h{new_id()}"
        if self._server is not None:
            self._server.sql(f"CREATE DATABASE {name} TEMPLATE quota_template")
            url = self._server.url(name)
        else:
            shutil.copy(self._template, self._folder / f"{name}.db")
            url = f"sqlite:///{self._folder / name}.db"
        services = build_services(Settings(data_dir=self._folder / "d", database_url=url))
        try:
            async with services.database.write() as work:
                owner = await people.add_user(work, services.clock, "ann")
            yield World(services, owner)
        finally:
            await services.bus.close()
            await services.database.close()


async def _migrate(url: str) -> None:
    database = create_database(url)
    await database.migrate()
    await database.close()


@pytest.fixture(scope="module", params=DATABASES)
def places(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    folder = tmp_path_factory.mktemp("quotas")
    if request.param == "sqlite":
        yield Places(folder, None)
        return
    programs = find_server()
    if programs is None:
        if os.environ.get("CI") == "true":
            pytest.fail("PostgreSQL is not installed")
        pytest.skip("PostgreSQL is not installed")
    with postgres_server(programs) as server:
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
