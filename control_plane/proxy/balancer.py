"""Which replica answers: affinity first, so that a Gradio or Streamlit session stays where its state is.

Order: the replica named by our cookie; the one that already served this session hash, upload or event; for a browser's first
page the one with least to do, since its cookie keeps it there; else the client's address decides (rendezvous hashing: when
replicas come or go, only the sessions of those move). A client without cookies therefore reaches one replica with
`queue/join` and `queue/data`, or `call/NAME` and `call/NAME/EVENT`, through whichever proxy each of them comes.

Session hashes in what is sent to `queue/join` and event ids in what `call/NAME` answers are read on their way, so that what
follows from another address finds its replica as well.

A replica that just refused a connection is passed over for a moment while another is there: its sessions move, since what
they had there is gone with its process.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from random import random

from control_plane.proxy.pool import Pool

COOKIE = b"vitrine_replica"
_SESSION = re.compile(rb"(?:[?&](?:session_hash|upload_id)=|/heartbeat/|/call/(?:v2/)?(?!v2/)[^/?]+/)([0-9A-Za-z_\-]{4,64})(?:[&?]|$)")
_BEGINS = re.compile(rb"/(?:queue/join|call/(?:v2/)?[^/?]+)/?(?:\?|$)")
_BEGUN = re.compile(rb'"(?:session_hash|event_id)"\s*:\s*"([0-9A-Za-z_\-]{4,64})"')
_MAX_SESSIONS = 20_000


class Balancer:
    """Remembers which replica served a session hash; bounded, oldest forgotten first."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[bytes, bytes] = OrderedDict()

    def pick(
        self,
        pools: tuple[Pool, ...],
        named: list[bytes],
        target: bytes,
        client: bytes,
        space_id: str,
        now: float,
        *,
        first_page: bool = False,
    ) -> Pool:
        """One of `pools`, which is not empty. `now` is the loop's clock; `first_page`: a browser that will bring our cookie from now on."""
        pools = tuple(pool for pool in pools if pool.down_until <= now) or pools
        if len(pools) == 1:
            return self._remember(pools[0], target, space_id)
        by_key = {pool.key: pool for pool in pools}
        session = _session(target, space_id)
        chosen = next((by_key[key] for key in named if key in by_key), None)
        if chosen is None and session:
            chosen = by_key.get(self._sessions.get(session, b""))
        if chosen is None and first_page:
            chosen = min(pools, key=lambda pool: (len(pool.open) - len(pool.idle), random()))
        if chosen is None:
            chosen = max(pools, key=lambda pool: hashlib.blake2b(pool.key + client, digest_size=8).digest())
        return self._remember(chosen, target, space_id)

    def _remember(self, chosen: Pool, target: bytes, space_id: str) -> Pool:
        session = _session(target, space_id)
        if session:
            self._keep(session, chosen)
        return chosen

    def learn(self, data: bytes, space_id: str, pool: Pool) -> None:
        """`data` is a piece of what a session began with, on `pool`: later requests that name it go there."""
        for match in _BEGUN.finditer(data):
            self._keep(space_id.encode() + b"|" + match[1], pool)

    def _keep(self, session: bytes, pool: Pool) -> None:
        self._sessions[session] = pool.key
        self._sessions.move_to_end(session)
        if len(self._sessions) > _MAX_SESSIONS:
            self._sessions.popitem(last=False)


def _session(target: bytes, space_id: str) -> bytes:
    match = _SESSION.search(target)
    return space_id.encode() + b"|" + match[1] if match else b""


def begins_session(method: bytes, target: bytes) -> bool:
    """Whether a request, or its answer, says in its body by which name its session will come back."""
    return method == b"POST" and _BEGINS.search(target) is not None


def cookie_line(pool: Pool, *, framed: bool) -> bytes:
    """The header that names `pool` as this browser's replica; `framed` where a frame in the platform's page may keep it as well."""
    where = b"Secure; SameSite=None; Partitioned" if framed else b"SameSite=Lax"
    return b"\r\nSet-Cookie: %b=%b; Path=/; HttpOnly; %b" % (COOKIE, pool.key, where)
