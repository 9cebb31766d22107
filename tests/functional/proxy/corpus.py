# ruff: noqa: E501  (raw requests and config lines read best unbroken)
"""Malformed and smuggling requests by RFC section: (section, bytes, allowed statuses). None of them may reach an upstream.

An empty set of statuses means that the proxy may also close without an answer. Host is the public Space's.
"""

from __future__ import annotations

from collections.abc import Iterator

H = b"Host: alice-demo.localhost\r\n"
BAD = frozenset({400})
Case = tuple[str, bytes, frozenset[int]]


def _lines() -> Iterator[Case]:
    """RFC 9112 section 3: the request line."""
    for line in (
        b"GET", b"GET /", b"GET / ", b"GET /HTTP/1.1", b"GET  / HTTP/1.1", b"GET /  HTTP/1.1", b" GET / HTTP/1.1", b"GET\t/ HTTP/1.1",
        b"GET /\tHTTP/1.1", b"GET / HTTP/1.1 ", b"GET / HTTP/1.1\t", b"GET / http/1.1", b"GET / Http/1.1", b"GET / HTTP/1", b"GET / HTTP/11",
        b"GET / HTTP/1.1.1", b"GET / HTTP /1.1", b"GET / HTTP/ 1.1", b"GET / HTTP/1. 1", b"GET / HTTP1.1", b"GET / HTTPS/1.1", b"GET / XTTP/1.1",
        b"GET / HTTP/a.b", b"GET / HTTP/-1.1", b"GET / HTTP/+1.1", b"GET / HTTP/1,1", b"GET / HTTP/01.1", b"GET / HTTP/1.01", b"GET / HTTP/0x1.1",
        b"GET / HTTP/1.1 HTTP/1.1", b"GET / foo HTTP/1.1", b"GET /a b HTTP/1.1", b"G\x00ET / HTTP/1.1", b"G\x01T / HTTP/1.1", b"G(T / HTTP/1.1",
        b"G/T / HTTP/1.1", b"G:T / HTTP/1.1", b"G@T / HTTP/1.1", b"G\"T / HTTP/1.1", b"G{T / HTTP/1.1", b"G[T / HTTP/1.1", b"G,T / HTTP/1.1",
        b"G\xc3\xa9T / HTTP/1.1", b"GET /\x00 HTTP/1.1", b"GET /\x01 HTTP/1.1", b"GET /\x7f HTTP/1.1", b"GET /\x80 HTTP/1.1", b"GET /\xff HTTP/1.1",
        b"GET /\xc3\xa9 HTTP/1.1", b"GET /#frag HTTP/1.1", b"GET /a#b?c HTTP/1.1", b"GET /\x0b HTTP/1.1", b"GET /\x0c HTTP/1.1", b"GET /\x1b[31m HTTP/1.1",
        b"GET index.html HTTP/1.1", b"GET ?q=1 HTTP/1.1", b"GET * HTTP/1.1", b"POST * HTTP/1.1", b"GET alice-demo.localhost:80 HTTP/1.1",
        b"GET //// HTTP/1.1 x", b"GET file:///etc/passwd HTTP/1.1", b"GET ftp://alice-demo.localhost/ HTTP/1.1", b"GET javascript:alert(1) HTTP/1.1",
        b"GET http:/alice-demo.localhost/ HTTP/1.1", b"GET http:alice-demo.localhost HTTP/1.1", b"GET ://x/ HTTP/1.1", b"GET \\ HTTP/1.1",
        b"GET @evil/ HTTP/1.1", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x80\x2e\x01\x00\x02", b"SSH-2.0-OpenSSH_9.0", b"\x00\x00\x00",
        b"EHLO example.com", b"*1", b"{\"jsonrpc\":\"2.0\"}", b"<policy-file-request/>", b"HTTP/1.1 200 OK", b"A" * 33 + b" / HTTP/1.1",
    ):  # fmt: skip
        yield "9112-3", line + b"\r\n" + H + b"\r\n", BAD
    for version in (b"2.0", b"0.9", b"1.2", b"1.9", b"3.0", b"9.9"):
        yield "9110-2.5", b"GET / HTTP/" + version + b"\r\n" + H + b"\r\n", frozenset({505})
    for method, target in ((b"CONNECT", b"/"), (b"TRACE", b"/"), (b"TRACK", b"/"), (b"TRACE", b"http://alice-demo.localhost/")):
        yield "9110-9.3", method + b" " + target + b" HTTP/1.1\r\n" + H + b"\r\n", frozenset({405})
    yield "9110-9.3.6", b"CONNECT alice-demo.localhost:443 HTTP/1.1\r\n" + H + b"\r\n", frozenset({400, 405})
    yield "9113-3.4", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", frozenset({400, 405, 505})
    yield "9112-3", b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n" + H + b"\r\n", frozenset({414})
    yield "9112-3", b"GET /" + b"a" * 70_000, frozenset({414, 431})
    yield "9112-2.2", b"\r\n\r\n\r\nGET / HTTP/1.1\r\n" + H + b"\r\n", BAD
    yield "9112-2.2", b"\n\nGET / HTTP/1.1\r\n" + H + b"\r\n", BAD
    yield "9112-2.2", b"\r\r\nGET / HTTP/1.1\r\n" + H + b"\r\n", BAD


