"""What `vitrine doctor` says besides the sandbox: what the settings name (engine, database, Redis, ports) and what this machine has.

Every look is bounded by `_LOOK_S` seconds, changes nothing, and shows no password out of an address.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from control_plane.domain.errors import VitrineError
from control_plane.runtimes.process.doctor import Finding, Level
from control_plane.settings import Settings

_LOOK_S = 4
_GIB = 1 << 30
_DISK_LEAST_BYTES, _DISK_WANTED_BYTES = 1 * _GIB, 10 * _GIB
_ENGINE_API_LEAST = (1, 41)  # one-shot statistics; Docker 20.10
_POSTGRES_LEAST = 13
_REDIS_LEAST = (6, 2)
# First releases of each line without the known ways out of a container. runc: CVE-2025-31133, -52565, -52881.
# containerd: CVE-2024-25621, CVE-2025-64329. A line that is not named is older than all of them, or newer.
_FLOORS: Mapping[str, tuple[tuple[int, int, int], ...]] = {
    "runc": ((1, 2, 8), (1, 3, 3), (1, 4, 0)),
    "containerd": ((1, 7, 29), (2, 0, 7), (2, 1, 5), (2, 2, 0)),
}


def examine_platform(settings: Settings) -> tuple[Finding, ...]:
    """Looks at what these settings need. Blocking; the slowest look is a host that does not answer."""
    return (
        cgroups(Path("/sys/fs/cgroup")),
        *gpus(_run(("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")), Path("/dev")),
        *engine(settings, _engine_version),
        *_images(settings),
        *_cluster(settings),
        database(settings),
        redis(settings),
        disk(settings.data_dir),
        *ports(settings),
        chromium(settings),
    )


def _images(settings: Settings) -> tuple[Finding, ...]:
    if settings.runtime != "docker":
        return ()
    from control_plane.cli.doctor_images import examine_images

    return examine_images(settings)


def _cluster(settings: Settings) -> tuple[Finding, ...]:
    if settings.runtime != "kubernetes":
        return ()
    from control_plane.cli.doctor_cluster import examine_cluster  # its client takes a second to import

    return examine_cluster(settings)


def cgroups(top: Path) -> Finding:
    """Which version carries the limits; both can be mounted at once."""
    if (top / "cgroup.controllers").is_file():
        controllers = (top / "cgroup.controllers").read_text("utf-8").split()
        lacking = sorted({"cpu", "memory", "pids"} - set(controllers))
        if not lacking:
            return Finding("cgroups", Level.OK, "version 2")
        fix = "Start the kernel with systemd.unified_cgroup_hierarchy=1, or let the container that this runs in delegate them."
        return Finding("cgroups", Level.WARNING, f"version 2 without {', '.join(lacking)}", fix)
    mounted = [name for name in ("cpu", "memory", "pids") if (top / name).is_dir()]
    if mounted:
        return Finding("cgroups", Level.OK, f"version 1 ({', '.join(mounted)})")
    return Finding("cgroups", Level.WARNING, "none mounted", "Mount cgroup2 on /sys/fs/cgroup; without it apps have no memory limit.")


def gpus(answer: str, devices: Path) -> Iterator[Finding]:
    """`answer` is nvidia-smi's table without its head, "" when there is no such program."""
    rows = [line for line in answer.splitlines() if line.count(",") == 2]
    for number, row in enumerate(rows):
        name, memory, driver = (part.strip() for part in row.split(","))
        yield Finding(f"gpu {number}", Level.OK, f"{name}, {memory}, driver {driver}")
    if not rows and (devices / "nvidia0").exists():
        fix = "Install the NVIDIA driver's programs (nvidia-smi) of the same version as the kernel module."
        yield Finding("gpu", Level.WARNING, "there is an NVIDIA device, and nvidia-smi does not answer", fix)
    elif not rows:
        yield Finding("gpu", Level.OK, "none: GPU hardware is not offered here")


