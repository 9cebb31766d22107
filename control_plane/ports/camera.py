"""A picture of a web page, taken by a browser that trusts the page with nothing."""

from __future__ import annotations

from typing import Protocol


class Camera(Protocol):
    async def shoot(self, host: str, path: str) -> bytes | None:
        """The page at `host` + `path` as a WebP of 640 × 400, None when it could not be taken. `host` may name a port."""
