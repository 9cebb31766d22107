"""Runs one command of a build: its output streams to the log, its limits are watched, a stop kills it at once.

Every step has its own session, so that whatever it forks goes down with it. Time, memory (resident bytes of the whole
session), processes and disk are watched from here; a launcher that gives a cgroup and a pid namespace makes the same
limits hard, and this watch then only finds the words. Commands are argument tuples, never shell text.
"""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.errors import BuildFailed
from builder.reporter import BuildLog, CancelToken
from builder.step_guard import StepGuard, kill_session, session_members
from control_plane.domain.builds import BuildLimits
from control_plane.domain.reasons import Reason

WATCH_S = 0.2  # between two looks at time, memory and processes
DISK_WATCH_S = 1.0  # between two walks of the watched folders
TAIL_LINES = 200
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class StepResult:
    """`tail`: the last lines of standard output and error together."""

    exit_code: int
    tail: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return self.exit_code == 0

    @property
    def text(self) -> str:
        return "\n".join(self.tail)


class Deadline:
    """The time left to the whole build, shared by its steps; `time_s` in seconds."""

    def __init__(self, time_s: float) -> None:
        self._limit = time_s
        self._until = time.monotonic() + time_s

    def check(self) -> None:
        """Raises BuildFailed(BUILD_TIMEOUT)."""
        if time.monotonic() > self._until:
            raise self.failure()

    def failure(self) -> BuildFailed:
        return BuildFailed(Reason.BUILD_TIMEOUT, f"The build ran longer than its limit of {self._limit:g} s and was stopped.")

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self._until


class StepRunner:
    """Runs the steps of one build, one at a time. Raises BuildFailed when a limit is hit, BuildStopped on a stop."""

    def __init__(
        self, log: BuildLog, limits: BuildLimits, cancel: CancelToken, deadline: Deadline | None = None, guard: StepGuard | None = None
    ) -> None:
        self._log = log
        self._limits = limits
        self._cancel = cancel
        self._deadline = deadline or Deadline(limits.time_s)
        self._guard = guard

    def with_log(self, log: BuildLog) -> StepRunner:
        """The same build, told elsewhere."""
        return StepRunner(log, self._limits, self._cancel, self._deadline, self._guard)

    @property
    def deadline(self) -> Deadline:
        return self._deadline

    @property
    def cancel(self) -> CancelToken:
        return self._cancel

    @property
    def log(self) -> BuildLog:
        return self._log

    @property
    def limits(self) -> BuildLimits:
        return self._limits

    def run(
        self,
        argv: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        watch: Sequence[Path] = (),
        room: Path | None = None,
        quiet: bool = False,
        stdin: str | None = None,
        log: BuildLog | None = None,
    ) -> StepResult:
        """Runs `argv` to its end. `watch`: folders whose size counts against the disk limit. `room`: a folder on a disk that must not run
        full. `quiet`: keep output from the log; `log`: another one than the build's."""
        self._cancel.check()
        self._deadline.check()
        try:
            process = subprocess.Popen(
                list(argv),
                cwd=cwd,
                env=dict(env or {}),
                stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o022,  # apps run as another user and read what is installed here
            )
        except OSError as error:
            raise BuildFailed(Reason.PLATFORM_ERROR, f"{argv[0]} cannot be started: {error}") from error
        if self._guard is not None:
            self._guard.add(process.pid)
        watchdog = _Watchdog(process.pid, self._limits, self._deadline, watch, room)
        try:
            with self._cancel.on_stop(lambda: kill_session(process.pid)), watchdog:
                tail = self._read(process, stdin, None if quiet else log or self._log)
                exit_code = process.wait()
        except BaseException:
            kill_session(process.pid)
            process.wait()
            raise
        finally:
            kill_session(process.pid)  # what the command left behind
            if self._guard is not None:
                self._guard.remove(process.pid)
            for stream in (process.stdout, process.stdin):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
        self._cancel.check()
        if watchdog.failure is not None:
            raise watchdog.failure
        return StepResult(exit_code, tuple(tail))

    def _read(self, process: subprocess.Popen[bytes], stdin: str | None, log: BuildLog | None) -> deque[str]:
        tail: deque[str] = deque(maxlen=TAIL_LINES)
        if stdin is not None and process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(stdin.encode())
                process.stdin.close()
        for raw in _lines(process):
            text = raw.decode("utf-8", "replace").rstrip("\r")
            tail.append(text[:4000])
            if log is not None:
                log.line(text)
        return tail


