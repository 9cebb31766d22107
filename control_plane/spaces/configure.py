"""What an owner sets on a Space: hardware, sleep, variables, secrets, pause, restart, roll back.

Each change writes the desired state, its event and its audit line in one transaction, so that the stage is already
intermediate when the call returns; the reconciler is told after the commit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from control_plane.domain.accounts import Actor
from control_plane.domain.builds import BuildChange, BuildStatus, advance_build
from control_plane.domain.errors import NotFound, QuotaExceeded, Rejected, RepoNotFound
from control_plane.domain.hardware import DEFAULT_FLAVOR, Flavor
from control_plane.domain.ids import BuildId, Sha, SpaceId, new_id
from control_plane.domain.quotas import QuotaKey, holds_room
from control_plane.domain.reasons import Reason
from control_plane.domain.repo_volumes import check_places, unpinned
from control_plane.domain.routes import IdleRule
from control_plane.domain.sensitive import Sensitive
from control_plane.domain.spaces import Build, Deployment, DesiredState, Repo, RepoVolume, Sdk, Setting, Space
from control_plane.domain.storage import VOLUME_GONE, parse_tier
from control_plane.ports.stores import UnitOfWork
from control_plane.spaces.deps import SpaceDeps

MIN_SLEEP_S, MAX_SLEEP_S = 60, 30 * 24 * 3600
MAX_VALUE = 64 << 10  # characters of one variable or secret
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")


def check_key(key: str) -> str:
    if not _KEY.match(key):
        raise Rejected(f"'{key[:100]}' is not a usable key: letters, digits and '_', not starting with a digit, at most 128 characters")
    return key


def flavor_of(deps: SpaceDeps, name: str | None) -> Flavor:
    flavor = deps.catalog().find(name or DEFAULT_FLAVOR)
    if flavor is None:
        raise Rejected(f"unknown hardware '{name}'; allowed: {', '.join(deps.catalog().names)}")
    return flavor


def _context(space_id: SpaceId, key: str) -> str:
    return f"space/{space_id}/{key}"


def seal(deps: SpaceDeps, space_id: SpaceId, key: str, value: Sensitive) -> str:
    return deps.secret_box.seal(value, context=_context(space_id, key))


def open_secret(deps: SpaceDeps, setting: Setting) -> Sensitive:
    return deps.secret_box.open(setting.sealed, context=_context(setting.space_id, setting.key))


class _Change:
    """One owner's change: the Space row read inside the write transaction, and what everybody is told afterwards."""

    def __init__(self, deps: SpaceDeps, uow: UnitOfWork, actor: Actor, repo: Repo, space: Space) -> None:
        self.deps, self.uow, self.actor, self.repo, self.space = deps, uow, actor, repo, space
        self.now = deps.clock.now()

    @classmethod
    async def begin(cls, deps: SpaceDeps, uow: UnitOfWork, actor: Actor, repo: Repo) -> _Change:
        space = await uow.spaces.get(SpaceId(repo.id))
        if space is None or space.desired is DesiredState.DELETED:
            raise RepoNotFound()

        async def told() -> None:
            await deps.signals.notify("reconcile", repo.id)
            await deps.signals.notify("events", repo.id)

        uow.after_commit(told)
        return cls(deps, uow, actor, repo, space)

    async def save(self, space: Space) -> None:
        self.space = replace(space, updated_at=self.now)
        await self.uow.spaces.save(self.space)

    async def note(self, kind: str, action: str, facts: Mapping[str, object]) -> None:
        await self.uow.events.add(self.space.id, self.now, kind, {**facts, "by": self.actor.name})
        await self.uow.audit.append(
            at=self.now,
            actor=self.actor.name,
            action=action,
            subject=f"space:{self.repo.full_name}",
            address=self.actor.address,
            facts=facts,
        )

    async def check_running(self) -> None:
        """QuotaExceeded when the owner's quotas do not let this Space run as it is set now."""
        owner = await self.uow.accounts.get(self.repo.owner_id)
        assert owner is not None
        await self.deps.check_quota(self.uow, owner, f"{QuotaKey.RUNNING}.{self.space.hardware}", self.space.replicas, self.space.id)

    async def holds_room(self) -> bool:
        newest = await self.uow.deployments.get(self.space.id, self.space.generation)
        return holds_room(self.space, newest, await self.uow.deployments.get(self.space.id, self.space.live_generation))

    async def _refusal(self) -> QuotaExceeded | None:
        """Why a sleeper may not come up for its new settings; it sleeps on then, and the next visit asks again."""
        try:
            await self.check_running()
        except QuotaExceeded as error:
            return error
        return None

    async def redeploy(self, cause: str, *, base: Deployment | None = None) -> bool:
        """A new generation of the newest (or given) deployment with today's settings. False: nothing was built yet."""
        base = base or await self.uow.deployments.get(self.space.id, self.space.generation)
        if base is None:
            return False
        generation = self.space.generation + 1
        await self.uow.deployments.add(
            replace(
                base, generation=generation, hardware=self.space.hardware, created_at=self.now, cause=cause, failed_reason=None,
                failed_message="", log_tail=(), live_at=None, volumes=unpinned(self.space.volumes),
            )
        )  # fmt: skip
        would_come_up = self.space.asleep or self.space.desired is DesiredState.RUNNING
        refused = await self._refusal() if would_come_up and not await self.holds_room() else None
        await self.save(
            replace(
                self.space, generation=generation, asleep=refused is not None, sleep_reason=Reason.QUOTA if refused else None,
                sleep_message=refused.message if refused else "", last_used_at=self.now,
            )
        )  # fmt: skip
        await self.uow.events.add(
            self.space.id, self.now, "deploy.created", {"generation": generation, "cause": cause, "revision": base.revision}
        )
        return True


