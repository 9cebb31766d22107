"""Progress pages follow their Space here: each change of its route is one event (text/event-stream), until it serves or failed.

A stream lives for half a minute at most; the page opens the next one by itself, and the guard looks at it anew.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from control_plane.domain.routes import Route, RouteState
from control_plane.proxy.errors import Code

if TYPE_CHECKING:
    from control_plane.proxy.own_answers import OwnAnswers
    from control_plane.proxy.table import Entry

LIFE_S = 30.0
_RETRY_MS = 500


def status_body(route: Route) -> bytes:
    """What a progress page shows, as JSON."""
    return json.dumps(
        {
            "state": route.state.value,
            "ready": route.state is RouteState.READY,
            "reason": route.reason,
            "message": route.message,
            "eta_s": route.eta_s,
            "revision": route.revision,
        }
    ).encode()


def event(route: Route) -> bytes:
    return b"event: stage\ndata: %b\n\n" % status_body(route)


class Followers:
    """Open streams by host; as many for one Space as requests may wait for it."""

    def __init__(self, per_space: int) -> None:
        self._per_space = per_space
        self._following: dict[str, dict[OwnAnswers, None]] = {}

    def add(self, client: OwnAnswers, entry: Entry) -> Code | None:
        """None when the stream may begin; a code when too many are open."""
        following = self._following.setdefault(entry.route.host, {})
        if len(following) >= self._per_space:
            return Code.WAKE_QUEUE_FULL
        following[client] = None
        return None

    def drop(self, client: OwnAnswers, host: str) -> None:
        following = self._following.get(host)
        if following is not None:
            following.pop(client, None)
            if not following:
                del self._following[host]

    def changed(self, host: str, entry: Entry | None) -> None:
        for client in tuple(self._following.get(host, ())):
            if entry is None:
                client.end_follow()  # gone: the page looks again and is told so
                continue
            client.follow_event(event(entry.route), last=not entry.route.state.may_wake)

    @staticmethod
    def opening(route: Route) -> bytes:
        return b"retry: %d\n\n%b" % (_RETRY_MS, event(route))
