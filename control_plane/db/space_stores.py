"""Spaces with their settings, builds, deployments with their replicas, and the history of events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import and_, delete, false, func, or_, select, text

from control_plane.db import mapping
from control_plane.db.rows import Rows
from control_plane.db.tables import builds, deployments, events, freed_subdomains, replicas, settings, spaces
from control_plane.domain.builds import BuildStatus
from control_plane.domain.errors import NameTaken, StaleGeneration
from control_plane.domain.ids import BuildId, ReplicaId, SpaceId
from control_plane.domain.replicas import ReplicaState
from control_plane.domain.spaces import Build, Deployment, DesiredState, Replica, Sdk, Setting, Space, SpaceEvent
from control_plane.ports.clock import Clock

SUBDOMAIN_REST = timedelta(days=30)  # a freed host is not given to somebody else while old links and cookies live

# Conditions written as text, so that they equal the ones of the partial indexes and a planner can prove it.
_OPEN_BUILD = text("builds.status IN ('queued', 'running')")
OPEN_REPLICA = text("replicas.state NOT IN ('stopped', 'failed')")
_CHUNK = 500  # ids per statement; SQLite takes at most 32,766 parameters


def _chunks(values: Sequence[str]) -> list[list[str]]:
    unique = list(dict.fromkeys(values))
    return [unique[i : i + _CHUNK] for i in range(0, len(unique), _CHUNK)]


class SqlSpaceStore:
    def __init__(self, rows: Rows, clock: Clock) -> None:
        self._rows = rows
        self._clock = clock

    async def get(self, space_id: SpaceId) -> Space | None:
        row = await self._rows.row(spaces.c.id, space_id)
        return mapping.space_to_domain(row) if row else None

    async def get_many(self, space_ids: Sequence[str]) -> tuple[Space, ...]:
        """Those that exist, in the order asked for."""
        found = {}
        for ids in _chunks(space_ids):
            found.update({row["id"]: row for row in await self._rows.all(select(spaces).where(spaces.c.id.in_(ids)))})
        return tuple(mapping.space_to_domain(found[key]) for key in dict.fromkeys(space_ids) if key in found)

    async def by_subdomain(self, subdomain: str) -> Space | None:
        row = await self._rows.row(spaces.c.subdomain, subdomain.lower())
        return mapping.space_to_domain(row) if row else None

    async def subdomain_taken(self, subdomain: str, *, by_other_than: SpaceId | None = None) -> bool:
        name = subdomain.lower()
        holder = await self._rows.value(select(spaces.c.id).where(spaces.c.subdomain == name))
        if holder is not None:
            return str(holder) != by_other_than
        since = self._clock.now() - SUBDOMAIN_REST
        query = select(freed_subdomains.c.space_id).where(freed_subdomains.c.subdomain == name, freed_subdomains.c.freed_at > since)
        row = await self._rows.one(query)
        return row is not None and (row["space_id"] is None or row["space_id"] != by_other_than)

    async def old_subdomains(self, space_id: SpaceId) -> tuple[str, ...]:
        query = select(freed_subdomains.c.subdomain).where(freed_subdomains.c.space_id == space_id)
        return tuple(row["subdomain"] for row in await self._rows.all(query.order_by(freed_subdomains.c.subdomain)))

    async def add(self, space: Space) -> None:
        if not await self._rows.add(spaces, mapping.space_to_row(space)):
            raise NameTaken(f"the subdomain '{space.subdomain}' is taken")
        await self._take(space.subdomain)

    async def save(self, space: Space) -> None:
        holder = await self._rows.value(select(spaces.c.id).where(spaces.c.subdomain == space.subdomain))
        if holder is not None and holder != space.id:
            raise NameTaken(f"the subdomain '{space.subdomain}' is taken")
        if holder is None:
            await self._free(space.id)
            await self._take(space.subdomain)
        await self._rows.put(spaces, mapping.space_to_row(space), key=("id",))

    async def remove(self, space_id: SpaceId) -> None:
        await self._free(space_id)
        await self._rows.run(delete(spaces).where(spaces.c.id == space_id))

    async def _free(self, space_id: SpaceId) -> None:
        subdomain = await self._rows.value(select(spaces.c.subdomain).where(spaces.c.id == space_id))
        if subdomain is not None:
            row = {"subdomain": subdomain, "freed_at": self._clock.now(), "space_id": space_id}
            await self._rows.put(freed_subdomains, row, key=("subdomain",))

    async def _take(self, subdomain: str) -> None:
        """Whoever had it before redirects from it no more."""
        await self._rows.run(delete(freed_subdomains).where(freed_subdomains.c.subdomain == subdomain))

    async def all_ids(self) -> tuple[SpaceId, ...]:
        return tuple(SpaceId(row["id"]) for row in await self._rows.all(select(spaces.c.id).order_by(spaces.c.id)))

    async def unmet(self) -> tuple[SpaceId, ...]:
        version = select(deployments.c.space_id).where(
            deployments.c.space_id == spaces.c.id, deployments.c.failed_reason.is_(None),
            deployments.c.generation.in_([spaces.c.generation, spaces.c.live_generation]),
        )  # fmt: skip
        running = select(replicas.c.space_id).where(replicas.c.space_id == spaces.c.id, OPEN_REPLICA)
        should_run = and_(
            spaces.c.desired == DesiredState.RUNNING.value, spaces.c.asleep == false(), spaces.c.suspended == false(), version.exists(),
            or_(spaces.c.sdk != Sdk.STATIC.value, spaces.c.generation != spaces.c.live_generation), ~running.exists(),
        )  # fmt: skip
        wanted = or_(spaces.c.desired == DesiredState.DELETED.value, should_run)
        return tuple(SpaceId(row["id"]) for row in await self._rows.all(select(spaces.c.id).where(wanted).order_by(spaces.c.id)))

    async def settings(self, space_id: SpaceId) -> tuple[Setting, ...]:
        query = select(settings).where(settings.c.space_id == space_id).order_by(settings.c.is_secret, settings.c.key)
        return tuple(mapping.setting_to_domain(row) for row in await self._rows.all(query))

    async def put_setting(self, setting: Setting) -> None:
        await self._rows.put(settings, mapping.setting_to_row(setting), key=("space_id", "key", "is_secret"))

    async def remove_setting(self, space_id: SpaceId, key: str, is_secret: bool) -> None:
        where = settings.c.space_id == space_id, settings.c.key == key, settings.c.is_secret == is_secret
        await self._rows.run(delete(settings).where(*where))


class SqlBuildStore:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def get(self, build_id: BuildId) -> Build | None:
        row = await self._rows.row(builds.c.id, build_id)
        return mapping.build_to_domain(row) if row else None

    async def add(self, build: Build) -> None:
        if not await self._rows.add(builds, mapping.build_to_row(build)):
            raise NameTaken(f"build {build.id} exists already")

    async def save(self, build: Build) -> None:
        await self._rows.put(builds, mapping.build_to_row(build), key=("id",))

    async def latest(self, space_id: SpaceId) -> Build | None:
        found = await self.of_space(space_id, limit=1)
        return found[0] if found else None

    async def latest_many(self, space_ids: Sequence[str]) -> dict[str, Build]:
        found: dict[str, Build] = {}
        newer = builds.alias("newer")
        is_newer = or_(
            newer.c.created_at > builds.c.created_at, and_(newer.c.created_at == builds.c.created_at, newer.c.seq > builds.c.seq)
        )
        has_newer = select(newer.c.seq).where(newer.c.space_id == builds.c.space_id, is_newer).correlate(builds).exists()
        for ids in _chunks(space_ids):
            for row in await self._rows.all(select(builds).where(builds.c.space_id.in_(ids), ~has_newer)):
                found[row["space_id"]] = mapping.build_to_domain(row)
        return found

    async def of_space(self, space_id: SpaceId, limit: int = 20) -> tuple[Build, ...]:
        """Newest first."""
        query = select(builds).where(builds.c.space_id == space_id).order_by(builds.c.created_at.desc(), builds.c.seq.desc())
        return tuple(mapping.build_to_domain(row) for row in await self._rows.all(query.limit(limit)))

    async def open(self) -> tuple[Build, ...]:
        return tuple(mapping.build_to_domain(row) for row in await self._rows.all(select(builds).where(_OPEN_BUILD).order_by(builds.c.seq)))

    async def recent_durations(self, space_id: SpaceId, limit: int = 10) -> tuple[float, ...]:
        """Newest first."""
        done = builds.c.status == BuildStatus.SUCCEEDED.value, builds.c.started_at.is_not(None), builds.c.finished_at.is_not(None)
        query = select(builds.c.started_at, builds.c.finished_at).where(builds.c.space_id == space_id, *done)
        rows = await self._rows.all(query.order_by(builds.c.created_at.desc(), builds.c.seq.desc()).limit(limit))
        return tuple((row["finished_at"] - row["started_at"]).total_seconds() for row in rows)


class SqlDeploymentStore:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def get(self, space_id: SpaceId, generation: int) -> Deployment | None:
        query = select(deployments).where(deployments.c.space_id == space_id, deployments.c.generation == generation)
        row = await self._rows.one(query)
        return mapping.deployment_to_domain(row) if row else None

    async def add(self, deployment: Deployment) -> None:
        if not await self._rows.add(deployments, mapping.deployment_to_row(deployment)):
            raise StaleGeneration(f"generation {deployment.generation} of Space {deployment.space_id} exists already")

    async def save(self, deployment: Deployment) -> None:
        await self._rows.put(deployments, mapping.deployment_to_row(deployment), key=("space_id", "generation"))

    async def of_space(self, space_id: SpaceId, limit: int = 20) -> tuple[Deployment, ...]:
        query = select(deployments).where(deployments.c.space_id == space_id).order_by(deployments.c.generation.desc()).limit(limit)
        return tuple(mapping.deployment_to_domain(row) for row in await self._rows.all(query))

    async def many(self, pairs: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Deployment]:
        found: dict[tuple[str, int], Deployment] = {}
        unique = list(dict.fromkeys(pairs))
        for start in range(0, len(unique), _CHUNK):
            wanted = or_(
                *(
                    and_(deployments.c.space_id == space_id, deployments.c.generation == generation)
                    for space_id, generation in unique[start : start + _CHUNK]
                )
            )
            for row in await self._rows.all(select(deployments).where(wanted)):
                found[row["space_id"], row["generation"]] = mapping.deployment_to_domain(row)
        return found

    async def replicas(self, space_id: SpaceId) -> tuple[Replica, ...]:
        query = select(replicas).where(replicas.c.space_id == space_id, OPEN_REPLICA).order_by(replicas.c.seq)
        return tuple(mapping.replica_to_domain(row) for row in await self._rows.all(query))

    async def replicas_many(self, space_ids: Sequence[str]) -> dict[str, tuple[Replica, ...]]:
        """A Space without open replicas has no entry."""
        found: dict[str, tuple[Replica, ...]] = {}
        for ids in _chunks(space_ids):
            query = select(replicas).where(replicas.c.space_id.in_(ids), OPEN_REPLICA).order_by(replicas.c.seq)
            for row in await self._rows.all(query):
                found[row["space_id"]] = (*found.get(row["space_id"], ()), mapping.replica_to_domain(row))
        return found

    async def replica(self, replica_id: ReplicaId) -> Replica | None:
        row = await self._rows.row(replicas.c.id, replica_id)
        return mapping.replica_to_domain(row) if row else None

    async def save_replica(self, replica: Replica) -> None:
        await self._rows.put(replicas, mapping.replica_to_row(replica), key=("id",))

    async def open_replicas(self) -> tuple[Replica, ...]:
        query = select(replicas).where(OPEN_REPLICA).order_by(replicas.c.seq)
        return tuple(mapping.replica_to_domain(row) for row in await self._rows.all(query))

    async def failures(self, space_id: SpaceId, generation: int) -> tuple[Replica, ...]:
        failed = replicas.c.generation == generation, replicas.c.state == ReplicaState.FAILED.value
        query = select(replicas).where(replicas.c.space_id == space_id, *failed).order_by(replicas.c.seq.desc())
        return tuple(mapping.replica_to_domain(row) for row in await self._rows.all(query))


class SqlEventStore:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def add(self, space_id: SpaceId, at: datetime, kind: str, facts: Mapping[str, object] | None = None) -> None:
        await self._rows.run(events.insert().values(space_id=space_id, at=at, kind=kind, facts=dict(facts or {})))

    async def of_space(self, space_id: SpaceId, *, after_id: int = 0, limit: int = 200) -> tuple[SpaceEvent, ...]:
        """Oldest first; with `after_id` 0 the newest `limit` ones, so that a long history shows its end."""
        query = select(events).where(events.c.space_id == space_id, events.c.id > after_id).limit(limit)
        query = query.order_by(events.c.id if after_id else events.c.id.desc())
        found = tuple(mapping.event_to_domain(row) for row in await self._rows.all(query))
        return found if after_id else found[::-1]

    async def since(self, after_id: int, limit: int = 500) -> tuple[SpaceEvent, ...]:
        query = select(events).where(events.c.id > after_id).order_by(events.c.id).limit(limit)
        return tuple(mapping.event_to_domain(row) for row in await self._rows.all(query))

    async def last_id(self) -> int:
        return int(await self._rows.value(select(func.max(events.c.id))) or 0)
