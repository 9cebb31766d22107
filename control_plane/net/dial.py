"""Connect to any Endpoint: TCP, a Unix socket, or a door that hands out sockets made inside a network namespace.

A door speaks one exchange per connection: we send `c`, it answers with one file descriptor (SCM_RIGHTS) or with a short
line of text that says why it has none. The descriptor is a TCP socket already connected inside the namespace.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator

from control_plane.domain.routes import Endpoint, EndpointKind

_MAX_DOOR_ERROR_BYTES = 512


class DialError(OSError):
    """The endpoint could not be reached. `timed_out` tells a silent one from one that refused."""

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


async def dial(endpoint: Endpoint, timeout_s: float) -> socket.socket:
    """A connected non-blocking stream socket; the caller owns it. Raises DialError, never another error."""
    try:
        async with asyncio.timeout(timeout_s):
            if endpoint.kind is EndpointKind.TCP:
                return await _dial_tcp(endpoint.address)
            if endpoint.kind is EndpointKind.UNIX:
                return await _dial_unix(endpoint.address)
            return await _dial_door(endpoint.address)
    except TimeoutError as error:
        raise DialError(f"no connection within {timeout_s:g} s", timed_out=True) from error
    except DialError:
        raise
    except (OSError, ValueError) as error:
        raise DialError(str(error) or type(error).__name__) from error


async def _dial_tcp(address: str) -> socket.socket:
    """`host:port` with a literal address, or a name: each of its addresses is tried in the resolver's order."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if ":" in host or host.replace(".", "").isdigit():
        return await _connect(socket.AF_INET6 if ":" in host else socket.AF_INET, (host, int(port)))
    found = await asyncio.get_running_loop().getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    for number, (family, _type, _protocol, _name, target) in enumerate(found, start=1):
        try:
            return await _connect(socket.AddressFamily(family), target[:2])
        except OSError:
            if number == len(found):
                raise
    raise DialError(f"{host} has no address")


async def _connect(family: socket.AddressFamily, target: tuple[str, int] | tuple[int, bytes]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    with _closed_on_error(sock):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, target)
    return sock


async def _dial_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    with _closed_on_error(sock):
        while True:
            try:
                sock.connect(path)
                return sock
            except BlockingIOError:
                # A full backlog: unlike TCP the kernel does not queue us, and there is no readiness event to wait for.
                await asyncio.sleep(0.005)


async def _dial_door(path: str) -> socket.socket:
    door = await _dial_unix(path)
    with contextlib.closing(door):
        door.send(b"c")
        fd, text = await _receive_fd(door)
    if fd is None:
        raise DialError(text or "the door closed without an answer")
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        raise
    with _closed_on_error(sock):
        sock.setblocking(False)
        if sock.type != socket.SOCK_STREAM:
            raise DialError("the door handed out something that is not a stream socket")
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


async def _receive_fd(door: socket.socket) -> tuple[int | None, str]:
    loop = asyncio.get_running_loop()
    while True:
        try:
            data, ancillary, _flags, _address = door.recvmsg(_MAX_DOOR_ERROR_BYTES, socket.CMSG_SPACE(array.array("i").itemsize * 4))
            break
        except BlockingIOError:
            readable: asyncio.Future[None] = loop.create_future()
            loop.add_reader(door.fileno(), _set_once, readable)
            try:
                await readable
            finally:
                loop.remove_reader(door.fileno())
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    for extra in fds[1:]:
        os.close(extra)
    return (fds[0] if fds else None), data.decode("utf-8", "replace").strip()


def _set_once(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


@contextlib.contextmanager
def _closed_on_error(sock: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        sock.close()
        raise