async def request_hardware(deps: SpaceDeps, actor: Actor, repo: Repo, flavor_name: str, sleep_after_s: int | None = None) -> None:
    flavor = flavor_of(deps, flavor_name)
    async with deps.uow.write() as uow:
        change = await _Change.begin(deps, uow, actor, repo)
        if change.space.sdk is Sdk.STATIC:
            raise Rejected("a static Space needs no hardware")
        owner = await uow.accounts.get(repo.owner_id)
        assert owner is not None
        if flavor.name != change.space.hardware:
            await deps.check_quota(uow, owner, f"{QuotaKey.RUNNING}.{flavor.name}", change.space.replicas, change.space.id)
        before = change.space.hardware
        space = replace(change.space, hardware=flavor.name)
        if sleep_after_s is not None:
            space = replace(space, sleep_after_s=_sleep(sleep_after_s))
        await change.save(space)
        await change.note("hardware.requested", "spaces.update_hardware", {"before": before, "after": flavor.name})
        if before != flavor.name:
            await change.redeploy("hardware")


def _sleep(seconds: int) -> int | None:
    if seconds == -1:
        return None
    if not MIN_SLEEP_S <= seconds <= MAX_SLEEP_S:
        raise Rejected(f"a sleep time is -1 (never) or {MIN_SLEEP_S} to {MAX_SLEEP_S} seconds; got {seconds}")
    return seconds


async def set_sleep(deps: SpaceDeps, actor: Actor, repo: Repo, seconds: int, idle_rule: IdleRule | None = None) -> None:
    value = _sleep(seconds)
    async with deps.uow.write() as uow:
        change = await _Change.begin(deps, uow, actor, repo)
        before = change.space.sleep_after_s
        # Never asked for by the owner and "never" are two things: -1 is stored as 0 = never by the owner's word.
        await change.save(replace(change.space, sleep_after_s=0 if value is None else value, idle_rule=idle_rule or change.space.idle_rule))
        await change.note("settings.changed", "spaces.update_sleep_time", {"before": before, "after": seconds})


async def set_replicas(deps: SpaceDeps, actor: Actor, repo: Repo, count: int) -> None:
    if not 1 <= count <= 20:
        raise Rejected(f"replicas is 1 to 20; got {count}")
    async with deps.uow.write() as uow:
        change = await _Change.begin(deps, uow, actor, repo)
        owner = await uow.accounts.get(repo.owner_id)
        assert owner is not None
        if count > change.space.replicas:
            await deps.check_quota(uow, owner, f"{QuotaKey.RUNNING}.{change.space.hardware}", count - change.space.replicas)
        await change.note("settings.changed", "spaces.update_replicas", {"before": change.space.replicas, "after": count})
        await change.save(replace(change.space, replicas=count))


async def pause(deps: SpaceDeps, actor: Actor, repo: Repo) -> None:
    async with deps.uow.write() as uow:
        change = await _Change.begin(deps, uow, actor, repo)
        if change.space.sdk is Sdk.STATIC:
            raise Rejected("a static Space cannot be paused: nothing runs for it")
        await change.save(replace(change.space, desired=DesiredState.PAUSED))
        await cancel_open_builds(deps, uow, change.space.id, BuildChange.CANCEL)
        await change.note("paused", "spaces.pause", {})


