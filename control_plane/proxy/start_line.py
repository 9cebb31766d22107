"""The first line of a request, read once: popular addresses come again and again, from every client."""

from __future__ import annotations

from control_plane.proxy.access_log import request_part
from control_plane.proxy.activity import counts_as_use
from control_plane.proxy.heads import HeadLimits, request_line

_MAX_REMEMBERED = 256  # bytes


class StartLine:
    """`start` is what an app is sent; `is_common` allows the short way of express.py: a GET of a path that is the app's own affair."""

    __slots__ = ("is_common", "is_use", "log_part", "method", "minor", "start", "target")

    def __init__(self, line: bytes, limits: HeadLimits) -> None:
        """Raises HeadError."""
        self.method, self.target, self.minor = method, target, minor = request_line(line, len(line), limits)
        self.start = line
        self.is_common = method == b"GET" and minor == b"1" and target[:1] == b"/" and target[1:2] != b"." and b"__sign=" not in target
        if self.is_common:
            self.is_use = counts_as_use(target)
            self.log_part = request_part(method, target)


class KnownLines(dict[bytes, StartLine]):
    """Start lines that were found valid. They can hold credentials in a query: the owner empties it every few seconds."""

    def __init__(self, limits: HeadLimits) -> None:
        super().__init__()
        self._limits = limits

    def read(self, line: bytes) -> StartLine:
        """Raises HeadError for a line that is not valid."""
        found = self.get(line)
        if found is None:
            found = StartLine(line, self._limits)
            if len(line) <= _MAX_REMEMBERED:
                if len(self) >= 4096:
                    self.clear()
                self[line] = found
        return found
