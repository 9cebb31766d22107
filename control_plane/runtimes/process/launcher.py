"""Start one program in a sandbox. Run as `python -I -S launcher.py < spec.json`; README.md has the spec and the protocol.

    launcher ── stays outside the app's pid namespace, inside its network namespace: serves the door, passes signals on
      └─ pid 1 inside ── reaps, forwards TERM, reports the exit; its end ends everything inside
           └─ the program

Each level dies with the one above (PR_SET_PDEATHSIG), so SIGKILL on whoever runs the launcher leaves nothing behind.
Standard library only: start-up time is part of every wake.
"""

from __future__ import annotations

import array
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))))

from control_plane.runtimes.process import kernel as k
from control_plane.runtimes.process import netlink, rootfs
from control_plane.runtimes.process.door import Door
from control_plane.runtimes.process.inner import Inner
from control_plane.runtimes.process.launch_spec import CANNOT, PLACE, Failed, Json, list_of, object_of

HUB_ADDRESS = "198.18.0.1"  # of the range reserved for benchmarks (RFC 2544): never a real destination
NAME_SERVER = "198.18.0.53"


class Launch:
    def __init__(self, spec: Json, control: socket.socket | None, door: socket.socket | None) -> None:
        self.spec = spec
        self.control = control
        self.door = door
        self.lenient = bool(spec.get("lenient", False))
        self.network = str(spec.get("network", "none"))
        self.rootful = os.geteuid() == 0
        self.missing: list[str] = []
        self.listeners: list[tuple[str, int, socket.socket]] = []
        self.outer_uid = int(str(spec.get("outer_uid") or 0)) or 2_000_000 + os.getpid()
        self.proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.pid1 = 0

    # ── before the fork ──────────────────────────────────────────────────────────────────────────────────────────

    def run(self) -> int:
        gateway = self._fork_gateway() if self.network == "egress" and self.spec.get("egress_inline") else None
        groups = [self._open_group(str(path)) for path in list_of(self.spec, "cgroup_procs")]
        self._enter_namespaces()
        if "net" not in self.missing and self.network != "host":
            self._make_network(gateway)
        isolated = "mount" not in self.missing
        if not isolated and self.spec.get("volumes_ro"):
            raise Failed(PLACE, "This machine cannot mount volumes: it has no mount namespaces for apps.")
        if isolated:
            owner = rootfs.Owner(rootful=self.rootful, uid=self.outer_uid if self.rootful else rootfs.INSIDE_ID)
            self._step("filesystem", lambda: rootfs.make(self.spec, owner, _prefixes(), self._etc_files()))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if isolated:
            # As late as this: the first child after it is pid 1, and the file system needed helpers of its own.
            self._step("pid", lambda: k.unshare(k.CLONE_NEWPID))
        self.pid1 = os.fork()
        if self.pid1 == 0:
            ours.close()
            held = [fd for fd in groups if fd is not None]
            Inner(self.spec, theirs, held, isolated=isolated, rootful=self.rootful, outer_uid=self.outer_uid).main()
        theirs.close()
        return self._supervise(ours)

    def _step(self, name: str, do: Callable[[], object]) -> None:
        try:
            do()
        except (OSError, ValueError) as error:
            raise Failed(name, error) from error

    def _enter_namespaces(self) -> None:
        kinds = k.CLONE_NEWNS | k.CLONE_NEWIPC | k.CLONE_NEWUTS | (0 if self.network == "host" else k.CLONE_NEWNET)
        try:
            if self.rootful:
                os.setgroups([])
            else:
                uid, gid = os.geteuid(), os.getegid()
                k.unshare(k.CLONE_NEWUSER)
                self._write_maps("self", uid, gid)
            k.unshare(kinds)
        except OSError as error:
            if not self.lenient:
                raise Failed("namespaces", error) from error
            self.missing += ["user", "mount", "pid", "net", "ipc"]

    def _write_maps(self, pid: str, uid: int, gid: int) -> None:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{rootfs.INSIDE_ID} {uid} 1"),
            ("gid_map", f"{rootfs.INSIDE_ID} {gid} 1"),
        ):
            fd = os.open(f"{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.proc)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)

    def _open_group(self, path: str) -> int | None:
        try:
            return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            if not self.lenient:
                raise Failed("cgroup", error) from error
            self.missing.append("cgroup")
            return None

    def _fork_gateway(self) -> socket.socket:
        """A gateway of our own in the outer network namespace, for steps that no scheduler watches over."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            ours.close()
            try:
                k.die_with_parent()
                # Imported before the change of user: the interpreter's library may be root's alone.
                import concurrent.futures.thread  # noqa: F401  (name look-ups load these late)
                import encodings.idna  # noqa: F401

                from control_plane.runtimes.process import egress

                if self.rootful:
                    os.setgroups([])
                    os.setresgid(self.outer_uid, self.outer_uid, self.outer_uid)
                    os.setresuid(self.outer_uid, self.outer_uid, self.outer_uid)
                    k.die_with_parent()
                egress.serve_inline(theirs, self.spec.get("egress") or {})
            finally:
                os._exit(0)
        theirs.close()
        return ours

    def _make_network(self, gateway: socket.socket | None) -> None:
        try:
            if self.network == "none":
                netlink.raise_loopback()
                return
            ipv6 = netlink.make_everything_local()
            egress = self.spec.get("egress") or {}
            ports = {80, 443, *_ports(egress)}
            self.listeners = netlink.open_listeners(sorted(ports), ipv6=ipv6)
        except OSError as error:
            if not self.lenient:
                raise Failed("network", error) from error
            self.missing.append("net")
        channel = gateway or self.control
        if channel is not None and self.listeners:
            fds = array.array("i", [sock.fileno() for _, _, sock in self.listeners])
            body = {"event": "listeners", "kinds": [[kind, port] for kind, port, _ in self.listeners]}
            channel.sendmsg([json.dumps(body).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        for _, _, sock in self.listeners:
            sock.close()

    def _etc_files(self) -> dict[str, str]:
        uid, home = rootfs.INSIDE_ID, rootfs.HOME
        hosts = {str(name): str(address) for name, address in object_of(self.spec, "hosts").items()}
        for name in list_of(object_of(self.spec, "egress"), "hub_hosts"):
            hosts[str(name)] = HUB_ADDRESS
        lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost", "127.0.1.1 space", *(f"{a} {n}" for n, a in hosts.items())]
        return {
            "passwd": f"root:x:0:0::/:/usr/sbin/nologin\nuser:x:{uid}:{uid}::{home}:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\n",
            "group": f"root:x:0:\nuser:x:{uid}:\nnogroup:x:65534:\n",
            "hosts": "\n".join(lines) + "\n",
            "hostname": "space\n",
            "resolv.conf": f"nameserver {NAME_SERVER}\noptions timeout:5 attempts:2\n" if self.network == "egress" else "",
            "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
        }

    # ── the launcher after the fork ──────────────────────────────────────────────────────────────────────────────

    def _supervise(self, inner: socket.socket) -> int:
        selector = selectors.DefaultSelector()
        status: Json = {}

        def on_inner() -> None:
            raw = inner.recv(65536)
            if not raw:
                selector.unregister(inner)
                return
            event = json.loads(raw)
            if event["event"] == "map":
                self._write_maps(str(self.pid1), self.outer_uid, self.outer_uid)
                inner.send(b"M")
            elif event["event"] == "started":
                self.missing += event["missing"]
                self._drop_privilege()
                self._tell({"event": "started", "pid": self.pid1, "missing": sorted(set(self.missing))})
            else:
                status.update(event)

        def stop(grace_s: float) -> None:
            try:
                inner.send(b"T")
            except OSError:
                pass  # it has ended already
            signal.setitimer(signal.ITIMER_REAL, max(0.01, grace_s))

        def on_term(*_: object) -> None:
            stop(float(str(self.spec.get("grace_s", 5))))

        def on_control() -> None:
            assert self.control is not None
            packet = self.control.recv(64)
            if not packet:
                selector.unregister(self.control)
                self._kill()
            else:
                stop(float(packet[1:] or b"5"))

        signal.signal(signal.SIGTERM, on_term)
        signal.signal(signal.SIGINT, on_term)
        signal.signal(signal.SIGALRM, lambda *_: self._kill())
        wake_read, wake_write = socket.socketpair()
        wake_read.setblocking(False)
        wake_write.setblocking(False)
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        selector.register(wake_read, selectors.EVENT_READ, lambda: wake_read.recv(64) and None)
        selector.register(inner, selectors.EVENT_READ, on_inner)
        if self.control is not None:
            selector.register(self.control, selectors.EVENT_READ, on_control)
        if self.door is not None:
            hidden = frozenset(port for _, port, _ in self.listeners)
            Door(self.door, int(str(self.spec.get("port", 0))), selector, hidden, self.proc)
        while inner in selector.get_map():
            for key, _ in selector.select():
                key.data()
        _, raw = os.waitpid(self.pid1, 0)
        if not status:
            code = os.waitstatus_to_exitcode(raw)
            status = {"event": "exited", "code": None if code < 0 else code, "signal": -code if code < 0 else 0}
        return self._finish(status)

    def _finish(self, status: Json) -> int:
        self._tell(status)
        if status["event"] == "failed":
            sys.stderr.write(f"vitrine-sandbox: {status['message']}\n")
            return CANNOT
        ended = int(str(status.get("signal") or 0))
        return 128 + ended if ended else int(str(status.get("code") or 0))

    def _kill(self) -> None:
        try:
            os.kill(self.pid1, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def _tell(self, event: Json) -> None:
        if self.control is not None:
            try:
                self.control.send(json.dumps(event).encode())
            except OSError:
                pass  # nobody listens any more; we are about to be ended

    def _drop_privilege(self) -> None:
        """From here on the launcher only serves the door: it needs no rights and no root."""
        if self.rootful:
            os.setresgid(self.outer_uid, self.outer_uid, self.outer_uid)
            os.setresuid(self.outer_uid, self.outer_uid, self.outer_uid)
        k.drop_capabilities()
        k.die_with_parent()
        k.prctl(k.PR_SET_DUMPABLE, 0)


def _ports(egress: object) -> list[int]:
    assert isinstance(egress, dict)
    found = [int(port) for port in egress.get("ports") or []]
    found += [int(str(pair).rpartition(":")[2]) for pair in egress.get("allow") or []]
    return [port for port in found if 0 < port < 65536 and port != 53]


def _prefixes() -> list[str]:
    """Where the interpreter that runs us lives: environments made from it link to it."""
    return sorted({os.path.realpath(sys.base_prefix)})


def main(arguments: list[str]) -> int:
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    k.die_with_parent()
    control = socket.socket(fileno=int(options["--control"])) if "--control" in options else None
    door = socket.socket(fileno=int(options["--door"])) if "--door" in options else None
    for sock in (control, door):
        if sock is not None:
            sock.set_inheritable(False)
    try:
        with open(0, encoding="utf-8", closefd=False) as stdin:
            spec = json.load(stdin)
        nothing = os.open("/dev/null", os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        if not isinstance(spec, dict) or spec.get("v") != 1:
            raise Failed("spec", "not a version 1 object")
        return Launch(spec, control, door).run()
    except (Failed, ValueError) as error:
        if control is not None:
            control.send(json.dumps({"event": "failed", "message": str(error)}).encode())
        sys.stderr.write(f"vitrine-sandbox: {error}\n")
        return CANNOT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
