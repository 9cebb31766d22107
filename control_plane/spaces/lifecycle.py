"""Create, move, duplicate and delete repositories. Nothing is started here: only rows change, the reconciler acts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from control_plane.domain.accounts import Account, Actor
from control_plane.domain.errors import NameTaken, Rejected, RepoNotFound
from control_plane.domain.ids import RepoId, Sha, SpaceId, new_id
from control_plane.domain.quotas import QuotaKey
from control_plane.domain.repo_volumes import check_places, unpinned
from control_plane.domain.sensitive import Sensitive
from control_plane.domain.spaces import DesiredState, Repo, RepoType, RepoVolume, Sdk, Setting, Space, SpaceConfig, Visibility
from control_plane.domain.storage import parse_tier
from control_plane.ports.git import CommitRequest, FileChange
from control_plane.ports.git_import import Source
from control_plane.ports.stores import UnitOfWork
from control_plane.spaces import imported
from control_plane.spaces.configure import check_key, flavor_of, seal
from control_plane.spaces.deps import SpaceDeps
from control_plane.spaces.push import accept_push
from control_plane.spaces.slugs import RESERVED, check_name, subdomain_of


async def create_repo(
    deps: SpaceDeps,
    actor: Actor,
    *,
    owner: Account,
    name: str,
    type: RepoType,
    visibility: Visibility = Visibility.PUBLIC,
    sdk: str | None = None,
    hardware: str | None = None,
    sleep_after_s: int | None = None,
    storage: str | None = None,
    volumes: Sequence[RepoVolume] = (),
    variables: Sequence[Mapping[str, Any]] = (),
    secrets: Sequence[Mapping[str, Any]] = (),
    template: RepoId | None = None,
    template_ref: str = "refs/heads/main",
    files: Mapping[str, bytes] | None = None,
    title: str = "",
    origin: str = "",
    source: Source | None = None,
) -> Repo:
    """A new repository with its first commit. NameTaken when it exists, QuotaExceeded, Rejected for bad names or values.

    The git repository is made before the row: a crash in between
    leaves an unreferenced directory, which `gc` removes.
    """
    check_name(name)
    now = deps.clock.now()
    if type is RepoType.SPACE and (sdk is None or sdk not in set(Sdk)):
        raise Rejected(f"a Space needs an sdk; allowed: {', '.join(Sdk)}" + (f" (got '{sdk}')" if sdk else ""))
    if visibility is Visibility.PROTECTED and type is not RepoType.SPACE:
        raise Rejected("only Spaces can be protected; use public or private")
    assert actor.user is not None
    repo = Repo(
        id=RepoId(new_id()), type=type, owner_id=owner.id, owner_name=owner.name, name=name, visibility=visibility,
        created_at=now, updated_at=now, created_by=actor.user.id, origin=origin,
    )  # fmt: skip
    async with deps.uow.read() as uow:
        if await uow.repos.by_name(type, owner.name, name):
            raise NameTaken(f"You already created this {type.value} repo")
        if source is not None and type is RepoType.SPACE:  # before minutes of fetching; counted again when it is there
            await deps.check_quota(uow, owner, QuotaKey.SPACES, 1)
    if template is None:  # a copy makes its own directory
        await deps.git.create(repo.id)
    try:
        if source is not None:

            async def room(size: int) -> None:
                async with deps.uow.read() as uow:
                    await deps.check_quota(uow, owner, QuotaKey.STORAGE_GB, size / 1e9)

            await source(repo.id, room)
            if sdk is not None:
                await imported.finish(deps, repo, actor, Sdk(sdk))
            head = await deps.git.resolve(repo.id, "main")
        else:
            head = await _first_commit(deps, repo, actor, sdk, (template, template_ref), files, title)
        size = await deps.git.size_bytes(repo.id)
        async with deps.uow.write() as uow:
            if type is RepoType.SPACE:
                await deps.check_quota(uow, owner, QuotaKey.SPACES, 1)
            await deps.check_quota(uow, owner, QuotaKey.STORAGE_GB, size / 1e9)
            await uow.repos.add(replace(repo, head=head, storage_bytes=size))
            if type is RepoType.SPACE:
                assert sdk is not None
                await _add_space(deps, uow, repo, Sdk(sdk), hardware, sleep_after_s, storage, volumes, variables, secrets)
                await uow.events.add(SpaceId(repo.id), now, "space.created", {"by": actor.name})
            await uow.audit.append(
                at=now, actor=actor.name, action="repo.create", subject=f"{type.value}:{repo.full_name}", address=actor.address,
                facts={"visibility": visibility.value, "sdk": sdk},
            )  # fmt: skip
    except BaseException:
        await deps.git.remove(repo.id)
        raise
    if template is not None or files or source is not None or sdk == Sdk.STATIC:
        await accept_push(deps, repo.id, actor, "refs/heads/main", None, head)
    else:
        await accept_push(deps, repo.id, actor, "refs/heads/main", None, head, build=False)
    async with deps.uow.read() as uow:
        return await uow.repos.get(repo.id) or repo


async def _first_commit(
    deps: SpaceDeps,
    repo: Repo,
    actor: Actor,
    sdk: str | None,
    template: tuple[RepoId | None, str],
    files: Mapping[str, bytes] | None,
    title: str,
) -> Sha:
    source, ref = template
    if source is not None:
        await deps.git.duplicate(source, repo.id, ref)
        return await deps.git.resolve(repo.id, "main")
    content = deps.initial_files(Sdk(sdk) if sdk else None, title or repo.name)
    content.update(files or {})
    assert actor.user is not None
    request = CommitRequest(
        ref="refs/heads/main",
        message="initial commit",
        author=actor.user.name,
        author_email=actor.user.email or f"{actor.user.name}@users.noreply",
        changes=[FileChange(path=path, content=body) for path, body in content.items()],
    )
    return await deps.git.commit(repo.id, request)


async def _add_space(
    deps: SpaceDeps,
    uow: UnitOfWork,
    repo: Repo,
    sdk: Sdk,
    hardware: str | None,
    sleep_after_s: int | None,
    storage: str | None,
    volumes: Sequence[RepoVolume],
    variables: Sequence[Mapping[str, Any]],
    secrets: Sequence[Mapping[str, Any]],
) -> None:
    space_id, now = SpaceId(repo.id), deps.clock.now()
    flavor = flavor_of(deps, hardware)
    tier = parse_tier(storage, deps.tiers) if storage and sdk is not Sdk.STATIC else None
    size = deps.tiers[tier] if tier else 0
    if volumes and sdk is Sdk.STATIC:
        raise Rejected("a static Space runs nothing, so nothing can be mounted in it")
    check_places([volume.mount_path for volume in volumes], has_storage=bool(tier))
    if sdk is not Sdk.STATIC:
        owner = await uow.accounts.get(repo.owner_id)
        assert owner is not None
        await deps.check_quota(uow, owner, f"{QuotaKey.RUNNING}.{flavor.name}", 0)
        if tier:
            await deps.check_quota(uow, owner, QuotaKey.STORAGE_GB, size / 1e9)
    subdomain = await free_subdomain(uow, repo)
    await uow.spaces.add(
        Space(
            id=space_id, subdomain=subdomain, sdk=sdk, config=SpaceConfig(sdk=sdk, title=repo.name), hardware=flavor.name,
            sleep_after_s=None if sleep_after_s in (None, -1) else sleep_after_s, updated_at=now,
            storage_tier=tier.value if tier else "", storage_key=new_id() if tier else "", storage_bytes=size, volumes=unpinned(volumes),
        )
    )  # fmt: skip
    for is_secret, items in ((False, variables), (True, secrets)):
        for item in items:
            key = check_key(str(item.get("key", "")))
            value, note = str(item.get("value", "")), str(item.get("description") or "")
            sealed = seal(deps, space_id, key, Sensitive(value)) if is_secret else ""
            await uow.spaces.put_setting(Setting(space_id, key, is_secret, "" if is_secret else value, sealed, note, now))


async def free_subdomain(uow: UnitOfWork, repo: Repo) -> str:
    plain = subdomain_of(repo.owner_name, repo.name)
    if plain not in RESERVED and not await uow.spaces.subdomain_taken(plain, by_other_than=SpaceId(repo.id)):
        return plain
    return subdomain_of(repo.owner_name, repo.name, salt=repo.id)


async def delete_repo(deps: SpaceDeps, actor: Actor, repo: Repo) -> None:
    """Delete for good. A Space's replicas are stopped by the reconciler, which then removes what is left of it."""
    now = deps.clock.now()
    async with deps.uow.write() as uow:
        if await uow.repos.get(repo.id) is None:
            raise RepoNotFound()
        if repo.type is RepoType.SPACE and (space := await uow.spaces.get(SpaceId(repo.id))):
            # The repository row goes now, so that the name is free at once; the Space row lives until nothing runs.
            await uow.spaces.save(replace(space, desired=DesiredState.DELETED, updated_at=now))
            await uow.events.add(space.id, now, "space.deleted", {"by": actor.name})
        await uow.repos.remove(repo.id)
        await uow.audit.append(
            at=now, actor=actor.name, action="repo.delete", subject=f"{repo.type.value}:{repo.full_name}", address=actor.address, facts={}
        )

        async def told() -> None:
            await deps.git.remove(repo.id)
            await deps.signals.notify("reconcile", repo.id)
            await deps.signals.notify("events", repo.id)

        uow.after_commit(told)


