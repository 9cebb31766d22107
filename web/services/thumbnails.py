"""Takes the pictures of running apps for the gallery's cards, beside the requests, one at a time, of public Spaces only.

A Space gets a new picture when another revision of it is live, at most once in `AGAIN_S`, and `SETTLE_S` after it went live;
between two pictures of any Spaces `GAP_S` pass. Of several API processes one takes a picture and all show it (`pictures`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from urllib.parse import urlsplit

from control_plane.domain.errors import VitrineError
from control_plane.domain.ids import RepoId, SpaceId
from control_plane.domain.repo_query import RepoQuery
from control_plane.domain.spaces import RepoType, Space, Visibility
from control_plane.domain.stage import Stage
from control_plane.ports.camera import Camera
from control_plane.ports.clock import Clock
from control_plane.ports.signals import Signals
from control_plane.ports.space_actions import SpaceActions
from control_plane.ports.stores import UnitOfWorkFactory
from web.services.pictures import Pictures

log = logging.getLogger("vitrine.thumbnails")

AGAIN_S = 600.0
SETTLE_S = 4.0
GAP_S = 2.0
AT_START = 200  # running Spaces without a picture that are looked at after a start
_MOST_WAITING = 1000


class Thumbnails:
    def __init__(
        self, pictures: Pictures, camera: Camera, uow: UnitOfWorkFactory, clock: Clock, signals: Signals, actions: SpaceActions,
        app_url: Callable[[str], str],
    ) -> None:  # fmt: skip
        self._pictures, self._camera, self._uow, self._clock = pictures, camera, uow, clock
        self._signals, self._actions, self._app_url = signals, actions, app_url
        self._tried: dict[str, float] = {}
        self._due: dict[str, float] = {}  # space id → when it may be taken
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._work())

    async def _listen(self) -> None:
        with contextlib.suppress(VitrineError):
            async with self._uow.read() as uow:
                found = await uow.repos.list(RepoQuery(RepoType.SPACE, running_only=True), limit=AT_START)
            for repo in found:
                if not self._pictures.revision_of(repo.id):
                    self._ask(repo.id)
        async for _, key in self._signals.subscribe("events"):
            if key != "*":
                self._ask(key)

    def _ask(self, space_id: str) -> None:
        if space_id not in self._due and len(self._due) < _MOST_WAITING:
            again = self._tried.get(space_id, -AGAIN_S) + AGAIN_S if self._pictures.revision_of(space_id) else 0.0
            self._due[space_id] = max(self._clock.monotonic() + SETTLE_S, again)
            self._wake.set()

    async def _work(self) -> None:
        while True:
            if not self._due:
                self._wake.clear()
                await self._wake.wait()
            space_id, at = min(self._due.items(), key=lambda item: item[1])
            wait = at - self._clock.monotonic()
            if wait > 0:
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), wait)
                continue
            del self._due[space_id]
            try:
                if await self._take(SpaceId(space_id)):
                    await asyncio.sleep(GAP_S)
            except VitrineError as error:
                log.warning("thumbnail.failed", extra={"space_id": space_id, "error": error.message})
            except OSError as error:
                log.warning("thumbnail.failed", extra={"space_id": space_id, "error": str(error)})

    async def _take(self, space_id: SpaceId) -> bool:
        """Whether a browser ran."""
        found = await self._wanted(space_id)
        if found is None:
            return False
        space, revision = found
        if revision == self._pictures.revision_of(space_id):
            return False
        with self._pictures.claim(space_id) as is_mine:
            if not is_mine:
                return False
            self._tried[space_id] = self._clock.monotonic()
            picture = await self._camera.shoot(urlsplit(self._app_url(space.subdomain)).netloc, space.config.base_path or "/")
            if picture is not None and await self._wanted(space_id) is not None:
                await self._pictures.keep(space_id, revision, picture)
        return True

    async def _wanted(self, space_id: SpaceId) -> tuple[Space, str] | None:
        """The Space and the revision it serves, when it may have a picture; otherwise an old one goes."""
        async with self._uow.read() as uow:
            repo, space = await uow.repos.get(RepoId(space_id)), await uow.spaces.get(space_id)
        if repo is None or space is None or repo.visibility is not Visibility.PUBLIC:
            await self._pictures.drop(space_id)
            return None
        view = await self._actions.runtime_view(space)
        return (space, view.sha) if view.stage is Stage.RUNNING and view.sha else None
