"""Space pages: head, timeline, logs, events, and the owner's actions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

from control_plane.accounts import people, policy
from control_plane.accounts.metering import meter_ended_build
from control_plane.accounts.mounting import shown
from control_plane.builds import record
from control_plane.community import discussions
from control_plane.domain.accounts import Action, Actor
from control_plane.domain.builds import ArtifactKind
from control_plane.domain.errors import NotFound, Rejected, RepoNotFound
from control_plane.domain.ids import BuildId, RepoId, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.spaces import Build, Deployment, Repo, RepoType, Sdk, Space, Visibility
from control_plane.domain.stage import Stage
from control_plane.http.live import ALIVE_S, LOOK_EVERY, LiveHub, changed
from control_plane.ports.git_import import Room
from control_plane.ports.log_store import LogLine
from control_plane.ports.space_actions import DuplicateOrder, NewRepo, RuntimeView
from control_plane.spaces.timeline import timeline, usual_seconds
from web.services.deps import Base, WebDeps
from web.services.mounted import volume_rows
from web.services.stages import card
from web.services.starters import starter_app
from web.views import BuildRow, ImportStep, LiveEvent, LogEntry, LogPage, SpacePage, VolumeRow

_LAST_LINES_S = 1.0  # how long the log of a build that is over may still grow

DOWNLOAD_LINES = 200_000


def has_image(deployments: Sequence[Deployment]) -> bool:
    return any(one.live_at is not None and one.artifact.kind is ArtifactKind.IMAGE for one in deployments)


class SpaceFamily(Base):
    def __init__(self, deps: WebDeps) -> None:
        super().__init__(deps)
        self.live = LiveHub(deps.signals, deps.uow)

    async def space(self, actor: Actor, owner: str, name: str) -> SpacePage:
        async with self.d.uow.read() as uow:
            repo = await self.find(uow, actor, RepoType.SPACE, owner, name)
            space = await uow.spaces.get(SpaceId(repo.id))
            if space is None:
                raise RepoNotFound()
            builds = await uow.builds.of_space(space.id, 10)
            deployments = await uow.deployments.of_space(space.id, 10)
            replicas = await uow.deployments.replicas(space.id)
            liked = actor.user is not None and any(u.id == actor.user.id for u in await uow.repos.likers(repo.id))
            talks = len(await discussions.of_repo(uow, repo.id))
        view = await self.d.actions.runtime_view(space)
        volumes: tuple[VolumeRow, ...] = ()
        if view.volumes:
            async with self.d.uow.read() as uow:
                volumes = volume_rows(await shown(uow, actor, view.volumes))
        can_write = policy.allowed(actor, Action.WRITE, repo)
        serves = view.stage.serves
        line = timeline(
            builds[0] if builds else None, deployments, replicas, now=self.d.clock.now(), usual_s=usual_seconds(builds, deployments),
            serving=view.sha if serves else "", position=view.position, static=space.sdk is Sdk.STATIC,
        )  # fmt: skip
        message, reason = view.message, view.reason.value if view.reason else ""
        # What a visitor is told: nothing of a failed push behind a running app, and no build internals.
        quiet = serves and (not can_write or view.reason in (None, Reason.BUILD_QUEUED, Reason.STARTING))
        app_url = self.d.app_url(space.subdomain).rstrip("/") + space.config.base_path
        frame_url = app_url
        if repo.visibility is Visibility.PRIVATE and self.d.app_proof is not None and policy.allowed(actor, Action.USE_APP, repo):
            frame_url += f"?__sign={self.d.app_proof(actor, space.id)}"
        config, failed = space.config, deployments[0] if deployments and deployments[0].failed_reason else None
        return SpacePage(
            card=card(repo, space, view), subdomain=space.subdomain, app_url=app_url, frame_url=frame_url,
            revision=view.sha if serves else "", head=repo.head or "", requested_hardware=space.hardware,
            current_hardware=view.current_hardware or "", message="" if quiet else message, reason="" if quiet else reason,
            liked=liked, can_write=can_write, can_admin=policy.allowed(actor, Action.ADMIN, repo),
            can_read_code=policy.allowed(actor, Action.READ_CODE, repo), timeline=line if can_write or not serves else None,
            git_url=self.git_url(repo), log_tail=failed.log_tail if failed and can_write else (), position=view.position, eta_s=view.eta_s,
            full_width=config.full_width, header=config.header, has_app_file=space.has_app_file, origin=repo.origin,
            tags=tuple(config.tags),
            models=config.models, datasets=config.datasets, volumes=volumes, license=config.license,
            asleep=view.stage is Stage.SLEEPING, serves=serves, may_embed=not config.disable_embedding, discussions=talks,
            image_command=self._image_command(space) if policy.may_pull_image(actor, repo) and has_image(deployments) else "",
        )  # fmt: skip

    def _image_command(self, space: Space) -> str:
        host = self.d.public_url.partition("//")[2].rstrip("/")
        port = 8501 if space.sdk is Sdk.STREAMLIT else space.config.app_port
        return f"docker login {host}\ndocker run --rm -p 7860:{port} {host}/{space.subdomain}"

    async def builds(self, actor: Actor, owner: str, name: str) -> tuple[BuildRow, ...]:
        _, space = await self.space_for(actor, owner, name, Action.WRITE)
        async with self.d.uow.read() as uow:
            return tuple(build_row(b) for b in await uow.builds.of_space(space.id, 20))

    # -- logs

    async def _stream(self, space: Space, which: str, build_id: str | None) -> str | None:
        if which == "run":
            return f"run/{space.id}"
        async with self.d.uow.read() as uow:
            build = await uow.builds.get(BuildId(build_id)) if build_id else await uow.builds.latest(space.id)
        if build_id and (build is None or build.space_id != space.id):
            raise NotFound("there is no such build of this Space")
        return f"build/{build.id}" if build else None

    async def log_page(self, actor: Actor, owner: str, name: str, which: str, build_id: str | None, tail: int) -> LogPage:
        """The last `tail` lines, 0 for all that is kept."""
        _, space = await self.space_for(actor, owner, name, Action.WRITE)
        stream = await self._stream(space, which, build_id)
        if stream is None:
            return LogPage((), 0)
        count = await self.d.logs.count(stream)
        first = max(count - (tail or DOWNLOAD_LINES), 0)
        found = await self.d.logs.read(stream, after=first, limit=tail or DOWNLOAD_LINES)
        lines = tuple(LogEntry(first + i, line.at, line.text) for i, line in enumerate(found))
        return LogPage(lines, first + len(lines))

    async def follow_log(
        self, actor: Actor, owner: str, name: str, which: str, build_id: str | None, after: int
    ) -> AsyncIterator[LogEntry | None]:
        _, space = await self.space_for(actor, owner, name, Action.WRITE)
        stream = await self._stream(space, which, build_id)
        if stream is None:
            yield None
            return
        lines = self.d.logs.follow(stream, after=after)
        number = after
        is_over = await self._is_over(stream)
        step: asyncio.Task[LogLine] | None = None
        told: asyncio.Task[bool] | None = None
        try:
            async with self.live.listener(space.id, *([actor.user.id] if actor.user else [])) as event:
                while True:
                    step = step or asyncio.create_task(_next_line(lines))
                    told = told or asyncio.create_task(event.wait())
                    done, _ = await asyncio.wait(
                        {step, told}, timeout=_LAST_LINES_S if is_over else ALIVE_S, return_when=asyncio.FIRST_COMPLETED
                    )
                    if told in done or not done:
                        # Rights are looked at again when somebody's changed, and with every sign of life: who lost them stops reading.
                        event.clear()
                        told = None if told in done else told
                        await self.space_for(await self.still(actor), owner, name, Action.WRITE)
                        is_over = is_over or await self._is_over(stream)
                    if step not in done:
                        if not done and is_over:
                            return
                        if not done:
                            yield None
                        continue
                    try:
                        line = step.result()
                    except StopAsyncIteration:
                        return
                    step = None
                    yield LogEntry(number, line.at, line.text)
                    number += 1
        finally:
            for task in (step, told):
                if task is not None:
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                        await task
            close = getattr(lines, "aclose", None)
            if close is not None:
                await close()

    async def _is_over(self, stream: str) -> bool:
        """Whether nobody will write to this log any more: that of a build that came to its end."""
        kind, _, build_id = stream.partition("/")
        if kind != "build":
            return False
        async with self.d.uow.read() as uow:
            build = await uow.builds.get(BuildId(build_id))
        return build is None or build.status.is_terminal

    # -- events

    async def events(self, actor: Actor, owner: str, name: str, after: int | None) -> AsyncIterator[LiveEvent | None]:
        _, space = await self.space_for(actor, owner, name, Action.VIEW)
        async with self.live.listener(space.id, *([actor.user.id] if actor.user else [])) as event:
            last = after if after is not None else await self._last_event(space.id)
            yield None
            seen = await self._facts(actor, owner, name)
            while True:
                async with self.d.uow.read() as uow:
                    news = await uow.events.of_space(space.id, after_id=max(last, 1), limit=50) if last else ()
                    if not last:
                        news = await uow.events.of_space(space.id, limit=1)
                facts = await self._facts(actor, owner, name)
                if news or facts != seen:
                    last, seen = (news[-1].id if news else last), facts
                    yield LiveEvent(last, "changed", {"stage": facts[0], "kind": news[-1].kind if news else ""})
                quiet = 0
                while not await changed(event):
                    yield None
                    quiet += 1
                    if quiet == LOOK_EVERY:
                        break

    async def _last_event(self, space_id: SpaceId) -> int:
        async with self.d.uow.read() as uow:
            newest = await uow.events.of_space(space_id, limit=1)
        return newest[-1].id if newest else 0

    async def _facts(self, actor: Actor, owner: str, name: str) -> tuple[object, ...]:
        """What the page shows and events do not carry; raises NotFound or NotSignedIn once the Space is gone or hidden."""
        _, space = await self.space_for(await self.still(actor), owner, name, Action.VIEW)
        view: RuntimeView = await self.d.actions.runtime_view(space)
        return view.stage.value, view.message, view.sha, view.position, view.current_hardware

    # -- the owner's actions

    async def create_space(
        self,
        actor: Actor,
        owner: str,
        name: str,
        sdk: str,
        visibility: str,
        hardware: str,
        template: bool,
        files: Mapping[str, bytes],
    ) -> SpacePage:
        if sdk not in set(Sdk):
            raise Rejected(f"choose an SDK: {', '.join(Sdk)}")
        async with self.d.uow.read() as uow:
            account = policy.require_create(actor, await uow.accounts.by_name(owner), owner)
        order = NewRepo(
            RepoType.SPACE, account, name, _visibility(visibility), Sdk(sdk), hardware=hardware or None,
            files=dict(files) or (starter_app(Sdk(sdk)) if template else None),
        )  # fmt: skip
        repo = await self.d.actions.create_repo(actor, order)
        return await self.space(actor, repo.owner_name, repo.name)

    async def import_space(
        self, actor: Actor, owner: str, name: str, sdk: str, visibility: str, hardware: str, url: str, branch: str
    ) -> AsyncGenerator[ImportStep, None]:
        imports = self.d.imports
        if imports is None:
            raise Rejected("This platform does not import from other git servers.")
        if sdk not in set(Sdk):
            raise Rejected(f"choose an SDK: {', '.join(Sdk)}")
        imports.check(url, branch)
        async with self.d.uow.read() as uow:
            account = policy.require_create(actor, await uow.accounts.by_name(owner), owner)
        said: asyncio.Queue[str] = asyncio.Queue()

        async def source(into: RepoId, room: Room) -> None:
            await imports.bring(url, branch, into, said.put_nowait, room)

        order = NewRepo(
            RepoType.SPACE, account, name, _visibility(visibility), Sdk(sdk), hardware=hardware or None, origin=url, source=source
        )
        work = asyncio.create_task(self.d.actions.create_repo(actor, order))
        try:
            async for words in _until_done(said, work):
                yield ImportStep(words)
            repo = await work
        finally:  # whoever asked went away: nothing half-made stays
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        yield ImportStep("The Space is there", self.base(repo))

    async def duplicate(self, actor: Actor, owner: str, name: str, to_owner: str, to_name: str, visibility: str) -> SpacePage:
        source = await self.repo_for(actor, RepoType.SPACE, owner, name, Action.READ_CODE)
        async with self.d.uow.read() as uow:
            account = policy.require_create(actor, await uow.accounts.by_name(to_owner), to_owner)
        repo: Repo = await self.d.actions.duplicate(actor, source, DuplicateOrder(account, to_name, _visibility(visibility)))
        return await self.space(actor, repo.owner_name, repo.name)

    async def pause(self, actor: Actor, owner: str, name: str) -> None:
        _, space = await self.space_for(actor, owner, name, Action.WRITE)
        await self.d.actions.pause(actor, space)

    async def restart(self, actor: Actor, owner: str, name: str, *, factory: bool) -> None:
        _, space = await self.space_for(actor, owner, name, Action.WRITE)
        await self.d.actions.restart(actor, space, factory=factory)

    async def cancel_build(self, actor: Actor, owner: str, name: str, build_id: str) -> None:
        _, space = await self.space_for(actor, owner, name, Action.WRITE)
        async with self.d.uow.read() as uow:
            build = await uow.builds.get(BuildId(build_id))
        if build is None or build.space_id != space.id:
            raise NotFound("there is no such build of this Space")
        if not build.status.is_terminal:
            await record.cancel_build(
                self.d.uow, self.d.clock, self.d.signals, build.id, by=actor.name, address=actor.address, meter=meter_ended_build
            )

    async def rename(self, actor: Actor, kind: RepoType, owner: str, name: str, to_owner: str, to_name: str) -> str:
        repo = await self.repo_for(actor, kind, owner, name, Action.ADMIN)
        async with self.d.uow.read() as uow:
            account = await people.find_account(uow, to_owner)
        if account.id != repo.owner_id:
            policy.require_create(actor, account, to_owner)
        moved = await self.d.actions.move_repo(actor, repo, account, to_name)
        return self.base(moved)

    async def set_visibility(self, actor: Actor, kind: RepoType, owner: str, name: str, visibility: str) -> None:
        repo = await self.repo_for(actor, kind, owner, name, Action.ADMIN)
        await self.d.actions.set_visibility(actor, repo, _visibility(visibility))

    async def remove_repo(self, actor: Actor, kind: RepoType, owner: str, name: str) -> None:
        await self.d.actions.delete_repo(actor, await self.repo_for(actor, kind, owner, name, Action.ADMIN))


async def _until_done(said: asyncio.Queue[str], work: asyncio.Task[Repo]) -> AsyncIterator[str]:
    """What is said while `work` goes on; the newest where more was said than anybody reads."""
    while not (work.done() and said.empty()):
        heard = asyncio.create_task(said.get())
        await asyncio.wait({heard, work}, return_when=asyncio.FIRST_COMPLETED)
        if not heard.done():
            heard.cancel()
            await asyncio.gather(heard, return_exceptions=True)
            continue
        words = heard.result()
        while not said.empty():
            words = said.get_nowait()
        yield words


async def _next_line(lines: AsyncIterator[LogLine]) -> LogLine:
    return await anext(lines)


def _visibility(text: str) -> Visibility:
    if text not in set(Visibility):
        raise Rejected(f"choose who may see it: {', '.join(Visibility)}")
    return Visibility(text)


def build_row(build: Build) -> BuildRow:
    spent = (build.finished_at - build.started_at).total_seconds() if build.finished_at and build.started_at else None
    message = build.message or (build.reason.words if build.reason else "")
    return BuildRow(build.id, build.revision, build.commit_title, build.status.value, build.created_at, spent, message)