async def move_repo(deps: SpaceDeps, actor: Actor, repo: Repo, owner: Account, name: str) -> Repo:
    """Rename or transfer. The old name redirects; a Space keeps answering on its old host by redirect."""
    check_name(name)
    now = deps.clock.now()
    async with deps.uow.write() as uow:
        current = await uow.repos.get(repo.id)
        if current is None:
            raise RepoNotFound()
        taken = await uow.repos.by_name(repo.type, owner.name, name)
        if taken is not None and taken.id != repo.id:
            raise NameTaken(f"A {repo.type.value} repo {owner.name}/{name} already exists; choose another name")
        if owner.id != current.owner_id:
            disk = await uow.spaces.get(SpaceId(repo.id)) if repo.type is RepoType.SPACE else None
            taken_bytes = current.storage_bytes + (disk.storage_bytes if disk else 0)
            await deps.check_quota(uow, owner, QuotaKey.STORAGE_GB, taken_bytes / 1e9)
        if owner.id != current.owner_id and repo.type is RepoType.SPACE:
            await deps.check_quota(uow, owner, QuotaKey.SPACES, 1)
            its = await uow.spaces.get(SpaceId(repo.id))
            for flavor, copies in (await _running_of(uow, its) if its else {}).items():
                await deps.check_quota(uow, owner, f"{QuotaKey.RUNNING}.{flavor}", copies)
        await uow.repos.remember_old_name(current)
        moved = replace(current, owner_id=owner.id, owner_name=owner.name, name=name, updated_at=now)
        await uow.repos.save(moved)
        if repo.type is RepoType.SPACE and (space := await uow.spaces.get(SpaceId(repo.id))):
            await uow.spaces.save(replace(space, subdomain=await free_subdomain(uow, moved), updated_at=now))
            await uow.events.add(space.id, now, "settings.changed", {"moved_from": current.full_name, "by": actor.name})
        await uow.audit.append(
            at=now, actor=actor.name, action="repo.move", subject=f"{repo.type.value}:{moved.full_name}", address=actor.address,
            facts={"from": current.full_name},
        )  # fmt: skip

        async def told() -> None:
            await deps.signals.notify("reconcile", repo.id)

        uow.after_commit(told)
    return moved


