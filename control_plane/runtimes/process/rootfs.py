"""The file system that a replica sees: built in a private mount namespace, then made the root.

Order matters. `stage()` moves the host below /oldroot, `build()` assembles /newroot from bind mounts, and `enter()` (by pid 1
inside, because /proc shows the pid namespace of who mounts it) drops the host for good.

As root all mounts belong to the host's user namespace, so nothing inside can undo them, and host ids are translated
with idmapped mounts (kernel 5.12; overlay on them 5.19). As an ordinary user the mounts belong to our user namespace.
"""

from __future__ import annotations

import os
import stat

from control_plane.runtimes.process import kernel as k
from control_plane.runtimes.process.launch_spec import PLACE, Failed

INSIDE_ID = 1000
HOME = "/home/user"
OLD, NEW, SCRATCH = "/oldroot", "/newroot", "/scratch"

_SYSTEM = ("usr", "bin", "sbin", "lib", "lib64", "lib32", "libx32")
_ETC = (
    "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "ssl/certs", "ssl/openssl.cnf", "ca-certificates", "pki/tls/certs", "pki/ca-trust",
    "crypto-policies", "localtime", "timezone", "alternatives", "fonts", "mime.types", "protocols", "services", "gai.conf",
    "magic", "os-release", "debian_version", "python3", "python3.11", "python3.12", "python3.13", "ImageMagick-6", "java-17-openjdk",
)  # fmt: skip
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_PROC_EMPTY_FILES = (
    "kcore",
    "keys",
    "key-users",
    "timer_list",
    "sched_debug",
    "latency_stats",
    "kallsyms",
    "kmsg",
    "kpagecount",
    "kpageflags",
)
_PROC_EMPTY_DIRS = ("acpi", "scsi", "driver", "asound")
_PROC_READ_ONLY = ("sys", "bus", "fs", "irq", "sysrq-trigger")


class Owner:
    """Who the app is: host ids as root, inside ids as an ordinary user (there the two are one and the same)."""

    def __init__(self, *, rootful: bool, uid: int) -> None:
        self.rootful = rootful
        self.uid = uid

    def take(self, path: str) -> None:
        os.chown(path, self.uid, self.uid, follow_symlinks=False)


def make(spec: dict[str, object], owner: Owner, prefixes: list[str], etc: dict[str, str]) -> None:
    """Everything up to the fork of pid 1."""
    stage()
    build(spec, owner, prefixes, etc)


def stage() -> None:
    """Make mounts private and move the host's tree to /oldroot. The sources of binds may lie anywhere, also under /tmp."""
    k.mount("none", "/", flags=k.MS_REC | k.MS_PRIVATE)
    k.mount("tmpfs", "/tmp", "tmpfs", k.MS_NOSUID | k.MS_NODEV, "mode=0755,size=4m")
    for path in (OLD, NEW, SCRATCH):
        os.mkdir("/tmp" + path, 0o755)
    k.pivot_root("/tmp", "/tmp" + OLD)
    os.chdir("/")


