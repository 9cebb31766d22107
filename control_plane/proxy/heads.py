"""Request and response heads, validated and rewritten as one block of bytes.

A request head is split into lines; a line that came before is known, whoever sent it, and only new ones are looked at by a
pattern. An answer's head is checked by one pattern and rewritten by cutting spans out of it. There is no callback per header,
which is what makes an HTTP parser expensive in Python. Rules are those of RFC 9112 and 9110, read strictly: what two servers
could read differently is refused here, so no upstream ever sees it.

A block is everything between the start line and the empty line, each header as `\\r\\nName: value`, so that a pattern can
anchor a name on the line break in front of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import compress, repeat
from typing import Final, cast

from control_plane.proxy.errors import Code

NO_BODY: Final = -1  # no framing header at all
CHUNKED: Final = -2

_TOKEN = rb"!#$%&'*+\-.^_`|~0-9A-Za-z"
_REQUEST_LINE = re.compile(rb"([" + _TOKEN + rb"]{1,32}+) ([!-\"$-~]++) HTTP/1\.([01])")
_OTHER_VERSION = re.compile(rb"[" + _TOKEN + rb"]{1,32}+ [!-~]++ HTTP/\d\.\d")
_REQUEST_FIELD = re.compile(rb"([" + _TOKEN + rb"]++):([\t\x20-\x7e\x80-\xff]*+)")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: [\t\x20-\x7e\x80-\xff]*+)?")
_RESPONSE_BLOCK = re.compile(rb"(?:\r\n[" + _TOKEN + rb"]++:[\t\x20-\x7e\x80-\xff]*+)*+")

# Headers this proxy must look at or must not pass on. `[-_]` covers the twins that CGI-style servers fold together.
_REQUEST_SPECIAL = re.compile(
    rb"host|content[-_]length|transfer[-_]encoding|connection|cookie|upgrade|expect|authorization|x[-_]hf[-_]authorization"
    rb"|x[-_]forwarded.*|x[-_]vitrine.*|x[-_]real[-_]ip|x[-_]ip[-_]token|x[-_]client[-_]ip|forwarded|true[-_]client[-_]ip"
    rb"|keep[-_]alive|proxy[-_].*|proxy|te|trailer|http2[-_]settings|sec[-_]websocket[-_](?:key|version)"
)
# `X-Accel-Buffering` passes: it asks a server before this one to hold nothing back, and can ask for nothing else.
_RESPONSE_SPECIAL = re.compile(
    rb"\r\n(content-length|transfer-encoding|connection|set-cookie|keep-alive|upgrade|proxy-connection|proxy-authenticate|te|trailer"
    rb"|x[-_]vitrine[^:]*|x[-_]accel(?!-buffering:)[^:]*|x-sendfile[^:]*|x-lighttpd-send[^:]*):[ \t]*([^\r]*)"
)
_HOST = re.compile(rb"(?:[a-z0-9](?:[a-z0-9.\-]{0,251}[a-z0-9])?|\[[0-9a-f:.]{2,45}\])(?::\d{1,5})?")
_ABSOLUTE = re.compile(rb"(https?)://([^/?]*)(.*)", re.DOTALL | re.IGNORECASE)
_DIGITS = re.compile(rb"\d{1,18}")
_WS_KEY = re.compile(rb"[a-z0-9+/]{22}==")
_OUR_COOKIE = re.compile(rb"(?:__host-|__secure-)?vitrine(?:[_=-]|$)")
_SIGN = re.compile(rb"([?&])__sign=([^&]*)")

# Names a Connection header may not nominate for removal: dropping them would change what the request means.
_KEPT = frozenset(
    (
        b"host", b"content-length", b"transfer-encoding", b"authorization", b"cookie", b"origin", b"range", b"content-type",
        b"cache-control", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"set-cookie", b"location",
    )
)  # fmt: skip


class HeadError(Exception):
    """The head is refused: `code` is the answer."""

    def __init__(self, code: Code, why: str = "") -> None:
        super().__init__(why or code.name)
        self.code = code


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Bytes and counts above which a head is refused (414, 431)."""

    line: int = 16_384
    header_line: int = 32_768
    head: int = 65_536
    headers: int = 100


# A header that this proxy looks at: its name and value in lower case, and the value as it was sent.
Field = tuple[bytes, bytes, bytes]
_MAX_REMEMBERED = 512  # bytes of a header line
_UNKNOWN = repeat(Ellipsis)


