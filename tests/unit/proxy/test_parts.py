# ruff: noqa: E501  (one case per line reads best)
from __future__ import annotations

import asyncio

import pytest

from control_plane.domain.ids import SpaceId
from control_plane.domain.routes import Endpoint, EndpointKind
from control_plane.proxy.activity import Activity, counts_as_use
from control_plane.proxy.balancer import Balancer
from control_plane.proxy.errors import Code
from control_plane.proxy.guard import Guard, GuardUnavailable, Verdict
from control_plane.proxy.limits import Bucket, Clients, hop_address, plain_address
from control_plane.proxy.pool import Pool
from control_plane.proxy.routing import is_internal


def test_every_code_has_words_and_an_error_status() -> None:
    assert len(Code) >= 20
    for code in Code:
        assert 400 <= code.value.status <= 599
        assert code.value.title and code.value.words.endswith(".")
        assert code.name == code.name.upper()
    assert len({id(code) for code in Code}) == len(Code.__members__)


def test_a_bucket_refills() -> None:
    bucket = Bucket(rate=2, burst=3, now=0)
    assert [bucket.take(0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(1) for _ in range(3)] == [True, True, False]
    assert all(Bucket(0, 0, 0).take(0) for _ in range(100))


def test_clients_are_limited_by_address_and_ipv6_ones_by_network() -> None:
    clients = Clients(rate=1, burst=1, max_connections=2)
    assert all(clients.arrive("127.0.0.1", 0) for _ in range(10))
    assert clients.arrive("2001:db8::1", 0) and clients.arrive("2001:db8::2", 0)
    assert clients.arrive("2001:db8::3", 0) is None
    assert clients.arrive("2001:db8:0:1::3", 0)


def test_one_client_has_one_name() -> None:
    assert [plain_address(text) for text in ("::ffff:1.2.3.4", "::ffff:102:304", "1.2.3.4", "2001:db8::1", "")] == [
        "1.2.3.4", "1.2.3.4", "1.2.3.4", "2001:db8::1", "",
    ]  # fmt: skip
    hops = {
        "1.2.3.4": "1.2.3.4",
        "1.2.3.4:80": "1.2.3.4",
        "[2001:db8::1]:80": "2001:db8::1",
        "::ffff:1.2.3.4": "1.2.3.4",
        "_x": "",
        "a:80": "",
        "": "",
    }
    assert {hop: hop_address(hop) for hop in hops} == hops


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        (b"/internal", True), (b"/internal/", True), (b"/INTERNAL/x", True), (b"//internal", True), (b"/./internal", True), (b"/x/../internal", True), (b"/%69nternal", True),
        (b"/%2569nternal", True), (b"/%2finternal", True), (b"/..%2finternal", True), (b"\\internal", True), (b"/internal;x=1/y", True), (b"/internal%2fx", True),
        (b"/internals", False), (b"/spaces/a/internal", False), (b"/", False), (b"/internal/../spaces", True), (b"/a%20b", False),
    ],
)  # fmt: skip
def test_the_internal_door_in_every_spelling(path: bytes, inside: bool) -> None:
    assert is_internal(path) is inside


def test_heartbeats_are_not_use() -> None:
    assert not counts_as_use(b"/gradio_api/heartbeat/abc")
    assert not counts_as_use(b"/heartbeat/abc") and not counts_as_use(b"/demo/gradio_api/heartbeat/a_b-c?x=1")
    assert not counts_as_use(b"/_stcore/health") and not counts_as_use(b"/app/_stcore/health?x") and not counts_as_use(b"/readyz")
    for path in (b"/", b"/gradio_api/queue/data?session_hash=x", b"/health/patients", b"/healthzone", b"/x?to=/heartbeat/abc", b"/heartbeat",
                 b"/files/_stcore/healthy.csv", b"/api/healthz/report", b"/chea", b"*"):  # fmt: skip
        assert counts_as_use(path), path


def test_reports_hold_only_what_is_new() -> None:
    activity = Activity()
    space = activity.of(SpaceId("a"), "x/y")
    space.record(200, 0.02)
    space.record(404, 99)
    (report,) = activity.reports()
    assert dict(report.requests) == {"2xx": 1, "4xx": 1}
    assert dict(report.latency_buckets) == {"0.025": 1, "+Inf": 1}
    assert activity.reports() == ()
    space.live = 1
    assert activity.reports()[0].last_used_at > 0


def test_affinity_by_cookie_then_session_then_address() -> None:
    pools = tuple(Pool(Endpoint(EndpointKind.TCP, f"10.0.0.{i}:1"), 1) for i in range(5))
    balancer = Balancer()
    home = balancer.pick(pools, [], b"/", b"1.2.3.4", "s", 0.0)
    assert balancer.pick(pools, [b"stale"], b"/", b"1.2.3.4", "s", 0.0) is home
    other = next(pool for pool in pools if pool is not home)
    assert balancer.pick(pools, [other.key], b"/q?session_hash=abcd", b"1.2.3.4", "s", 0.0) is other
    assert balancer.pick(pools, [], b"/q?session_hash=abcd", b"9.9.9.9", "s", 0.0) is other
    assert balancer.pick(pools, [], b"/gradio_api/heartbeat/abcd", b"9.9.9.9", "s", 0.0) is other
    left = tuple(pool for pool in pools if pool is not other)
    assert balancer.pick(left, [], b"/", b"1.2.3.4", "s", 0.0) is home


async def test_the_guard_asks_once_and_fails_closed() -> None:
    asked: list[str] = []

    async def authorize(host: str, kind: str, credential: str) -> Verdict | bool:
        asked.append(credential)
        await asyncio.sleep(0)
        if credential == "broken":
            raise ConnectionError("no API")
        return credential == "good"

    guard = Guard(authorize)
    verdicts = await asyncio.gather(*(guard.check("h", [("token", "good")]) for _ in range(10)))
    assert all(verdict.allowed for verdict, _kind, _credential in verdicts)
    assert asked == ["good"]
    assert guard.remembered("h", [("token", "good")]) is not None
    assert guard.remembered("other", [("token", "good")]) is None
    assert not (await guard.check("h", [("token", "bad")]))[0].allowed
    assert guard.remembered("h", [("token", "bad")]) is None
    with pytest.raises(GuardUnavailable):
        await guard.check("h", [("token", "broken")])
