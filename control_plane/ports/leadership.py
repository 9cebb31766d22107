"""Of several schedulers one acts. A Kubernetes Lease or a database lock says which; alone on a machine, the only one does."""

from __future__ import annotations

from typing import Protocol


class Leadership(Protocol):
    """`acquire`, then act while `is_leading`; when `lost` returns, stop acting and end: a fresh process tries again."""

    async def acquire(self) -> None:
        """Wait until this process leads. Raises Broken when leadership cannot be decided here at all."""

    def is_leading(self) -> bool:
        """Ask right before acting. False before any other process may become leader."""

    async def lost(self) -> None:
        """Return when this process leads no more; renews meanwhile."""

    async def release(self) -> None:
        """Let the next one in at once. Harmless when not leading."""