def build(spec: dict[str, object], owner: Owner, prefixes: list[str], etc: dict[str, str]) -> None:
    """Assemble /newroot."""
    k.mount("tmpfs", NEW, "tmpfs", k.MS_NOSUID | k.MS_NODEV, "mode=0755,size=16m")
    for name in _SYSTEM:
        host = f"{OLD}/{name}"
        if os.path.islink(host):
            os.symlink(os.readlink(host), f"{NEW}/{name}")
        elif os.path.isdir(host):
            _bind(host, f"{NEW}/{name}", read_only=True)
    _etc(etc)
    _scratch(int(str(spec.get("scratch_bytes", 256 << 20))), int(str(spec.get("scratch_inodes", 400_000))), owner)
    _dev()
    os.mkdir(f"{NEW}/proc", 0o555)
    for prefix in prefixes:
        if not prefix.startswith("/usr/") and not os.path.exists(NEW + prefix):
            _bind(OLD + prefix, NEW + prefix, read_only=True)
    for source, target in sorted(pairs_of(spec, "binds_ro"), key=lambda pair: pair[1].count("/")):
        _bind(OLD + source, NEW + target, read_only=True)
    for index, (source, target) in enumerate(pairs_of(spec, "overlays")):
        _overlay(index, OLD + source, NEW + target, owner)
    for index, (source, target) in enumerate(pairs_of(spec, "caches")):
        _cache(index, OLD + source, NEW + target, owner)
    for source, target in sorted(pairs_of(spec, "volumes_ro"), key=lambda pair: pair[1].count("/")):
        _own_way(target)
        _bind(OLD + source, NEW + target, read_only=True)
    for source, target in sorted(pairs_of(spec, "binds_rw"), key=lambda pair: pair[1].count("/")):
        _bind_writable(OLD + source, NEW + target, owner)
    k.mount_setattr(k.AT_FDCWD, NEW, k.MOUNT_ATTR_RDONLY, recursive=False)


def enter(*, lenient: bool) -> list[str]:
    """As pid 1 inside: a fresh /proc without the kernel's own files, then leave the host's tree. Returns what is missing."""
    missing = []
    try:
        k.mount("proc", f"{NEW}/proc", "proc", k.MS_NOSUID | k.MS_NODEV | k.MS_NOEXEC)
        _mask_proc()
    except OSError:
        # Inside some containers a fresh /proc is refused; there is then none at all rather than the host's.
        if not lenient:
            raise
        missing.append("proc")
    k.umount(OLD)
    os.chdir(NEW)
    k.pivot_root(".", ".")
    k.umount(".")
    os.chdir("/")
    return missing


def pairs_of(spec: dict[str, object], key: str) -> list[tuple[str, str]]:
    rows = spec.get(key) or []
    if not isinstance(rows, list):
        raise ValueError(f"{key} is not a list")
    pairs = []
    for source, target in rows:
        for path in (source, target):
            if not isinstance(path, str) or not path.startswith("/") or ".." in path.split("/") or "\0" in path:
                raise ValueError(f"{key}: {path!r} is not an absolute path")
        pairs.append((source, target))
    return pairs


def _point(source: str, target: str) -> None:
    """Make an empty directory or file at `target` for a mount of `source`."""
    os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
    if stat.S_ISDIR(os.stat(source).st_mode):
        os.makedirs(target, 0o755, exist_ok=True)
    elif not os.path.exists(target):
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))


def _own_way(target: str) -> None:
    """Refuses a place that is reached over a link: those of the app's tree may lead anywhere, and the host is still in sight here."""
    place = NEW
    for part in target.strip("/").split("/"):
        place = f"{place}/{part}"
        if os.path.islink(place):
            raise Failed(PLACE, f"Nothing can be mounted at {target}: {place[len(NEW) :]} is a symbolic link of the repository.")


def _bind(source: str, target: str, *, read_only: bool, devices: bool = False) -> None:
    _point(source, target)
    k.mount(source, target, flags=k.MS_BIND | k.MS_REC)
    _restrict(target, read_only=read_only, devices=devices)


def _restrict(target: str, *, read_only: bool, devices: bool = False) -> None:
    attributes = k.MOUNT_ATTR_NOSUID | (0 if devices else k.MOUNT_ATTR_NODEV) | (k.MOUNT_ATTR_RDONLY if read_only else 0)
    try:
        k.mount_setattr(k.AT_FDCWD, target, attributes)
    except OSError as error:
        if error.errno != 38:
            raise
        flags = k.MS_NOSUID | (0 if devices else k.MS_NODEV) | (k.MS_RDONLY if read_only else 0)
        k.mount("none", target, flags=k.MS_BIND | k.MS_REMOUNT | flags)


