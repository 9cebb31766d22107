"""The Xet wire formats, read only: hashes, xorbs, shards. Pure.

By the public Xet protocol specification (huggingface.co/docs/xet); the key constants are given there. A *chunk* is up to 128 KiB
of a file, a *xorb* is up to 64 MiB of chunks, a *shard* says which ranges of chunks make a file.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import blake3
import lz4.frame

from control_plane.domain.errors import Rejected

DATA_KEY = bytes.fromhex("6697f5775b9550de3135cbaca597181c9de421109beb2b58b4d0b04b93adf229")
NODE_KEY = bytes.fromhex("017ec5c7a5472996fd946666b48a02e65ddd536f37c76dd2f86352e64a53713f")
VERIFICATION_KEY = bytes.fromhex("7f1857d6ce56ed66127ff913e7a5c3f3a4cd26d5b5db49e64124987f28fb94c3")

MAX_XORB_BYTES = 64 << 20
MAX_SERIALIZED_XORB_BYTES = MAX_XORB_BYTES + (8 << 20)  # headers, and a footer of clients that send one
MAX_CHUNK_BYTES = 128 << 10
MAX_SHARD_BYTES = 128 << 20
MAX_CHUNKS = 64 << 10

_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_RECORD = 48
_SHARD_TAG = b"HFRepoMetaData\0" + bytes.fromhex("556967456a7b815783a5bdd95ccdd14aa9")
_BOOKEND = b"\xff" * 32
_FOOTER = b"XETBLOB"
_BRANCHING, _WIDEST = 4, 9


def hash_text(raw: bytes) -> str:
    """Four little-endian 64-bit numbers, each as 16 hex digits."""
    return "".join(raw[i : i + 8][::-1].hex() for i in range(0, 32, 8))


def hash_bytes(text: str) -> bytes:
    """The inverse of `hash_text`; Rejected for anything but 64 lower-case hex digits, so it may become a file name."""
    if not _HASH.fullmatch(text):
        raise Rejected("a hash must be 64 lower-case hexadecimal digits", code="InvalidHash")
    return b"".join(bytes.fromhex(text[i : i + 16])[::-1] for i in range(0, 64, 16))


def chunk_hash(data: bytes) -> bytes:
    return blake3.blake3(data, key=DATA_KEY).digest()


def root_hash(chunks: Sequence[tuple[bytes, int]]) -> bytes:
    """The Merkle root over (hash, length) of chunks: a group ends where a hash is divisible by 4, with 3 to 9 members."""
    if not chunks:
        return bytes(32)
    level = list(chunks)
    while len(level) > 1:
        merged, at = [], 0
        while at < len(level):
            stop = _cut(level, at)
            group = level[at:stop]
            text = "".join(f"{hash_text(raw)} : {size}\n" for raw, size in group)
            merged.append((blake3.blake3(text.encode(), key=NODE_KEY).digest(), sum(size for _, size in group)))
            at = stop
        level = merged
    return level[0][0]


def file_hash(chunks: Sequence[tuple[bytes, int]]) -> bytes:
    return blake3.blake3(root_hash(chunks), key=bytes(32)).digest() if chunks else bytes(32)


def range_hash(hashes: Sequence[bytes]) -> bytes:
    return blake3.blake3(b"".join(hashes), key=VERIFICATION_KEY).digest()


def _cut(level: Sequence[tuple[bytes, int]], at: int) -> int:
    left = len(level) - at
    if left <= 2:
        return len(level)
    end = min(_WIDEST, left)
    for i in range(2, end):
        if int.from_bytes(level[at + i][0][24:32], "little") % _BRANCHING == 0:
            return at + i + 1
    return at + end


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk of a stored xorb: where its packed bytes are, and what they unpack to."""

    hash: bytes
    offset: int
    packed: int
    scheme: int
    size: int


def unpack(data: bytes, scheme: int, size: int) -> bytes:
    """The content of one chunk. Rejected when it is not exactly `size` bytes; never unpacks more than that plus one."""
    if scheme == 0:
        plain = data
    elif scheme in (1, 2):
        try:
            plain = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size + 1)
        except RuntimeError:
            raise Rejected("a chunk is not valid LZ4", code="InvalidXorb") from None
        if scheme == 2:
            plain = _ungroup(plain)
    else:
        raise Rejected(f"a chunk has the unknown compression {scheme}", code="InvalidXorb")
    if len(plain) != size:
        raise Rejected("a chunk does not have the length that its header says", code="InvalidXorb")
    return plain


def _ungroup(data: bytes) -> bytes:
    whole, tail = divmod(len(data), 4)
    plain, at = bytearray(len(data)), 0
    for plane in range(4):
        length = whole + (1 if plane < tail else 0)
        plain[plane::4] = data[at : at + length]
        at += length
    return bytes(plain)


def read_xorb(data: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """(offset of the packed bytes, packed length, scheme, unpacked length) of each chunk. Rejected for a broken frame."""
    at, count, total = 0, 0, 0
    while at < len(data):
        if bytes(data[at : at + len(_FOOTER)]) == _FOOTER:
            return
        head = bytes(data[at : at + 8])
        if len(head) < 8 or head[0] != 0:
            raise Rejected("the xorb is cut off or of an unknown version", code="InvalidXorb")
        packed, scheme, size = int.from_bytes(head[1:4], "little"), head[4], int.from_bytes(head[5:8], "little")
        count, total = count + 1, total + size
        if not 0 < size <= MAX_CHUNK_BYTES or at + 8 + packed > len(data) or count > MAX_CHUNKS or total > MAX_XORB_BYTES:
            raise Rejected("a chunk of the xorb has an impossible length", code="InvalidXorb")
        yield at + 8, packed, scheme, size
        at += 8 + packed


@dataclass(frozen=True, slots=True)
class Term:
    """Chunks `first` … `end` - 1 of a xorb, `size` bytes when unpacked."""

    xorb: bytes
    size: int
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class ShardFile:
    """`sha256` is plain hex, None when the client did not tell it; `checks` are range hashes, one per term, or empty."""

    hash: bytes
    terms: tuple[Term, ...]
    checks: tuple[bytes, ...] = ()
    sha256: str | None = None

    @property
    def size(self) -> int:
        return sum(term.size for term in self.terms)


def read_shard(data: bytes) -> tuple[ShardFile, ...]:
    """The files that a shard describes. Rejected for anything malformed."""
    cursor = _Records(data)
    head = cursor.next()
    if head[:32] != _SHARD_TAG or struct.unpack_from("<Q", head, 32)[0] != 2:
        raise Rejected("the shard is of an unknown format", code="InvalidShard")
    files = []
    while (record := cursor.next())[:32] != _BOOKEND:
        flags, count = struct.unpack_from("<II", record, 32)
        terms = []
        for _ in range(count):
            term = cursor.next()
            _, size, first, end = struct.unpack_from("<IIII", term, 32)
            if first >= end or size == 0:
                raise Rejected("a term of the shard is empty", code="InvalidShard")
            terms.append(Term(term[:32], size, first, end))
        checks = tuple(cursor.next()[:32] for _ in range(count)) if flags & 1 << 31 else ()
        sha256 = hash_text(cursor.next()[:32]) if flags & 1 << 30 else None
        files.append(ShardFile(record[:32], tuple(terms), checks, sha256))
    return tuple(files)


class _Records:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def next(self) -> bytes:
        record = self._data[self._at : self._at + _RECORD]
        if len(record) < _RECORD:
            raise Rejected("the shard ends early", code="InvalidShard")
        self._at += _RECORD
        return record
