"""The door: hands out TCP sockets that are connected inside the replica's network namespace (SCM_RIGHTS).

A socket keeps the namespace in which it was made, so a visitor's bytes then pass without a relay. Protocol: README.md.
"""

from __future__ import annotations

import array
import errno
import json
import os
import selectors
import socket

_MAX_CLIENTS = 512
_TCP_LISTEN = "0A"


class Door:
    """Answers on a listening Unix socket, driven by the owner's selector; every registered object is a callable."""

    def __init__(
        self, listener: socket.socket, port: int, selector: selectors.BaseSelector, hidden_ports: frozenset[int], proc: int
    ) -> None:
        self._proc = proc
        self._listener = listener
        self._port = port
        self._selector = selector
        self._hidden = hidden_ports
        self._clients: dict[socket.socket, None] = {}  # in order of arrival
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        client.settimeout(1.0)
        if len(self._clients) >= _MAX_CLIENTS:
            self._drop(next(iter(self._clients)))
        self._clients[client] = None
        self._selector.register(client, selectors.EVENT_READ, lambda: self._answer(client))

    def _drop(self, client: socket.socket) -> None:
        self._clients.pop(client, None)
        self._selector.unregister(client)
        client.close()

    def _answer(self, client: socket.socket) -> None:
        try:
            asked = client.recv(1)
            if asked == b"c":
                self._connect_for(client)
            elif asked == b"p":
                client.sendall(json.dumps(sorted(set(listening_ports(self._proc)) - self._hidden)).encode() + b"\n")
            else:
                self._drop(client)
        except OSError:
            self._drop(client)

    def _connect_for(self, client: socket.socket) -> None:
        try:
            inner = connect_inside(self._port)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "ETIMEDOUT")
            client.sendall(name.encode() + b"\n")
            return
        with inner:
            client.sendmsg([b"k"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [inner.fileno()]))])


def connect_inside(port: int) -> socket.socket:
    """Connected to loopback, IPv4 first: an app may listen on either. Loopback answers at once unless its backlog is full."""
    failure: OSError = OSError(errno.ECONNREFUSED, "refused")
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            inner = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            continue
        inner.settimeout(1.0)
        try:
            inner.connect((address, port))
        except OSError as error:
            inner.close()
            if family == socket.AF_INET:
                failure = error
            continue
        inner.settimeout(None)
        return inner
    raise failure


def listening_ports(proc: int) -> list[int]:
    """TCP ports in state LISTEN in this network namespace. `proc` is a descriptor of a /proc that shows this process."""
    found = set()
    for name in ("tcp", "tcp6"):
        try:
            with open(f"self/net/{name}", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, dir_fd=proc)) as file:
                found |= parse_listening(file.read())
        except OSError:
            continue
    return sorted(found)


def parse_listening(text: str) -> set[int]:
    """Ports of the LISTEN rows of a `/proc/net/tcp` table. Pure."""
    rows = (line.split() for line in text.splitlines()[1:])
    return {int(row[1].rpartition(":")[2], 16) for row in rows if len(row) > 3 and row[3] == _TCP_LISTEN}
