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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.e2e import installed

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent

LINT: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("ruff check", (str(BIN / "ruff"), "check", ".")),
    ("ruff format", (str(BIN / "ruff"), "format", "--check", ".")),
    ("import contracts", (str(BIN / "lint-imports"), "--no-cache")),
    ("mypy --strict", (str(BIN / "mypy"),)),
)


# The suites that meet the database through the platform's doors, once more on PostgreSQL and Redis. Left out: what asks the same
# routes (the fuzzer, the sweep over client versions), what runs on both databases by itself, and what meets no database there (a registry,
# the broker's queue, the command line's own lines).
ON_POSTGRESQL = (
    "tests/functional/hub_api",
    "tests/functional/admin",
    "tests/functional/web/test_platform_pages.py",
    "--ignore=tests/functional/hub_api/test_fuzz.py",
    "--ignore=tests/functional/hub_api/test_client_versions.py",
    "--ignore=tests/functional/admin/test_admin_cli.py",
    "--ignore=tests/functional/admin/test_sweep.py",
    "--ignore=tests/functional/admin/test_registry.py",
    "--ignore=tests/functional/admin/test_queue_depth.py",
    "--ignore=tests/functional/admin/test_long_work.py",
    "--ignore=tests/functional/admin/test_mistakes.py",
)

DECISIONS = ("tests/unit", "tests/architecture", "tests/simulation")  # no platform, no waiting: good neighbours
NICE = ("nice", "-n", "10")  # for what takes only the processor's time that others leave

BAD_INPUT = "tests/e2e/docker/test_bad_input.py"  # with an engine and a platform of its own

CONTAINER_TOOLS = ("dockerd", "runc", "nft", "ip", "docker-registry", "mmdebstrap")
CONTAINER_PACKAGES = "docker.io nftables iproute2 docker-registry mmdebstrap"


def missing_for_containers() -> str:
    """Why tests with a Docker engine of their own cannot run here, "" when they can; with CI=true they must."""
    if os.environ.get("CI"):
        return ""
    missing = [tool for tool in CONTAINER_TOOLS if shutil.which(tool) is None]
    return ", ".join(["root"] * (os.geteuid() != 0) + missing)


# Most of an end-to-end test is waiting: two files at a time, each with a platform of its own. In the order of their names: by number of
# tests, as is the plugin's habit, files of one long test would come last and wait for each other's end.
AT_ONCE = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
_FEW = 5
_IN_MEMORY = 12 << 30  # bytes; tests write up to 4 GiB, and their programs take up to 5


class Step:
    """One program of the run. Tests that have neighbours may be disturbed by them: see `again`."""

    def __init__(self, name: str, command: tuple[str, ...], noted: Path | None = None, *, scratch: Path | None = None) -> None:
        """`noted`: a folder of pytest's own for which tests failed, where tests have neighbours. `scratch`: where temporary files go."""
        self.name, self.command, self._noted = name, command, noted
        self._env = os.environ | ({"TMPDIR": str(scratch), installed.FOLDER: str(scratch / "installed/envs")} if scratch else {})
        self._noting = ("-o", f"cache_dir={noted}") if noted else ()
        self.code = 0

    def run(self, *, is_quiet: bool) -> None:
        """`is_quiet`: what it prints is kept until its end, for another step is being watched."""
        print(f"── {self.name} …", flush=True)
        began = time.monotonic()
        with tempfile.TemporaryFile() as kept:
            output = kept if is_quiet else None
            command = (*self.command, *self._noting)
            self.code = subprocess.run(command, cwd=ROOT, env=self._env, stdout=output, stderr=output, check=False).returncode
            if is_quiet:
                kept.seek(0)
                sys.stdout.buffer.write(f"── {self.name}:\n".encode() + kept.read())  # in one piece
                sys.stdout.flush()
        said = "ok" if self.code == 0 else f"failed ({self.code})"
        print(f"── {self.name}: {said} in {time.monotonic() - began:.1f} s", flush=True)

    def again(self) -> None:
        """A few tests that failed beside others are run once more by themselves.

        What fails alone too is broken and fails the step. What does not was disturbed by its neighbour; it is named, so that it is mended.
        """
        found = self._noted / "v/cache/lastfailed" if self._noted else None
        failed = list(json.loads(found.read_text())) if found and found.exists() else []
        if self.code == 1 and 0 < len(failed) <= _FEW:
            print(f"── {self.name}, once more, alone: {', '.join(failed)}", flush=True)
            alone = tuple(word for word in self.command if word not in AT_ONCE)
            self.code = subprocess.run((*alone, *self._noting, "--last-failed"), cwd=ROOT, env=self._env, check=False).returncode
            if self.code == 0:
                print(f"── {self.name}, passed alone, failed beside others: {', '.join(failed)}", flush=True)


