"""What happens to one validated request: forward, hold, redirect, ask the guard, or refuse. Decides, never parses."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes

from control_plane.domain.routes import RouteState
from control_plane.proxy import balancer, guard, stages
from control_plane.proxy.activity import counts_as_use
from control_plane.proxy.errors import Code
from control_plane.proxy.heads import RequestHead, take_sign
from control_plane.proxy.limits import hop_address

if TYPE_CHECKING:
    from control_plane.proxy.app_side import AppSide
    from control_plane.proxy.client import ClientConnection
    from control_plane.proxy.pool import Pool
    from control_plane.proxy.table import Entry

_OWN_PREFIX = b"/.well-known/vitrine/"
_PROXY_PATH = b"/-/proxy/"
_STATES = {RouteState.PAUSED: Code.SPACE_PAUSED, RouteState.FAILED: Code.SPACE_FAILED, RouteState.EMPTY: Code.SPACE_EMPTY}


def forwarded(client: ClientConnection, head: RequestHead, is_platform: bool) -> bytes:
    """The header block an upstream gets: the client's own, cleaned, and who it is in our words; up to the request's id."""
    core = client.core
    block = head.platform_block if is_platform else head.app_block
    if client.vouched_host == head.host:
        return block + client.vouched
    address, proto = client.address, client.proto
    is_hop = core.is_trusted(address)
    if is_hop:
        hops = [hop.strip() for hop in head.value(b"x-forwarded-for").decode("latin-1").split(",") if hop.strip()]
        while hops and core.is_trusted(address) and (hop := hop_address(hops.pop())):
            address = hop
        client.visitor = address
        client.bucket = core.clients.of(address, core.now).bucket
        if head.value(b"x-forwarded-proto") in (b"http", b"https"):
            proto = head.value(b"x-forwarded-proto")
    client.vouched_host = b"" if is_hop else head.host  # behind a hop each request may be somebody else's
    client.vouched = b"\r\nX-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\nX-Vitrine-Request-Id: " % (
        address.encode("latin-1"),
        proto,
        head.host,
    )
    return block + client.vouched


def decide(client: ClientConnection, head: RequestHead, is_platform: bool, entry: Entry | None, ours: bool) -> None:
    """The first look at a request, and each later one after its route changed."""
    core = client.core
    if client.bucket is not None and not client.bucket.take(core.now):
        client.refuse(Code.RATE_LIMITED)
        return
    if is_platform:
        _to_platform(client, head)
        return
    if b"__sign=" in client.target:
        client.target, client.sign = take_sign(client.target)
    if entry is None:
        if not core.table.loaded:
            client.refuse(Code.ROUTES_UNKNOWN)
        elif ours:
            _guarded(client, head, None)  # asks as for a private one: nor does the time an answer takes say which it is
        else:
            client.refuse(Code.MISDIRECTED)
        return
    if entry.is_private:
        _guarded(client, head, entry)
        return
    admit(client, head, entry)


def to_https(client: ClientConnection, head: RequestHead) -> None:
    """The same address over TLS. 308 keeps method and body; the body itself is not read."""
    name = head.host.decode("ascii").partition("]")[0] + "]" if head.host.startswith(b"[") else head.host.decode("ascii").partition(":")[0]
    port = client.core.public_port
    to = f"https://{name}{f':{port}' if port not in (0, 443) else ''}{client.target.decode('latin-1')}"
    client.reply(308, "text/plain; charset=utf-8", b"", f"Location: {to}\r\n")


def admit(client: ClientConnection, head: RequestHead, entry: Entry) -> None:
    """The request may see this Space."""
    if client.target[1:2] == b"." and client.target.startswith(_OWN_PREFIX):
        own = client.target[len(_OWN_PREFIX) :].partition(b"?")[0]
        if own in (b"status", b"stages"):
            if entry.route.state is RouteState.ASLEEP:
                client.core.activator.ask(entry)
            if own == b"stages" and client.method == b"GET":
                client.follow(entry)
            else:
                client.reply(200, "application/json", stages.status_body(entry.route))
            return
    if entry.is_ready:
        if not entry.bucket.take(client.core.now):
            client.refuse(Code.SPACE_RATE_LIMITED, reveal=True)
            return
        client.begin_use(entry.activity, live=counts_as_use(client.target))
        pools = entry.pools
        if len(pools) == 1:
            pool = pools[0]
        else:
            named = head.cookies(balancer.COOKIE)
            pool = choose(client, pools, named)
            if pool.key not in named:
                client.extra_head += balancer.cookie_line(pool, framed=keeps_framed_cookies(client))
        client.forward(pool)
        return
    route = entry.route
    if route.redirect_to:
        port = head.host.rpartition(b":")[2] if b":" in head.host else b""
        to = f"{client.proto.decode()}://{route.redirect_to}{':' + port.decode() if port else ''}{client.target.decode('latin-1')}"
        client.reply(308, "text/plain; charset=utf-8", b"", f"Location: {to}\r\n")
        return
    if route.state.may_wake:
        if route.state is RouteState.ASLEEP and not counts_as_use(client.target):
            client.refuse(
                Code.SPACE_ASLEEP, reveal=True, words=Code.SPACE_ASLEEP.value.words
            )  # a tab that was left open would keep it awake for ever
        elif client.method == b"GET" and head.wants_page:
            client.core.activator.ask(entry)
            client.refuse(Code.SPACE_STARTING, reveal=True)
        else:
            client.wait_for_wake(entry)
        return
    if route.state is RouteState.PAUSED and client.wait_for_restart(entry):
        return
    client.refuse(_STATES.get(route.state, Code.NO_REPLICA), reveal=True)


def keeps_framed_cookies(client: AppSide) -> bool:
    """Whether a browser keeps a `Secure` cookie of this answer: over https, and on *.localhost, which it takes for secure."""
    return client.proto == b"https" or (client.app_host or b"").endswith(b".localhost")


def choose(client: AppSide, pools: tuple[Pool, ...], named: list[bytes]) -> Pool:
    """The replica for this request, of several; `named` are the keys its cookies hold."""
    assert client.entry is not None
    core = client.core
    head = client.head
    client.begins_session = balancer.begins_session(client.method, client.target)
    return core.balancer.pick(
        pools, named, client.target, client.visitor.encode(), client.entry.route.space_id, core.now,
        first_page=client.method == b"GET" and head is not None and head.wants_page,
    )  # fmt: skip


def _guarded(client: ClientConnection, head: RequestHead, entry: Entry | None) -> None:
    found = guard.credentials(head, client.sign, client.method)
    if not found:
        _stranger(client, head)
        return
    host = entry.route.host if entry is not None else head.host.partition(b":")[0].decode("ascii")
    if entry is not None and not client.sign and client.core.guard.remembered(host, found) is not None:
        client.shown = tuple(found)
        admit(client, head, entry)
        return
    client.run(asyncio.get_running_loop().create_task(_ask_guard(client, head, host, found)))


async def _ask_guard(client: ClientConnection, head: RequestHead, host: str, found: list[tuple[str, str]]) -> None:
    try:
        verdict, kind, credential = await client.core.guard.check(host, found)
    except guard.GuardUnavailable:
        client.task_done()
        client.refuse(Code.GUARD_UNAVAILABLE)
        return
    client.task_done()
    entry = client.core.table.get(host)
    if not verdict.allowed or entry is None:
        _stranger(client, head)
        return
    client.entry = entry
    client.shown = tuple(found)
    if kind == "sign":
        client.shown = (("cookie", verdict.cookie or credential),)
        cookies = _cookies(client, verdict.cookie or credential, verdict.max_age_s)
        if client.method == b"GET" and head.wants_page and head.value(b"sec-fetch-dest") != b"iframe":
            # The address bar, the history and the app's own scripts must not keep the token.
            # `/.` keeps a path that begins with two slashes a path: `Location: //x` would be another host.
            path = client.target if client.target[:2] not in (b"//", b"/\\") else b"/." + client.target
            client.reply(302, "text/plain; charset=utf-8", b"", f"Location: {path.decode('latin-1')}{cookies}\r\n")
            return
        client.extra_head += cookies.encode("latin-1")
    admit(client, head, entry)


def _cookies(client: ClientConnection, value: str, max_age_s: int) -> str:
    """The edge cookie of this one app host. Partitioned, so that it works inside the platform's page in every browser.

    Where plain http counts as secure (*.localhost) it does so for browsers only: other clients get one they send back.
    """
    age = f"; Max-Age={max_age_s}" if max_age_s > 0 else ""
    framed = f"{value}; Path=/; HttpOnly; Secure; SameSite=None; Partitioned{age}"
    loose = f"{value}; Path=/; HttpOnly; SameSite=Lax{age}"
    if client.proto == b"https":
        return f"\r\nSet-Cookie: {guard.HOST_COOKIE.decode()}={framed}"
    if keeps_framed_cookies(client):
        return f"\r\nSet-Cookie: {guard.LOOSE_COOKIE.decode()}={loose}\r\nSet-Cookie: {guard.COOKIE.decode()}={framed}"
    return f"\r\nSet-Cookie: {guard.COOKIE.decode()}={loose}"


def _stranger(client: ClientConnection, head: RequestHead) -> None:
    """Not signed in, not allowed, or nothing there: the three look the same, so that a private Space cannot be found by asking.

    A browser that navigates is sent to the platform to sign in, with the cookie of a session that has ended as well; everybody
    else, and who showed a token or a proof, gets a 404.
    """
    shown = guard.credentials(head, client.sign, client.method)
    if client.method == b"GET" and head.wants_page and all(kind == "cookie" for kind, _credential in shown):
        host, target = quote(head.host.decode("ascii"), safe=""), quote(client.target.decode("latin-1"), safe="")
        client.reply(302, "text/plain; charset=utf-8", b"", f"Location: {client.core.hub}/oauth/app-access?host={host}&next={target}\r\n")
        return
    client.refuse(Code.NOT_FOUND)


def _to_platform(client: ClientConnection, head: RequestHead) -> None:
    core = client.core
    path = client.target.partition(b"?")[0]
    if path.startswith(_PROXY_PATH):
        _own_path(client, head, path)
        return
    if (b"%" in path or b"intern" in path.lower()) and is_internal(path):
        client.refuse(Code.INTERNAL_PATH)
        return
    client.forward(core.platform)


def is_internal(path: bytes) -> bool:
    """Whether any reading of `path` (decoded twice, dot segments and doubled slashes resolved) lies under /internal."""
    for _round in range(3):
        segments: list[bytes] = []
        for segment in path.replace(b"\\", b"/").split(b"/"):
            segment = segment.partition(b";")[0]
            if segment == b"..":
                if segments:
                    segments.pop()
            elif segment not in (b"", b"."):
                segments.append(segment)
        literal = path.replace(b"\\", b"/").lstrip(b"/").lower()
        if (segments and segments[0].strip().lower() == b"internal") or literal.startswith((b"internal/", b"internal;")):
            return True
        decoded = unquote_to_bytes(path)
        if decoded == path:
            return False
        path = decoded
    return False


def _own_path(client: ClientConnection, head: RequestHead, path: bytes) -> None:
    core = client.core
    if path == b"/-/proxy/healthz":
        client.reply(200, "application/json", b'{"status":"ok"}')
    elif (
        path == b"/-/proxy/metrics" and core.config.metrics_token and head.authorization == b"Bearer " + core.config.metrics_token.encode()
    ):
        client.reply(200, "text/plain; version=0.0.4; charset=utf-8", core.metrics().encode())
    else:
        client.refuse(Code.NOT_FOUND)