def _line_ends() -> Iterator[Case]:
    """RFC 9112 section 2.2: only CRLF ends a line."""
    for raw in (
        b"GET / HTTP/1.1\n" + H + b"\r\n", b"GET / HTTP/1.1\r" + H + b"\r\n", b"GET / HTTP/1.1\r\nHost: alice-demo.localhost\n\r\n\r\n",
        b"GET / HTTP/1.1\nHost: alice-demo.localhost\n\n", b"GET / HTTP/1.1\r\n" + H + b"A: b\nC: d\r\n\r\n", b"GET / HTTP/1.1\r\n" + H + b"A: b\rC: d\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + H + b"A: b\r\r\n\r\n", b"GET / HTTP/1.1\r\n" + H + b"A: b\n\r\n\r\n", b"GET / HTTP/1.1\r\n" + H + b"A: b\r\n\n",
        b"GET / HTTP/1.1\r\n" + H + b"A: \x00\r\n\r\n", b"GET / HTTP/1.1\r\n" + H + b"\nA: b\r\n\r\n", b"GET / HTTP/1.1\r\n\rHost: alice-demo.localhost\r\n\r\n",
    ):  # fmt: skip
        yield "9112-2.2", raw, BAD


def _headers() -> Iterator[Case]:
    """RFC 9112 section 5 and RFC 9110 section 5: field lines."""
    for field in (
        b": x", b"A : b", b"A\t: b", b" A: b", b"\tA: b", b"A", b"A b: c", b"A\x00: b", b"A\x7f: b", b"A\x80: b", b"A(: b", b"A): b", b"A,: b", b"A/: b", b"A;: b",
        b"A<: b", b"A=: b", b"A>: b", b"A?: b", b"A@: b", b"A[: b", b"A\\: b", b"A]: b", b"A{: b", b"A}: b", b"A\": b", b"A: \x01", b"A: b\x00c", b"A: \x08",
        b"A: \x0b", b"A: \x0c", b"A: \x1f", b"A: \x7f", b"A: b\r\n c", b"A: b\r\n\tc", b"A:\r\n b", b"A: b\r\n \r\n c: d", b" folded-first: x",
        b"Transfer-Encoding\x0b: chunked", b"Content-Length : 5", b"Transfer-Encoding : chunked", b"Host : x", b"\xef\xbb\xbfA: b",
        b"A: b\x00\r\nContent-Length: 5", b"GET / HTTP/1.1", b"A\xe2\x80\x8b: b", b"A: b\r\n\x00", b"=: x\x02",
    ):  # fmt: skip
        yield "9110-5.1", b"GET / HTTP/1.1\r\n" + H + field + b"\r\n\r\n", BAD
        if not field.startswith((b" ", b"\t")):
            continue
        yield "9112-5.2", b"GET / HTTP/1.1\r\n" + field + b"\r\n" + H + b"\r\n", BAD
    yield "9112-5", b"GET / HTTP/1.1\r\n" + H + b"".join(b"A%d: b\r\n" % i for i in range(150)) + b"\r\n", frozenset({431})
    yield "9112-5", b"GET / HTTP/1.1\r\n" + H + b"A: " + b"x" * 40_000 + b"\r\n\r\n", frozenset({431})
    yield "9112-5", b"GET / HTTP/1.1\r\n" + H + b"A: " + b"x" * 90_000, frozenset({431})
    yield "6585-5", b"GET / HTTP/1.1\r\n" + H + b"Cookie: " + b"x=y; " * 8_000 + b"\r\n\r\n", frozenset({431})
    yield "9110-10.1.1", b"POST / HTTP/1.1\r\n" + H + b"Expect: 200-ok\r\nContent-Length: 1\r\n\r\nx", frozenset({417})
    yield "9110-11.6.2", b"GET / HTTP/1.1\r\n" + H + b"Authorization: Basic a\r\nAuthorization: Bearer hf_b\r\n\r\n", BAD


