"""Volumes before a start: asked for each time, pinned once, fetched once for all, refused in words that name no repository."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from control_plane.db.engine import Database, create_database
from control_plane.domain.errors import Rejected, RevisionNotFound, TooLarge
from control_plane.domain.ids import AccountId, ReplicaId, RepoId, Sha
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import Mount
from control_plane.domain.sensitive import Sensitive
from control_plane.domain.spaces import Deployment, RepoType, RepoVolume, Space
from control_plane.ports.volumes import Prepared, TreeKey, TreeSize
from control_plane.scheduler.repo_volumes import VolumeDeps, VolumePreparer
from control_plane.spaces.mounted import mounted_trees
from tests.contract.stores.rows import deployment, repo, space, user
from tests.fakes.clock import FixedClock
from tests.fakes.state import STATE

HEAD, NEWER = Sha("a" * 40), Sha("b" * 40)
MODEL = RepoVolume(RepoType.MODEL, RepoId("m" * 24), "alice/secret-weights", "/data/model", AccountId("u1"))
PART = replace(MODEL, mount_path="/opt/part", path="deep")
REPLICA = ReplicaId("r1")


@dataclass
class Trees:
    """A store whose copies are made when the test says so."""

    head: Sha = HEAD
    made: set[TreeKey] = field(default_factory=set)
    begun: list[TreeKey] = field(default_factory=list)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    problem: Exception | None = None
    dropped: list[float] = field(default_factory=list)

    async def pin(self, repo_id: RepoId, revision: str, path: str) -> tuple[Sha, str]:
        if isinstance(self.problem, RevisionNotFound):
            raise self.problem
        return self.head, f"{self.head}{path}"

    async def size(self, repo_id: RepoId, commit: Sha, path: str) -> TreeSize:
        return TreeSize(1000, 3, is_file=bool(path))

    async def at(self, repo_id: RepoId, oid: str) -> str | None:
        return f"/copies/{oid}" if (repo_id, oid) in self.made else None

    async def fetch(self, repo_id: RepoId, commit: Sha, path: str, oid: str, tell: Callable[[float], None]) -> None:
        self.begun.append((repo_id, oid))
        tell(0.4)
        await self.go.wait()
        if self.problem is not None:
            raise self.problem
        self.made.add((repo_id, oid))

    async def drop_unused(self, in_use: Collection[TreeKey], *, older_than_s: float) -> int:
        self.dropped.append(older_than_s)
        return 0


class World:
    def __init__(self, db: Database) -> None:
        self.db, self.trees, self.may, self.asked = db, Trees(), True, asyncio.Event()
        self.preparer = self.made()
        self.space: Space
        self.deployment: Deployment

    def made(self, grant: Any = None) -> VolumePreparer:
        async def may_mount(*_: object) -> bool:
            return self.may

        deps = VolumeDeps(self.db, self.trees, may_mount, mounted_trees, grant)
        return VolumePreparer(deps, lambda space_id: self.asked.set())

    async def deploy(self, *volumes: RepoVolume) -> None:
        owner = user("alice")
        of = repo(owner, "app")
        self.space = space(of, volumes=volumes, generation=1)
        async with self.db.write() as uow:
            await uow.accounts.add(owner)
            await uow.repos.add(of)
            await uow.spaces.add(self.space)
            await uow.deployments.add(deployment(self.space, 1, volumes=volumes))
        await self.read()

    async def read(self) -> None:
        async with self.db.read() as uow:
            row = await uow.deployments.get(self.space.id, 1)
        assert row is not None
        self.deployment = row

    async def prepare(self) -> Any:
        await self.read()
        return await self.preparer.prepare(self.space, self.deployment, REPLICA)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    db = create_database(STATE.database_url(tmp_path), clock=FixedClock())
    await db.migrate()
    made = World(db)
    yield made
    await made.preparer.close()
    await db.close()


async def test_it_waits_with_how_far_it_is_and_starts_with_the_pinned_commit(world: World) -> None:
    await world.deploy(MODEL, PART)
    assert (await world.prepare()).waiting == "Fetching what is mounted at /data/model: 0%"
    while not world.trees.begun:
        await asyncio.sleep(0)
    assert (await world.prepare()).waiting == "Fetching what is mounted at /data/model: 40%"
    assert world.trees.begun == [(MODEL.repo_id, HEAD)], "two looks, one copy"
    world.trees.head = NEWER
    world.trees.go.set()
    await asyncio.wait_for(world.asked.wait(), 30)
    while (prepared := await world.prepare()).waiting:
        await asyncio.sleep(0)
    assert prepared.mounts == (Mount(f"/copies/{HEAD}", "/data/model"), Mount(f"/copies/{HEAD}deep", "/opt/part"))
    assert all(mount.read_only for mount in prepared.mounts)
    assert {volume.commit for volume in world.deployment.volumes} == {HEAD}, "what moved meanwhile is for the next deployment"
    async with world.db.read() as uow:
        assert await mounted_trees(uow) == {(MODEL.repo_id, HEAD), (MODEL.repo_id, f"{HEAD}deep")}


async def test_a_right_that_ended_refuses_the_start_without_naming_the_repository(world: World) -> None:
    await world.deploy(MODEL)
    world.trees.made.add((MODEL.repo_id, HEAD))
    assert (await world.prepare()).mounts
    world.may = False
    with pytest.raises(Rejected) as refused:
        await world.prepare()
    assert refused.value.facts["reason"] == Reason.VOLUME_UNAVAILABLE
    assert "/data/model" in refused.value.message
    assert "secret-weights" not in refused.value.message


@pytest.mark.parametrize(
    ("problem", "words"),
    [(RevisionNotFound("no"), "is not there any more"), (TooLarge("it needs 9 GB and 1 GB are left"), "it needs 9 GB")],
    ids=["the revision is gone", "no room"],
)
async def test_what_cannot_be_had_is_said(world: World, problem: Exception, words: str) -> None:
    await world.deploy(MODEL)
    world.trees.problem = problem
    world.trees.go.set()
    with pytest.raises(Rejected, match=words) as refused:
        async with asyncio.timeout(30):
            while True:
                await world.prepare()
                await asyncio.sleep(0)
    assert refused.value.facts["reason"] == Reason.VOLUME_UNAVAILABLE
    assert "secret-weights" not in refused.value.message


async def test_where_nodes_fetch_by_themselves_nothing_is_copied_here(world: World) -> None:
    await world.deploy(MODEL, PART)
    world.preparer = world.made(lambda replica_id, number: (f"http://hub/{replica_id}/{number}", Sensitive(f"word {number}")))
    first, second = (await world.prepare()).fetches
    assert (first.url, first.token.reveal(), first.path, first.is_file) == ("http://hub/r1/0", "word 0", "/data/model", False)
    assert (second.url, second.path, second.is_file, second.total_bytes) == ("http://hub/r1/1", "/opt/part", True, 1000)
    assert world.trees.begun == []
    assert {volume.commit for volume in (await _stored(world)).volumes} == {HEAD}


async def _stored(world: World) -> Deployment:
    await world.read()
    return world.deployment


async def test_without_volumes_nothing_is_asked(world: World) -> None:
    await world.deploy()
    world.may = False
    assert await world.prepare() == Prepared()
