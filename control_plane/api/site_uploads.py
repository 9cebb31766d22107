"""Trees of static Spaces from builders on other hosts: taken in as a tar, checked like any repository's, published by one rename."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from control_plane.domain.errors import Rejected

_CHUNK = 1 << 20

Unpack = Callable[[Iterator[bytes], Path], object]  # refuses what could leave the folder


class SiteUploads:
    """`root` holds `<space id>/<build id>/tree`, as builders that share this disk leave it there themselves."""

    def __init__(self, root: Path, unpack: Unpack, *, max_bytes: int) -> None:
        self._root, self._unpack, self._max_bytes = root, unpack, max_bytes

    def has(self, space_id: str, build_id: str) -> bool:
        return (self._root / space_id / build_id / "tree").is_dir()

    async def take(self, space_id: str, build_id: str, body: AsyncIterator[bytes]) -> None:
        """Raises Rejected for more than `max_bytes`, and for a tree that is refused."""
        home = self._root / space_id
        await asyncio.to_thread(home.mkdir, parents=True, exist_ok=True)
        scratch = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix=f".new-{build_id}~", dir=home))
        try:
            size = 0
            with open(scratch / "tar", "wb") as file:
                async for chunk in body:
                    size += len(chunk)
                    if size > self._max_bytes:
                        raise Rejected(f"the site is larger than {self._max_bytes >> 20} MiB")
                    await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(self._publish, scratch, home / build_id)
        finally:
            await asyncio.to_thread(shutil.rmtree, scratch, True)

    def _publish(self, scratch: Path, final: Path) -> None:
        bundle = scratch / "bundle"
        (bundle / "tree").mkdir(parents=True)
        with open(scratch / "tar", "rb") as file:
            self._unpack(iter(lambda: file.read(_CHUNK), b""), bundle / "tree")
        scratch.chmod(0o755)
        if final.exists():  # an earlier attempt got this far and was not heard
            final.rename(scratch / "replaced")
        bundle.rename(final)