def _hosts() -> Iterator[Case]:
    """RFC 9110 section 7.2 and RFC 9112 section 3.2: exactly one Host that means what it says."""
    yield "9112-3.2", b"GET / HTTP/1.1\r\n\r\n", BAD
    yield "9112-3.2", b"GET / HTTP/1.0\r\n\r\n", BAD
    yield "9112-3.2", b"GET / HTTP/1.1\r\n" + H + H + b"\r\n", BAD
    yield "9112-3.2", b"GET / HTTP/1.1\r\n" + H + b"Host: localhost\r\n\r\n", BAD
    yield "9112-3.2", b"GET / HTTP/1.1\r\n" + H + b"HOST: alice-demo.localhost\r\n\r\n", BAD
    yield "9112-3.2", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", BAD
    yield "9112-3.2", b"GET / HTTP/1.1\r\nHost: \r\n" + H + b"\r\n", BAD
    base = b"alice-demo.localhost"
    for host in (
        base + b"/admin?", base + b"/", base + b"?", base + b"#", base + b":80:80", base + b":", base + b":abc", base + b":-1", base + b":123456", base + b" ",
        b"a@" + base, b"a:b@" + base, base + b"\\x", base + b"%00", b"%61lice-demo.localhost", base + b",evil", base + b", " + base, base + b" evil", b"[" + base + b"]",
        b"-" + base, b"." + base, b"alice-demo..localhost", base + b"_x", b"alice_demo.localhost", base + b"\xc2\xad", b"\xd0\xb0lice-demo.localhost", base + b"\x00",
        b"[::1", b"::1", b"[::1]:x", b"http://" + base, b"//" + base, b"*", b"*.localhost", base + b";x", base + b"&x", base + b"'", base + b"\"", base + b"<", base + b"{", b"a" * 300 + b".localhost",
        base + b".",
    ):  # fmt: skip
        if host == base + b" ":
            continue  # trailing blanks around a value are not part of it
        yield "9110-7.2", b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n", BAD
    for target in (
        b"http://localhost/", b"http://evil/", b"http://alice-demo.localhost:81/", b"http://a@alice-demo.localhost/", b"https://alice-demo.localhost.evil/",
        b"http:///", b"http://", b"http://alice-demo.localhost\\@evil/", b"http://evil#@alice-demo.localhost/", b"http://%61lice-demo.localhost/",
    ):  # fmt: skip
        yield "9112-3.2.2", b"GET " + target + b" HTTP/1.1\r\n" + H + b"\r\n", BAD


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: alice-demo.localhost\r\n\r\n"


def _framing() -> Iterator[Case]:
    """RFC 9112 section 6: one length, one reading."""
    for length in (
        b"", b" ", b"-1", b"+1", b"0x5", b"5a", b"5 5", b"5,5", b"5, 5", b"5,6", b"1.0", b"1e1", b"5;", b"\"5\"", b"5\x0b", b"99999999999999999999", b"\xb2", b"0 0",
        b"--5", b"5\t5", b"0b1", b"1_0", b"\xd9\xa5", b"5\x00", b"NaN",
    ):  # fmt: skip
        yield "9110-8.6", b"POST / HTTP/1.1\r\n" + H + b"Content-Length: " + length + b"\r\n\r\nhello", BAD
    for fields in (
        b"Content-Length: 5\r\nContent-Length: 5\r\n", b"Content-Length: 5\r\nContent-Length: 6\r\n", b"Content-Length: 0\r\ncontent-length: 5\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", b"Content-Length: 5\r\nTransfer-Encoding: identity\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
    ):  # fmt: skip
        yield "9112-6.3", b"POST / HTTP/1.1\r\n" + H + fields + b"\r\n0\r\n\r\n" + SMUGGLED, BAD
    for coding in (
        b"", b"identity", b"gzip", b"gzip, chunked", b"chunked, gzip", b"chunked, chunked", b"chunked,", b",chunked", b"xchunked", b"chunkedx", b"chunked;q=1", b"\"chunked\"",
        b"'chunked'", b"chunked\x0b", b"\x0bchunked", b"chunked identity", b"identity, chunked", b"deflate", b"compress, chunked", b"x", b"chunk", b"chun ked", b"chunked\x00",
        b"cow, chunked", b"chunked\xa0", b"\xef\xbc\xa3hunked",
    ):  # fmt: skip
        yield "9112-6.1", b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: " + coding + b"\r\n\r\n0\r\n\r\n" + SMUGGLED, BAD
    yield "9112-6.1", b"POST / HTTP/1.0\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED, BAD
    yield "9112-6.1", b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", BAD
    yield "9112-6.1", b"POST / HTTP/1.1\r\n" + H + b"X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", BAD
    yield "9112-6.1", b"POST / HTTP/1.1\r\n" + H + b"X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", BAD


