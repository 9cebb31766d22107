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
from pathlib import Path

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


def _run(command: tuple[str, ...]) -> int:
    """The exit status. Of tests that run two files at a time, a few that fail are run once more by themselves.

    What fails alone too is broken and fails the step. What does not was disturbed by its neighbour; it is named, so that it is mended.
    """
    if AT_ONCE[0] not in command:
        return subprocess.run(command, cwd=ROOT, check=False).returncode
    with tempfile.TemporaryDirectory() as cache:
        noting = ("-o", f"cache_dir={cache}")
        code = subprocess.run((*command, *noting), cwd=ROOT, check=False).returncode
        noted = Path(cache, "v/cache/lastfailed")
        failed = list(json.loads(noted.read_text())) if noted.exists() else []
        if code != 1 or not 0 < len(failed) <= _FEW:
            return code
        print(f"── once more, alone: {', '.join(failed)}", flush=True)
        alone = tuple(word for word in command if word not in AT_ONCE)
        code = subprocess.run((*alone, *noting, "--last-failed"), cwd=ROOT, check=False).returncode
        if code == 0:
            print(f"── passed alone, failed beside another file: {', '.join(failed)}", flush=True)
        return code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lint-only", action="store_true")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="options for pytest")
    options = parser.parse_args()
    steps = list(LINT)
    if not options.lint_only:
        # The slowest are named: the whole must stay under 20 minutes on two cores.
        alone = (sys.executable, "-m", "pytest", "-q", "--durations=15", "--durations-min=8")
        pytest = alone if options.rest else (*alone, *AT_ONCE)
        steps.append(("pytest", (*pytest, "-m", "not cluster and not docker and not compose and not images", *options.rest)))
        if not options.rest:
            steps.append(("PostgreSQL and Redis", (*pytest, "--database", "postgresql", *ON_POSTGRESQL)))
        if missing := missing_for_containers():
            print(f"── containers: skipped, for want of {missing} (apt-get install {CONTAINER_PACKAGES})", flush=True)
        elif not options.rest:
            steps.append(("containers", (*alone, "-m", "docker")))
    if Path("/etc/ssl/certs/ca-certificates.crt").exists():
        # What tests install with uv trusts whom this machine trusts, as `make up` does.
        os.environ.setdefault("UV_SYSTEM_CERTS", "1")
    failed = []
    for name, command in steps:
        began = time.monotonic()
        print(f"── {name} …", flush=True)
        code = _run(command)
        print(f"── {name}: {'ok' if code == 0 else f'failed ({code})'} in {time.monotonic() - began:.1f} s", flush=True)
        if code:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
