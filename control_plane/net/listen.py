"""Listening sockets of the platform's own components: private Unix sockets and TCP addresses."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from control_plane.domain.errors import Rejected


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address to listen on; port 0 = any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def listen_tcp(address: Address, backlog: int = 2048) -> socket.socket:
    """Raises Rejected in one line when the address cannot be had."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _name, target = found[0]
        # With its protocol: asyncio sends small packets at once only where it knows that they are TCP, else each answer waits 40 ms.
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(target)
            sock.listen(backlog)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise Rejected(f"cannot listen on {address} ({error.strerror}); choose another with --host and --port") from error
    return sock


def listen_unix(path: Path, backlog: int = 1024) -> socket.socket | None:
    """A Unix socket that only our own user may open. None when another process answers there: it keeps it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
            return None
        except OSError:
            path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o177)
    try:
        sock.bind(str(path))
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(old)
    sock.listen(backlog)
    return sock
