"""A hostile app: tries what a tenant must not be able to do and prints what succeeded, as one JSON object.

Runs inside the sandbox as `app.py`; `probe.json` beside it says what to look for on this host.
"""

# ruff: noqa: E501  (tables of attacks, one per entry)
from __future__ import annotations

import ctypes
import glob
import json
import os
import signal
import socket
import struct

libc = ctypes.CDLL(None, use_errno=True)
aims = json.load(open("probe.json"))
won: list[str] = []
tried = 0


def attempt(name: str, do) -> None:  # type: ignore[no-untyped-def]
    """`do` gives something true when the attack worked; an OSError means that it was refused."""
    global tried
    tried += 1
    try:
        if do():
            won.append(name)
    except (OSError, ValueError):
        pass


def can_read(path: str) -> bool:
    with open(path, "rb") as file:
        return bool(file.read(1))


def can_list(path: str) -> bool:
    return bool(os.listdir(path))


def can_write(path: str) -> bool:
    with open(path, "ab") as file:
        file.write(b"x")
    return True


def says(address: str, port: int, family: int = socket.AF_INET) -> bool:
    """Whether anything answers. A connection that is reset at once has reached nothing."""
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(3)
        sock.connect((address, port))
        sock.sendall(b"GET / HTTP/1.0\r\nMetadata-Flavor: Google\r\n\r\n")
        return bool(sock.recv(1))


def call(number: int, *arguments: int) -> bool:
    libc.syscall.restype = ctypes.c_long
    return libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) for a in arguments)) >= 0