async def restart(deps: SpaceDeps, actor: Actor, repo: Repo, *, factory: bool = False) -> None:
    """Start again with the newest artifact; with `factory`, build the head anew without any cache. Resumes a paused Space."""
    async with deps.uow.write() as uow:
        change = await _Change.begin(deps, uow, actor, repo)
        if change.space.suspended:
            raise Rejected("the owner's account is suspended; an operator can lift that")
        if change.space.generation and not await change.holds_room():
            await change.check_running()
        await change.save(
            replace(
                change.space,
                desired=DesiredState.RUNNING,
                asleep=False,
                sleep_reason=None,
                sleep_message="",
                restart_count=change.space.restart_count + 1,
                last_used_at=change.now,
            )
        )
        if (factory or not await change.redeploy("restart")) and repo.head and change.space.has_app_file and not change.space.config_error:
            await queue_build(
                deps, uow, repo, change.space, revision=repo.head, no_cache=factory, author=actor.name, title="factory rebuild"
            )
        await change.note("restarted", "spaces.restart", {"factory": factory})


async def request_storage(deps: SpaceDeps, actor: Actor, repo: Repo, tier_name: str) -> None:
    """A disk of its own at `/data`, or a larger one. Its whole size is taken from the owner's `storage-gb` at once."""
    tier = parse_tier(tier_name, deps.tiers)
    size = deps.tiers[tier]
    async with deps.uow.write() as uow:
        change = await _Change.begin(deps, uow, actor, repo)
        space = change.space
        if space.sdk is Sdk.STATIC:
            raise Rejected("a static Space runs nothing, so it needs no persistent storage")
        if size < space.storage_bytes:
            raise Rejected(
                f"storage does not shrink: {space.storage_tier} is larger than {tier}; delete the storage, with what it holds, "
                "and ask for a smaller one"
            )
        if tier == space.storage_tier and size == space.storage_bytes:
            return
        check_places([volume.mount_path for volume in space.volumes], has_storage=True)
        owner = await uow.accounts.get(repo.owner_id)
        assert owner is not None
        await deps.check_quota(uow, owner, QuotaKey.STORAGE_GB, (size - space.storage_bytes) / 1e9)
        await change.save(replace(space, storage_tier=tier.value, storage_bytes=size, storage_key=space.storage_key or new_id()))
        await change.note("settings.changed", "spaces.update_storage", {"before": space.storage_tier or None, "storage": tier.value})
        await change.redeploy("settings")


async def delete_storage(deps: SpaceDeps, actor: Actor, repo: Repo) -> None:
    """Give the disk up with all it holds. The bytes go when no replica uses it any more (`scheduler.volumes`)."""
    async with deps.uow.write() as uow:
        change = await _Change.begin(deps, uow, actor, repo)
        space = change.space
        if not space.storage_tier:
            raise Rejected(f"{repo.full_name} has no persistent storage")
        await change.save(replace(space, storage_tier="", storage_key="", storage_bytes=0))
        await change.note("settings.changed", "spaces.delete_storage", {"before": space.storage_tier, "storage": None})
        await change.redeploy("settings")
        gone = {"space_id": space.id, "space_name": repo.full_name, "key": space.storage_key, "generation": change.space.generation}
        await uow.documents.put(VOLUME_GONE, f"{space.id}/{space.storage_key}", space.id, gone)


async def set_volumes(deps: SpaceDeps, actor: Actor, repo: Repo, volumes: Sequence[RepoVolume]) -> None:
    """Mount these repositories instead of those before. Whether the caller may read each was asked by whoever made the values.

    What is told of it names places and ids, no repositories: more people see the history than may know of each repository.
    """
    async with deps.uow.write() as uow:
        change = await _Change.begin(deps, uow, actor, repo)
        if volumes and change.space.sdk is Sdk.STATIC:
            raise Rejected("a static Space runs nothing, so nothing can be mounted in it")
        check_places([volume.mount_path for volume in volumes], has_storage=bool(change.space.storage_tier))
        before = [volume.mount_path for volume in change.space.volumes]
        await change.save(replace(change.space, volumes=unpinned(volumes)))
        named = [{"mount_path": volume.mount_path, "type": volume.type.value, "repo_id": volume.repo_id} for volume in volumes]
        await change.note("settings.changed", "spaces.update_volumes", {"before": before, "volumes": named})
        await change.redeploy("settings")


