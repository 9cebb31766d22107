"""A push arrived: check it before it is acknowledged, then turn the new head of `main` into a build.

Git moves the ref first; `accept_push` is one transaction after it. Whoever dies in between is repaired by the scan for
heads without a revision (`scheduler.reconcile`), which calls the same function.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from control_plane.domain.accounts import Actor
from control_plane.domain.errors import EntryNotFound, QuotaExceeded, RepoNotFound, SpaceConfigError
from control_plane.domain.ids import BuildId, RepoId, Sha, SpaceId
from control_plane.domain.spaces import DesiredState, Repo, RepoType, Sdk, Space, SpaceConfig
from control_plane.ports.stores import UnitOfWork
from control_plane.spaces.configure import queue_build
from control_plane.spaces.deps import SpaceDeps
from control_plane.spaces.facets import tags_of
from control_plane.spaces.search_text import TEXT_CHARACTERS, decoded, searchable_text

SERVED_REF = "refs/heads/main"
_README_MAX = 5 << 20


@dataclass(frozen=True, slots=True)
class PushOutcome:
    """What became of an accepted push. `build_id` None: nothing is built, and `message` says why."""

    repo: Repo
    space: Space | None = None
    build_id: BuildId | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class _Head:
    config: SpaceConfig | None
    card: dict[str, object]
    has_app_file: bool
    problem: str
    title: str
    author: str
    text: str  # README and source, for the search


async def accept_push(
    deps: SpaceDeps,
    repo_id: RepoId,
    actor: Actor | None,
    ref: str,
    old: Sha | None,
    new: Sha | None,
    *,
    build: bool = True,
    began_at: datetime | None = None,
) -> PushOutcome:
    """Record a moved ref. Only `main` deploys; anything else is stored and said so. Safe to repeat for the same head.

    `began_at` is when the first byte of the push came, for what measures pushes.
    """
    async with deps.uow.read() as uow:
        repo = await uow.repos.get(repo_id)
    if repo is None:
        raise RepoNotFound()
    if ref.startswith("refs/pr/") and deps.pull_moved is not None:
        await deps.pull_moved(repo, ref, new)
    if ref != SERVED_REF or new is None:
        async with deps.uow.write() as uow:
            await _note(uow, deps, repo, actor, ref, old, new)
        gone = ref == SERVED_REF
        return PushOutcome(
            repo, message="main is gone; the last version keeps serving" if gone else f"{ref} is stored; only main is deployed"
        )
    head = await _look(deps, repo, new)
    now, who = deps.clock.now(), actor.name if actor else head.author
    size = await deps.git.size_bytes(repo_id)
    async with deps.uow.write() as uow:
        current = await uow.repos.get(repo_id)
        if current is None:
            raise RepoNotFound()
        seen = current.head == new
        current = replace(
            current, head=new, updated_at=current.updated_at if seen else now, card=head.card, storage_bytes=size,
            tags=tags_of(repo.type, head.card, head.config.tags if head.config else ()),
        )  # fmt: skip
        await uow.repos.save(current)
        await uow.repos.set_text(repo.id, head.text)
        if not seen:
            await _note(uow, deps, repo, actor, ref, old, new)
        if repo.type is not RepoType.SPACE:
            return PushOutcome(current, message="stored")
        space = await uow.spaces.get(SpaceId(repo_id))
        if space is None or space.desired is DesiredState.DELETED:
            return PushOutcome(current, message="this Space is being deleted")
        latest = await uow.builds.latest(space.id)
        if seen and latest is not None and latest.revision == new:
            return PushOutcome(current, space, latest.id, "already known")
        space = replace(
            space, config=head.config or space.config, sdk=head.config.sdk if head.config else space.sdk, config_error=head.problem,
            has_app_file=head.has_app_file, updated_at=now,
        )  # fmt: skip
        await uow.spaces.save(space)
        facts: dict[str, object] = {"revision": new, "old": old, "title": head.title, "by": who}
        if began_at is not None:
            facts["began_at"] = began_at.isoformat()
        await uow.events.add(space.id, now, "push.received", facts)

        async def told() -> None:
            await deps.signals.notify("reconcile", repo_id)
            await deps.signals.notify("events", repo_id)

        uow.after_commit(told)
        if head.problem:
            return PushOutcome(current, space, message=head.problem)
        await uow.events.add(space.id, now, "push.checked", {"revision": new, "sdk": space.sdk.value, "app_file": space.config.app_file})
        if not build:
            return PushOutcome(current, space, message="created")
        if not head.has_app_file:
            return PushOutcome(current, space, message=f"there is no {_wanted(space.config)} yet; push one to go live")
        if space.desired is DesiredState.PAUSED:
            return PushOutcome(current, space, message="the Space is paused: stored, and built when it is restarted")
        try:
            row = await queue_build(deps, uow, current, space, revision=new, author=who, title=head.title)
        except QuotaExceeded as error:
            return PushOutcome(current, space, message=error.message)
        await uow.spaces.save(replace(space, asleep=space.asleep, updated_at=now))
        return PushOutcome(current, space, row.id, "build queued")


async def _note(uow: UnitOfWork, deps: SpaceDeps, repo: Repo, actor: Actor | None, ref: str, old: Sha | None, new: Sha | None) -> None:
    """One audit event for one moved ref, whichever door it came through; without an actor the platform caught up after a crash."""
    none = "0" * 40
    before, after = (old if old != none else None), (new if new != none else None)
    name, address = (actor.name, actor.address) if actor else ("vitrine", "")
    facts = {"ref": ref[:200], "before": before, "after": after}
    subject = f"{repo.type.value}:{repo.full_name}"
    await uow.audit.append(at=deps.clock.now(), actor=name, action="repo.push", subject=subject, address=address, facts=facts)


def _wanted(config: SpaceConfig) -> str:
    return "Dockerfile" if config.sdk is Sdk.DOCKER else config.app_file


async def _look(deps: SpaceDeps, repo: Repo, sha: Sha) -> _Head:
    """Read what the head says about itself. A README that cannot be used is a problem to show, never an exception."""
    commits = await deps.git.commits(repo.id, sha, limit=1)
    title, author = (commits[0].title, commits[0].author) if commits else ("", "")
    try:
        readme = await deps.git.read(repo.id, sha, "README.md", max_bytes=_README_MAX)
    except EntryNotFound:
        readme = b""
    card = deps.card_of(readme)
    if repo.type is not RepoType.SPACE:
        return _Head(None, card, False, "", title, author, decoded(readme)[:TEXT_CHARACTERS])
    try:
        config = deps.parse_card(readme)
    except SpaceConfigError as error:
        return _Head(None, card, False, error.message, title, author, decoded(readme)[:TEXT_CHARACTERS])
    try:
        entry = await deps.git.entry(repo.id, sha, _wanted(config))
        has_app_file = not entry.is_dir
    except EntryNotFound:
        # A static Space with a build step has its page only after the build.
        has_app_file = config.sdk is Sdk.STATIC and config.app_build_command is not None
    return _Head(config, card, has_app_file, "", title, author, await searchable_text(deps.git, repo.id, sha, readme, _wanted(config)))
