"""`make test`: lint, types, import contracts, then all tests that this machine can run. The first failure's name is printed last."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent

LINT: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("ruff check", (str(BIN / "ruff"), "check", ".")),
    ("ruff format", (str(BIN / "ruff"), "format", "--check", ".")),
    ("import contracts", (str(BIN / "lint-imports"), "--no-cache")),
    ("mypy --strict", (str(BIN / "mypy"),)),
)


# The suites that meet the database through the platform's doors, once more on PostgreSQL and Redis. Left out: what asks the same
# routes (the fuzzer, the sweep over client versions), and what runs on both databases by itself.
ON_POSTGRESQL = (
    "tests/functional/hub_api",
    "tests/functional/admin",
    "tests/functional/web/test_platform_pages.py",
    "--ignore=tests/functional/hub_api/test_fuzz.py",
    "--ignore=tests/functional/hub_api/test_client_versions.py",
    "--ignore=tests/functional/admin/test_admin_cli.py",
)

CONTAINER_TOOLS = ("dockerd", "runc", "nft", "ip", "docker-registry", "mmdebstrap")
CONTAINER_PACKAGES = "docker.io nftables iproute2 docker-registry mmdebstrap"


def missing_for_containers() -> str:
    """Why tests with a Docker engine of their own cannot run here, "" when they can; with CI=true they must."""
    if os.environ.get("CI"):
        return ""
    missing = [tool for tool in CONTAINER_TOOLS if shutil.which(tool) is None]
    return ", ".join(["root"] * (os.geteuid() != 0) + missing)


AT_ONCE = ("-n", "2", "--dist", "loadfile")  # most of an end-to-end test is waiting: two files at a time, each with a platform of its own
_FEW = 5


class Step:
    """One program of the run. Tests that have neighbours may be disturbed by them: see `again`."""

    def __init__(self, name: str, command: tuple[str, ...], noted: Path | None = None) -> None:
        """`noted`: a folder of pytest's own for which tests failed, where tests have neighbours."""
        self.name, self.command, self._noted = name, command, noted
        self._noting = ("-o", f"cache_dir={noted}") if noted else ()
        self.code, self._began = 0, 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    def begin(self, *, is_quiet: bool) -> None:
        """`is_quiet`: what it prints is kept until its end, for another step is being watched."""
        print(f"── {self.name} …", flush=True)
        self._began = time.monotonic()
        self._output = tempfile.TemporaryFile() if is_quiet else None
        self._process = subprocess.Popen((*self.command, *self._noting), cwd=ROOT, stdout=self._output, stderr=self._output)

    def end(self) -> None:
        assert self._process is not None
        self.code = self._process.wait()
        if self._output is not None:
            print(f"── {self.name}:", flush=True)
            with self._output:
                self._output.seek(0)
                shutil.copyfileobj(self._output, sys.stdout.buffer)
                sys.stdout.flush()
        said = "ok" if self.code == 0 else f"failed ({self.code})"
        print(f"── {self.name}: {said} in {time.monotonic() - self._began:.1f} s", flush=True)

    def again(self) -> None:
        """A few tests that failed beside others are run once more by themselves.

        What fails alone too is broken and fails the step. What does not was disturbed by its neighbour; it is named, so that it is mended.
        """
        found = self._noted / "v/cache/lastfailed" if self._noted else None
        failed = list(json.loads(found.read_text())) if found and found.exists() else []
        if self.code == 1 and 0 < len(failed) <= _FEW:
            print(f"── {self.name}, once more, alone: {', '.join(failed)}", flush=True)
            alone = tuple(word for word in self.command if word not in AT_ONCE)
            self.code = subprocess.run((*alone, *self._noting, "--last-failed"), cwd=ROOT, check=False).returncode
            if self.code == 0:
                print(f"── {self.name}, passed alone, failed beside others: {', '.join(failed)}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lint-only", action="store_true")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="options for pytest")
    options = parser.parse_args()
    if Path("/etc/ssl/certs/ca-certificates.crt").exists():
        # What tests install with uv trusts whom this machine trusts, as `make up` does.
        os.environ.setdefault("UV_SYSTEM_CERTS", "1")
    together: list[tuple[Step, ...]] = [(Step(name, command),) for name, command in LINT]
    with tempfile.TemporaryDirectory() as folder:
        if not options.lint_only:
            together += suites(Path(folder), options.rest)
        return run(together)


def suites(folder: Path, options: Sequence[str]) -> Iterator[tuple[Step, ...]]:
    """With options, one run of pytest that has them."""
    pytest = (sys.executable, "-m", "pytest", "-q", "--durations=15", "--durations-min=8")  # the whole has 20 minutes on two cores
    here = ("-m", "not cluster and not docker and not compose and not images")
    if options:
        yield (Step("pytest", (*pytest, *here, *options)),)
        return
    yield (Step("pytest", (*pytest, *AT_ONCE, *here), folder / "here"),)
    rest = [Step("PostgreSQL and Redis", (*pytest, *AT_ONCE, "--database", "postgresql", *ON_POSTGRESQL), folder / "postgresql")]
    if missing := missing_for_containers():
        print(f"── containers: skipped, for want of {missing} (apt-get install {CONTAINER_PACKAGES})", flush=True)
    else:
        rest.append(Step("containers", (*pytest, "-m", "docker"), folder / "containers"))  # waits for its engine more than it works
    yield tuple(rest)


def run(together: Sequence[tuple[Step, ...]]) -> int:
    """Steps of one tuple at the same time; the exit status."""
    failed = []
    for steps in together:
        for step in steps:
            step.begin(is_quiet=step is not steps[0])
        for step in steps:
            step.end()
        for step in steps:
            step.again()
        failed += [step.name for step in steps if step.code]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
