"""What `vitrine doctor` says about this machine: findings with the fix in words. Blocking, well under a second."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from control_plane.runtimes.process.floor import FloorReport, sandbox_report

_COMMAND_TIMEOUT_S = 5
# Older ones lack what pushes need: git 2.30 the quarantine fixes of CVE-2021-21300, uv 0.5 the stable lock and link modes.
_LEAST = {"git": (2, 30), "uv": (0, 5)}


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"  # works, with less than it could
    PROBLEM = "problem"  # something that users will meet does not work


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `fix` is empty when nothing is to be done."""

    name: str
    level: Level
    detail: str
    fix: str = ""


def examine(
    *,
    report: FloorReport | None = None,
    uv: str | None = None,
    resolve: Callable[[str], str] | None = None,
    run: Callable[[Sequence[str]], str] | None = None,
) -> tuple[Finding, ...]:
    """All findings, the sandbox first. `uv` is the path of the platform's own; the callables are for tests."""
    ask = run or _output
    return (
        *_sandbox(report or sandbox_report("doctor")),
        _version("git", ask(("git", "--version")), "sudo apt install git"),
        _version(
            "git-lfs",
            ask(("git-lfs", "version")),
            "sudo apt install git-lfs (only people who push from this machine need it)",
            needed=False,
        ),
        _version("uv", ask((uv or _own_uv(), "--version")), "run `make up` again: it installs uv"),
        _interpreters(ask),
        _names(resolve or _resolve),
        _kernel(),
    )


def _sandbox(report: FloorReport) -> list[Finding]:
    return [
        Finding(f"sandbox: {item.name}", Level.OK if item.is_met else Level.PROBLEM, item.detail, "" if item.is_met else item.fix)
        for item in report.items
    ]


def _own_uv() -> str:
    """The one that was installed with the platform, else whatever PATH has: as the builder looks for it."""
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else "uv"


def _version(name: str, text: str, fix: str, *, needed: bool = True) -> Finding:
    found = re.search(r"(\d+)\.(\d+)(?:\.\d+)?", text)
    if found is None:
        return Finding(name, Level.PROBLEM if needed else Level.WARNING, "not found", fix)
    least = _LEAST.get(name)
    if least is not None and (int(found[1]), int(found[2])) < least:
        return Finding(name, Level.PROBLEM, f"{found[0]} is older than {least[0]}.{least[1]}", fix)
    return Finding(name, Level.OK, found[0])


def _interpreters(ask: Callable[[Sequence[str]], str]) -> Finding:
    """Which values of `python_version` can be built here without a download."""
    found = {f"{sys.version_info[0]}.{sys.version_info[1]}": sys.executable}
    for minor in range(9, 16):
        path = shutil.which(f"python3.{minor}")
        if path and ask((path, "-c", "import venv; print('yes')")).strip() == "yes":
            found.setdefault(f"3.{minor}", path)
    return Finding("interpreters", Level.OK, ", ".join(sorted(found, key=lambda v: int(v.partition(".")[2]))))


def _names(resolve: Callable[[str], str]) -> Finding:
    """Browsers resolve *.localhost by themselves (RFC 6761); curl and Python ask the system."""
    address = resolve("vitrine-doctor.localhost")
    if address in ("127.0.0.1", "::1"):
        return Finding("names below localhost", Level.OK, address)
    fix = "Browsers work. For other programs: install libnss-myhostname, or set VITRINE_APPS_DOMAIN to a name that resolves."
    return Finding("names below localhost", Level.WARNING, "the system does not resolve *.localhost", fix)


def _kernel() -> Finding:
    release = Path("/proc/sys/kernel/osrelease").read_text(encoding="utf-8").strip() if Path("/proc").exists() else "not Linux"
    found = re.match(r"(\d+)\.(\d+)", release)
    if found and (int(found[1]), int(found[2])) >= (5, 12):
        return Finding("kernel", Level.OK, release)
    return Finding(
        "kernel",
        Level.WARNING,
        f"{release} is older than 5.12",
        "App trees are copied at each start instead of overlaid; a newer kernel starts faster.",
    )


def _resolve(name: str) -> str:
    try:
        return str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return ""


def _output(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
