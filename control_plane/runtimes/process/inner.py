"""Pid 1 of a sandbox: takes the last rights away, starts the program, reaps, says how it ended.

Runs inside the launcher's child, so the standard library only. It is not dumpable: the program, which is the same
user, can neither trace it nor read its memory; as pid 1 it cannot be killed from inside.
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import signal
import socket
from collections.abc import Callable

from control_plane.runtimes.process import kernel as k
from control_plane.runtimes.process import rootfs, seccomp
from control_plane.runtimes.process.launch_spec import CANNOT, Failed, Json, list_of, object_of


class Inner:
    """Pid 1 of the sandbox."""

    def __init__(self, spec: Json, line: socket.socket, groups: list[int], *, isolated: bool, rootful: bool, outer_uid: int) -> None:
        self.spec = spec
        self.lenient = bool(spec.get("lenient", False))
        self.rootful = rootful
        self.outer_uid = outer_uid
        self.line = line
        self.groups = groups
        self.isolated = isolated
        self.missing: list[str] = []

    def main(self) -> None:
        code = CANNOT
        try:
            k.die_with_parent()
            self._confine()
            app = self._start()
            self._say({"event": "started", "missing": self.missing})
            code = self._reap(app)
        except (OSError, ValueError, Failed) as error:
            self._say({"event": "failed", "message": str(error)})
        finally:
            os._exit(code)

    def _say(self, event: Json) -> None:
        self.line.send(json.dumps(event).encode())

    def _confine(self) -> None:
        for group in self.groups:
            os.write(group, b"0")
            os.close(group)
        self._try("cgroup-namespace", lambda: k.unshare(k.CLONE_NEWCGROUP))
        if self.isolated:
            try:
                self.missing += rootfs.enter(lenient=self.lenient)
            except OSError as error:
                raise Failed("filesystem", error) from error
            self._try("uts", lambda: socket.sethostname("space"))
        self._limit()
        if self.rootful:
            self._become_user()
        k.drop_capabilities()
        k.die_with_parent()
        k.prctl(k.PR_SET_DUMPABLE, 0)
        if seccomp.supported(k.machine()):
            self._try("seccomp", lambda: k.load_seccomp(seccomp.build_filter(k.machine())))
        elif self.lenient:
            self.missing.append("seccomp")
        else:
            raise Failed("seccomp", f"no table of system calls for {k.machine()}")

    def _try(self, item: str, do: Callable[[], object]) -> None:
        try:
            do()
        except OSError as error:
            if not self.lenient:
                raise Failed(item, error) from error
            self.missing.append(item)

    def _become_user(self) -> None:
        """As root: a user namespace whose one user is an unprivileged id of the host."""
        uid = self.outer_uid
        try:
            k.unshare(k.CLONE_NEWUSER)
            self._say({"event": "map"})
            if self.line.recv(1) != b"M":
                raise Failed("user", "no id map")
            uid = rootfs.INSIDE_ID
        except OSError as error:
            if not self.lenient:
                raise Failed("user", error) from error
            self.missing.append("user")
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)

    def _limit(self) -> None:
        limits = object_of(self.spec, "limits")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for name, which in (
            ("nofile", resource.RLIMIT_NOFILE), ("fsize", resource.RLIMIT_FSIZE), ("cpu_s", resource.RLIMIT_CPU),
            ("nproc", resource.RLIMIT_NPROC), ("data", resource.RLIMIT_DATA)
        ):  # fmt: skip
            if limits.get(name):
                wanted = int(str(limits[name]))
                hard = resource.getrlimit(which)[1]
                if hard != resource.RLIM_INFINITY:  # in a user namespace even root may not raise it
                    wanted = min(wanted, hard)
                resource.setrlimit(which, (wanted, wanted))

    def _start(self) -> int:
        spec = self.spec
        argv = [str(word) for word in list_of(spec, "argv")]
        env = {str(name): str(value) for name, value in object_of(spec, "env").items()}
        pid = os.fork()
        if pid:
            return pid
        try:
            os.setsid()
            for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            os.umask(0o022)
            _prefer_for_oom()
            if self.isolated:
                os.chdir(str(spec.get("cwd") or rootfs.HOME))
            else:
                _private_copy(spec, argv, env)
            os.closerange(3, 1 << 20)
            os.execvpe(argv[0], argv, env)  # noqa: S606  (no shell is the point)
        except (OSError, IndexError, ValueError) as error:
            os.write(2, f"cannot start {argv[0] if argv else 'nothing'}: {error}\n".encode())
        finally:
            os._exit(127)

    def _reap(self, app: int) -> int:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        keep = self.line.fileno()
        os.closerange(3, keep)
        os.closerange(keep + 1, 1 << 20)
        wake_read, wake_write = socket.socketpair()
        wake_read.setblocking(False)
        wake_write.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        selector = selectors.SelectSelector()
        selector.register(wake_read, selectors.EVENT_READ)
        selector.register(self.line, selectors.EVENT_READ)
        while True:
            while True:
                try:
                    pid, raw = os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    break
                if pid == 0:
                    break
                if pid == app:
                    code = os.waitstatus_to_exitcode(raw)
                    ended = {"event": "exited", "code": None if code < 0 else code, "signal": -code if code < 0 else 0}
                    self._say({**ended, "disk_full": self.isolated and _scratch_is_full()})
                    return 0
            for key, _ in selector.select():
                if key.fileobj is self.line:
                    if not self.line.recv(16):
                        return 0  # the launcher is gone
                    self._signal_all(signal.SIGTERM, app)
                else:
                    try:
                        wake_read.recv(4096)
                    except BlockingIOError:
                        pass

    def _signal_all(self, number: int, app: int) -> None:
        try:
            os.kill(-1 if os.getpid() == 1 else -app, number)
        except ProcessLookupError:
            pass


def _prefer_for_oom() -> None:
    """When the memory limit is hit, the app ends before its pid 1, which can then say so."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="utf-8") as file:
            file.write("500")
    except OSError:
        pass  # a nicety: without it the limit still holds


def _scratch_is_full() -> bool:
    room = os.statvfs(rootfs.HOME)
    return room.f_bavail * 200 < room.f_blocks or room.f_ffree * 200 < room.f_files


def _private_copy(spec: Json, argv: list[str], env: dict[str, str]) -> None:
    """Trusted mode without a mount namespace: the tree is copied to a directory of its own, and paths are told accordingly."""
    import shutil
    import tempfile

    home = tempfile.mkdtemp(prefix="vitrine-trusted-")
    pairs = rootfs.pairs_of(spec, "overlays")
    for source, target in pairs:
        if target.startswith(rootfs.HOME):
            shutil.copytree(source, home + target[len(rootfs.HOME) :], symlinks=True, dirs_exist_ok=True)
    argv[:] = [word.replace(rootfs.HOME, home) for word in argv]
    for name, value in env.items():
        env[name] = value.replace(rootfs.HOME, home)
    os.chdir(str(spec.get("cwd") or rootfs.HOME).replace(rootfs.HOME, home))
