"""Who may see a private Space. The answer comes from the API's internal door; this room only carries credentials there.

Four ways in, tried in this order: `X-HF-Authorization: Bearer`, `Authorization: Bearer hf_…`, `?__sign=<jwt>`, our cookie.
Verdicts are kept for at most one second, so a right that is taken away ends within one. While the API does not answer nobody
can take a right away through it: who was let in a moment ago stays in for some minutes, unless the bus says that rights changed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from control_plane.proxy.heads import RequestHead

COOKIE = b"vitrine_app"
HOST_COOKIE = b"__Host-vitrine_app"
LOOSE_COOKIE = b"vitrine_app_local"
_MAX_CREDENTIAL = 8192
_MAX_CACHED = 10_000
GRACE_S = 300.0
_AWAY_S = 2.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """`cookie` is what the app-host cookie carries after a `__sign` (empty: the credential itself), `max_age_s` its life."""

    allowed: bool
    user: str = ""
    cookie: str = ""
    max_age_s: int = 0


class GuardUnavailable(Exception):
    """Nobody can say whether the credential is good; the request is refused."""


# (host, kind, credential) → verdict. Kinds: "token" (either header), "sign" (query), "cookie". May raise GuardUnavailable.
Authorize = Callable[[str, str, str], Awaitable[Verdict | bool]]


def _name(authority: bytes) -> bytes:
    return authority.partition(b":")[0]


def cookie_counts(head: RequestHead, method: bytes) -> bool:
    """Whether our cookie may open this request: the app's own page, or a navigation, asks.

    Browsers attach the cookie to whatever asks, and Spaces are each other's neighbours on one site: without this, the page
    of one could open a socket to another that its visitor may see, and read it. Origin and fetch metadata say who asks;
    a client that sends neither is no browser page.
    """
    origin = head.value(b"origin")
    if origin and origin != b"null":
        # Not the port: cookies do not tell ports apart either, and a balancer in front may not pass it on in Host.
        return _name(origin.partition(b"://")[2]) == _name(head.host)
    site = head.value(b"sec-fetch-site")
    if site in (b"same-site", b"cross-site"):
        return method in (b"GET", b"HEAD") and head.value(b"sec-fetch-mode") == b"navigate"
    return not origin or site != b""


def credentials(head: RequestHead, sign: bytes, method: bytes) -> list[tuple[str, str]]:
    """(kind, credential) pairs a request carries, in the order they are tried."""
    found: list[tuple[str, str]] = []
    if head.hf_authorization[:7].lower() == b"bearer ":
        found.append(("token", head.hf_authorization[7:].strip().decode("latin-1")))
    if head.authorization[:10].lower() == b"bearer hf_":
        found.append(("token", head.authorization[7:].strip().decode("latin-1")))
    if sign:
        found.append(("sign", sign.decode("latin-1")))
    for name in (HOST_COOKIE, COOKIE, LOOSE_COOKIE) if head.cookie and cookie_counts(head, method) else ():
        found += [("cookie", value.decode("latin-1")) for value in head.cookies(name)[:3]]
    return [(kind, value) for kind, value in found if value and len(value) <= _MAX_CREDENTIAL]


class Guard:
    """Asks, and remembers for `ttl_s` (at most a second). While nobody answers, who was let in less than `grace_s` ago still is."""

    def __init__(self, authorize: Authorize, *, ttl_s: float = 1.0, timeout_s: float = 5.0, grace_s: float = GRACE_S) -> None:
        self._authorize = authorize
        self._grace_s = grace_s
        self._ttl_s = min(ttl_s, 1.0)
        self._timeout_s = timeout_s
        self._known: dict[tuple[str, str, str], tuple[float, Verdict]] = {}
        self._asking: dict[tuple[str, str, str], asyncio.Task[Verdict]] = {}
        self._age = 0  # how often everything was forgotten
        self._away_until = 0.0  # nobody answered a moment ago: those within the grace need not wait to hear it again

    def forget(self) -> None:
        """Rights have changed: what is known, and what is being answered at this moment, may not be true any more."""
        self._age += 1
        self._known.clear()
        self._asking.clear()

    def remembered(self, host: str, found: list[tuple[str, str]]) -> Verdict | None:
        """A fresh positive verdict for one of `found`, without asking anybody."""
        now = time.monotonic()
        for kind, credential in found:
            known = self._known.get((host, kind, credential))
            if known is not None and known[0] > now and known[1].allowed:
                return known[1]
        return None

    async def check(self, host: str, found: list[tuple[str, str]]) -> tuple[Verdict, str, str]:
        """The first verdict that allows, with its kind and credential; else a refusal. Raises GuardUnavailable."""
        for kind, credential in found:
            verdict = await self._ask((host, kind, credential))
            if verdict.allowed:
                return verdict, kind, credential
        return Verdict(False), "", ""

    async def _ask(self, key: tuple[str, str, str]) -> Verdict:
        now = time.monotonic()
        known = self._known.get(key)
        if known is not None and (known[0] > now or (now < self._away_until and self._has_grace(known, now))):
            return known[1]
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._call(key))
            task.add_done_callback(lambda done: self._answered(key, done))
        return await asyncio.shield(task)

    def _has_grace(self, known: tuple[float, Verdict], now: float) -> bool:
        return known[1].allowed and now < known[0] + self._grace_s

    def _answered(self, key: tuple[str, str, str], done: asyncio.Task[Verdict]) -> None:
        if self._asking.get(key) is done:
            del self._asking[key]
        if not done.cancelled():
            done.exception()  # everyone who asked may have left; then nobody else looks at it

    async def _call(self, key: tuple[str, str, str]) -> Verdict:
        age = self._age
        asked_at = time.monotonic()  # the life of a verdict counts from the question: the answer may be as old as that
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._authorize(*key)
        except Exception as error:  # whatever it is, nobody has said yes
            self._away_until = time.monotonic() + _AWAY_S
            known = self._known.get(key)
            if known is not None and self._has_grace(known, asked_at):
                return known[1]
            raise GuardUnavailable(str(error)) from error
        verdict = answer if isinstance(answer, Verdict) else Verdict(bool(answer))
        if len(self._known) >= _MAX_CACHED:
            self._known.clear()
        if age == self._age:
            self._known[key] = (asked_at + self._ttl_s, verdict)
        return verdict
