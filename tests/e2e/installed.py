"""What the platforms of one test run installed: the next one finds the same environments there, as it would after a restart.

Every push to a fresh platform would install and compile the same packages. One does it, and leaves what it has at its end. The copies are
hard links: an environment never changes once it is published. Only where `FOLDER` is set, as `tests.run` does.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from pathlib import Path

from builder.environments import COMPILED, READY

FOLDER = "VITRINE_TESTS_INSTALLED"


def take(data_dir: Path) -> None:
    """Gives a platform that was never started what there is."""
    kept = _kept()
    if kept is not None and kept.exists() and not (data_dir / "envs").exists():
        data_dir.mkdir(parents=True, exist_ok=True)
        _link(kept, data_dir / "envs")


def leave(data_dir: Path) -> None:
    """Keeps what an ended platform has, but what one tenant alone may see."""
    kept, envs = _kept(), data_dir / "envs"
    if kept is None:
        return
    facts = {mark.parent: mark.with_name(READY) for mark in envs.glob(f"*/{COMPILED}")}
    facts |= {lock: lock for lock in envs.glob(".resolved/*.json")}
    for made, about in facts.items():
        if about.stat().st_uid == os.geteuid() and not json.loads(about.read_text())["open"]:
            _keep(made, kept, str(made.relative_to(envs)))


def _kept() -> Path | None:
    folder = os.environ.get(FOLDER)
    return Path(folder) if folder else None


def _keep(made: Path, kept: Path, name: str) -> None:
    """Whole or not at all, whoever else keeps the same."""
    target = kept / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as half, contextlib.suppress(OSError):
            _link(made, Path(half, "it"))
            Path(half, "it").rename(target)


def _link(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-al", str(source), str(target)], check=True)
