"""Which Pythons this machine has. Nothing is downloaded: an absent one is an error that lists those present."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.errors import BuildFailed
from control_plane.domain.reasons import Reason

_NAME = re.compile(r"python3\.(\d+)\Z")
_ASK = "import sys,platform as p;print(*sys.version_info[:3],sep='.');print(sys.implementation.cache_tag);print(p.python_implementation())"
OLDEST = (3, 9)  # older ones cannot be handled by current uv and have no security support


@dataclass(frozen=True, slots=True)
class Interpreter:
    """`version` is exact ("3.11.7"); `cache_tag` names its bytecode ("cpython-311")."""

    path: str
    version: str
    cache_tag: str

    @property
    def minor(self) -> str:
        return ".".join(self.version.split(".")[:2])


class Interpreters:
    """The interpreters of this machine. Looked for once, when a version other than the platform's own is asked for."""

    def __init__(self, search: Sequence[Path] | None = None) -> None:
        self._search = tuple(search) if search is not None else None
        self._found: tuple[Interpreter, ...] | None = None

    @property
    def default(self) -> Interpreter:
        """The platform's own interpreter, outside of its virtual environment."""
        name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        beside = Path(sys.base_prefix, "bin", name)
        path = str(beside) if beside.exists() else getattr(sys, "_base_executable", sys.executable)
        return Interpreter(os.path.realpath(path), ".".join(map(str, sys.version_info[:3])), sys.implementation.cache_tag or "")

    def find(self, wanted: str | None) -> Interpreter:
        """`wanted`: None, "3.11" or "3.11.7". Raises BuildFailed(PYTHON_MISSING) that lists those present."""
        default = self.default
        if wanted is None or _matches(default.version, wanted):
            return default
        present = self.present()
        fits = [one for one in present if _matches(one.version, wanted)]
        if fits:
            return fits[0]
        have = ", ".join(dict.fromkeys(one.version for one in present))
        raise BuildFailed(
            Reason.PYTHON_MISSING,
            f"python_version {wanted} is not on this machine. Present: {have}. "
            "Change python_version in README.md, or ask the operator to install it.",
        )

    def present(self) -> tuple[Interpreter, ...]:
        """Newest first; the platform's own counts."""
        if self._found is None:
            folders = self._search if self._search is not None else _usual_folders()
            found = {self.default.path: self.default}
            for path in _candidates(folders):
                real = os.path.realpath(path)
                if real not in found and (one := _ask(real)) is not None:
                    found[real] = one
            self._found = tuple(sorted(found.values(), key=lambda one: [int(n) for n in one.version.split(".")], reverse=True))
        return self._found


def _matches(version: str, wanted: str) -> bool:
    return version == wanted or version.startswith(f"{wanted}.")


def _usual_folders() -> tuple[Path, ...]:
    home = Path.home()
    folders = [Path(part) for part in os.get_exec_path() if part]
    folders += [Path("/usr/bin"), Path("/usr/local/bin")]
    for root in (home / ".pyenv/versions", home / ".local/share/uv/python", Path("/opt/python"), Path("/opt/uv/python")):
        if root.is_dir():
            folders += sorted(one / "bin" for one in root.iterdir())
    return tuple(dict.fromkeys(folders))


def _candidates(folders: Iterable[Path]) -> list[Path]:
    found = []
    for folder in folders:
        if "shims" in folder.parts:  # pyenv's shims answer for versions that are not selected; the real ones are listed beside
            continue
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        found += [folder / name for name in names if (match := _NAME.match(name)) and (3, int(match.group(1))) >= OLDEST]
    return found


def _ask(path: str) -> Interpreter | None:
    try:
        done = subprocess.run([path, "-I", "-S", "-c", _ASK], capture_output=True, text=True, timeout=10, env={}, check=True)
        version, tag, implementation = done.stdout.split()
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return Interpreter(path, version, tag) if implementation == "CPython" else None