def _etc(files: dict[str, str]) -> None:
    os.mkdir(f"{NEW}/etc", 0o755)
    for name, text in files.items():
        with open(f"{NEW}/etc/{name}", "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(f"{NEW}/etc/{name}", 0o644)
    for name in _ETC:
        source, target = f"{OLD}/etc/{name}", f"{NEW}/etc/{name}"
        if os.path.islink(source):
            os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
            os.symlink(os.readlink(source), target)
        elif os.path.exists(source):
            _bind(source, target, read_only=True)


def _scratch(size: int, inodes: int, owner: Owner) -> None:
    """One memory-backed disk with a hard size for all that the app may write outside its volumes."""
    k.mount("tmpfs", SCRATCH, "tmpfs", k.MS_NOSUID | k.MS_NODEV, f"mode=0755,size={size},nr_inodes={inodes}")
    for name, target, mode in (("home", HOME, 0o755), ("tmp", "/tmp", 0o1777), ("shm", "/dev/shm", 0o1777)):
        path = f"{SCRATCH}/{name}"
        os.mkdir(path)
        os.chmod(path, mode)
        owner.take(path)
        os.makedirs(NEW + target, 0o755, exist_ok=True)
        k.mount(path, NEW + target, flags=k.MS_BIND)
    os.makedirs(f"{NEW}/var/tmp", 0o755)
    k.mount(f"{SCRATCH}/tmp", f"{NEW}/var/tmp", flags=k.MS_BIND)
    os.mkdir(f"{NEW}/run", 0o755)


def _dev() -> None:
    for name in _DEVICES:
        if os.path.exists(f"{OLD}/dev/{name}"):
            _bind(f"{OLD}/dev/{name}", f"{NEW}/dev/{name}", read_only=False, devices=True)
    for name, target in (
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ):
        os.symlink(target, f"{NEW}/dev/{name}")
    os.mkdir(f"{NEW}/dev/pts", 0o755)
    try:
        k.mount("devpts", f"{NEW}/dev/pts", "devpts", k.MS_NOSUID | k.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
        os.symlink("pts/ptmx", f"{NEW}/dev/ptmx")
    except OSError:
        pass  # no terminals inside; nothing of the floor depends on them


def _mount_layers(source: str, lower: str, upper: str, work: str, target: str, owner: Owner) -> None:
    """`source`, seen through `lower`, below what is written to `upper`. OSError where the kernel cannot do it."""
    if owner.rootful:
        _bind_translated(source, lower, owner.uid)
    else:
        k.mount(source, lower, flags=k.MS_BIND | k.MS_REC)
    layers = f"lowerdir={lower},upperdir={upper},workdir={work}" + ("" if owner.rootful else ",userxattr")
    k.mount("overlay", target, "overlay", k.MS_NOSUID | k.MS_NODEV, layers)


def _overlay(index: int, source: str, target: str, owner: Owner) -> None:
    lower, upper, work = f"/lower{index}", f"{SCRATCH}/upper{index}", f"{SCRATCH}/work{index}"
    for path in (lower, upper, work):
        os.mkdir(path, 0o755)
    owner.take(upper)
    owner.take(work)
    os.makedirs(target, 0o755, exist_ok=True)
    owner.take(target)
    try:
        _mount_layers(source, lower, upper, work, target, owner)
    except OSError:
        # Kernel before 5.19 as root, before 5.11 as a user, or no overlayfs: a plain copy, which costs time and scratch space.
        _copy_tree(source, upper, owner)
        k.mount(upper, target, flags=k.MS_BIND)


def _cache(index: int, source: str, target: str, owner: Owner) -> None:
    """Shared files below a directory of the app's own: it reads what is there and keeps what it writes to itself.

    Left out where the kernel cannot do that: a cache may be missing, and copying it would cost more than it saves.
    """
    lower, upper, work = f"/cache{index}", f"{SCRATCH}/cache-upper{index}", f"{SCRATCH}/cache-work{index}"
    for path in (lower, upper, work):
        os.mkdir(path, 0o755)
    owner.take(upper)
    owner.take(work)
    missing = []
    folder = target
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for folder in reversed(missing):
        os.mkdir(folder, 0o755)
        owner.take(folder)
    try:
        _mount_layers(source, lower, upper, work, target, owner)
    except OSError:
        return


def _bind_translated(source: str, target: str, uid: int) -> None:
    """Bind `source` so that its on-disk owner appears as host id `uid` here (mount_setattr with MOUNT_ATTR_IDMAP)."""
    info = os.stat(source)
    tree = k.open_tree(source)
    try:
        namespace = _translation(info.st_uid, info.st_gid, uid)
        try:
            k.mount_setattr(tree, "", k.MOUNT_ATTR_IDMAP, recursive=False, userns=namespace)
        finally:
            os.close(namespace)
        k.move_mount(tree, target)
    finally:
        os.close(tree)


def _bind_writable(source: str, target: str, owner: Owner) -> None:
    _point(source, target)
    if not owner.rootful:
        k.mount(source, target, flags=k.MS_BIND)
    else:
        try:
            _bind_translated(source, target, owner.uid)
        except OSError:
            owner.take(source)  # a file system without idmapped mounts: the directory itself changes hands
            k.mount(source, target, flags=k.MS_BIND)
    _restrict(target, read_only=False)


def _translation(disk_uid: int, disk_gid: int, uid: int) -> int:
    """A descriptor of a user namespace that maps the on-disk ids to `uid`; it lives as long as the descriptor."""
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(go[1])
            k.die_with_parent()
            k.unshare(k.CLONE_NEWUSER)
            os.write(ready[1], b"r")
            os.read(go[0], 1)
        finally:
            os._exit(0)
    try:
        os.close(ready[1])
        if os.read(ready[0], 1) != b"r":
            raise OSError(1, "no user namespace for an idmapped mount")
        for name, disk in (("uid_map", disk_uid), ("gid_map", disk_gid)):
            with open(f"{OLD}/proc/{child}/{name}", "w", encoding="utf-8") as file:
                file.write(f"{disk} {uid} 1\n")
        return os.open(f"{OLD}/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready[0])
        os.close(go[0])
        os.close(go[1])
        os.waitpid(child, 0)


def _copy_tree(source: str, target: str, owner: Owner) -> None:
    """Copy directories, files and links, never following a link; special files are left out."""
    for folder, names, files in os.walk(source):
        here = target + folder[len(source) :]
        for name in [*names, *files]:
            old, new = f"{folder}/{name}", f"{here}/{name}"
            mode = os.lstat(old).st_mode
            if stat.S_ISLNK(mode):
                os.symlink(os.readlink(old), new)
            elif stat.S_ISDIR(mode):
                os.mkdir(new, stat.S_IMODE(mode) | 0o700)
            elif stat.S_ISREG(mode):
                with open(old, "rb") as reader, open(new, "wb") as writer:
                    while block := reader.read(1 << 20):
                        writer.write(block)
                os.chmod(new, stat.S_IMODE(mode) & 0o777)
            else:
                continue
            owner.take(new)


def _mask_proc() -> None:
    for name in _PROC_EMPTY_FILES:
        if os.path.exists(f"{NEW}/proc/{name}"):
            k.mount(f"{OLD}/dev/null", f"{NEW}/proc/{name}", flags=k.MS_BIND)
    for name in _PROC_EMPTY_DIRS:
        if os.path.isdir(f"{NEW}/proc/{name}"):
            k.mount("tmpfs", f"{NEW}/proc/{name}", "tmpfs", k.MS_RDONLY | k.MS_NOSUID | k.MS_NODEV | k.MS_NOEXEC, "size=0,mode=0555")
    for name in _PROC_READ_ONLY:
        path = f"{NEW}/proc/{name}"
        if os.path.exists(path):
            k.mount(path, path, flags=k.MS_BIND | k.MS_REC)
            k.mount_setattr(k.AT_FDCWD, path, k.MOUNT_ATTR_RDONLY)
