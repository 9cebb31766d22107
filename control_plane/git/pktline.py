"""The framing of git's wire: four hex digits of length, then the line. Pure."""

from __future__ import annotations

from collections.abc import Iterator

FLUSH = b"0000"
MAX_LINE = 65520


def line(data: bytes) -> bytes:
    return b"%04x" % (len(data) + 4) + data


def capabilities(head: bytes) -> frozenset[str] | None:
    """Of a receive-pack request, from its first bytes; None while there are too few. Empty for a probe or for nonsense."""
    at = 0
    while True:
        if len(head) < at + 4:
            return None
        try:
            length = int(head[at : at + 4], 16)
        except ValueError:
            return frozenset()
        if length < 4 or length > MAX_LINE:
            return frozenset()
        if len(head) < at + length:
            return None
        text = head[at + 4 : at + length]
        at += length
        if not text.startswith(b"shallow "):  # a copy without its whole history lists where that ends first
            return frozenset(text.partition(b"\0")[2].decode(errors="replace").split())


class Demux:
    """Splits what receive-pack writes into (band, whole packet). Band 0 is a flush or another special packet."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Raises ValueError when the stream is not framed."""
        self._rest += data
        while len(self._rest) >= 4:
            length = int(bytes(self._rest[:4]), 16)
            size = max(length, 4)
            if len(self._rest) < size:
                return
            packet = bytes(self._rest[:size])
            del self._rest[:size]
            yield (packet[4] if length > 4 else 0), packet
