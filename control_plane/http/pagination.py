"""Pages of a list: an opaque offset in the address, and the `Link` header that clients follow."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

from starlette.requests import Request

from control_plane.domain.errors import Rejected
from control_plane.http.addresses import base_url

MAX_PAGE = 1000


def page_bounds(request: Request, *, default: int = 100, most: int = MAX_PAGE) -> tuple[int, int]:
    """(limit, offset) asked for. `cursor` is the offset of the next page; a bad one is Rejected."""
    params = request.query_params
    return min(_number(params.get("limit"), default, "limit"), most) or default, _number(params.get("cursor"), 0, "cursor")


def _number(text: str | None, default: int, name: str) -> int:
    if text is None or text == "":
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise Rejected(f"{name}: '{text[:40]}' is not a number")
    return int(text)


def next_link(request: Request, next_offset: int | None) -> dict[str, str]:
    """The `Link` header to the next page on the caller's own host, with every parameter inside; {} on the last page."""
    if next_offset is None:
        return {}
    pairs = [(k, v) for k, v in parse_qsl(request.url.query, keep_blank_values=True) if k != "cursor"]
    query = urlencode([*pairs, ("cursor", str(next_offset))])
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    return {"Link": f'<{base_url(request)}{raw.partition(b"?")[0].decode("ascii", "replace")}?{query}>; rel="next"'}


def flag(request: Request, name: str, default: bool = False) -> bool:
    """A boolean parameter as any client version writes it."""
    value = request.query_params.get(name)
    return default if value is None else value.lower() in ("true", "1", "yes", "on")


def values(request: Request, name: str) -> tuple[str, ...]:
    """A repeated parameter, also spelled `name[]`. Control characters are refused: no database stores them alike."""
    params = request.query_params
    found = tuple(params.getlist(name) + params.getlist(f"{name}[]"))
    if any("\x00" in value or len(value) > 1000 for value in found):
        raise Rejected(f"{name}: at most 1,000 characters, without control characters")
    return found