def clone_with(flag: int) -> bool:
    pid = libc.syscall(ctypes.c_long(56), ctypes.c_long(flag | signal.SIGCHLD), ctypes.c_long(0), 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return pid > 0


# files of the host, of the platform and of other replicas
for path in (
    "/etc/shadow", "/etc/gshadow", "/root/.bashrc", "/etc/ssh/ssh_config", "/etc/machine-id", "/var/log/dpkg.log", "/proc/kcore", "/proc/keys",
    "/proc/kallsyms", "/dev/mem", "/dev/kmsg", "/dev/sda", "/dev/vda", "/dev/kvm", "/dev/fuse", "/dev/net/tun", "/run/docker.sock",
    "/var/run/docker.sock", "/proc/1/environ", "/proc/1/maps", "/proc/1/mem", "/oldroot/etc/passwd", "/proc/1/cwd/app.py", *aims["secret_files"],
):  # fmt: skip
    attempt(f"read {path}", lambda path=path: can_read(path))
for path in ("/sys", "/sys/fs/cgroup", "/boot", "/srv", "/mnt", "/oldroot", "/scratch", "/proc/1/root", "/proc/1/fd", *aims["secret_dirs"]):
    attempt(f"list {path}", lambda path=path: can_list(path))
for path in (
    "/x", "/usr/x", "/etc/x", "/etc/passwd", "/etc/hosts", "/bin/x", "/dev/x", "/run/x", "/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches",
    "/proc/sysrq-trigger", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/hostname", *aims["read_only"],
):  # fmt: skip
    attempt(f"write {path}", lambda path=path: can_write(path))
attempt("hard link to a file of the system", lambda: os.link("/usr/bin/env", "/tmp/env") is None)
attempt("make a device", lambda: os.mknod("/tmp/null", 0o20666, os.makedev(1, 3)) is None)
attempt("setuid program", lambda: os.popen("/usr/bin/su -c id root </dev/null 2>/dev/null").read())
attempt("become root", lambda: os.setuid(0) is None)
attempt("another group", lambda: os.setgroups([0]) is None)

# other processes
attempt("see processes of others", lambda: [p for p in glob.glob("/proc/[0-9]*") if p != "/proc/1" and os.stat(p).st_uid != os.getuid()])
attempt("see many processes", lambda: len(glob.glob("/proc/[0-9]*")) > 8)
attempt("kill pid 1", lambda: (os.kill(1, signal.SIGKILL), False)[1])
attempt("signal the launcher", lambda: os.kill(aims["launcher_pid"], 0) is None)
attempt("ptrace", lambda: call(101, 16, 1, 0, 0))
attempt("process_vm_readv", lambda: call(310, 1, 0, 0, 0, 0, 0))
attempt("pidfd_getfd", lambda: call(438, 3, 0, 0))
for kind, number in (("shm", 29), ("sem", 64), ("msg", 68)):
    attempt(f"host's {kind}", lambda number=number: call(number, aims["ipc_key"], 0, 0))

# namespaces, mounts, kernel
for name, number, arguments in (
    ("mount", 165, (0, 0, 0, 0, 0)), ("umount", 166, (0, 0)), ("pivot_root", 155, (0, 0)), ("chroot", 161, (0,)), ("fsopen", 430, (0, 0)),
    ("move_mount", 429, (0, 0, 0, 0, 0)), ("open_tree", 428, (-100, 0, 1)), ("unshare user", 272, (0x10000000,)), ("unshare mount", 272, (0x20000,)),
    ("unshare net", 272, (0x40000000,)), ("unshare pid", 272, (0x20000000,)), ("setns", 308, (0, 0)), ("bpf", 321, (0, 0, 0)),
    ("perf_event_open", 298, (0, 0, -1, -1, 0)), ("userfaultfd", 323, (0,)), ("io_uring_setup", 425, (4, 0)), ("keyctl", 250, (0, -3, 1)),
    ("add_key", 248, (0, 0, 0, 0, -3)), ("kexec_load", 246, (0, 0, 0, 0)), ("init_module", 175, (0, 0, 0)), ("finit_module", 313, (0, 0, 0)),
    ("reboot", 169, (0, 0, 0, 0)), ("swapon", 167, (0, 0)), ("acct", 163, (0,)), ("sethostname", 170, (0, 0)), ("clock_settime", 227, (0, 0)),
    ("settimeofday", 164, (0, 0)), ("syslog", 103, (3, 0, 0)), ("iopl", 172, (3,)), ("name_to_handle_at", 303, (0, 0, 0, 0, 0)),
    ("open_by_handle_at", 304, (0, 0, 0)), ("fanotify_init", 300, (0, 0)), ("personality", 135, (0x40000,)), ("quotactl", 179, (0, 0, 0, 0)),
    ("x32 getpid", 0x40000000 | 39, ()), ("clone3", 435, (0, 0)),
):  # fmt: skip
    attempt(name, lambda number=number, arguments=arguments: call(number, *arguments))
for name, flag in (("user", 0x10000000), ("mount", 0x20000), ("net", 0x40000000), ("pid", 0x20000000), ("cgroup", 0x2000000)):
    attempt(f"clone a {name} namespace", lambda flag=flag: clone_with(flag))
for name, family, kind, protocol in (
    ("raw", socket.AF_INET, socket.SOCK_RAW, 1), ("raw6", socket.AF_INET6, socket.SOCK_RAW, 58), ("packet", 17, socket.SOCK_RAW, 768),
    ("vsock", 40, socket.SOCK_STREAM, 0), ("netfilter", 16, socket.SOCK_RAW, 12), ("alg", 38, 5, 0), ("xdp", 44, socket.SOCK_RAW, 0),
):  # fmt: skip
    attempt(f"{name} socket", lambda f=family, k=kind, p=protocol: socket.socket(f, k, p))
attempt("TIOCSTI", lambda: call(16, 0, 0x5412, 0))
status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
    attempt(f"hold {name}", lambda name=name: int(status[name], 16))
attempt("run without no_new_privs", lambda: status["NoNewPrivs"] != "1")
attempt("run without a filter", lambda: status["Seccomp"] != "2")
attempt("be root", lambda: os.getuid() == 0 or os.getgid() == 0 or 0 in os.getgroups())

# network
for address, port in (
    ("169.254.169.254", 80), ("169.254.170.2", 80), ("100.100.100.200", 80), ("127.0.0.1", 80), ("10.0.0.1", 80), ("172.17.0.1", 80),
    ("192.168.0.1", 443), ("0.0.0.0", 80), ("2852039166", 80), ("0xa9fea9fe", 80), ("198.18.0.1", 80), ("198.18.0.1", 443),
    ("127.0.0.1", aims["host_port"]), (aims["host_address"], aims["host_port"]), (aims["host_address"], 80), ("1.1.1.1", 22), ("1.1.1.1", 25),
    ("127.0.0.1", 6379), ("127.0.0.1", 5432), ("127.0.0.1", 2375), ("10.0.0.1", 10250), ("127.0.0.1", 53),
):  # fmt: skip
    attempt(f"reach {address}:{port}", lambda address=address, port=port: says(address, port))
for address in ("::1", "fd00:ec2::254", "fe80::1", "::ffff:169.254.169.254", "::ffff:127.0.0.1", "64:ff9b::a9fe:a9fe", "fc00::1"):
    attempt(f"reach [{address}]:80", lambda address=address: says(address, 80, socket.AF_INET6))
attempt("abstract socket of the host", lambda: socket.socket(socket.AF_UNIX).connect("\0" + aims["abstract"]) is None)
attempt("platform socket", lambda: socket.socket(socket.AF_UNIX).connect(aims["platform_socket"]) is None)
attempt("listen on a caught port", lambda: socket.create_server(("0.0.0.0", 80)))
attempt("answer names", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).bind(("198.18.0.53", 53)) is None)
attempt("set an address", lambda: os.popen("ip addr add 10.9.9.9/24 dev lo 2>&1 && echo done").read().endswith("done\n"))

# environment
text = json.dumps(dict(os.environ)) + open("/proc/self/cmdline").read() + open("/proc/self/environ").read()
for canary in aims["canaries"]:
    attempt(f"find {canary[:6]}", lambda canary=canary: canary in text)
attempt("core dumps", lambda: __import__("resource").getrlimit(4) != (0, 0))
attempt("cgroup path of the host", lambda: "vitrine" in open("/proc/self/cgroup").read())

print(json.dumps({"tried": tried, "won": won, "own": os.environ.get("OWN_SECRET"), "pack": struct.calcsize("P")}))
