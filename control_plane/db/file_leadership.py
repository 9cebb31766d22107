"""Leadership where the database is a file: a lock beside it. The kernel gives it back when its holder dies, however it dies, so a
leader needs neither beats nor fences; all schedulers of such a platform are on one machine."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path
from typing import IO

LOOK_S = 0.2


class FileLeadership:
    """ports.leadership.Leadership. The lock belongs to the process (fcntl(2)): children do not inherit it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def is_leading(self) -> bool:
        return self._file is not None

    async def acquire(self) -> None:
        file = open(self._path, "a", opener=lambda p, flags: os.open(p, flags, 0o600))  # noqa: SIM115  held while leading
        try:
            while True:
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    await asyncio.sleep(LOOK_S)
        except BaseException:
            file.close()
            raise
        self._file = file

    async def lost(self) -> None:
        await asyncio.Event().wait()

    async def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
