"""Ends the steps of a worker that was killed. Run by path: standard library only.

A worker that dies by SIGKILL cannot end what it started. So it keeps one guard: a process of its own session that holds the
read end of a pipe. The worker writes `+<session id>` before and `-<session id>` after each step; at the end of the pipe the guard
kills what is still on the list, and leaves. (PR_SET_PDEATHSIG would need code between fork and exec, which is not safe in a
process with threads, and reaches only the first child.)
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time


class StepGuard:
    """The worker's end. Starts its process at once; a guard that was killed itself is started again at the next step."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None

    def add(self, sid: int) -> None:
        self._tell(sid, True)

    def remove(self, sid: int) -> None:
        self._tell(sid, False)

    def close(self) -> None:
        with self._lock:
            if self._process is not None and self._process.stdin is not None:
                with contextlib.suppress(OSError):
                    self._process.stdin.close()
                self._process.wait(timeout=10)
                self._process = None

    def _tell(self, sid: int, is_open: bool) -> None:
        with self._lock:
            if is_open:
                self._open.add(sid)
            else:
                self._open.discard(sid)
            if not self._write(f"{'+' if is_open else '-'}{sid}\n"):
                self._start()

    def _start(self) -> None:
        if self._process is not None:
            self._process.wait()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", os.path.abspath(__file__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={},
            start_new_session=True,
        )
        self._write("".join(f"+{one}\n" for one in self._open))

    def _write(self, text: str) -> bool:
        if self._process is None or self._process.stdin is None:
            return False
        try:
            self._process.stdin.write(text.encode())
            self._process.stdin.flush()
        except OSError:
            return False
        return True


def session_members(sid: int) -> list[tuple[int, int]]:
    """(pid, resident pages) of every living process of the session and of their descendants, whatever session these made.

    By /proc/<pid>/stat (proc(5): fields 3, 4, 6 and 24).
    """
    children: dict[int, list[tuple[int, int]]] = {}
    members: list[tuple[int, int]] = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if fields[0] in (b"Z", b"X"):
            continue
        one = (int(name), int(fields[21]))
        if int(fields[3]) == sid:
            members.append(one)
        else:
            children.setdefault(int(fields[1]), []).append(one)
    for pid, _pages in members:  # grows while it is walked
        members += children.get(pid, ())
    return members


def kill_session(sid: int) -> None:
    """SIGKILL to every process of the session and their descendants; again while new ones appear, so that a forking step cannot
    outrun it. The list is made before the first one dies: an orphan cannot be traced back."""
    for _ in range(50):
        members = session_members(sid)
        with contextlib.suppress(OSError):
            os.killpg(sid, signal.SIGKILL)
        if not members:
            return
        for pid, _pages in members:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)


def main() -> None:
    """The guard process: keeps the list until its standard input ends."""
    steps: set[int] = set()
    for line in sys.stdin:
        sid = int(line[1:])
        if line[0] == "+":
            steps.add(sid)
        else:
            steps.discard(sid)
    for sid in steps:
        kill_session(sid)


if __name__ == "__main__":
    main()
