"""Removes what builds left and no Deployment names: trees, sites and environments. Called by whoever knows the names."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from builder.environments import EnvironmentStore
from builder.sandbox import NoSandbox
from builder.uv import UvConfig

GRACE_S = 3600.0  # younger ones may belong to a build whose success is being recorded


@dataclass(frozen=True, slots=True)
class Collected:
    """What was removed: artifact refs (`<space>/<build>`) and environment keys."""

    artifacts: tuple[str, ...]
    environments: tuple[str, ...]


def collect(
    data_dir: Path,
    *,
    keep_artifacts: Collection[str],
    keep_environments: Collection[str],
    grace_s: float = GRACE_S,
    unused_s: float = 7 * 86400.0,
) -> Collected:
    """Safe beside builds. Keeps what is named, artifacts younger than `grace_s`, and environments used within `unused_s`."""
    gone = []
    for kind in ("bundles", "sites"):
        for space in _folders(data_dir / kind):
            for artifact in _folders(space):
                ref = f"{space.name}/{artifact.name}"
                if ref in keep_artifacts or time.time() - artifact.stat().st_mtime < grace_s:
                    continue
                hidden = artifact.with_name(f".gone-{artifact.name}") if not artifact.name.startswith(".") else artifact
                artifact.rename(hidden)  # whole or absent, also when this is interrupted
                shutil.rmtree(hidden, ignore_errors=True)
                if not artifact.name.startswith("."):
                    gone.append(ref)
    store = EnvironmentStore(data_dir, UvConfig("uv"), NoSandbox(trusted=False))
    return Collected(tuple(gone), store.gc(keep_environments, unused_s=unused_s))


def _folders(folder: Path) -> list[Path]:
    return sorted(one for one in folder.iterdir() if one.is_dir() and not one.is_symlink()) if folder.is_dir() else []