def _lines(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """Lines of the output until its end, or until the command is gone and nothing more comes: what it left in the background may
    hold the pipe open for ever."""
    assert process.stdout is not None
    handle, rest = process.stdout.fileno(), b""
    with selectors.DefaultSelector() as selector:
        selector.register(handle, selectors.EVENT_READ)
        while True:
            if not selector.select(WATCH_S):
                if process.poll() is not None:
                    break
                continue
            chunk = os.read(handle, 1 << 16)
            if not chunk:
                break
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
            if len(rest) > 1 << 16:
                yield rest
                rest = b""
    if rest:
        yield rest


class _Watchdog:
    """Kills the session of `pid` at the first limit it breaks and keeps the reason."""

    def __init__(self, pid: int, limits: BuildLimits, deadline: Deadline, watch: Sequence[Path], room: Path | None) -> None:
        self.failure: BuildFailed | None = None
        self._pid = pid
        self._limits = limits
        self._deadline = deadline
        self._watch, self._room = tuple(watch), room
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch-{pid}", daemon=True)

    def __enter__(self) -> _Watchdog:
        with contextlib.suppress(OSError):  # it may be gone already
            resource.prlimit(self._pid, resource.RLIMIT_CORE, (0, 0))
            resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (self._limits.disk_bytes, self._limits.disk_bytes))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        next_disk = time.monotonic() + DISK_WATCH_S
        while not self._done.wait(WATCH_S):
            self.failure = self._broken(time.monotonic() >= next_disk)
            if time.monotonic() >= next_disk:
                next_disk = time.monotonic() + DISK_WATCH_S
            if self.failure is not None:
                kill_session(self._pid)
                return

    def _broken(self, look_at_disk: bool) -> BuildFailed | None:
        if self._deadline.is_over:
            return self._deadline.failure()
        memory, count = session_use(self._pid)
        if memory > self._limits.memory_bytes:
            return BuildFailed(
                Reason.BUILD_MEMORY, f"The build used more than {self._limits.memory_bytes >> 20} MiB of memory and was stopped."
            )
        if count > self._limits.pids:
            return BuildFailed(Reason.BUILD_FAILED, f"The build started more than {self._limits.pids} processes and was stopped.")
        if look_at_disk and self._room is not None and (free := free_bytes(self._room)) < spare_bytes(self._room):
            return BuildFailed(
                Reason.BUILD_DISK, f"The disk of the container engine is full ({free >> 20} MiB left); the build was stopped."
            )
        if look_at_disk and sum(folder_bytes(folder) for folder in self._watch) > self._limits.disk_bytes:
            return BuildFailed(Reason.BUILD_DISK, f"The build wrote more than {self._limits.disk_bytes >> 20} MiB and was stopped.")
        return None


def session_use(sid: int) -> tuple[int, int]:
    """Resident bytes and number of processes of a session; shared pages count once per process."""
    members = session_members(sid)
    return sum(pages for _, pages in members) * _PAGE, len(members)


def free_bytes(folder: Path) -> int:
    about = os.statvfs(folder)
    return about.f_bavail * about.f_frsize


def spare_bytes(folder: Path) -> int:
    """What builds leave free of a disk: a twentieth, at most 1 GiB."""
    about = os.statvfs(folder)
    return min(1 << 30, about.f_blocks * about.f_frsize // 20)


def folder_bytes(folder: Path, *, shared: bool = False) -> int:
    """Bytes on disk of what `folder` holds alone: hard-linked files (shared with a cache) count as nothing, or once where `shared`."""
    total, todo, seen = 0, [str(folder)], set[int]()
    while todo:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    try:
                        if entry.is_dir(follow_symlinks=False):
                            todo.append(entry.path)
                            continue
                        stat = entry.stat(follow_symlinks=False)
                        if stat.st_nlink > 1:
                            if not shared or stat.st_ino in seen:
                                continue
                            seen.add(stat.st_ino)
                        total += stat.st_blocks * 512
                    except OSError:
                        continue
        except OSError:
            continue
    return total