class KnownFields(dict[bytes, Field | None]):
    """Header lines that were found valid, so that what clients repeat is checked once; None for those nobody here looks at. Bounded."""

    def learn(self, line: bytes, limits: HeadLimits) -> Field | None:
        """Check a line that is not known; raises HeadError."""
        if len(line) > limits.header_line:
            raise HeadError(Code.HEADERS_TOO_LARGE)
        match = _REQUEST_FIELD.fullmatch(line)
        if match is None:
            raise HeadError(Code.BAD_HEADER)
        name = match[1].lower()
        field = None
        if _REQUEST_SPECIAL.fullmatch(name) is not None or (name == b"referer" and b"__sign=" in line.lower()):
            value = match[2].strip(b" \t")
            field = (name, value.lower(), value)
        if len(line) <= _MAX_REMEMBERED:
            if len(self) >= 4096:
                self.clear()
            self[line] = field
        return field


class RequestHead:
    """One validated block. `length` is the Content-Length, NO_BODY or CHUNKED; `host` is lower case and may carry a port.

    `app_block` and `platform_block` are what goes upstream: hop-by-hop and trust headers are gone from both; tokens of
    ours and our cookies are gone from the app's.
    """

    # Defaults live on the class: most heads set few of these.
    host = b""
    length = NO_BODY
    upgrade = False
    expect = False
    trailers = False
    authorization = b""
    hf_authorization = b""
    cookie = b""

    def __init__(
        self, block: bytes, minor: bytes, limits: HeadLimits, known: KnownFields | None = None, before: RequestHead | None = None
    ) -> None:
        """`known` is the memory of a whole process; without one every line is checked anew. `before` is a client's last head."""
        if known is None:
            known = KnownFields()
        lines = block.split(b"\r\n")
        del lines[0]  # what stands before the first line break: nothing
        if len(lines) > limits.headers:
            raise HeadError(Code.HEADERS_TOO_LARGE)
        fields = [*map(known.get, lines, _UNKNOWN)]
        at = 0
        while Ellipsis in fields:
            at = fields.index(Ellipsis, at)
            fields[at] = known.learn(lines[at], limits)
        if before is not None and fields == before._fields and minor == before.minor:
            vars(self).update(vars(before))  # what differs is nothing that anybody here looks at
            vars(self).pop("low", None)
        else:
            self._understand(lines, cast("list[Field | None]", fields), minor)
        self.block = block
        self.tail = block + b"\r\n\r\n"
        self.tail_size = len(self.tail)
        self.platform_block = _without(lines, self._cut) if self._cut else block
        self.app_block = _without(lines, self._app_cut) if self._app_cut else self.platform_block

    def _understand(self, lines: list[bytes], fields: list[Field | None], minor: bytes) -> None:
        self.minor = minor
        self.keep_alive = minor == b"1"
        cut: dict[int, bytes] = {}  # place of a line → what stands there instead, for both
        app_cut: dict[int, bytes] = {}  # for the app only
        nominated: set[bytes] = set()
        upgrade_to = b""
        upgrade_asked = close_asked = False
        websocket_key = websocket_version = b""
        for at, field in compress(enumerate(fields), fields):
            assert field is not None
            name, low, value = field
            if name == b"host":
                if self.host:
                    raise HeadError(Code.BAD_HOST, "two Host headers")
                self.host = low
                if _HOST.fullmatch(low) is None or b".." in low:
                    raise HeadError(Code.BAD_HOST)
            elif name == b"connection":
                for token in low.split(b","):
                    token = token.strip(b" \t")
                    if token == b"close":
                        close_asked = True
                    elif token == b"keep-alive":
                        self.keep_alive = True  # HTTP/1.0 has to ask for it
                    elif token == b"upgrade":
                        upgrade_asked = True
                    elif token and token not in _KEPT:
                        nominated.add(token)
                cut[at] = b""
            elif name == b"cookie":
                self.cookie = self.cookie + b"; " + value if self.cookie else value
                if b"vitrine" in low:
                    kept = [pair for pair in value.split(b";") if not _OUR_COOKIE.match(pair.strip(b" \t=").lower())]
                    joined = b";".join(kept).strip()
                    app_cut[at] = b"Cookie: " + joined if joined else b""
            elif name == b"content-length":
                if self.length != NO_BODY or _DIGITS.fullmatch(low) is None:
                    raise HeadError(Code.BAD_FRAMING)
                self.length = int(low)
            elif name == b"transfer-encoding":
                if self.length != NO_BODY or low != b"chunked" or minor == b"0":
                    raise HeadError(Code.BAD_FRAMING)
                self.length = CHUNKED
            elif name == b"authorization":
                if self.authorization:
                    raise HeadError(Code.BAD_HEADER)
                self.authorization = value
                if low.startswith(b"bearer hf_"):
                    app_cut[at] = b""
            elif name == b"x-hf-authorization":
                if self.hf_authorization:
                    raise HeadError(Code.BAD_HEADER)
                self.hf_authorization = value
                app_cut[at] = b""
            elif name == b"upgrade":
                upgrade_to = low
                cut[at] = b""
            elif name == b"expect":
                if low != b"100-continue":
                    raise HeadError(Code.EXPECTATION_FAILED)
                self.expect = True
                if minor == b"0":
                    cut[at] = b""
            elif name == b"sec-websocket-key":
                if websocket_key:
                    raise HeadError(Code.BAD_UPGRADE)
                websocket_key = low
            elif name == b"sec-websocket-version":
                websocket_version = low
            elif name == b"te":
                self.trailers = self.trailers or b"trailers" in low.replace(b" ", b"").split(b",")
                cut[at] = b""
            elif name == b"referer":  # a frame's first address is the Referer of what it loads: its proof stays outside as well
                app_cut[at] = b"Referer: " + take_sign(value)[0]
            else:  # a trust header, a hop-by-hop header, or an underscore twin of something that matters
                cut[at] = b""
        if close_asked:
            self.keep_alive = False
        if not self.host:
            raise HeadError(Code.BAD_HOST, "no Host header")
        if upgrade_asked and upgrade_to == b"websocket" and minor == b"1":
            if self.length > 0 or self.length == CHUNKED or _WS_KEY.fullmatch(websocket_key) is None or websocket_version != b"13":
                raise HeadError(Code.BAD_UPGRADE)
            self.upgrade = True
        if nominated:
            cut.update((at, b"") for at, line in enumerate(lines) if line.partition(b":")[0].lower() in nominated)
        self.is_plain = self.length == NO_BODY and not self.upgrade and minor == b"1"
        self._fields = None if nominated else fields  # a nominated line goes by its name, whatever is known of it
        self._cut = cut
        self._app_cut = app_cut | cut if app_cut else app_cut

    @cached_property
    def low(self) -> bytes:
        """The block in lower case, for cold paths."""
        return self.block.lower()

    def value(self, name: bytes) -> bytes:
        """The lower-cased value of the first header `name` (lower case), or empty. For cold paths."""
        at = self.low.find(b"\r\n" + name + b":")
        if at < 0:
            return b""
        start = at + len(name) + 3
        end = self.low.find(b"\r\n", start)
        return self.low[start : end if end >= 0 else len(self.low)].strip(b" \t")

    @property
    def wants_page(self) -> bool:
        """A browser that navigates: it takes HTML, and fetch metadata, when sent, says so."""
        return b"text/html" in self.value(b"accept") and self.value(b"sec-fetch-mode") in (b"", b"navigate")

    def cookies(self, name: bytes) -> list[bytes]:
        """Every value sent under `name`: a sibling may have tossed one of its own, so the caller tries each."""
        found = []
        for pair in self.cookie.split(b";"):
            key, _, value = pair.strip().partition(b"=")
            if key == name:
                found.append(value)
        return found