async def rollback(deps: SpaceDeps, actor: Actor, repo: Repo, generation: int) -> None:
    """Serve an earlier artifact again, without a build (`versions.versions_of` lists those that are kept)."""
    async with deps.uow.write() as uow:
        change = await _Change.begin(deps, uow, actor, repo)
        base = await uow.deployments.get(change.space.id, generation)
        if base is None:
            raise NotFound(f"there is no deployment {generation} of {repo.full_name}")
        if change.space.generation and not await change.holds_room():
            await change.check_running()
        await change.save(replace(change.space, desired=DesiredState.RUNNING))
        await change.redeploy("rollback", base=base)
        await change.note("restarted", "spaces.rollback", {"to": base.revision, "generation": generation})


async def put_variable(deps: SpaceDeps, actor: Actor, repo: Repo, key: str, value: str, description: str = "") -> None:
    await _put(deps, actor, repo, key, Sensitive(value), description, is_secret=False)


async def put_secret(deps: SpaceDeps, actor: Actor, repo: Repo, key: str, value: Sensitive, description: str = "") -> None:
    await _put(deps, actor, repo, key, value, description, is_secret=True)


async def _put(deps: SpaceDeps, actor: Actor, repo: Repo, key: str, value: Sensitive, description: str, *, is_secret: bool) -> None:
    check_key(key)
    if len(value.reveal()) > MAX_VALUE or "\x00" in value.reveal():
        raise Rejected(f"the value of {key} is over {MAX_VALUE} characters or holds a NUL")
    kind = "secret" if is_secret else "variable"
    async with deps.uow.write() as uow:
        change = await _Change.begin(deps, uow, actor, repo)
        known = {(s.key, s.is_secret): s for s in await uow.spaces.settings(change.space.id)}
        if (key, not is_secret) in known:
            raise Rejected(f"{key} is already a {'variable' if is_secret else 'secret'} of this Space; delete it there first")
        if is_secret:
            setting = Setting(change.space.id, key, True, "", seal(deps, change.space.id, key, value), description, change.now)
        else:
            setting = Setting(change.space.id, key, False, value.reveal(), "", description, change.now)
        await uow.spaces.put_setting(setting)
        await change.note("settings.changed", f"repo.{'update' if (key, is_secret) in known else 'add'}_{kind}", {kind: key})
        await change.redeploy("settings")


async def delete_setting(deps: SpaceDeps, actor: Actor, repo: Repo, key: str, *, is_secret: bool) -> None:
    kind = "secret" if is_secret else "variable"
    async with deps.uow.write() as uow:
        change = await _Change.begin(deps, uow, actor, repo)
        if not any(s.key == key and s.is_secret == is_secret for s in await uow.spaces.settings(change.space.id)):
            return
        await uow.spaces.remove_setting(change.space.id, key, is_secret)
        await change.note("settings.changed", f"repo.delete_{kind}", {kind: key})
        await change.redeploy("settings")


async def cancel_open_builds(deps: SpaceDeps, uow: UnitOfWork, space_id: SpaceId, how: BuildChange) -> None:
    """End every open build of a Space; the worker learns it from its next report's verdict."""
    now = deps.clock.now()
    for build in await uow.builds.open():
        if build.space_id == space_id:
            ended = replace(build, status=advance_build(build.status, how), finished_at=now)
            await uow.builds.save(ended)
            await deps.meter_build(uow, ended)
            await uow.events.add(space_id, now, "build.cancelled", {"build_id": build.id, "how": how.value})


async def queue_build(
    deps: SpaceDeps, uow: UnitOfWork, repo: Repo, space: Space, *, revision: str, author: str, title: str, no_cache: bool = False
) -> Build:
    """A QUEUED build row; older open builds of the Space give way. The queue is told after the commit, by the reconciler."""
    owner = await uow.accounts.get(repo.owner_id)
    assert owner is not None
    await deps.check_quota(uow, owner, QuotaKey.BUILD_MINUTES, 0)
    await cancel_open_builds(deps, uow, space.id, BuildChange.SUPERSEDE)
    now = deps.clock.now()
    build = Build(
        id=BuildId(new_id()), space_id=space.id, revision=Sha(revision),
        status=BuildStatus.QUEUED, created_at=now, no_cache=no_cache, commit_title=title[:200], author=author,
    )  # fmt: skip
    await uow.builds.add(build)
    await uow.events.add(space.id, now, "build.queued", {"build_id": build.id, "revision": revision, "title": title[:200], "by": author})
    return build
