"""A pack of many new files at once, so that one sync makes them all durable. Pure. Format: gitformat-pack, version 2."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable

_BLOB = 3


def blob_id(data: bytes) -> str:
    """git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def blob_pack(contents: Iterable[bytes]) -> bytes:
    """A pack with each different content once."""
    distinct = {blob_id(data): data for data in contents}
    parts = [b"PACK" + struct.pack(">II", 2, len(distinct))]
    for data in distinct.values():
        parts += [_entry_head(len(data)), zlib.compress(data, 1)]
    body = b"".join(parts)
    return body + hashlib.sha1(body, usedforsecurity=False).digest()


def _entry_head(size: int) -> bytes:
    head = bytearray([_BLOB << 4 | size & 15])
    size >>= 4
    while size:
        head[-1] |= 0x80
        head.append(size & 0x7F)
        size >>= 7
    return bytes(head)