def _without(lines: list[bytes], cut: dict[int, bytes]) -> bytes:
    """The block of `lines` without those at the places in `cut`, or with what stands there instead."""
    kept = lines.copy()
    for at in sorted(cut, reverse=True):
        if cut[at]:
            kept[at] = cut[at]
        else:
            del kept[at]
    return b"\r\n" + b"\r\n".join(kept) if kept else b""


def _cut(block: bytes, cuts: list[tuple[int, int, bytes]]) -> bytes:
    if not cuts:
        return block
    cuts.sort()
    parts = []
    at = 0
    for start, end, instead in cuts:
        if start < at:
            continue  # nominated by Connection and special at once
        parts.append(block[at:start])
        if instead:
            parts.append(instead)
        at = end
    parts.append(block[at:])
    return b"".join(parts)


def request_line(data: bytes, end: int, limits: HeadLimits) -> tuple[bytes, bytes, bytes]:
    """(method, target, minor version) of the start line `data[:end]`; raises HeadError."""
    match = _REQUEST_LINE.fullmatch(data, 0, end)
    if end > limits.line:
        raise HeadError(Code.TARGET_TOO_LONG)
    if match is None:
        line = data[:end]
        if _OTHER_VERSION.fullmatch(line) is not None and not re.search(rb" HTTP/1\.[01]$", line):
            raise HeadError(Code.HTTP_VERSION)
        raise HeadError(Code.BAD_REQUEST_LINE)
    return match.groups()  # type: ignore[return-value]


