"""git.clone and git.push of 100 MB over smart HTTP, against a clone by path on the same disk."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.e2e.conftest import Work, start_platform, stop_platform

_FILES, _EACH = 50, 2 << 20  # fewer than git's own limit for unpacking: the slow case of a server that unpacks


def rows(rounds: int = 3) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="v", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        platform = start_platform(folder / "d")
        try:
            clones, paths, pushes, locals_ = [], [], [], []
            for i in range(rounds):
                platform.api("POST", "/api/repos/create", json={"name": f"big{i}", "type": "space", "sdk": "static"}).raise_for_status()
                work = Work(platform, f"big{i}", folder / f"big{i}")
                for n in range(_FILES):
                    (work.folder / f"{n}.txt").write_bytes(os.urandom(_EACH // 2).hex().encode())
                work.git("add", "-A")
                work.git("commit", "-q", "-m", "big")
                pushes.append(_timed(work, "push", "-q", "origin", "HEAD:main"))
                subprocess.run(["git", "init", "-q", "--bare", folder / f"path{i}.git"], check=True)
                locals_.append(_timed(work, "push", "-q", str(folder / f"path{i}.git"), "HEAD:main"))
                url = f"http://localhost:{platform.port}/spaces/admin/big{i}"
                clones.append(_timed(work, "clone", "-q", "--bare", url, str(folder / f"c{i}")))
                paths.append(_timed(work, "clone", "-q", "--bare", "--no-local", str(folder / f"path{i}.git"), str(folder / f"p{i}")))
            return [_row("git.clone", clones, "clone by path", paths), _row("git.push", pushes, "push by path", locals_)]
        finally:
            stop_platform(platform)


def _timed(work: Work, *args: str) -> float:
    began = time.monotonic()
    work.git(*args)
    return time.monotonic() - began


def _row(name: str, ours: list[float], reference: str, theirs: list[float]) -> dict[str, Any]:
    """`ratio` = reference ÷ ours: 1.0 is as fast as git alone."""
    value, other = statistics.median(ours), statistics.median(theirs)
    return {
        "name": name,
        "value": round(value, 3),
        "unit": "s",
        "reference": reference,
        "reference_value": round(other, 3),
        "ratio": round(other / value, 3),
        "n": len(ours),
    }
