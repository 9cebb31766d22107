from __future__ import annotations

import ipaddress
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.runtimes.process.egress import _connect
from control_plane.runtimes.process.egress_pipe import Pace
from control_plane.runtimes.process.egress_policy import NAME_ERROR, NO_ERROR, EgressPolicy, is_forbidden, parse_question


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "100.100.100.200", "198.18.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::10.0.0.1", "2002:7f00:1::", "2002:c0a8:101::1", "::127.0.0.1", "2001::1",
    ],
)  # fmt: skip
def test_private_addresses_are_never_reachable(address: str) -> None:
    assert is_forbidden(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1"])
def test_public_addresses_are(address: str) -> None:
    assert not is_forbidden(address)


@given(st.ip_addresses(v=4))
def test_wrapping_an_address_in_ipv6_changes_nothing(address: ipaddress.IPv4Address) -> None:
    wrapped = [f"::ffff:{address}", f"64:ff9b::{address}", str(ipaddress.IPv6Address(0x2002 << 112 | int(address) << 80))]
    assert {is_forbidden(text) for text in wrapped} == {is_forbidden(str(address))}


def question(name: str, kind: int = 1) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", kind, 1)


def test_a_question_is_read_and_answered() -> None:
    asked = parse_question(question("Pypi.ORG"))
    assert asked is not None
    assert (asked.name, asked.kind) == ("pypi.org", 1)
    answer = asked.answer(NO_ERROR, ["1.2.3.4"])
    assert struct.unpack_from("!HHHH", answer) == (7, 0x8180, 1, 1)
    assert answer.endswith(bytes([0, 4, 1, 2, 3, 4]))
    assert struct.unpack_from("!H", asked.answer(NAME_ERROR, []), 2)[0] & 0xF == NAME_ERROR
    assert len(asked.answer(NO_ERROR, ["1.2.3.4"] * 500)) <= 512


@given(st.binary(max_size=64))
def test_any_bytes_are_a_question_or_none(message: bytes) -> None:
    parse_question(message)


@given(st.integers(0, 30), st.integers(0, 255))
def test_a_damaged_question_never_raises(at: int, value: int) -> None:
    message = bytearray(question("a.example.org"))
    message[at % len(message)] = value
    parse_question(bytes(message))


def test_a_pointer_in_a_question_is_refused() -> None:
    assert parse_question(question("a")[:12] + b"\xc0\x0c" + b"\0\1\0\1" + b"\0" * 8) is None


def test_the_policy_of_a_spec() -> None:
    policy = EgressPolicy.from_spec({"ports": [443], "allow": ["Mirror.Example:8080"], "hub_hosts": ["Hub"], "hub_upstream": "127.0.0.1:1"})
    assert policy.ports == (443,)
    assert policy.allow == (("mirror.example", 8080),)
    assert policy.is_allowed_name("mirror.example")
    assert not policy.is_allowed_name("example")
    assert policy.hub_hosts == ("hub",)
    with pytest.raises(ValueError, match="not an object"):
        EgressPolicy.from_spec([])


def test_the_pace_allows_a_burst_and_then_the_rate() -> None:
    pace = Pace(1000)
    assert pace.take(1000, 100.0) == 0.0
    assert pace.take(500, 100.0) == pytest.approx(0.5)
    assert pace.take(0, 100.5) == 0.0
    assert pace.take(1000, 200.0) == 0.0


def test_over_a_minute_no_more_than_the_rate_and_one_burst_pass() -> None:
    pace, now, passed = Pace(1000), 0.0, 0
    while now < 60:
        passed += 300
        now += pace.take(300, now) or 0.001
    assert passed <= 61_300


def test_the_public_hub_is_not_there_unless_the_operator_opens_it() -> None:
    closed, opened = EgressPolicy(), EgressPolicy(allow=("huggingface.co:443",))
    for name in ("huggingface.co", "cdn-lfs.huggingface.co", "hf.co", "huggingface.co."):
        assert closed.is_refused_name(name), name
    assert not closed.is_refused_name("nothuggingface.co")
    assert not closed.is_refused_name("huggingface.co.example.org")
    assert not opened.is_refused_name("cdn-lfs.huggingface.co")
    assert opened.is_refused_name("hf.co")


async def test_what_an_app_sends_leaves_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, await _connect(server.getsockname(), socket.AF_INET) as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
