"""Bytecode for shared environments: compiled once per distribution and Python, then hard-linked in.

Apps see their environment read-only, so they cannot keep bytecode themselves; without it a Gradio app starts about twice
as slowly. Compiling never runs a package's code: it is done by the base interpreter, isolated (`-I -S`), not by the
environment's own. Files are marked unchecked (PEP 552), because the store and the environment never change after
publication and a stat per module is saved.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.interpreters import Interpreter

COMPILE_JOBS = 2


@dataclass(frozen=True, slots=True)
class Distribution:
    """One installed distribution: `key` names its content, `sources` are its modules relative to site-packages."""

    key: str
    sources: tuple[str, ...]


class BytecodeStore:
    """`root`/<python tag>/<distribution key>/… holds the compiled files at their path below site-packages."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def link(self, site: Path, distributions: Sequence[Distribution], python: Interpreter) -> tuple[Distribution, ...]:
        """Hard-links what the store has into `site`. Returns the distributions it does not have."""
        missing = []
        for one in distributions:
            folder = self._folder(one, python)
            if folder.is_dir():
                _link_tree(folder, site)
            elif one.sources:
                missing.append(one)
        return tuple(missing)

    def compile_argv(self, python: Interpreter, listing: Path) -> tuple[str, ...]:
        """Compiles the files named in `listing`, one absolute path per line. Errors in single files do not matter: some
        packages ship templates and tests for other Pythons."""
        return (
            python.path,
            "-I",
            "-S",
            "-m",
            "compileall",
            "-qq",
            "-j",
            str(COMPILE_JOBS),
            "--invalidation-mode",
            "unchecked-hash",
            "-i",
            str(listing),
        )

    def harvest(self, site: Path, distributions: Sequence[Distribution], python: Interpreter) -> None:
        """Keeps the compiled files of `distributions`, found in `site`, for the next environment."""
        for one in distributions:
            target = self._folder(one, python)
            target.parent.mkdir(parents=True, exist_ok=True)
            building = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
            for source in one.sources:
                compiled = compiled_path(source, python.cache_tag)
                if (site / compiled).is_file():
                    (building / compiled).parent.mkdir(parents=True, exist_ok=True)
                    with contextlib.suppress(FileExistsError):
                        os.link(site / compiled, building / compiled)
            try:
                building.rename(target)
            except OSError:  # another worker was first
                shutil.rmtree(building, ignore_errors=True)

    def _folder(self, one: Distribution, python: Interpreter) -> Path:
        return self._root / f"{python.cache_tag}-{python.version}" / one.key


def compiled_path(source: str, cache_tag: str) -> str:
    """`a/b.py` → `a/__pycache__/b.cpython-311.pyc` (PEP 3147)."""
    folder, name = os.path.split(source)
    return os.path.join(folder, "__pycache__", f"{name[:-3]}.{cache_tag}.pyc")


def read_distributions(site: Path) -> tuple[Distribution, ...]:
    """The distributions installed in `site`, from their RECORD files."""
    found = []
    with os.scandir(site) as entries:
        infos = sorted(entry.path for entry in entries if entry.name.endswith(".dist-info"))
    for info in infos:
        try:
            record = Path(info, "RECORD").read_bytes()
        except OSError:
            continue
        name = re.sub(r"[^A-Za-z0-9._+-]", "_", os.path.basename(info).removesuffix(".dist-info"))
        key = f"{name}-{hashlib.sha256(record).hexdigest()[:16]}"
        paths = (line.split(",", 1)[0] for line in record.decode("utf-8", "replace").splitlines())
        sources = tuple(p for p in paths if p.endswith(".py") and not p.startswith(("/", "..", '"')) and "/../" not in p)
        found.append(Distribution(key, sources))
    return tuple(found)


def _link_tree(folder: Path, site: Path) -> None:
    base = len(str(folder)) + 1
    todo = [str(folder)]
    while todo:
        current = todo.pop()
        with os.scandir(current) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                    continue
                target = os.path.join(site, entry.path[base:])
                try:
                    os.link(entry.path, target)
                except FileNotFoundError:
                    os.makedirs(os.path.dirname(target), exist_ok=True)
                    with contextlib.suppress(OSError):
                        os.link(entry.path, target)
                except OSError:  # there already, or the file system cannot link: it is compiled in place later or not at all
                    continue
