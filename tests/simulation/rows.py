"""The tables that admission, ledger and scheduler touch, in memory: `ports.stores` for a hundred thousand transactions in seconds.

`test_scheduler_simulation` copies a world of these rows into the real database and compares what both say an account holds.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from control_plane.domain.accounts import Account
from control_plane.domain.builds import BuildStatus
from control_plane.domain.errors import Unavailable
from control_plane.domain.ids import AccountId, BuildId, ReplicaId, RepoId, SpaceId
from control_plane.domain.quotas import Held
from control_plane.domain.replicas import ReplicaState
from control_plane.domain.spaces import Build, Deployment, DesiredState, Replica, Repo, Space

_ABSENT: Any = object()


class Rows:
    """`UnitOfWork` and its factory. One writer at a time; what a transaction did is undone when it raises.

    `dice` decides at which transactions others come first, which find the database busy, and of which the answer is lost
    after the commit. `saved(space)` is called after each commit that changed Spaces, once for each.
    """

    def __init__(self, dice: random.Random, saved: Callable[[Space], None]) -> None:
        self.dice, self._saved = dice, saved
        self.busy_share = self.lost_share = 0.0
        self.accounts_by_id: dict[AccountId, Account] = {}
        self.repos_by_id: dict[RepoId, Repo] = {}
        self.spaces_by_id: dict[SpaceId, Space] = {}
        self.spaces_of: defaultdict[AccountId, dict[SpaceId, None]] = defaultdict(dict)
        self.deployments_by_key: dict[tuple[SpaceId, int], Deployment] = {}
        self.open: defaultdict[SpaceId, dict[ReplicaId, Replica]] = defaultdict(dict)
        self.replicas_by_id: dict[ReplicaId, Replica] = {}
        self.ended: defaultdict[AccountId, dict[ReplicaId, Replica]] = defaultdict(dict)  # those that ran, by whose they were then
        self.failed: dict[tuple[SpaceId, int], tuple[Replica, ...]] = {}
        self.limits_of: defaultdict[str, dict[str, float | None]] = defaultdict(dict)
        self.used: defaultdict[AccountId, dict[tuple[str, str], float]] = defaultdict(dict)
        self.builds_by_id: dict[BuildId, Build] = {}
        self._lock = asyncio.Lock()
        self.undo: list[tuple[Any, Any, Any]] = []
        self.touched: dict[SpaceId, None] = {}
        self._told: list[Callable[[], Awaitable[None]]] = []
        self.accounts, self.repos, self.spaces = _Accounts(self), _Repos(self), _Spaces(self)
        self.builds, self.deployments, self.quotas = _Builds(self), _Deployments(self), _Quotas(self)
        self.events = self.audit = self.traffic = self.documents = _Ignored()

    def read(self) -> _Read:
        return _Read(self)

    def write(self) -> _Write:
        return _Write(self)

    def after_commit(self, callback: Callable[[], Awaitable[None]]) -> None:
        self._told.append(callback)

    def may_come_up(self, space: Space) -> bool:
        versions = (self.deployments_by_key.get((space.id, generation)) for generation in (space.generation, space.live_generation))
        return any(version is not None and version.failed_reason is None for version in versions)

    def put(self, table: Any, key: Any, value: Any) -> None:
        self.undo.append((table, key, table.get(key, _ABSENT)))
        if value is _ABSENT:
            table.pop(key, None)
        else:
            table[key] = value

    def drop(self, table: Any, key: Any) -> None:
        self.put(table, key, _ABSENT)

    async def begin(self) -> None:
        await self._lock.acquire()
        if self.dice.random() < 0.1:
            await asyncio.sleep(0)
        if self.busy_share and self.dice.random() < self.busy_share:
            self._lock.release()
            raise Unavailable("the database is busy")

    async def end(self, failed: bool) -> None:
        told, touched = self._told, self.touched
        if failed:
            for table, key, before in reversed(self.undo):
                if before is _ABSENT:
                    table.pop(key, None)
                else:
                    table[key] = before
        self._told, self.touched = [], {}
        self.undo.clear()
        self._lock.release()
        if failed:
            return
        for space_id in touched:
            self._saved(self.spaces_by_id[space_id])
        for callback in told:
            await callback()
        if self.lost_share and self.dice.random() < self.lost_share:
            raise Unavailable("the answer of the commit was lost")


class _Read:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def __aenter__(self) -> Rows:
        if self._rows.dice.random() < 0.05:
            await asyncio.sleep(0)
        return self._rows

    async def __aexit__(self, *_: object) -> None:
        return


class _Write(_Read):
    async def __aenter__(self) -> Rows:
        await self._rows.begin()
        return self._rows

    async def __aexit__(self, kind: object, *_: object) -> None:
        await self._rows.end(failed=kind is not None)


class _Ignored:
    """Histories that nobody here reads."""

    async def add(self, *_: object, **__: object) -> None: ...
    async def append(self, *_: object, **__: object) -> None: ...
    async def put(self, *_: object, **__: object) -> None: ...
    async def prune(self, *_: object) -> None: ...


class _Table:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows


class _Accounts(_Table):
    async def get(self, account_id: AccountId) -> Account | None:
        return self._rows.accounts_by_id.get(account_id)


class _Repos(_Table):
    async def get(self, repo_id: RepoId) -> Repo | None:
        return self._rows.repos_by_id.get(repo_id)

    async def by_name(self, *_: object) -> None:
        return None  # names are numbers here, each once

    async def remember_old_name(self, _: Repo) -> None: ...

    async def add(self, repo: Repo) -> None:
        await self.save(repo)

    async def save(self, repo: Repo) -> None:
        rows, before = self._rows, self._rows.repos_by_id.get(repo.id)
        if before is not None:
            rows.drop(rows.spaces_of[before.owner_id], SpaceId(repo.id))
        rows.put(rows.spaces_of[repo.owner_id], SpaceId(repo.id), None)
        rows.put(rows.repos_by_id, repo.id, repo)


class _Spaces(_Table):
    async def get(self, space_id: SpaceId) -> Space | None:
        return self._rows.spaces_by_id.get(space_id)

    async def get_many(self, space_ids: Sequence[str]) -> tuple[Space, ...]:
        return tuple(found for each in space_ids if (found := self._rows.spaces_by_id.get(SpaceId(each))) is not None)

    async def add(self, space: Space) -> None:
        await self.save(space)

    async def save(self, space: Space) -> None:
        self._rows.put(self._rows.spaces_by_id, space.id, space)
        self._rows.touched[space.id] = None

    async def all_ids(self) -> tuple[SpaceId, ...]:
        return tuple(self._rows.spaces_by_id)

    async def unmet(self) -> tuple[SpaceId, ...]:
        rows = self._rows
        return tuple(
            space.id
            for space in rows.spaces_by_id.values()
            if space.desired is DesiredState.RUNNING and not space.asleep and not rows.open[space.id] and rows.may_come_up(space)
        )

    async def settings(self, _: SpaceId) -> tuple[()]:
        return ()

    async def put_setting(self, _: object) -> None: ...

    async def old_subdomains(self, _: SpaceId) -> tuple[()]:
        return ()

    async def subdomain_taken(self, *_: object, **__: object) -> bool:
        return False


class _Builds(_Table):
    async def get(self, build_id: BuildId) -> Build | None:
        return self._rows.builds_by_id.get(build_id)

    async def add(self, build: Build) -> None:
        await self.save(build)

    async def save(self, build: Build) -> None:
        if build.status is BuildStatus.RUNNING:
            self._rows.put(self._rows.builds_by_id, build.id, build)
        else:
            self._rows.drop(self._rows.builds_by_id, build.id)  # what ended is nobody's question here

    async def latest(self, _: SpaceId) -> None:
        return None

    async def open(self) -> tuple[()]:
        return ()


class _Deployments(_Table):
    async def get(self, space_id: SpaceId, generation: int) -> Deployment | None:
        return self._rows.deployments_by_key.get((space_id, generation))

    async def add(self, deployment: Deployment) -> None:
        await self.save(deployment)

    async def save(self, deployment: Deployment) -> None:
        self._rows.put(self._rows.deployments_by_key, (deployment.space_id, deployment.generation), deployment)

    async def many(self, pairs: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Deployment]:
        found = self._rows.deployments_by_key
        return {(i, generation): found[SpaceId(i), generation] for i, generation in pairs if (SpaceId(i), generation) in found}

    async def replicas(self, space_id: SpaceId) -> tuple[Replica, ...]:
        return tuple(self._rows.open[space_id].values())

    async def replica(self, replica_id: ReplicaId) -> Replica | None:
        return self._rows.replicas_by_id.get(replica_id)

    async def save_replica(self, replica: Replica) -> None:
        rows = self._rows
        rows.put(rows.replicas_by_id, replica.id, replica)
        if not replica.state.is_terminal:
            rows.put(rows.open[replica.space_id], replica.id, replica)
            return
        rows.drop(rows.open[replica.space_id], replica.id)
        rows.put(rows.ended[rows.repos_by_id[RepoId(replica.space_id)].owner_id], replica.id, replica)
        if replica.state is ReplicaState.FAILED:
            key = replica.space_id, replica.generation
            rows.put(rows.failed, key, (replica, *rows.failed.get(key, ())))

    async def open_replicas(self) -> tuple[Replica, ...]:
        return tuple(replica for each in self._rows.open.values() for replica in each.values())

    async def failures(self, space_id: SpaceId, generation: int) -> tuple[Replica, ...]:
        return self._rows.failed.get((space_id, generation), ())


class _Quotas(_Table):
    async def limits(self, subject: str) -> dict[str, float | None]:
        return self._rows.limits_of[subject]

    async def held(self, account_id: AccountId) -> Held:
        rows = self._rows
        running: dict[str, dict[str, int]] = {}
        since: list[tuple[str, datetime]] = []
        for space_id in rows.spaces_of[account_id]:
            space = rows.spaces_by_id[space_id]
            if space.desired is DesiredState.RUNNING and not space.asleep and rows.may_come_up(space):
                running[space_id] = {space.hardware: space.replicas}
            counts: Counter[tuple[str, int]] = Counter()
            for replica in rows.open[space_id].values():
                counts[replica.hardware, replica.generation] += 1
                if replica.started_at is not None:
                    since.append((replica.hardware, replica.started_at))
            for (flavor, _), count in counts.items():
                of_space = running.setdefault(space_id, {})
                of_space[flavor] = max(of_space.get(flavor, 0), count)
        return Held(len(rows.spaces_of[account_id]), 0, running, tuple(since))

    async def add_usage(self, *, account_id: AccountId, space_id: SpaceId, key: str, flavor: str, day: str, amount: float) -> None:
        used = self._rows.used[account_id]
        self._rows.put(used, (day, key), used.get((day, key), 0.0) + amount)

    async def usage(
        self, *, account_id: AccountId | None = None, since_day: str, until_day: str | None = None
    ) -> tuple[Mapping[str, Any], ...]:
        assert account_id is not None
        cells = self._rows.used[account_id].items()
        return tuple({"key": key, "amount": amount} for (day, key), amount in cells if since_day <= day <= (until_day or day))
