"""Which shared libraries a binary asks for, read from the file itself: the loader is never run on what a stranger's wheel holds.

Format: System V gABI, "Dynamic Linking"; 64-bit little-endian files only, which is what the supported machines have.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NULL, _DT_NEEDED, _DT_STRTAB = 0, 1, 5
_MOST_NAMES = 256


def needs(path: Path) -> tuple[str, tuple[str, ...]]:
    """(the loader's path or "", names of needed libraries). A file that is no readable ELF file needs nothing."""
    try:
        with path.open("rb") as file:
            return _read(file.read())
    except (OSError, struct.error, ValueError, IndexError, OverflowError):
        return "", ()


def _read(data: bytes) -> tuple[str, tuple[str, ...]]:
    if data[:6] != b"\x7fELF\x02\x01":
        return "", ()
    table, entry_size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    loads: list[tuple[int, int, int]] = []
    dynamic, loader = (0, 0), ""
    for at in range(table, table + entry_size * count, entry_size):
        kind, _, offset, address, _, size = struct.unpack_from("<IIQQQQ", data, at)
        if kind == _PT_LOAD:
            loads.append((address, offset, size))
        elif kind == _PT_DYNAMIC:
            dynamic = (offset, size)
        elif kind == _PT_INTERP:
            loader = _text(data, offset)
    wanted, strings = [], 0
    for at in range(dynamic[0], dynamic[0] + dynamic[1], 16):
        tag, value = struct.unpack_from("<qQ", data, at)
        if tag == _DT_NULL:
            break
        if tag == _DT_NEEDED:
            wanted.append(value)
        elif tag == _DT_STRTAB:
            strings = value
    start = next((offset + strings - address for address, offset, size in loads if address <= strings < address + size), 0)
    return loader, tuple(_text(data, start + place) for place in wanted[:_MOST_NAMES])


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode("ascii", "replace")


class Libraries:
    """Finds libraries of this machine by name: in `first`, then in the loader's usual folders."""

    def __init__(self, first: Iterable[Path] = ()) -> None:
        self._folders = (*first, *_usual_folders())

    def closure(self, binaries: Iterable[Path]) -> dict[str, Path]:
        """Path in the file system → file, for everything these need of the machine, and what that needs. Unknown names are left out:
        a wheel brings its own beside it."""
        found: dict[str, Path] = {}
        queue: list[str] = []
        for binary in binaries:
            loader, names = needs(binary)
            if loader and os.path.exists(loader):
                found[loader] = Path(os.path.realpath(loader))
            queue += names
        seen: set[str] = set()
        while queue:
            name = queue.pop()
            if name in seen or "/" in name:
                continue
            seen.add(name)
            for folder in self._folders:
                path = folder / name
                if path.exists():
                    found[str(path)] = Path(os.path.realpath(path))
                    queue += needs(found[str(path)])[1]
                    break
        return found


def _usual_folders() -> tuple[Path, ...]:
    triple = f"{os.uname().machine}-linux-gnu"
    wanted = (f"/lib/{triple}", f"/usr/lib/{triple}", "/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib")
    return tuple(Path(folder) for folder in wanted if os.path.isdir(folder))
