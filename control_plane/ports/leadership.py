"""Which of several schedulers acts. Adapters: a database row, a file lock, a Kubernetes Lease."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Leadership(Protocol):
    """At most one process leads at any time; a leader that cannot show it any more stops believing in itself first."""

    def is_leading(self) -> bool:
        """Ask right before acting. False well before another process may lead."""

    async def run(self, on_change: Callable[[bool], None]) -> None:
        """Contend until cancelled, then release. `on_change(True)` when this process leads, `on_change(False)` when another may."""