def _upgrades() -> Iterator[Case]:
    """RFC 6455 section 4: the handshake of a WebSocket."""
    key, version = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b"Sec-WebSocket-Version: 13\r\n"
    up = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    for start, fields in (
        (b"GET", up), (b"GET", up + key), (b"GET", up + version), (b"GET", up + key + b"Sec-WebSocket-Version: 12\r\n"), (b"GET", up + key + b"Sec-WebSocket-Version: 130\r\n"),
        (b"GET", up + b"Sec-WebSocket-Key: short\r\n" + version), (b"GET", up + b"Sec-WebSocket-Key:\r\n" + version), (b"GET", up + key + key + version),
        (b"GET", up + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ\r\n" + version), (b"GET", up + b"Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!==\r\n" + version),
        (b"POST", up + key + version), (b"PUT", up + key + version), (b"HEAD", up + key + version), (b"OPTIONS", up + key + version),
        (b"GET", up + key + version + b"Content-Length: 5\r\n"), (b"GET", up + key + version + b"Transfer-Encoding: chunked\r\n"),
        (b"GET", up + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==, x\r\n" + version), (b"GET", up + key + b"Sec-WebSocket-Version: 8, 13\r\n"),
    ):  # fmt: skip
        yield "6455-4.1", start + b" /ws HTTP/1.1\r\n" + H + fields + b"\r\n" + b"hello", BAD


CASES: tuple[Case, ...] = (*_lines(), *_line_ends(), *_headers(), *_hosts(), *_framing(), *_upgrades())

# Bad chunked bodies (RFC 9112 section 7.1). The head is fine, so the app may see this one request begin; it must never see
# it complete, and never see the smuggled one.
BAD_CHUNKS: tuple[bytes, ...] = (
    b"x\r\n", b"\r\n", b" 5\r\nhello\r\n0\r\n\r\n", b"5\nhello\r\n0\r\n\r\n", b"5\r\nhello\n0\r\n\r\n", b"5\r\nhello0\r\n\r\n", b"5\r\nhelloXX0\r\n\r\n", b"-1\r\n", b"+5\r\nhello\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n", b"5g\r\nhello\r\n0\r\n\r\n", b"5\rhello\r\n0\r\n\r\n", b"FFFFFFFFFFFFFFFF1\r\n", b"10000000000000005\r\nhello\r\n0\r\n\r\n", b"5;a=\x00\r\nhello\r\n0\r\n\r\n",
    b"5;a\nb\r\nhello\r\n0\r\n\r\n", b"5" + b";" + b"x" * 5000 + b"\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\n\n", b"5\r\nhello\r\n0\r\n\n", b"5\r\nhello\r\n0\r\nX : y\r\n\r\n", b"5\r\nhello\r\n0\r\n X: y\r\n\r\n",
    b"5\r\nhello\r\n0\r\nX: \x00\r\n\r\n", b"5\r\nhello\r\n0\r\nX\r\n\r\n", b"5\r\nhello\r\n0\r\n" + b"X: yyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 600 + b"\r\n", b"5_0\r\n", b"\xb2\r\n", b"5 \r\nhello\r\n0\r\n\r\n",
    b"5\t\r\nhello\r\n0\r\n\r\n", b"5\r\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\r\n0\r\n\r\n", b"5,5\r\nhello\r\n0\r\n\r\n", b"\x00\r\n", b"5\r\nhello\r\n\r\n0\r\n\r\n", b"5:\r\nhello\r\n0\r\n\r\n",
    b"0\r\nTransfer Encoding: x\r\n\r\n", b"00000000000000000000000000000000005\r\nhello\r\n0\r\n\r\n",
)  # fmt: skip
