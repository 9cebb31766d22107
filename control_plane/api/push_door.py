"""What `git push` asks of the platform, and what it hears: the three callbacks of `git.smart_http`.

The words go to the person who pushes as `remote:` lines: what was checked, what is next, and with `-o wait` everything
up to live or why not. A refusal names the key, the line, the allowed values, or the command that fixes it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from control_plane.accounts import gates, policy
from control_plane.accounts.sign_in import actor_of_ids, authenticate, renewed
from control_plane.accounts.storage import StorageRoom
from control_plane.api.deps import find_repo
from control_plane.domain.accounts import Action, Actor
from control_plane.domain.errors import Forbidden, NotSignedIn, Rejected, RepoNotFound
from control_plane.domain.ids import RepoId, Sha
from control_plane.domain.reasons import Reason
from control_plane.domain.spaces import Repo, RepoType, Sdk, Space, SpaceConfig, SpaceEvent
from control_plane.git.gitbin import GitBinary, GitFailed
from control_plane.git.policy import PushLimits, RefUpdate, check_refs, inspect
from control_plane.git.smart_http import PushReceived, RepoAccess, RepoPath, Service
from control_plane.ports.git import LfsStore
from control_plane.spaces.deps import SpaceDeps
from control_plane.spaces.push import SERVED_REF, accept_push
from control_plane.spaces.space_card import validate
from control_plane.spaces.views import usual_seconds

WAIT_OPTION = "wait"
_OTHER_SDKS = ", ".join(s for s in Sdk if s != Sdk.GRADIO)
_POLL_S = 0.2
_WAIT_LIMIT_S = 3600.0
_SHOWN_LOG_LINES = 25
_README_MAX = 5 << 20


@dataclass(frozen=True)
class PushDoor:
    """Use cases, git and limits of pushes."""

    deps: SpaceDeps
    git: GitBinary
    lfs: LfsStore
    limits: PushLimits
    storage: StorageRoom
    moved: Callable[[Repo, str, Sha | None, Sha | None], Awaitable[None]] | None = None  # fires webhooks
    warning: Callable[[], str] = lambda: ""  # what everyone who pushes should know about this machine

    # --- git.smart_http.Authorize
    async def authorize(self, path: RepoPath, service: Service, headers: Mapping[str, str], address: str) -> RepoAccess:
        actor = await authenticate(self.deps.uow, self.deps.clock, authorization=headers.get("authorization"), cookie=None, address=address)
        async with self.deps.uow.read() as uow:
            repo, moved = await find_repo(uow, path.type, path.owner, path.name)
            action = Action.READ_FILES if service.reads else Action.READ_CODE
            asked = await gates.request_of(uow, actor, action, repo)
        if repo is None or not policy.allowed(actor, Action.READ_CODE, repo):
            if actor.is_anonymous:
                raise NotSignedIn()
            raise RepoNotFound()
        policy.require(actor, action, repo, asked)
        redirect = f"{repo.type.url_prefix}{repo.full_name}" if moved else ""
        return RepoAccess(repo.id, actor, policy.allowed(actor, Action.WRITE, repo), redirect, can_propose=_may_propose(actor, repo))

    # --- git.smart_http.StillAllowed
    async def still_allowed(self, repo_id: RepoId, holder: str, service: Service) -> None:
        user_id, _, token_id = holder.partition(".")
        actor = await actor_of_ids(self.deps.uow, self.deps.clock, user_id, token_id=token_id)
        async with self.deps.uow.read() as uow:
            repo = await uow.repos.get(repo_id)
            asked = await gates.request_of(uow, actor, Action.READ_FILES, repo) if actor is not None else None
        if actor is None or repo is None:
            may = False
        elif service.reads:
            may = policy.allowed(actor, Action.READ_FILES, repo, asked)
        else:
            may = policy.allowed(actor, Action.WRITE, repo) or (service is Service.LFS_PROPOSE and _may_propose(actor, repo))
        if not may:
            raise Forbidden("The address was made for somebody whose right to it has ended.", code="RightEnded")

    # --- git.smart_http.CheckPush
    async def check_push(self, push: PushReceived) -> AsyncIterator[str]:
        check_refs(push.updates, self.limits)
        repo = await self._repo(push)
        try:  # a large push takes minutes: who sends it may have been suspended since
            may_write = policy.allowed(await renewed(self.deps.uow, self.deps.clock, push.actor), Action.WRITE, repo)
        except NotSignedIn:
            may_write = False
        if not may_write:
            raise Rejected("Your right to write here ended while the push was on its way.")
        repo_dir = Path(self.deps.git.path(repo.id))
        findings = await inspect(self.git, repo_dir, repo.id, self.lfs, push.updates, push.env, self.limits)
        yield f"Checked {findings.new_objects} new objects, {_size(findings.inflated_bytes)}."
        for remark in findings.remarks:
            yield remark
        if warning := self.warning():
            yield f"warning: {warning}"
        main = next((u for u in push.updates if u.ref == SERVED_REF and not u.is_delete), None)
        if repo.type is RepoType.SPACE and main is not None:
            async for line in self._check_card(repo_dir, main, push.env):
                yield line
        # Last, so that a push that is refused for something else reserves nothing; `pushed` counts what really came.
        coming = await asyncio.to_thread(_arrived_bytes, repo_dir / push.env.get("GIT_QUARANTINE_PATH", "objects/incoming"))
        await self.storage.hold(repo.id, {_hold_name(push): coming}, is_ours=True)

    async def _check_card(self, repo_dir: Path, main: RefUpdate, env: Mapping[str, str]) -> AsyncIterator[str]:
        readme = await self._blob(repo_dir, f"{main.new}:README.md", env)
        if readme is None:
            raise Rejected(
                "README.md is missing. It tells how to run the Space.",
                hint=f"Add one that begins with:\n---\ntitle: My demo\nsdk: gradio    # or {_OTHER_SDKS}\n---",
            )
        report = validate(readme, RepoType.SPACE, flavors=self.deps.catalog().names)
        if report.config is None:
            lines = []
            for issue in report.errors[:10]:
                lines.append(str(issue))
                if issue.allowed:
                    lines.append(f"  allowed: {', '.join(issue.allowed[:30])}{' …' if len(issue.allowed) > 30 else ''}")
            raise Rejected("\n".join(["Your push was rejected because README.md cannot be used.", *lines]))
        for issue in report.warnings[:10]:
            yield f"warning: {issue}"
        yield _described(report.config)

    async def _blob(self, repo_dir: Path, name: str, env: Mapping[str, str]) -> bytes | None:
        try:
            size = await self.git.run(repo_dir, "cat-file", "-s", name, env=env)
            if int(size) > _README_MAX:
                raise Rejected(f"README.md has {int(size)} bytes; at most {_README_MAX} are read.")
            return await self.git.run(repo_dir, "cat-file", "blob", name, env=env)
        except GitFailed:
            return None

    # --- git.smart_http.Pushed
    async def pushed(self, push: PushReceived) -> AsyncIterator[str]:
        repo = await self._repo(push)
        await self.storage.settle(repo.id, _hold_name(push))
        for update in push.updates:
            new = None if update.is_delete else Sha(update.new)
            last_event = await self._last_event(repo)
            outcome = await accept_push(self.deps, repo.id, push.actor, update.ref, Sha(update.old), new, began_at=push.began_at)
            if self.moved is not None:
                await self.moved(repo, update.ref, Sha(update.old), new)
            if repo.type is not RepoType.SPACE or update.ref != SERVED_REF:
                yield f"{_short_ref(update.ref)}: {outcome.message}."
                continue
            space = outcome.space
            if outcome.build_id is None or space is None:
                yield f"Stored {update.new[:7]}; {outcome.message}."
                continue
            async with self.deps.uow.read() as uow:
                usual = await usual_seconds(uow, space)
            estimate = f", usually live in {usual:.0f} s" if usual else ""
            yield f"Build queued for {update.new[:7]}{estimate}."
            yield f"Address:  {self.deps.app_url(space.subdomain)}"
            yield f"Progress: {push.base_url}/spaces/{repo.full_name}"
            if WAIT_OPTION in push.options:
                async for line in self._follow(space, outcome.build_id, last_event):
                    yield line
            else:
                yield "Push with `-o wait` to follow it here until it is live."

    async def _follow(self, space: Space, build_id: str, after: int) -> AsyncIterator[str]:
        """Events of this build and of the deployment it makes, as sentences, until one of them is the last word."""
        clock = self.deps.clock
        began, generation, shown = clock.monotonic(), None, 0
        stream = f"build/{build_id}"
        while clock.monotonic() - began < _WAIT_LIMIT_S:
            async with self.deps.uow.read() as uow:
                events = await uow.events.of_space(space.id, after_id=after)
            for event in events:
                after = event.id
                facts = event.facts
                if event.kind == "deploy.created" and generation is None and facts.get("cause") == "push":
                    generation = facts.get("generation")
                if facts.get("build_id") not in (None, build_id) or (facts.get("generation") or generation) != generation:
                    continue
                words = _sentence(event)
                if words:
                    yield words
                if event.kind == "build.failed":
                    async for line in self._tail(stream):
                        yield line
                    yield "Not live: the build failed. What served before keeps serving."
                    return
                if event.kind == "build.cancelled":
                    yield "Not live: this build was cancelled or replaced by a newer push."
                    return
                if event.kind == "sleep" and facts.get("reason") == Reason.QUOTA.value:
                    yield f"Not live: built, and asleep until its owner's quota has room. {facts.get('message')}"
                    return
                if event.kind == "deploy.failed":
                    tail = facts.get("log_tail")
                    for line in tail[-_SHOWN_LOG_LINES:] if isinstance(tail, list) else ():
                        yield f"  | {line}"
                    yield "Not live: the app did not start. What served before keeps serving."
                    return
                if event.kind == "route.live":
                    yield f"Live at {self.deps.app_url(space.subdomain)}"
                    return
            if generation is None:
                for text in await self.deps.logs.read(stream, after=shown, limit=200):
                    shown += 1
                    yield f"  | {text.text}"
            await asyncio.sleep(_POLL_S)
        yield "Still not live; follow it on the Space's page."

    async def _tail(self, stream: str) -> AsyncIterator[str]:
        for line in await self.deps.logs.tail(stream, _SHOWN_LOG_LINES):
            yield f"  | {line.text}"

    async def _last_event(self, repo: Repo) -> int:
        async with self.deps.uow.read() as uow:
            return await uow.events.last_id()

    async def _repo(self, push: PushReceived) -> Repo:
        async with self.deps.uow.read() as uow:
            repo = await uow.repos.get(push.repo_id)
        if repo is None:
            raise RepoNotFound()
        return repo


def _described(config: SpaceConfig) -> str:
    version = f" {config.sdk_version}" if config.sdk_version else ""
    if config.sdk is Sdk.DOCKER:
        return f"README.md: docker, port {config.app_port}."
    if config.sdk is Sdk.STATIC:
        return f"README.md: static, page {config.app_file}."
    python = f", Python {config.python_version}" if config.python_version else ""
    return f"README.md: {config.sdk.value}{version}, app file {config.app_file}{python}."


def _sentence(event: SpaceEvent) -> str:
    facts = event.facts
    match event.kind:
        case "build.started":
            return "Building …"
        case "build.phase":
            return f"Building: {facts.get('message') or facts.get('phase')}"
        case "build.succeeded":
            return f"Built in {facts.get('seconds')} s."
        case "build.failed":
            return f"Build failed ({facts.get('reason')}): {facts.get('message')}"
        case "replica.pending":
            return "Placing …"
        case "replica.starting":
            return "Starting …"
        case "replica.failed":
            return f"Stopped ({facts.get('reason')}): {facts.get('message')}"
        case "route.live":
            return f"Answering after {facts.get('seconds')} s."
    return ""


def _hold_name(push: PushReceived) -> str:
    """The same for both hooks of one push, another for every other push."""
    return hashlib.sha256("\n".join(f"{u.ref} {u.old} {u.new}" for u in push.updates).encode()).hexdigest()[:32]


def _may_propose(actor: Actor, repo: Repo) -> bool:
    return policy.allowed(actor, Action.DISCUSS, repo) and not repo.discussions_disabled


def _arrived_bytes(quarantine: Path) -> int:
    """What the push adds to the disk. Nothing arrives with a push that only moves or deletes refs."""
    return sum(path.lstat().st_size for path in quarantine.rglob("*") if path.is_file()) if quarantine.is_dir() else 0


def _short_ref(ref: str) -> str:
    return ref.removeprefix("refs/heads/").removeprefix("refs/")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"
