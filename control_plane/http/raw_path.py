"""Routing that keeps `%2F` apart from `/`.

Servers decode the path before routes see it, so `refs%2Fpr%2F1` would fall into three segments. The middleware below
decodes the raw path itself and marks an encoded slash with a NUL, which no valid path holds; the convertors give
handlers the real text: `{rev:seg}` is one segment, `{path:tail}` the rest of the path, `{kind:kind}` a repo type.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from starlette.convertors import Convertor, register_url_convertor
from starlette.types import Scope

SLASH = "\x00"
_ENCODED_SLASH = re.compile(rb"%2[fF]")


class _Segment(Convertor[str]):
    regex = "[^/]+"

    def convert(self, value: str) -> str:
        return value.replace(SLASH, "/")

    def to_string(self, value: str) -> str:
        return value.replace("/", "%2F")


class _Tail(Convertor[str]):
    regex = ".*"

    def convert(self, value: str) -> str:
        return value.replace(SLASH, "/")

    def to_string(self, value: str) -> str:
        return value


class _Kind(Convertor[str]):
    regex = "(?:models|datasets|spaces)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("seg", _Segment())
register_url_convertor("tail", _Tail())
register_url_convertor("kind", _Kind())


def routing_path(scope: Scope) -> str | None:
    """The decoded path with encoded slashes marked, or None when it is not a path (NUL inside, bad UTF-8)."""
    raw: bytes = scope.get("raw_path") or b""
    if not raw:
        path: str = scope["path"]
        return None if SLASH in path else path
    raw = raw.partition(b"?")[0]
    if b"%00" in raw or b"\x00" in raw:
        return None
    try:
        return unquote_to_bytes(_ENCODED_SLASH.sub(b"%00", raw)).decode()
    except UnicodeDecodeError:
        return None
