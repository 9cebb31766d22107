from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.proxy.chunks import BadChunk, ChunkReader


def feed(pieces: list[bytes]) -> tuple[bytes, bytes | None]:
    reader = ChunkReader()
    out = b""
    for number, piece in enumerate(pieces):
        data, rest = reader.feed(piece)
        out += data
        if rest is not None:
            return out, rest + b"".join(pieces[number + 1 :])
    return out, None


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.lists(st.integers(1, 50), max_size=20), st.binary(max_size=10))
def test_any_split_of_a_valid_body_gives_the_same_canonical_bytes(chunks: list[bytes], steps: list[int], after: bytes) -> None:
    raw = b"".join(b"%04X;x=y\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nA: b\r\n\r\n" + after
    wanted = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    pieces, at = [], 0
    for step in steps:
        pieces.append(raw[at : at + step])
        at += step
    pieces.append(raw[at:])
    assert feed([piece for piece in pieces if piece]) == (wanted, after)


@given(st.binary(max_size=60))
def test_what_leaves_never_ends_without_a_valid_last_chunk(raw: bytes) -> None:
    try:
        out, rest = feed([raw] if raw else [])
    except BadChunk:
        return
    assert (rest is not None) == out.endswith(b"0\r\n\r\n") or rest is None


def test_a_size_line_without_end_is_refused() -> None:
    reader = ChunkReader()
    reader.feed(b"5;" + b"x" * 1000)
    with pytest.raises(BadChunk):
        reader.feed(b"x" * 100)
