"""Which replica answers: affinity first, so that a Gradio or Streamlit session stays where its state is.

Order: the replica named by our cookie; the replica that already served this `session_hash`; else the client's address
decides (rendezvous hashing: when replicas come or go, only the sessions of those move). A client without cookies therefore
reaches one replica with `queue/join` (session hash in the body, unseen) and `queue/data` (in the query).

A replica that just refused a connection is passed over for a moment while another is there: its sessions move, since what
they had there is gone with its process.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict

from control_plane.proxy.pool import Pool

COOKIE = b"vitrine_replica"
_SESSION = re.compile(rb"(?:[?&]session_hash=|/heartbeat/)([0-9A-Za-z_\-]{4,64})(?:[&?]|$)")
_MAX_SESSIONS = 20_000


class Balancer:
    """Remembers which replica served a session hash; bounded, oldest forgotten first."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[bytes, bytes] = OrderedDict()

    def pick(self, pools: tuple[Pool, ...], named: list[bytes], target: bytes, client: bytes, space_id: str, now: float) -> Pool:
        """One of `pools`, which is not empty. `now` is the loop's clock."""
        pools = tuple(pool for pool in pools if pool.down_until <= now) or pools
        if len(pools) == 1:
            return self._remember(pools[0], target, space_id)
        by_key = {pool.key: pool for pool in pools}
        session = _session(target, space_id)
        chosen = next((by_key[key] for key in named if key in by_key), None)
        if chosen is None and session:
            chosen = by_key.get(self._sessions.get(session, b""))
        if chosen is None:
            chosen = max(pools, key=lambda pool: hashlib.blake2b(pool.key + client, digest_size=8).digest())
        return self._remember(chosen, target, space_id)

    def _remember(self, chosen: Pool, target: bytes, space_id: str) -> Pool:
        session = _session(target, space_id)
        if session:
            self._sessions[session] = chosen.key
            self._sessions.move_to_end(session)
            if len(self._sessions) > _MAX_SESSIONS:
                self._sessions.popitem(last=False)
        return chosen


def _session(target: bytes, space_id: str) -> bytes:
    match = _SESSION.search(target)
    return space_id.encode() + b"|" + match[1] if match else b""


def cookie_line(pool: Pool, *, framed: bool) -> bytes:
    """The header that names `pool` as this browser's replica; `framed` where a frame in the platform's page may keep it as well."""
    where = b"Secure; SameSite=None; Partitioned" if framed else b"SameSite=Lax"
    return b"\r\nSet-Cookie: %b=%b; Path=/; HttpOnly; %b" % (COOKIE, pool.key, where)
