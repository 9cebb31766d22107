"""Pictures of running apps on the gallery's cards: taken beside the requests, one at a time, of public Spaces only.

A Space gets a new picture when another revision of it is live, at most once in `AGAIN_S`, and `SETTLE_S` after it went live;
between two pictures of any Spaces `GAP_S` pass. Files are named by Space; losing them costs a new picture.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from control_plane.domain.errors import VitrineError
from control_plane.domain.ids import RepoId, SpaceId
from control_plane.domain.spaces import RepoType, Space, Visibility
from control_plane.domain.stage import Stage
from control_plane.ports.camera import Camera
from control_plane.ports.clock import Clock
from control_plane.ports.signals import Signals
from control_plane.ports.space_actions import SpaceActions
from control_plane.ports.stores import UnitOfWorkFactory

log = logging.getLogger("vitrine.thumbnails")

AGAIN_S = 600.0
SETTLE_S = 4.0
GAP_S = 2.0
AT_START = 200  # running Spaces without a picture that are looked at after a start
_MOST_WAITING = 1000


class Thumbnails:
    def __init__(
        self, folder: Path, camera: Camera, uow: UnitOfWorkFactory, clock: Clock, signals: Signals, actions: SpaceActions,
        app_url: Callable[[str], str],
    ) -> None:  # fmt: skip
        self._folder, self._camera, self._uow, self._clock = folder, camera, uow, clock
        self._signals, self._actions, self._app_url = signals, actions, app_url
        self._have: dict[str, str] = {}  # space id → revision in the picture
        self._tried: dict[str, float] = {}
        self._due: dict[str, float] = {}  # space id → when it may be taken
        self._wake = asyncio.Event()

    def address(self, space_id: str) -> str:
        """On this site, "" = there is no picture. It changes with the picture, so browsers may keep it."""
        revision = self._have.get(space_id)
        return f"/-/thumbnails/{space_id}/{revision[:12]}.webp" if revision else ""

    def read(self, space_id: str) -> bytes | None:
        revision = self._have.get(space_id)
        try:
            return self._path(space_id, revision).read_bytes() if revision else None
        except OSError:
            return None

    def _path(self, space_id: str, revision: str) -> Path:
        return self._folder / f"{space_id}.{revision}.webp"

    async def run(self) -> None:
        """Until cancelled."""
        await asyncio.to_thread(self._load)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._work())

    def _load(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in self._folder.glob("*.*.webp"):
            space_id, revision, _ = path.name.split(".")
            self._have[space_id] = revision

    async def _listen(self) -> None:
        with contextlib.suppress(VitrineError):
            async with self._uow.read() as uow:
                found = await uow.repos.list(RepoType.SPACE, running_only=True, sort="trending", limit=AT_START)
            for repo in found:
                if repo.id not in self._have:
                    self._ask(repo.id)
        async for _, key in self._signals.subscribe("events"):
            if key != "*":
                self._ask(key)

    def _ask(self, space_id: str) -> None:
        if space_id not in self._due and len(self._due) < _MOST_WAITING:
            again = self._tried.get(space_id, -AGAIN_S) + AGAIN_S if space_id in self._have else 0.0
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
        if revision == self._have.get(space_id):
            return False
        self._tried[space_id] = self._clock.monotonic()
        picture = await self._camera.shoot(urlsplit(self._app_url(space.subdomain)).netloc, space.config.base_path or "/")
        if picture is None or await self._wanted(space_id) is None:
            return True
        await asyncio.to_thread(self._keep, space_id, revision, picture)
        return True

    async def _wanted(self, space_id: SpaceId) -> tuple[Space, str] | None:
        """The Space and the revision it serves, when it may have a picture; otherwise an old one goes."""
        async with self._uow.read() as uow:
            repo, space = await uow.repos.get(RepoId(space_id)), await uow.spaces.get(space_id)
        if repo is None or space is None or repo.visibility is not Visibility.PUBLIC:
            if old := self._have.pop(space_id, None):
                await asyncio.to_thread(self._path(space_id, old).unlink, missing_ok=True)
            return None
        view = await self._actions.runtime_view(space)
        return (space, view.sha) if view.stage is Stage.RUNNING and view.sha else None

    def _keep(self, space_id: SpaceId, revision: str, picture: bytes) -> None:
        target = self._path(space_id, revision)
        part = target.with_suffix(".part")
        part.write_bytes(picture)
        os.replace(part, target)
        old = self._have.get(space_id)
        self._have[space_id] = revision
        if old and old != revision:
            self._path(space_id, old).unlink(missing_ok=True)
