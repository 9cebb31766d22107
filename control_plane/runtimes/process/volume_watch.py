"""The size of Spaces' volumes, held by looking: a limit of a directory would need root and a disk with project quotas."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from control_plane.runtimes.process.replica_process import ReplicaProcess
from control_plane.runtimes.volumes import overfull

_SHARE = 0.05  # of the time may be spent on looking


async def watch_volumes(replicas: Callable[[], Iterable[ReplicaProcess]], every_s: float) -> None:
    """Until cancelled: every `every_s` seconds, or less often when a look takes long, end apps whose volume is over its size."""
    took_s = 0.0
    while True:
        await asyncio.sleep(max(every_s, took_s / _SHARE))
        began = time.monotonic()
        for replica in list(replicas()):
            if not replica.state.is_terminal and (words := await asyncio.to_thread(overfull, replica.spec.mounts)):
                await replica.end_overfull(words)
        took_s = time.monotonic() - began
