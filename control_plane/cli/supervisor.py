"""The parent of `vitrine up`: starts proxy, API, scheduler and builder, restarts what dies, stops all of it.

Each child tells over a pipe when it is ready. A child dies with this process, however this process ends; apps die with
the scheduler. Nothing is kept here: after a kill -9 the next start finds the truth in the database.

The listeners belong to this process and are lent to the proxies: while one is away, connections wait in the queue instead of
being refused. SIGHUP renews the proxies: a successor takes the same listener, says it is ready, and only then the old one is
told to finish what it has begun.
"""

from __future__ import annotations

import fcntl
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from control_plane.cli.platform import LISTEN_FDS, READY_FD
from control_plane.domain.errors import Rejected
from control_plane.settings import LOCAL_TOKEN_FILE, Settings

_COMPONENTS = ("api", "scheduler", "builder")
_START_LIMIT_S = 120.0
_STOP_LIMIT_S = 12.0
_BACKLOG = 4096


@dataclass
class _Child:
    name: str
    process: subprocess.Popen[bytes] | None = None
    pipe: int = -1
    ready: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    crashes: int = 0
    start_at: float = 0.0
    component: str = ""  # what `vitrine serve` is asked for; default: the name
    slot: int = 0  # of a proxy: its place among the processes on the port, from 1
    listeners: tuple[socket.socket, ...] = ()
    successor: _Child | None = None
    predecessor: _Child | None = None


