"""A wire between a client and a server that breaks once, in the middle of an answer, as a train in a tunnel does."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_RANGE = re.compile(rb"\r\nrange: *bytes=(\d+)-", re.IGNORECASE)


class CutWire:
    """`port` leads to the port `server` of this machine. It breaks when one connection has answered more than `cut_after` bytes."""

    def __init__(self, server: int) -> None:
        self.cut_after: int | None = None  # None once it broke
        self.asked_from: list[int] = []  # where each ranged request wanted its answer to begin
        self._server = server
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._door.getsockname()[1]
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._door.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._server))
            self._ends += (near, far)
            for work in (self._requests, self._answers):
                self._threads.append(threading.Thread(target=work, args=(near, far), daemon=True))
                self._threads[-1].start()

    def _requests(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while data := near.recv(1 << 16):
                self.asked_from += map(int, _RANGE.findall(data))
                far.sendall(data)
        _end(far)

    def _answers(self, near: socket.socket, far: socket.socket) -> None:
        sent = 0
        with suppress(OSError):
            while data := far.recv(1 << 16):
                sent += len(data)
                near.sendall(data)
                if self.cut_after is not None and sent > self.cut_after:
                    self.cut_after = None
                    break
        _end(far)
        _end(near)

    def close(self) -> None:
        _end(self._door)
        self._door.close()
        for end in self._ends:
            _end(end)
        for thread in self._threads:
            thread.join(30)
        for end in self._ends:
            end.close()


def _end(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


@contextmanager
def cut_wire(server: int) -> Iterator[CutWire]:
    made = CutWire(server)
    try:
        yield made
    finally:
        made.close()
