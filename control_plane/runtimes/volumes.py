"""Volumes of Spaces as directories of this machine: ROOT/SPACE_ID/KEY. For runtimes whose replicas run here.

Apps fill these directories, so nothing in them is trusted: no link is followed, no depth is taken for granted.
"""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path

from control_plane.domain.errors import Broken
from control_plane.domain.ids import SpaceId
from control_plane.domain.replicas import Mount
from control_plane.domain.spaces import Space
from control_plane.domain.storage import DATA_PATH

_LEAST_BYTES = 4096  # what an empty file or folder is counted as: they take room too


class VolumeFolders:
    """`root` is made private to the platform. `uid`: who owns a new volume, None = the platform itself."""

    def __init__(self, root: Path, *, uid: int | None = None) -> None:
        self._root, self._uid = root, uid

    def mounts_of(self, space: Space) -> tuple[Mount, ...]:
        if not space.storage_tier:
            return ()
        folder = self._folder(space.id, space.storage_key)
        if not folder.is_dir():
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._hand_over(folder)
        return (Mount(str(folder), DATA_PATH, read_only=False, size_bytes=space.storage_bytes),)

    async def remove(self, space_id: SpaceId, space_name: str, key: str) -> None:
        await asyncio.to_thread(remove_tree, self._folder(space_id, key))

    async def remove_all(self, space: Space, space_name: str) -> None:
        await asyncio.to_thread(remove_tree, self._folder(space.id, "x").parent)

    def _folder(self, space_id: str, key: str) -> Path:
        if not (space_id.isalnum() and key.isalnum()):
            raise Broken(f"'{space_id}/{key}' is no volume")
        return self._root.resolve() / space_id / key

    def _hand_over(self, folder: Path) -> None:
        if self._uid is None or self._uid == os.geteuid():
            return
        try:
            os.chown(folder, self._uid, self._uid)
        except PermissionError:
            folder.chmod(0o777)  # reached through the platform's private folder only


def remove_tree(folder: Path) -> None:
    """Remove a tree that an app made, however deep and whatever its modes. Raises Broken when something is left."""
    if not folder.exists():
        return
    if os.geteuid() != 0:  # folders that their owner may not read cannot be emptied
        subprocess.run(["chmod", "-R", "u+rwX", "--", str(folder)], capture_output=True, check=False)
    done = subprocess.run(["rm", "-rf", "--one-file-system", "--", str(folder)], capture_output=True, text=True, check=False)
    if folder.exists():
        raise Broken(f"the volume {folder.parent.name}/{folder.name} could not be removed: {done.stderr.strip()[:200]}")


def overfull(mounts: Iterable[Mount]) -> str:
    """Why the app may not go on writing into a volume of its own, "" when all of them hold what they may. Reads the disk."""
    for mount in mounts:
        if mount.size_bytes and held_bytes(mount.source, mount.size_bytes) > mount.size_bytes:
            return f"The app filled its persistent storage: {mount.path} holds more than {mount.size_bytes / 1e9:g} GB."
    return ""


def held_bytes(folder: str, enough: int) -> int:
    """Bytes on disk below `folder`, hard links once; more than `enough` as soon as that is certain.

    What cannot be looked into (nested deeper than a path may be, closed to the platform) counts as over: it could hold anything.
    """
    total, linked, waiting = 0, set[tuple[int, int]](), [folder]
    while waiting and total <= enough:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    try:
                        info = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if stat.S_ISDIR(info.st_mode):
                        waiting.append(entry.path)
                    elif info.st_nlink > 1:
                        if (info.st_dev, info.st_ino) in linked:
                            continue
                        linked.add((info.st_dev, info.st_ino))
                    total += max(info.st_blocks * 512, _LEAST_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            continue  # it went while we looked
        except OSError:
            return enough + 1
    return total
