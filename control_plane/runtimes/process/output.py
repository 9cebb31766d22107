"""What an app prints: cut into lines, kept within a rate, the last lines kept for the owner."""

from __future__ import annotations

from collections import deque

MAX_LINE_BYTES = 8192
TAIL_LINES = 50


class OutputMeter:
    """Bytes in, lines out. A flood is cut: at most `burst_bytes` at once and `bytes_per_s` after; what was dropped is said.

    Pure: the time (seconds, monotonic) is an argument.
    """

    def __init__(self, *, bytes_per_s: int = 256 << 10, burst_bytes: int = 2 << 20) -> None:
        self._rate = bytes_per_s
        self._burst = burst_bytes
        self._credit = float(burst_bytes)
        self._at = 0.0
        self._partial = b""
        self._dropped_lines = 0
        self._dropped_bytes = 0
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)

    def feed(self, data: bytes, now: float) -> list[str]:
        """Whole lines that may be kept, and the count of what was dropped before them."""
        self._credit = min(float(self._burst), self._credit + max(0.0, now - self._at) * self._rate)
        self._at = now
        pieces = (self._partial + data).split(b"\n")
        self._partial = pieces.pop()
        while len(self._partial) > MAX_LINE_BYTES:
            pieces.append(self._partial[:MAX_LINE_BYTES])
            self._partial = self._partial[MAX_LINE_BYTES:]
        return self._keep(pieces)

    @property
    def is_flooded(self) -> bool:
        return self._dropped_lines > 0

    def finish(self) -> list[str]:
        """The last line when it had no newline, and the last count of what was dropped."""
        last = [self._partial] if self._partial else []
        self._partial = b""
        self._credit = max(self._credit, float(MAX_LINE_BYTES * 2))
        kept = self._keep(last)
        return kept + self._said()

    def _keep(self, pieces: list[bytes]) -> list[str]:
        kept: list[str] = []
        for piece in pieces:
            text = piece[:MAX_LINE_BYTES].rstrip(b"\r").decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
            self.tail.append(text)
            if self._credit < len(piece) + 1:
                self._dropped_lines += 1
                self._dropped_bytes += len(piece) + 1
                continue
            # After a drop, wait for a little room: otherwise every other line would be a count.
            if self._dropped_lines and self._credit < self._burst / 8:
                self._dropped_lines += 1
                self._dropped_bytes += len(piece) + 1
                continue
            kept += self._said()
            self._credit -= len(piece) + 1
            kept.append(text)
        return kept

    def _said(self) -> list[str]:
        if not self._dropped_lines:
            return []
        line = f"[{self._dropped_lines} lines ({self._dropped_bytes} bytes) were dropped: the app printed faster than its log may grow]"
        self._dropped_lines = self._dropped_bytes = 0
        return [line]
