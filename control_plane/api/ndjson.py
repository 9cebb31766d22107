"""The body of a commit: JSON lines that may hold whole files. Parsed as it arrives, so that memory stays bounded.

A short line is parsed at once. A long one can only be a file: its base64 text is decoded into a temporary file while it
streams, and the rest of the line is parsed without it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import IO, Any

from control_plane.domain.errors import Rejected, TooLarge

_LONG_LINE = 1 << 20
_HEAD_MAX = 64 << 10  # the path and keys of a long line must fit in this
_CONTENT = re.compile(rb'"content"\s*:\s*"')
_MAX_LINES = 100_000


@dataclass(slots=True)
class Inline:
    """The content of one file, in a temporary file that the reader of the commit closes."""

    file: IO[bytes]
    size: int = 0
    sample: bytes = b""
    _hash: Any = field(default_factory=hashlib.sha256)

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self._hash.update(data)
        self.size += len(data)
        if len(self.sample) < 512:
            self.sample += data[: 512 - len(self.sample)]

    @property
    def sha256(self) -> str:
        return str(self._hash.hexdigest())

    def read(self) -> bytes:
        self.file.seek(0)
        return self.file.read()

    async def chunks(self) -> AsyncIterator[bytes]:
        self.file.seek(0)
        while chunk := self.file.read(1 << 20):
            yield chunk

    def close(self) -> None:
        self.file.close()


@dataclass(frozen=True, slots=True)
class Line:
    key: str
    value: dict[str, Any]
    inline: Inline | None = None


class _LongFile:
    """A long line being read: base64 goes to a file, what stands around it is kept."""

    def __init__(self, head: bytes) -> None:
        found = _CONTENT.search(head)
        if found is None or found.start() > _HEAD_MAX:
            raise TooLarge("a line of the commit is too long; only the content of a file may be that long")
        self._before = head[: found.end()]
        self._after = bytearray()
        self._rest = b""
        self._in_content = True
        self.inline = Inline(tempfile.TemporaryFile())  # noqa: SIM115  (closed by the reader of the commit)
        try:
            self.feed(head[found.end() :])
        except BaseException:
            self.inline.close()
            raise

    def feed(self, data: bytes) -> None:
        if self._in_content:
            end = data.find(b'"')
            self._decode(data if end < 0 else data[:end], final=end >= 0)
            if end < 0:
                return
            self._in_content = False
            data = data[end:]
        self._after += data
        if len(self._after) > _HEAD_MAX:
            raise TooLarge("a line of the commit is too long; only the content of a file may be that long")

    def _decode(self, data: bytes, *, final: bool) -> None:
        text = self._rest + data
        whole = len(text) if final else len(text) // 4 * 4
        self._rest = text[whole:]
        try:
            self.inline.write(base64.b64decode(text[:whole], validate=True))
        except (binascii.Error, ValueError):
            raise Rejected("the content of a file in this commit is not base64") from None

    def line(self) -> Line:
        if self._in_content:
            raise Rejected("the commit ends in the middle of a file")
        return _parsed(self._before + bytes(self._after), self.inline)


def _parsed(raw: bytes, inline: Inline | None = None) -> Line:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise Rejected("a line of the commit is not JSON") from None
    if not isinstance(body, dict) or not isinstance(body.get("key"), str) or not isinstance(body.get("value"), dict):
        raise Rejected('each line of a commit is {"key": …, "value": {…}}')
    value: dict[str, Any] = body["value"]
    if body["key"] == "file" and inline is None:
        inline = _short_inline(value)
    return Line(body["key"], value, inline)


def _short_inline(value: dict[str, Any]) -> Inline:
    text, encoding = value.get("content", ""), value.get("encoding", "utf-8")
    if not isinstance(text, str):
        raise Rejected("the content of a file in this commit is not text")
    if encoding not in ("base64", "utf-8"):
        raise Rejected(f"encoding '{str(encoding)[:40]}' is not one of base64, utf-8")
    try:
        data = base64.b64decode(text, validate=True) if encoding == "base64" else text.encode()
    except (binascii.Error, ValueError):
        raise Rejected(f"the content of a file in this commit is not {encoding}") from None
    inline = Inline(tempfile.SpooledTemporaryFile(max_size=_LONG_LINE))  # noqa: SIM115
    inline.write(data)
    return inline


async def read_lines(body: AsyncIterator[bytes]) -> AsyncIterator[Line]:
    """Every line of the body. Rejected or TooLarge on bad ones; the caller closes the inline files it was given."""
    buffer = bytearray()
    long: _LongFile | None = None
    count = 0
    try:
        async for chunk in body:
            start = 0
            while start < len(chunk):
                end = chunk.find(b"\n", start)
                piece = chunk[start:] if end < 0 else chunk[start:end]
                start = len(chunk) if end < 0 else end + 1
                if long is not None:
                    long.feed(piece)
                else:
                    buffer += piece
                    if len(buffer) > _LONG_LINE:
                        long = _LongFile(bytes(buffer))
                        buffer.clear()
                if end < 0:
                    continue
                if long is not None:
                    line, long = long.line(), None
                    yield line
                elif buffer.strip():
                    yield _parsed(bytes(buffer))
                buffer.clear()
                count += 1
                if count > _MAX_LINES:
                    raise TooLarge(f"at most {_MAX_LINES} operations a commit; split it")
        if long is not None:
            line, long = long.line(), None
            yield line
        elif buffer.strip():
            yield _parsed(bytes(buffer))
    finally:
        if long is not None:
            long.inline.close()
