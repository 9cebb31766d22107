"""The reading half of the Xet protocol over ordinary large files: each is shown as xorbs of stored chunks that exist only while sent.

A file is cut into chunks of CHUNK bytes, XORB_CHUNKS of them to a xorb; a chunk is its eight-byte header and its bytes as they
are. So whatever way a file came in it can be read, nothing is kept twice, and the reader's ranges are ranges of the file. The
names of file and xorbs are made from the file's sha256: a reader takes them as opaque.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

CHUNK = 64 << 10
XORB_CHUNKS = 256
_HEADER = 8
_PACKED = CHUNK + _HEADER
_XORB = CHUNK * XORB_CHUNKS


def xorb_name(oid: str, number: int) -> str:
    return hashlib.sha256(f"{oid}/{number}".encode()).hexdigest()


def xorb_size(size: int, number: int) -> int:
    """Bytes of the file that the xorb holds."""
    return max(0, min(_XORB, size - number * _XORB))


def serialized_size(size: int, number: int) -> int:
    held = xorb_size(size, number)
    return held + _HEADER * -(-held // CHUNK)


def reconstruction(oid: str, size: int, first: int, last: int, url: Callable[[int], str]) -> dict[str, Any]:
    """Which chunks of which xorbs make bytes `first` to `last` of the file; `url(number)` is where a xorb is read."""
    terms, fetch = [], {}
    for number in range(first // _XORB, last // _XORB + 1):
        begin = number * _XORB
        start = max(0, first - begin) // CHUNK
        end = -(-min(xorb_size(size, number), last + 1 - begin) // CHUNK)
        length = min(xorb_size(size, number), end * CHUNK) - start * CHUNK
        chunks = {"start": start, "end": end}
        name = xorb_name(oid, number)
        terms.append({"hash": name, "unpacked_length": length, "range": chunks})
        bounds = {"start": start * _PACKED, "end": min(serialized_size(size, number), end * _PACKED) - 1}
        fetch[name] = [{"range": chunks, "url": url(number), "url_range": bounds}]
    return {"offset_into_first_range": first % CHUNK, "terms": terms, "fetch_info": fetch}


def header(length: int) -> bytes:
    """Of a chunk whose bytes are as they are: version 0, scheme 0, packed and unpacked length."""
    return b"\0" + length.to_bytes(3, "little") + b"\0" + length.to_bytes(3, "little")


def serialized(read: Callable[[int, int], bytes], size: int, number: int, first: int, last: int) -> bytes:
    """Bytes `first` to `last` of a xorb; `read(offset, length)` reads the file. Meant for a few chunks at a time."""
    parts = []
    for chunk in range(first // _PACKED, last // _PACKED + 1):
        at = chunk * CHUNK
        length = min(CHUNK, xorb_size(size, number) - at)
        parts.append(header(length) + read(number * _XORB + at, length))
    skip = first - first // _PACKED * _PACKED
    return b"".join(parts)[skip : skip + last - first + 1]


PIECE = 4 * _PACKED  # what is sent in one go