async def _running_of(uow: UnitOfWork, space: Space) -> dict[str, int]:
    """Flavor → copies that the Space brings along: what it is let in to run, and what still ends after a pause or on its way to sleep."""
    if space.sdk is Sdk.STATIC:
        return {}
    copies: dict[str, int] = {}
    for (flavor, _), count in Counter((r.hardware, r.generation) for r in await uow.deployments.replicas(space.id)).items():
        copies[flavor] = max(copies.get(flavor, 0), count)
    if space.asleep or space.desired is not DesiredState.RUNNING:
        return copies
    for generation in {space.generation, space.live_generation}:
        version = await uow.deployments.get(space.id, generation)
        if version is not None and version.failed_reason is None:
            copies[space.hardware] = max(copies.get(space.hardware, 0), space.replicas)
    return copies


async def set_visibility(deps: SpaceDeps, actor: Actor, repo: Repo, visibility: Visibility) -> None:
    now = deps.clock.now()
    if visibility is Visibility.PROTECTED and repo.type is not RepoType.SPACE:
        raise Rejected("only Spaces can be protected; use public or private")
    async with deps.uow.write() as uow:
        current = await uow.repos.get(repo.id)
        if current is None:
            raise RepoNotFound()
        await uow.repos.save(replace(current, visibility=visibility, updated_at=now))
        await uow.audit.append(
            at=now, actor=actor.name, action="repo.visibility", subject=f"{repo.type.value}:{repo.full_name}", address=actor.address,
            facts={"before": current.visibility.value, "after": visibility.value},
        )  # fmt: skip

        async def told() -> None:
            await deps.signals.notify("reconcile", repo.id)
            await deps.signals.notify("access", repo.id)

        uow.after_commit(told)


async def duplicate_repo(
    deps: SpaceDeps,
    actor: Actor,
    source: Repo,
    *,
    owner: Account,
    name: str,
    visibility: Visibility = Visibility.PRIVATE,
    hardware: str | None = None,
    sleep_after_s: int | None = None,
    storage: str | None = None,
    volumes: Sequence[RepoVolume] = (),
    variables: Sequence[Mapping[str, Any]] = (),
    secrets: Sequence[Mapping[str, Any]] = (),
) -> Repo:
    """A copy of the head, its files and its variables; never of secrets, storage or volumes. Hardware starts at the smallest."""
    sdk: str | None = None
    merged = {str(v.get("key")): v for v in variables}
    if source.type is RepoType.SPACE:
        async with deps.uow.read() as uow:
            space = await uow.spaces.get(SpaceId(source.id))
            if space is None:
                raise RepoNotFound()
            sdk = space.sdk.value
            for setting in await uow.spaces.settings(space.id):
                if not setting.is_secret:
                    merged.setdefault(setting.key, {"key": setting.key, "value": setting.value, "description": setting.description})
    return await create_repo(
        deps, actor, owner=owner, name=name, type=source.type, visibility=visibility, sdk=sdk, hardware=hardware,
        sleep_after_s=sleep_after_s, storage=storage, volumes=volumes, variables=list(merged.values()), secrets=secrets, template=source.id,
        origin=source.full_name,
    )  # fmt: skip
