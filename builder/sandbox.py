"""Build steps that run somebody's code: contained by the machine's launcher, or refused."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from builder.errors import BuildFailed
from builder.steps import StepResult, StepRunner
from control_plane.domain.reasons import Reason


class BuildSandbox(Protocol):
    """Runs one untrusted command. It sees `read_only` and `writable` paths at their own places, the system's libraries,
    the network by the build's egress rule, and nothing of the platform: no sockets, no other cache, no secret."""

    def run(
        self,
        argv: Sequence[str],
        *,
        runner: StepRunner,
        cwd: Path,
        env: Mapping[str, str],
        read_only: Sequence[Path],
        writable: Sequence[Path],
    ) -> StepResult: ...


class NoSandbox:
    """Where no launcher is there: untrusted steps are refused, unless the operator said that all code here is their own."""

    def __init__(self, *, trusted: bool) -> None:
        self._trusted = trusted

    def run(
        self,
        argv: Sequence[str],
        *,
        runner: StepRunner,
        cwd: Path,
        env: Mapping[str, str],
        read_only: Sequence[Path],
        writable: Sequence[Path],
    ) -> StepResult:
        if not self._trusted:
            raise BuildFailed(
                Reason.SANDBOX_UNAVAILABLE,
                "These requirements run code while they are installed (a source build, a URL or another index), and this machine "
                "cannot contain that. Use released wheels, or ask the operator: `vitrine doctor` shows the fix.",
            )
        return runner.run(argv, cwd=cwd, env=env, watch=writable)


class LauncherSandbox:
    """The machine's launcher: a program that reads a JSON spec on standard input and runs one command inside a sandbox.

    `command` is the launcher's argument tuple. The spec's fields are described where the launcher lives (the process
    runtime's README); its gateway lets builds reach the internet on 80 and 443 and nothing private.
    """

    def __init__(self, command: Sequence[str], *, allow: Sequence[str] = (), trusted: bool = False) -> None:
        self._command = tuple(command)
        self._allow = tuple(allow)
        self._trusted = trusted

    def run(
        self,
        argv: Sequence[str],
        *,
        runner: StepRunner,
        cwd: Path,
        env: Mapping[str, str],
        read_only: Sequence[Path],
        writable: Sequence[Path],
    ) -> StepResult:
        limits = runner.limits
        spec: dict[str, Any] = {
            "v": 1,
            "argv": list(argv),
            "env": dict(env),
            "cwd": str(cwd),
            "binds_ro": [[str(path), str(path)] for path in dict.fromkeys(read_only) if path not in writable],
            "binds_rw": [[str(path), str(path)] for path in dict.fromkeys(writable)],
            "scratch_bytes": min(limits.disk_bytes, limits.memory_bytes // 2),  # it is memory
            "network": "egress",
            "egress": {"ports": [80, 443], "allow": list(self._allow)},
            "egress_inline": True,
            "limits": {"nofile": _open_files()},  # the size of a file is limited by the step already
            "lenient": self._trusted,
        }
        done = runner.run(self._command, env={"PATH": os.defpath}, watch=writable, stdin=json.dumps(spec))
        if done.exit_code == LAUNCHER_FAILED and any("vitrine-sandbox:" in line for line in done.tail):
            raise BuildFailed(Reason.SANDBOX_UNAVAILABLE, f"The build sandbox could not be made on this machine: {done.tail[-1][:300]}")
        return done


def _open_files() -> int:
    """65,536 descriptors, or what this process may have at most."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 65536 if hard == resource.RLIM_INFINITY else min(65536, hard)


LAUNCHER_FAILED = 125


def make_sandbox(command: Sequence[str], *, trusted: bool, allow: Sequence[str] = ()) -> BuildSandbox:
    """The launcher when there is one, else the refusal (or, for a trusting operator, none)."""
    return LauncherSandbox(command, allow=allow, trusted=trusted) if command else NoSandbox(trusted=trusted)
