"""One account with the real use cases of the quota ledger, in a process that may die at any step, on a database of its own."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from control_plane.accounts import people, quotas
from control_plane.accounts.storage import StorageRoom
from control_plane.bootstrap import Services, build_services
from control_plane.db.engine import create_database
from control_plane.domain.accounts import Account, Actor, Via
from control_plane.domain.builds import Artifact, ArtifactKind, LaunchPlan
from control_plane.domain.errors import EntryNotFound, RepoNotFound
from control_plane.domain.ids import BuildId, RepoId, Sha, SpaceId, new_id
from control_plane.domain.quotas import STORAGE_HOLD
from control_plane.domain.reasons import Reason
from control_plane.domain.repo_query import RepoQuery
from control_plane.domain.spaces import Deployment, DesiredState, Repo, RepoType, Sdk, Space, Visibility
from control_plane.ports.space_actions import NewRepo
from control_plane.settings import Settings
from control_plane.spaces.actions import Actions
from tests.fakes.postgres import PostgresServer

MB = 10**6


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
