# ruff: noqa: E501  (one case per line reads best)
from __future__ import annotations

import random

import pytest

from control_plane.proxy.errors import Code
from control_plane.proxy.heads import (
    CHUNKED,
    NO_BODY,
    HeadError,
    HeadLimits,
    KnownFields,
    RequestHead,
    ResponseHead,
    origin_form,
    request_line,
    take_sign,
)

LIMITS = HeadLimits()


def head(*lines: str, minor: bytes = b"1") -> RequestHead:
    return RequestHead("".join(f"\r\n{line}" for line in ("Host: A.localhost:7860", *lines)).encode("latin-1"), minor, LIMITS)


def test_an_ordinary_block_passes_untouched() -> None:
    made = head("Accept: */*", "X-Own: 1")
    assert made.app_block == made.platform_block == made.block
    assert (made.host, made.length, made.keep_alive, made.is_plain) == (b"a.localhost:7860", NO_BODY, True, True)


@pytest.mark.parametrize(
    "line",
    [
        "X-Forwarded-For: 1", "x-forwarded-anything: 1", "X_Forwarded_For: 1", "Forwarded: for=1", "X-Real-IP: 1", "x_real_ip: 1", "X-Vitrine-Site: a",
        "X_VITRINE_USER: a", "X-IP-Token: t", "X_IP_Token: t", "Keep-Alive: 5", "Proxy-Connection: x", "Proxy: x", "TE: trailers", "Trailer: x",
        "Upgrade: h2c", "HTTP2-Settings: x", "Content_Length: 5", "Transfer_Encoding: chunked", "X-Client-IP: 1", "True-Client-IP: 1", "Connection: x-a, close",
    ],
)  # fmt: skip
def test_trust_and_hop_by_hop_headers_reach_nobody(line: str) -> None:
    made = head(line, "X-Own: 1")
    assert made.platform_block == made.app_block == b"\r\nHost: A.localhost:7860\r\nX-Own: 1"


@pytest.mark.parametrize("line", ["X-HF-Authorization: Bearer hf_x", "x_hf_authorization: Bearer hf_x", "Authorization: bearer hf_x"])
def test_tokens_of_ours_stop_before_the_app(line: str) -> None:
    assert b"hf_x" not in head(line).app_block


def test_the_platform_keeps_authorization_and_cookies() -> None:
    made = head("Authorization: Bearer hf_x", "Cookie: vitrine_session=1; a=b")
    assert b"hf_x" in made.platform_block and b"vitrine_session=1" in made.platform_block
    assert made.app_block == b"\r\nHost: A.localhost:7860\r\nCookie: a=b"
    assert made.cookies(b"vitrine_session") == [b"1"]


def test_a_connection_header_cannot_remove_what_gives_a_request_its_meaning() -> None:
    made = head("Connection: authorization, host, x-a, content-length", "Authorization: Basic x", "X-A: 1", "Content-Length: 3")
    assert b"Basic x" in made.app_block and b"Content-Length: 3" in made.app_block and b"X-A" not in made.app_block


def test_framing() -> None:
    assert head("Transfer-Encoding: Chunked").length == CHUNKED
    assert head("Content-Length: 007").length == 7
    for lines in (("Content-Length: 1", "Content-Length: 1"), ("Content-Length: 1", "Transfer-Encoding: chunked"), ("Content-Length: x",)):
        with pytest.raises(HeadError) as caught:
            head(*lines)
        assert caught.value.code is Code.BAD_FRAMING


def test_navigation_is_told_from_scripts() -> None:
    assert head("Accept: text/html,*/*").wants_page
    assert head("Accept: text/html", "Sec-Fetch-Mode: navigate").wants_page
    assert not head("Accept: text/html", "Sec-Fetch-Mode: cors").wants_page
    assert not head("Accept: */*").wants_page


