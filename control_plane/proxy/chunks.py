"""A strict reader of chunked bodies (RFC 9112 7.1) that passes data on as slices.

Chunk sizes are re-emitted in one form and extensions are dropped: what leaves this reader has exactly one reading, whatever
came in. Trailers of requests are discarded, as RFC 9110 6.5.1 lets a recipient do: an app that merged them into the head
would let a client forge what this proxy vouches for. Those of answers pass to clients that said `TE: trailers`, but for
fields that frame, route, authenticate, set cookies or steer caches.
"""

from __future__ import annotations

import re

_SIZE_LINE = re.compile(rb"([0-9a-fA-F]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")
_NEVER_A_TRAILER = re.compile(
    rb"(?:content[-_](?:length|type|encoding|range|disposition|security-policy)|transfer[-_]encoding|trailer|te|host|connection|keep-alive|upgrade"
    rb"|set-cookie2?|cookie|authorization|www-authenticate|proxy[-_]|cache-control|expires|age|date|vary|pragma|warning|location|retry-after"
    rb"|access-control-|strict-transport-security|alt-svc|x[-_](?:vitrine|accel|forwarded|sendfile))",
    re.IGNORECASE,
)
_MAX_LINE = 1024
_MAX_TRAILERS = 8192


class BadChunk(Exception):
    """The body is not valid chunked coding; nothing after this point was passed on."""


class ChunkReader:
    """`feed(data)` gives (bytes to pass on, bytes of `data` left over or None while the body goes on).

    `plain` passes on the content alone, for a reader that has framing of its own; `trailers` keeps those that may be kept.
    """

    __slots__ = ("_data_left", "_kept", "_line", "_plain", "_stage", "_trailers", "size")

    def __init__(self, *, plain: bool = False, trailers: bool = False) -> None:
        self._plain = plain
        self._kept: list[bytes] | None = [] if trailers and not plain else None
        self._stage = 0  # 0 size line, 1 data, 2 line break after data, 3 trailers
        self._data_left = 0
        self._line = b""
        self._trailers = 0
        self.size = 0  # content bytes seen

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        if self._stage == 1 and self._data_left > len(data):
            self._data_left -= len(data)
            self.size += len(data)
            return data, None
        out: list[bytes] = []
        at = 0
        end = len(data)
        while at < end:
            if self._stage == 1:
                take = min(self._data_left, end - at)
                out.append(data[at : at + take])
                at += take
                self._data_left -= take
                self.size += take
                if self._data_left == 0:
                    self._stage = 2
                continue
            line_end = data.find(b"\n", at)
            if line_end < 0:
                self._line += data[at:]
                if len(self._line) > _MAX_LINE or (self._stage == 2 and self._line != b"\r"):
                    raise BadChunk
                break
            line = self._line + data[at : line_end + 1] if self._line else data[at : line_end + 1]
            self._line = b""
            at = line_end + 1
            if not line.endswith(b"\r\n") or len(line) > _MAX_LINE:
                raise BadChunk
            line = line[:-2]
            if self._stage == 2:
                if line:
                    raise BadChunk
                if not self._plain:
                    out.append(b"\r\n")
                self._stage = 0
            elif self._stage == 0:
                match = _SIZE_LINE.fullmatch(line)
                if match is None:
                    raise BadChunk
                size = int(match[1], 16)
                if size:
                    if not self._plain:
                        out.append(b"%x\r\n" % size)
                    self._data_left = size
                    self._stage = 1
                else:
                    self._stage = 3
            elif not line:
                if not self._plain:
                    out.append(b"0\r\n%b\r\n" % b"".join(self._kept or ()))
                return b"".join(out), data[at:]
            else:
                self._trailers += len(line)
                if self._trailers > _MAX_TRAILERS or _TRAILER.fullmatch(line) is None:
                    raise BadChunk
                if self._kept is not None and _NEVER_A_TRAILER.match(line) is None:
                    self._kept.append(line + b"\r\n")
        return b"".join(out), None