def engine(settings: Settings, ask: Callable[[str], dict[str, Any]]) -> Iterator[Finding]:
    """The container engine with runc and containerd below it. Only the Docker runtime cannot do without."""
    host = settings.docker_host
    try:
        said = ask(host)
    except VitrineError as error:
        is_needed = settings.runtime == "docker"
        fix = "sudo apt install docker.io, then let this user reach its socket (group docker); elsewhere: VITRINE_DOCKER_HOST"
        words = f"{host or 'the usual socket'}: {error.message}"
        yield Finding(
            "docker",
            Level.PROBLEM if is_needed else Level.OK,
            words if is_needed else f"not here, and only --runtime docker needs it ({words})",
            fix,
        )
        return
    version, api = str(said.get("Version", "?")), _numbers(str(said.get("ApiVersion", "")))
    if api[:2] < _ENGINE_API_LEAST:
        yield Finding("docker", Level.PROBLEM, f"{version} is older than 20.10", "Install Docker Engine 20.10 or newer.")
    else:
        yield Finding("docker", Level.OK, f"{version} at {host or 'its usual socket'}")
    below = {str(part.get("Name", "")): str(part.get("Version", "")) for part in said.get("Components") or ()}
    for name in _FLOORS:
        if text := below.get(name):
            yield component(name, text)


def component(name: str, text: str) -> Finding:
    """One program below the engine against the releases that closed the known ways out of a container."""
    found = _numbers(text)
    if not found:
        return Finding(name, Level.WARNING, f"{text}: unknown version", f"Install {name} {_floor_words(name)} or newer.")
    floor = next((floor for floor in _FLOORS[name] if floor[:2] == found[:2]), None)
    is_new = found >= floor if floor else found > max(_FLOORS[name])
    if is_new:
        return Finding(name, Level.OK, text)
    backports = (
        " A distribution may have the fixes in its own older version: its changelog names them."
        if re.search(r"deb|ubuntu|~ds|\+ds", text)
        else ""
    )
    fix = f"Install {name} {_floor_words(name)} or newer: older ones have known ways out of a container.{backports}"
    return Finding(name, Level.WARNING, f"{text} is below the floor", fix)


def _floor_words(name: str) -> str:
    return ", ".join(".".join(map(str, floor)) for floor in _FLOORS[name])


def database(settings: Settings) -> Finding:
    url = settings.database_url
    if not url or url.startswith("sqlite"):
        version = sqlite3.sqlite_version
        if _numbers(version) < (3, 35, 0):
            return Finding(
                "database", Level.PROBLEM, f"SQLite {version} is older than 3.35", "Use a newer Python, or VITRINE_DATABASE_URL."
            )
        return Finding("database", Level.OK, f"SQLite {version}")
    from sqlalchemy import text

    from control_plane.db.engine import create_database

    async def look() -> str:
        opened = create_database(url)
        try:
            async with asyncio.timeout(_LOOK_S), opened._reader.connect() as connection:
                return str((await connection.execute(text("SHOW server_version"))).scalar_one())
        finally:
            await opened.close()

    fix = "Start PostgreSQL there and check user, password and VITRINE_DATABASE_URL."
    try:
        version = asyncio.run(look())
    except TimeoutError:
        return Finding("database", Level.PROBLEM, f"{_place(url)} does not answer within {_LOOK_S} s", fix)
    except Exception as error:
        return Finding("database", Level.PROBLEM, f"{_place(url)} does not answer ({_cause(error, url)})", fix)
    if _numbers(version)[:1] < (_POSTGRES_LEAST,):
        return Finding("database", Level.WARNING, f"PostgreSQL {version} is older than {_POSTGRES_LEAST}", "Upgrade PostgreSQL.")
    return Finding("database", Level.OK, f"PostgreSQL {version} at {_place(url)}")