def test_request_lines() -> None:
    assert request_line(b"GET /a?b HTTP/1.0\r\nrest", 17, LIMITS) == (b"GET", b"/a?b", b"0")
    assert origin_form(b"GET", b"http://a.b?x", b"a.b") == b"/?x"
    assert origin_form(b"OPTIONS", b"*", b"a.b") == b"*"
    for target in (b"*", b"http://c/", b"x"):
        with pytest.raises(HeadError):
            origin_form(b"GET", target, b"a.b")


@pytest.mark.parametrize(
    ("target", "clean", "sign"),
    [
        (b"/a?__sign=x", b"/a", b"x"),
        (b"/a?b=1&__sign=x&c=2", b"/a?b=1&c=2", b"x"),
        (b"/a?__sign=x&__sign=y", b"/a", b"x"),
        (b"/a?my__sign=x", b"/a?my__sign=x", b""),
        (b"/a", b"/a", b""),
    ],
)
def test_the_sign_leaves_the_target(target: bytes, clean: bytes, sign: bytes) -> None:
    assert take_sign(target) == (clean, sign)


def test_responses_of_the_platform_keep_its_cookies() -> None:
    raw = b"HTTP/1.1 200 OK\r\nSet-Cookie: vitrine_session=1; Domain=x\r\nX-Vitrine-Error: Y\r\nContent-Length: 0"
    assert b"vitrine_session" in ResponseHead(raw, None).block
    assert b"X-Vitrine-Error" in ResponseHead(raw, None).block
    assert ResponseHead(raw, b"a.localhost").block == b"\r\nContent-Length: 0"


@pytest.mark.parametrize(
    ("referer", "kept"),
    [
        (b"http://a.localhost/x?a=1&__sign=proof&b=2", b"http://a.localhost/x?a=1&b=2"),
        (b"http://a.localhost/x?__sign=proof", b"http://a.localhost/x"),
        (b"http://a.localhost/x?sign=1", b"http://a.localhost/x?sign=1"),
    ],
)
def test_a_proof_in_the_referer_stays_outside(referer: bytes, kept: bytes) -> None:
    head = RequestHead(b"\r\nHost: a.localhost\r\nReferer: %b\r\nX-Kept: yes" % referer, b"1", HeadLimits())
    assert head.app_block == b"\r\nHost: a.localhost\r\nReferer: %b\r\nX-Kept: yes" % kept


def test_known_lines_are_read_as_unknown_ones() -> None:
    """What was sent before, by this client or another, changes nothing of how a head is read."""
    lines = (
        "Host: A.localhost", "host: b.localhost", "Content-Length: 5", "content-length: 5", "Transfer-Encoding: chunked", "Connection: close",
        "Connection: keep-alive, X-Gone", "X-Gone: 1", "x-gone: 2", "X-Kept: 1", "Cookie: a=1; vitrine_session=2", "Cookie: b=3", "TE: trailers",
        "Authorization: Bearer hf_x", "Authorization: Basic eA==", "X-Forwarded-For: 1", "x_vitrine_user: 1", "Referer: http://x/?__sign=s&a=1",
        "Expect: 100-continue", "Expect: more", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "X : 1", ": 1", " folded", "X-Bad: \x00",
    )  # fmt: skip
    rng, known = random.Random(8), KnownFields()
    before: RequestHead | None = None
    block = b""
    results = set()
    for _ in range(3000):
        if rng.random() < 0.5:  # the same head, but for a line that nobody looks at
            block = block.replace(b"X-Kept: ", b"X-Kept: 1").replace(b"X-Gone: ", b"X-Gone: 1")
        else:
            block = "".join(f"\r\n{line}" for line in rng.sample(lines, rng.randrange(1, 7))).encode("latin-1")
        minor = rng.choice((b"1", b"1", b"0"))
        read = []
        for memory, last in ((None, None), (known, before), (known, before)):
            try:
                before = RequestHead(block, minor, LIMITS, memory, last)
                read.append({**vars(before)})
            except HeadError as refused:
                read.append({"code": refused.code})
        assert read[0] == read[1] == read[2], block
        results.add(read[0].get("code"))
    assert len(results) >= 5 and len(known) > 20
