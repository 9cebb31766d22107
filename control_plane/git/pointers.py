"""The text that stands in git for a large file. Pure; form by the git-lfs pointer specification, version 1."""

from __future__ import annotations

import re

from control_plane.ports.git import LfsPointer

VERSION_LINE = b"version https://git-lfs.github.com/spec/v1\n"
MAX_POINTER_BYTES = 1024
# A sha256 line, a size line, and nothing a plain client would not write; extension lines (`ext-…`) are passed over.
_BODY = re.compile(rb"(?:ext-[^\n]*\n)*oid sha256:([0-9a-f]{64})\nsize (\d{1,19})\n?")


def parse(blob: bytes) -> LfsPointer | None:
    """The pointer that `blob` holds, or None when it is an ordinary file."""
    if len(blob) >= MAX_POINTER_BYTES or not blob.startswith(VERSION_LINE):
        return None
    found = _BODY.fullmatch(blob, len(VERSION_LINE))
    if found is None:
        return None
    size = int(found[2])
    return LfsPointer(found[1].decode(), size, len(blob)) if size < 1 << 63 else None


def render(oid: str, size: int) -> bytes:
    return VERSION_LINE + f"oid sha256:{oid}\nsize {size}\n".encode()