def origin_form(method: bytes, target: bytes, host: bytes) -> bytes:
    """The target as an upstream must see it: always a path, or `*` for OPTIONS.

    An absolute target must name the same authority as Host (RFC 9112 3.2.2 lets it win; agreeing leaves no doubt).
    """
    if target == b"*":
        if method == b"OPTIONS":
            return target
        raise HeadError(Code.BAD_REQUEST_LINE)
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise HeadError(Code.BAD_REQUEST_LINE)
    if match[2].lower() != host:
        raise HeadError(Code.BAD_HOST)
    rest: bytes = match[3]
    return rest if rest.startswith(b"/") else b"/" + rest


def take_sign(target: bytes) -> tuple[bytes, bytes]:
    """(target without `__sign`, its value): the token never reaches the app."""
    match = _SIGN.search(target)
    if match is None:
        return target, b""
    value = match[2]
    path, _, query = target.partition(b"?")
    kept = b"&".join(pair for pair in query.split(b"&") if not pair.startswith(b"__sign="))
    return (path + b"?" + kept if kept else path), value


class ResponseHead:
    """One validated response head. `length` is as in RequestHead; `block` is ready to pass on, without hop-by-hop headers."""

    __slots__ = ("block", "is_stream", "keep_alive", "length", "line", "low", "status", "upgrade")

    def __init__(self, head: bytes, app_host: bytes | None) -> None:
        """`app_host` is the Space's host without port, or None for the platform, whose cookies and headers are its own."""
        at = head.find(b"\r\n")
        line, block = (head[:at], head[at:]) if at >= 0 else (head, b"")
        match = _STATUS_LINE.fullmatch(line)
        if match is None or _RESPONSE_BLOCK.fullmatch(block) is None:
            raise ValueError("not an HTTP/1.1 response head")
        status = int(match[2])
        minor: bytes = match[1]
        keep_alive = minor == b"1"
        self.line = b"HTTP/1.1" + line[8:] if minor == b"0" else line
        self.status = status
        self.upgrade = False
        low = block.lower()
        self.low = low
        self.is_stream = b"text/event-stream" in low
        length = NO_BODY
        cuts: list[tuple[int, int, bytes]] = []
        for match in _RESPONSE_SPECIAL.finditer(low):
            name, value = match.groups()
            if name == b"content-length":
                value = value.rstrip(b" \t")
                if _DIGITS.fullmatch(value) is None or length == CHUNKED or (length >= 0 and length != int(value)):
                    raise ValueError("ambiguous framing")
                if length >= 0:
                    cuts.append((match.start(), match.end(), b""))
                length = int(value)
            elif name == b"transfer-encoding":
                if length != NO_BODY or value.rstrip(b" \t") != b"chunked" or minor == b"0":
                    raise ValueError("ambiguous framing")
                length = CHUNKED
            elif name == b"connection":
                for token in value.split(b","):
                    token = token.strip(b" \t")
                    if token == b"close":
                        keep_alive = False
                    elif token == b"upgrade":
                        self.upgrade = True
                    elif token and token != b"keep-alive" and token not in _KEPT:
                        for named in re.finditer(rb"\r\n" + re.escape(token) + rb":[^\r]*", low):
                            cuts.append((named.start(), named.end(), b""))
                cuts.append((match.start(), match.end(), b""))
            elif name == b"set-cookie":
                if app_host is not None and not _cookie_allowed(value, app_host):
                    cuts.append((match.start(), match.end(), b""))
            elif (name == b"upgrade" and status == 101) or app_host is not None or not name.startswith(b"x-vitrine"):
                cuts.append((match.start(), match.end(), b""))
        self.keep_alive = keep_alive
        self.length = length
        self.block = _cut(block, cuts)


def _cookie_allowed(value: bytes, app_host: bytes) -> bool:
    """`value` is lower case. Refused: our own names, and any Domain other than exactly the app's host."""
    pair, *attributes = value.split(b";")
    if _OUR_COOKIE.match(pair.strip(b" \t=")):  # a cookie without a name comes back as its value: `=vitrine_app=x`
        return False
    for attribute in attributes:
        key, _, domain = attribute.strip().partition(b"=")
        if key.strip() == b"domain" and domain.strip().lstrip(b".") not in (b"", app_host):
            return False
    return True
