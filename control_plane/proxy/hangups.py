"""Clients that left while nothing was read from them.

A held request with a body, or one whose app does not read, is not read either, so its end would be seen when its turn comes:
until then it keeps a place that somebody else could have. The kernel is asked instead, without taking a byte.
"""

from __future__ import annotations

import select
from collections.abc import Iterable
from typing import TYPE_CHECKING

from control_plane.proxy.connection import Connection

if TYPE_CHECKING:
    from control_plane.proxy.http2 import Http2Connection

_GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR


def left(connections: Iterable[Connection | Http2Connection]) -> list[Connection]:
    """Those of `connections` that wait unread and whose client has closed its side. Streams of HTTP/2 hear that by themselves."""
    unread: dict[int, Connection] = {}
    for connection in connections:
        if isinstance(connection, Connection) and connection.is_deaf:
            sock = connection.transport.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                unread[sock.fileno()] = connection
    if not unread:
        return []
    poll = select.poll()
    for number in unread:
        poll.register(number, select.POLLRDHUP)
    return [unread[number] for number, events in poll.poll(0) if events & _GONE]