def redis(settings: Settings) -> Finding:
    url = settings.redis_url
    if not url:
        return Finding("redis", Level.OK, "not configured: one machine needs none")
    from redis import Redis
    from redis.exceptions import RedisError

    fix = "Start Redis there and check password and VITRINE_REDIS_URL."
    try:
        with Redis.from_url(url, socket_timeout=_LOOK_S, socket_connect_timeout=_LOOK_S) as client:
            version = str(client.info("server")["redis_version"])
    except (RedisError, OSError, ValueError) as error:
        return Finding("redis", Level.PROBLEM, f"{_place(url)} does not answer ({_cause(error, url)})", fix)
    if _numbers(version)[:2] < _REDIS_LEAST:
        return Finding("redis", Level.WARNING, f"{version} is older than 6.2", "Upgrade Redis.")
    return Finding("redis", Level.OK, f"{version} at {_place(url)}")


def disk(data_dir: Path) -> Finding:
    """Room and rights where everything is kept, or will be."""
    place = next(path for path in (data_dir, *data_dir.parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return Finding("data dir", Level.PROBLEM, f"{place} cannot be written", "Choose another with --data-dir, or give it to this user.")
    free, stat = shutil.disk_usage(place).free, os.statvfs(place)
    words = f"{data_dir}: {free / _GIB:.1f} GiB free"
    fix = "Make room: `vitrine admin gc`, `vitrine images prune`, or move the data dir to a larger disk."
    if stat.f_files and stat.f_favail < 10_000:
        return Finding("data dir", Level.WARNING, f"{words}, {stat.f_favail} more files fit", fix)
    if free < _DISK_LEAST_BYTES:
        return Finding("data dir", Level.PROBLEM, words, fix)
    if free < _DISK_WANTED_BYTES:
        return Finding("data dir", Level.WARNING, f"{words}; builds of machine-learning demos want 10 GiB", fix)
    return Finding("data dir", Level.OK, words)


def ports(settings: Settings) -> Iterator[Finding]:
    """Whether `vitrine up` would get its ports; a platform that runs from this data dir has them already."""
    for port in (settings.port, settings.http_port):
        if not port:
            continue
        name, where = f"port {port}", f"{settings.host}:{port}"
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.host, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE and (settings.data_dir / "ready.json").is_file():
                    yield Finding(name, Level.OK, f"{where} is this platform's")
                elif error.errno == errno.EADDRINUSE:
                    fix = f"Stop what listens there, or choose another: vitrine up --port {port + 1 if port < 65535 else 7861}"
                    yield Finding(name, Level.WARNING, f"{where} is taken by another program", fix)
                elif error.errno == errno.EACCES:
                    fix = "Choose a port above 1023, or: sudo sysctl net.ipv4.ip_unprivileged_port_start=80"
                    yield Finding(name, Level.PROBLEM, f"{where} is not for this user", fix)
                else:
                    yield Finding(
                        name, Level.PROBLEM, f"{where}: {error.strerror or error}", "Set VITRINE_HOST to an address of this machine."
                    )
                continue
        yield Finding(name, Level.OK, f"{where} is free")


def chromium(settings: Settings) -> Finding:
    from control_plane.runtimes.process.camera import find_browser

    if not settings.thumbnails:
        return Finding("chromium", Level.OK, "not needed: VITRINE_THUMBNAILS is off")
    if (path := find_browser()) is None:
        return Finding("chromium", Level.WARNING, "not found below /usr: cards show no pictures of apps", "sudo apt install chromium")
    return Finding("chromium", Level.OK, path)


def _engine_version(host: str) -> dict[str, Any]:
    from control_plane.runtimes.docker.engine import Engine

    asked = Engine(host, timeout_s=_LOOK_S)
    try:
        return asked.version()
    finally:
        asked.close()


def _numbers(text: str) -> tuple[int, ...]:
    found = re.search(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?", text)
    return tuple(int(part or 0) for part in found.groups()) if found else ()


def _place(url: str) -> str:
    """Host and port of an address, never its user and password."""
    parts = urlsplit(url)
    return f"{parts.hostname or 'the local socket'}{f':{parts.port}' if parts.port else ''}"


def _cause(error: Exception, url: str) -> str:
    """The first line of what went wrong. An address's password is not part of it, whatever a driver says."""
    words = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
    password = urlsplit(url).password
    return (words[0].replace(password, "***") if password else words[0])[:200]


def _run(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_LOOK_S, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
