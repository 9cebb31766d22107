"""The pictures of running apps that cards show: one file per Space in a folder that every API process shares.

The folder is the truth, this object the memory of it: a process that keeps or drops a picture tells the others, and each reads
the folder again when it may have missed something. Losing the folder costs new pictures, nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from control_plane.ports.signals import Signals

TOPIC = "pictures"  # key: "SPACE_ID.REVISION", without a revision when the picture is gone
_CLAIM_S = 120.0  # longer than any picture takes; whoever held the claim until then is gone
_NAME = re.compile(r"([A-Za-z0-9_-]{1,64})\.([0-9a-f]{40,64})\.webp")
_CLAIM = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Pictures:
    def __init__(self, folder: Path, signals: Signals) -> None:
        self._folder = folder
        self._signals = signals
        self._have: dict[str, str] = {}  # space id → revision in the picture

    def address(self, space_id: str) -> str:
        """On this site, "" = there is no picture. It changes with the picture, so browsers may keep it."""
        revision = self._have.get(space_id)
        return f"/-/thumbnails/{space_id}/{revision[:12]}.webp" if revision else ""

    def revision_of(self, space_id: str) -> str:
        """The commit that is in the picture, "" without one."""
        return self._have.get(space_id, "")

    def read(self, space_id: str) -> bytes | None:
        revision = self._have.get(space_id)
        try:
            return self._path(space_id, revision).read_bytes() if revision else None
        except OSError:
            return None

    async def keep(self, space_id: str, revision: str, picture: bytes) -> None:
        """In place of the one before, for every process."""
        await asyncio.to_thread(self._write, space_id, revision, picture)
        old, self._have[space_id] = self._have.get(space_id), revision
        if old and old != revision:
            await asyncio.to_thread(self._path(space_id, old).unlink, missing_ok=True)
        await self._signals.notify(TOPIC, f"{space_id}.{revision}")

    async def drop(self, space_id: str) -> None:
        if old := self._have.pop(space_id, None):
            await asyncio.to_thread(self._path(space_id, old).unlink, missing_ok=True)
            await self._signals.notify(TOPIC, f"{space_id}.")

    async def follow(self) -> None:
        """What the folder holds, and then what other processes keep and drop, until cancelled."""
        await asyncio.to_thread(self.load)
        async for _, key in self._signals.subscribe(TOPIC):
            space_id, _, revision = key.partition(".")
            if key == "*":
                await asyncio.to_thread(self.load)
            elif not revision:
                self._have.pop(space_id, None)
            elif _NAME.fullmatch(f"{key}.webp"):
                self._have[space_id] = revision

    def load(self) -> None:
        """Reads the folder. Of two pictures of a Space (a process died between them) the newer one stays."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        newest: dict[str, tuple[float, str]] = {}
        for path in self._folder.iterdir():
            if found := _NAME.fullmatch(path.name):
                with contextlib.suppress(OSError):  # another process takes it away at this moment
                    newest[found[1]] = max(newest.get(found[1], (0.0, "")), (path.stat().st_mtime, found[2]))
        self._have = {space_id: revision for space_id, (_, revision) in newest.items()}

    @contextlib.contextmanager
    def claim(self, space_id: str) -> Iterator[bool]:
        """Whether this process may take the picture now: processes on several hosts hear of a new version at once."""
        path = self._folder / f"{space_id}.claim"
        is_mine = bool(_CLAIM.fullmatch(space_id)) and (_made(path) or (_is_stale(path) and _made(path)))
        try:
            yield is_mine
        finally:
            if is_mine:
                path.unlink(missing_ok=True)

    def _path(self, space_id: str, revision: str) -> Path:
        return self._folder / f"{space_id}.{revision}.webp"

    def _write(self, space_id: str, revision: str, picture: bytes) -> None:
        target = self._path(space_id, revision)
        part = target.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(picture)
        os.replace(part, target)


def _made(path: Path) -> bool:
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _is_stale(path: Path) -> bool:
    """Whether it was, and is taken away. The age is by the clock of the file system, which all hosts share."""
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime > _CLAIM_S:
            path.unlink(missing_ok=True)
            return True
    return False
