"""What BuildKit's steps write, measured from outside, and the step ended that writes more than a build may.

The engine has no word for it: a quota of the storage driver (`overlay2.size`, on xfs with `pquota`) holds for containers only, and
BuildKit's layers are none. A step is known by a file that BuildKit mounts into each; its layer and the caches it mounts are folders of this
host. Needs the engine on this host and the rights of root: a builder without them asks `kit_guard`.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from builder.steps import folder_bytes

LOOK_S = 1.0  # between two looks; longer where a look takes long
_SHARE = 0.2  # of the time is spent looking, at most
_ITS_FILE = re.compile(r"(?P<root>.*)/buildkit/executor/(?:resolv|hosts)[^/]*\Z")  # of moby and of buildkitd
_UPPER = re.compile(r"(?:\A|,)upperdir=([^,]+)")
_SYSTEM = ("/proc", "/dev", "/sys", "/etc/resolv.conf", "/etc/hosts", "/run/secrets")


@dataclass(frozen=True, slots=True)
class KitStep:
    """One running RUN. `layer`: where it writes; `caches`: what else it may write to, as this host sees it."""

    name: str
    pids: tuple[int, ...]
    layer: Path
    caches: tuple[Path, ...] = ()

    def kill(self) -> None:
        for pid in self.pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def kit_steps(root: Path, proc: Path = Path("/proc")) -> list[KitStep]:
    """Those of the engine that keeps its data in `root`."""
    spaces: dict[str, list[int]] = {}
    for place in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            spaces.setdefault(os.readlink(place / "ns/mnt"), []).append(int(place.name))
    found = []
    for space, pids in spaces.items():
        with contextlib.suppress(OSError):
            step = read_step(space, tuple(pids), (proc / str(min(pids)) / "mountinfo").read_text(), root, proc)
            if step is not None:
                found.append(step)
    return found


def read_step(name: str, pids: tuple[int, ...], mounts: str, root: Path, proc: Path = Path("/proc")) -> KitStep | None:
    """From the mounts of its processes (`man 5 proc`, mountinfo); None for anything else than a step of this engine. Pure."""
    is_ours, layer, caches = False, "", []
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        its_root, point, options = left.split()[3:6]
        kind, _, more = right.split(" ", 2)
        if mark := _ITS_FILE.match(its_root):  # a path from the root of its file system, which may be the engine's own
            is_ours = is_ours or str(root).endswith(mark["root"])
        elif point == "/" and kind == "overlay" and (upper := _UPPER.search(more)):
            layer = upper[1]
        elif point != "/" and kind not in ("tmpfs", "proc", "sysfs") and "rw" in options.split(",") and not point.startswith(_SYSTEM):
            caches.append(proc / str(min(pids)) / "root" / point.lstrip("/"))
    return KitStep(name, pids, Path(layer), tuple(caches)) if is_ours and layer else None


@dataclass
class KitWatch:
    """Ends steps that write more than `limit_bytes`. One watch looks for all builds of a process: whose a step is, nobody says, but only
    the build whose step was killed ends by it. What caches held before does not count."""

    root: Path
    limit_bytes: int
    _held: dict[str, int] = field(default_factory=dict)
    _users: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _done: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _ended: list[tuple[float, int]] = field(default_factory=list)  # when, and how much it had written

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        with self._lock:
            self._users += 1
            if self._thread is None:
                self._done = threading.Event()
                self._thread = threading.Thread(target=self._watch, args=(self._done,), name="kit-watch", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                thread, self._thread = (self._thread, None) if self._users == 0 else (None, self._thread)
                if thread is not None:
                    self._done.set()
            if thread is not None:
                thread.join()

    def ended(self, since: float) -> int:
        """Bytes that the last step ended by this watch had written, 0 where none was since then (`time.monotonic`)."""
        return next((written for at, written in reversed(self._ended) if at >= since), 0)

    def _watch(self, done: threading.Event) -> None:
        pause_s = LOOK_S
        while not done.wait(pause_s):
            began = time.monotonic()
            self._look()
            pause_s = max(LOOK_S, (time.monotonic() - began) * (1 / _SHARE - 1))

    def _look(self) -> None:
        steps = kit_steps(self.root)
        self._held = {name: held for name, held in self._held.items() if name in {step.name for step in steps}}
        for step in steps:
            in_caches = sum(folder_bytes(one, shared=True) for one in step.caches)
            written = folder_bytes(step.layer, shared=True) + in_caches - self._held.setdefault(step.name, in_caches)
            if written > self.limit_bytes:
                self._ended.append((time.monotonic(), written))
                step.kill()
