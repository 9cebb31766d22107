"""Which processes of a platform are gone: each that is asked for its mark holds a lock on a file in a folder that they share.

The kernel gives the lock back when its process ends, however it ends. Where the folder's file system has no locks, nobody is known to
be gone.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from control_plane.domain.ids import new_id

_ENDING = ".mark"


class ProcessMarks:
    """accounts.storage.Processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = ""
        self._file = -1

    def own(self) -> str:
        """The mark of this process; "" where it cannot be locked."""
        if not self._name:
            self._folder.mkdir(parents=True, exist_ok=True)
            for path in self._folder.glob(f"*{_ENDING}"):
                self.is_gone(path.stem)
            name = new_id()
            draft = self._folder / name  # nobody looks at it before it is locked
            self._file = os.open(draft, os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self.close()
                draft.unlink()
                return ""
            draft.rename(draft.with_suffix(_ENDING))
            self._name = name
        return self._name

    def is_gone(self, name: str) -> bool:
        """Whether the process with this mark has ended. Its file goes with the answer."""
        path = self._folder / f"{name}{_ENDING}"
        try:
            file = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        else:
            path.unlink(missing_ok=True)
            return True
        finally:
            os.close(file)

    def close(self) -> None:
        """As the end of the process does it."""
        if self._file >= 0:
            os.close(self._file)
        self._file, self._name = -1, ""