Lane = tuple[Step, ...]  # one after the other, beside the other lanes of its group


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lint-only", action="store_true")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="options for pytest")
    options = parser.parse_args()
    if Path("/etc/ssl/certs/ca-certificates.crt").exists():
        # What tests install with uv trusts whom this machine trusts, as `make up` does.
        os.environ.setdefault("UV_SYSTEM_CERTS", "1")
    lanes: list[tuple[Lane, ...]] = [((Step(name, command),),) for name, command in LINT]
    with tempfile.TemporaryDirectory(prefix="v", dir=in_memory(), ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o1777)  # as /tmp: databases and apps run as users of their own
        if not options.lint_only:
            lanes += suites(Path(folder), options.rest)
        return run(lanes)


def in_memory() -> str | None:
    """In CI, whose machine is its own: a folder for the many small files of tests that is no disk's, where there is room for it."""
    shared = "/dev/shm"
    if not os.environ.get("CI") or not os.access(shared, os.W_OK):
        return None
    facts, memory = os.statvfs(shared), Path("/proc/meminfo").read_text()
    free = int(memory.partition("MemAvailable:")[2].split()[0]) << 10
    has_room = min(facts.f_bavail * facts.f_frsize, free) > _IN_MEMORY
    return shared if has_room and not facts.f_flag & os.ST_NOEXEC else None


def suites(folder: Path, options: Sequence[str]) -> Iterator[tuple[Lane, ...]]:
    """With options, one run of pytest that has them. `folder` is for what tests with a platform in processes write."""
    pytest = (sys.executable, "-m", "pytest", "-q", "--durations=15", "--durations-min=8")  # the whole has 20 minutes on two cores
    here = ("-m", "not cluster and not docker and not compose and not images")
    if options:
        yield ((Step("pytest", (*pytest, *here, *options), scratch=folder),),)
        return
    elsewhere = tuple(f"--ignore={folder}" for folder in DECISIONS)
    services = Step("services", (*pytest, *AT_ONCE, *here, *elsewhere), folder / "services", scratch=folder)
    decisions = Step("decisions", (*NICE, *pytest, *here, *DECISIONS), folder / "decisions", scratch=folder)
    yield (services,), (decisions,)
    postgresql = Step(
        "PostgreSQL and Redis", (*pytest, *AT_ONCE, "--database", "postgresql", *ON_POSTGRESQL), folder / "postgresql", scratch=folder
    )
    if missing := missing_for_containers():
        print(f"── containers: skipped, for want of {missing} (apt-get install {CONTAINER_PACKAGES})", flush=True)
        yield ((postgresql,),)
    else:  # wait for their engine more than they work
        docker = (*pytest, "-m", "docker")
        runtime = Step("runtime of containers", (*docker, "tests/contract"), folder / "runtime")
        bad_input = Step("bad input in containers", (*docker, BAD_INPUT), folder / "bad-input")
        containers = Step("containers", (*docker, "--ignore=tests/contract", f"--ignore={BAD_INPUT}"), folder / "containers")
        yield (postgresql,), (containers,), (bad_input, runtime)


def run(groups: Sequence[tuple[Lane, ...]]) -> int:
    """One group after the other; the exit status."""
    failed = []
    for lanes in groups:
        with ThreadPoolExecutor(len(lanes)) as threads:
            list(threads.map(run_lane, lanes, [lane is not lanes[0] for lane in lanes]))
        for step in (step for lane in lanes for step in lane):
            step.again()
            if step.code:
                failed.append(step.name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run_lane(lane: Lane, is_quiet: bool) -> None:
    for step in lane:
        step.run(is_quiet=is_quiet)


if __name__ == "__main__":
    sys.exit(main())
