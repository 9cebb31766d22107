"""Starts one replica, prints the launcher's pid, and waits to be killed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.functional.sandbox.places import Place

# A daemon that left its session and its parent, and one that stopped itself: neither may outlive the platform.
APP = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True: time.sleep(60)
    os._exit(0)
if os.fork() == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
print("up", flush=True)
while True: time.sleep(60)
"""


async def main() -> None:
    place = Place()
    await place.runtime.start()
    spec = place.spec(APP)
    await place.runtime.apply(spec)
    while "up" not in place.lines:
        await asyncio.sleep(0.01)
    (replica,) = place.runtime._replicas.values()
    assert replica.group is not None
    print(place.root, *replica.group.pids(), replica.pid, flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