class Supervisor:
    def __init__(self, settings: Settings, config: Path | None) -> None:
        self._settings = settings
        self._config = config
        self._children = {name: _Child(name) for name in _COMPONENTS}
        self._leaving: list[tuple[float, subprocess.Popen[bytes]]] = []  # (killed at, a proxy that finishes what it began)
        self._listeners: list[socket.socket] = []
        self._terminal = _has_terminal()
        self._renew_asked = False
        self._stopping = False
        self._announced = False
        self._lock: IO[str] | None = None
        self._logs = settings.data_dir / "logs" / "platform"

    def run(self) -> int:
        """0 after a clean stop, 1 when a component cannot be started."""
        self._take_lock()
        self._settle_port()
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._told_to_stop)
        signal.signal(signal.SIGHUP, self._hung_up)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        began = time.monotonic()
        print("Starting Vitrine …", flush=True)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(read_end, selectors.EVENT_READ)
                for child in self._children.values():
                    self._start(child, selector)
                while not self._stopping:
                    for key, _ in selector.select(timeout=0.5):
                        if key.fd == read_end:
                            os.read(read_end, 4096)
                        else:
                            self._hear(key.data, selector)
                    if self._renew_asked:
                        self._renew_asked = False
                        self._renew(selector)
                    failed = self._look_after(selector)
                    if failed:
                        print(f"vitrine: {failed}", file=sys.stderr, flush=True)
                        return 1
                    if not self._announced and all(c.ready for c in self._children.values()):
                        self._announce(time.monotonic() - began)
                    if not self._announced and time.monotonic() - began > _START_LIMIT_S:
                        late = ", ".join(c.name for c in self._children.values() if not c.ready)
                        print(f"vitrine: {late} did not start within {_START_LIMIT_S:.0f} s; see {self._logs}", file=sys.stderr, flush=True)
                        return 1
            return 0
        finally:
            self._stop_all()

    def _take_lock(self) -> None:
        directory = self._settings.data_dir
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._settings.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._logs.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = open(directory / "up.lock", "w")  # noqa: SIM115  held until the process ends
        except OSError as error:
            raise Rejected(f"the data dir {directory} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Rejected(f"Vitrine already runs on {directory}; stop it first, or use another --data-dir") from error

    def _settle_port(self) -> None:
        """Fail in one line when a port is taken; choose one for port 0 so that every child knows the address."""
        host = self._settings.host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        count = max(1, self._settings.proxy_processes)
        for slot in range(1, count + 1):
            main = self._listen(family, host, self._settings.port, shared=count > 1)
            self._settings = replace(self._settings, port=main.getsockname()[1])
            listeners = [main]
            if self._settings.http_port and self._settings.tls_certificates:
                listeners.append(self._listen(family, host, self._settings.http_port, shared=count > 1))
            name = "proxy" if slot == 1 else f"proxy-{slot}"
            self._children[name] = _Child(name, component="proxy", slot=slot, listeners=tuple(listeners))

    def _listen(self, family: int, host: str, port: int, *, shared: bool) -> socket.socket:
        """Each process has a queue of its own: the kernel spreads connections over them (SO_REUSEPORT)."""
        sock = socket.socket(family, socket.SOCK_STREAM)
        self._listeners.append(sock)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((host, port))
            sock.listen(_BACKLOG)
        except OSError as error:
            raise Rejected(f"cannot listen on {host}:{port} ({error.strerror}); choose another with --port") from error
        return sock

    def _environment(self, fd: int) -> dict[str, str]:
        own = {
            "VITRINE_DATA_DIR": str(self._settings.data_dir), "VITRINE_HOST": self._settings.host, "VITRINE_PORT": str(self._settings.port),
            "VITRINE_APPS_DOMAIN": self._settings.apps_domain, "VITRINE_RUNTIME": self._settings.runtime,
            "VITRINE_TRUSTED": str(self._settings.trusted).lower(), "VITRINE_PUBLIC_URL": self._settings.resolved_public_url,
            READY_FD: str(fd), "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        return {**os.environ, **own}

    def _start(self, child: _Child, selector: selectors.BaseSelector) -> None:
        read_end, write_end = os.pipe()
        os.set_inheritable(write_end, True)
        command = [sys.executable, "-m", "control_plane.cli.main", "serve", child.component or child.name]
        environment = self._environment(write_end)
        lent = tuple(sock.fileno() for sock in child.listeners)
        if lent:
            environment[LISTEN_FDS] = f"{child.slot}:{','.join(str(fd) for fd in lent)}"
        if self._config is not None:
            command += ["--config", str(self._config)]
        with open(self._logs / f"{child.name}.log", "ab") as log:
            if log.tell() > 32 << 20:
                log.truncate(0)
            child.process = subprocess.Popen(
                command, env=environment, pass_fds=(write_end, *lent), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        os.close(write_end)
        child.pipe, child.ready = read_end, False
        selector.register(read_end, selectors.EVENT_READ, child)

    def _hear(self, child: _Child, selector: selectors.BaseSelector) -> None:
        data = os.read(child.pipe, 1 << 16)
        selector.unregister(child.pipe)
        os.close(child.pipe)
        child.pipe = -1
        if data and child.predecessor is not None:
            self._hand_over(child.predecessor, child)
        elif data:
            child.ready = True
            child.facts = {**child.facts, **json.loads(data)}
            if self._announced and child.name == "api":
                self._write_ready_file()

    def _look_after(self, selector: selectors.BaseSelector) -> str:
        """Restart what died. The words of a failure when a component never came up."""
        now = time.monotonic()
        self._see_off(now)
        for child in self._children.values():
            if child.process is not None and child.process.poll() is not None:
                code = child.process.returncode
                child.process = None
                if child.pipe >= 0:
                    selector.unregister(child.pipe)
                    os.close(child.pipe)
                    child.pipe = -1
                if not self._announced:
                    return f"{child.name} stopped while starting (exit {code}): {self._last_words(child.name)}"
                child.crashes = child.crashes + 1 if child.ready is False or now - child.start_at < 30 else 1
                child.ready = False
                child.start_at = now + min(5.0, 0.1 * 2 ** (child.crashes - 1))
                print(f"{child.name} stopped (exit {code}); starting it again", file=sys.stderr, flush=True)
            if child.process is None and child.start_at <= now:
                child.start_at = now
                self._start(child, selector)
        return ""

    def _renew(self, selector: selectors.BaseSelector) -> None:
        for child in self._children.values():
            if child.slot and child.ready and child.successor is None:
                child.successor = _Child(child.name, component="proxy", slot=child.slot, listeners=child.listeners, predecessor=child)
                self._start(child.successor, selector)

    def _hand_over(self, child: _Child, successor: _Child) -> None:
        """The successor accepts already; the old process stops accepting and ends when its last exchange does."""
        old, child.process, child.successor = child.process, successor.process, None
        child.start_at = time.monotonic()
        if old is not None:
            old.send_signal(signal.SIGUSR1)
            longest = max(self._settings.drain_s, self._settings.finish_s)
            self._leaving.append((child.start_at + longest + _STOP_LIMIT_S, old))
        print(f"{child.name} is renewed", flush=True)

    def _see_off(self, now: float) -> None:
        self._leaving = [(until, process) for until, process in self._leaving if process.poll() is None]
        for until, process in self._leaving:
            if now > until:
                process.kill()
        for child in self._children.values():
            heir = child.successor
            if heir is not None and heir.process is not None and heir.pipe < 0 and heir.process.poll() is not None:
                child.successor = None
                print(f"the new {child.name} did not start; the old one stays: {self._last_words(child.name)}", file=sys.stderr, flush=True)

    def _last_words(self, name: str) -> str:
        lines = (self._logs / f"{name}.log").read_text("utf-8", "replace").strip().splitlines()
        return (lines[-1] if lines else "it left no words")[:500] + f" (more in {self._logs / f'{name}.log'})"

    def _announce(self, seconds: float) -> None:
        self._announced = True
        self._write_ready_file()
        url = self._settings.resolved_public_url
        print(f"Vitrine is ready at {url}  ({seconds:.1f} s)", flush=True)
        print(f"Spaces answer at {self._settings.app_url('SPACE')}/", flush=True)
        if link := self._children["api"].facts.get("sign_in_link"):
            print(f"Sign in once as admin: {link}", flush=True)
        for warning in self._children["scheduler"].facts.get("warnings", ()):
            print(f"warning: {warning}", flush=True)
        print("Ctrl-C stops everything.", flush=True)

    def _write_ready_file(self) -> None:
        path = self._settings.data_dir / "ready.json"
        facts = {
            "url": self._settings.resolved_public_url, "apps_domain": self._settings.apps_domain, "pid": os.getpid(),
            "port": self._settings.port, "admin_token": self._children["api"].facts.get("admin_token", ""),
        }  # fmt: skip
        temporary = path.with_suffix(".new")
        with open(temporary, "w", opener=lambda p, f: os.open(p, f, 0o600)) as file:
            json.dump(facts, file)
        os.replace(temporary, path)

    def _told_to_stop(self, *_: object) -> None:
        self._stopping = True

    def _hung_up(self, *_: object) -> None:
        """The terminal we were started in is gone: stop. Without one, or with it still there, the signal asks for new proxies."""
        if self._terminal and not _has_terminal():
            self._stopping = True
        else:
            self._renew_asked = True

    def _stop_all(self) -> None:
        """Everything down, apps included: the scheduler goes first so that it can end them."""
        for secret in (self._settings.data_dir / "ready.json", self._settings.run_dir / LOCAL_TOKEN_FILE):
            secret.unlink(missing_ok=True)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for sock in self._listeners:
            sock.close()
        processes = [child.process for child in self._children.values()]
        processes += [child.successor.process for child in self._children.values() if child.successor is not None]
        processes += [process for _until, process in self._leaving]
        running = [process for process in processes if process is not None]
        for process in running:
            process.terminate()
        end = time.monotonic() + _STOP_LIMIT_S
        for process in running:
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._announced:
            print("Vitrine has stopped.", flush=True)


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
