"""Heads of HTTP/2 in the words of HTTP/1.1 and back, so that one strict reader checks both."""

from __future__ import annotations

_HOP_HEADERS = frozenset((b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"proxy-connection"))


def as_http1(headers: list[tuple[bytes, bytes]], *, ended: bool) -> tuple[bytes, bool] | None:
    """(head in HTTP/1.1, whether its body is to be chunked), or None for a request that cannot be said so.

    What HTTP/1.1 would read differently (line breaks, NUL, a second authority) is refused here; the rest is checked by the
    same strict reader as every other head.
    """
    method = path = authority = b""
    host: bytes | None = None
    cookies: list[bytes] = []
    lines: list[bytes] = []
    has_length = False
    for name, value in headers:
        if b"\r" in value or b"\n" in value or b"\0" in value or not name or b":" in name[1:] or b"\r" in name or b"\n" in name:
            return None
        if name == b":method":
            method = value
        elif name == b":path":
            path = value
        elif name == b":authority":
            authority = value
        elif name == b"host":
            if host is not None and host != value:
                return None
            host = value
        elif name == b"cookie":
            cookies.append(value)
        elif name[:1] != b":" and name not in _HOP_HEADERS:
            has_length = has_length or name == b"content-length"
            lines.append(b"\r\n%b: %b" % (name, value))
    if host is not None and authority and host.lower() != authority.lower():
        return None
    if b" " in method or b" " in path or not method:
        return None
    chunked = not ended and not has_length
    head = b"%b %b HTTP/1.1\r\nhost: %b%b%b%b\r\nconnection: close\r\n\r\n" % (
        method,
        path or b"*",
        authority or host or b"",
        b"".join(lines),
        b"\r\ncookie: " + b"; ".join(cookies) if cookies else b"",
        b"\r\ntransfer-encoding: chunked" if chunked else b"",
    )
    return head, chunked


def as_http2(data: bytes) -> tuple[int, list[tuple[bytes, bytes]], int]:
    """(status, headers, where the body begins) of an answer head of ours, complete in `data`."""
    end = data.index(b"\r\n\r\n")
    line, *lines = data[:end].split(b"\r\n")
    headers = [(b":status", line[9:12])]
    for entry in lines:
        name, _, value = entry.partition(b":")
        name = name.lower()
        if name not in _HOP_HEADERS:
            headers.append((name, value.strip(b" \t")))
    return int(line[9:12]), headers, end + 4
