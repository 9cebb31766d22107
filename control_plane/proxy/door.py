"""The listener when more than plain HTTP arrives on it: PROXY headers, TLS, or a browser that forgot the `s` of https.

    accept ─► (PROXY header, peeked then taken) ─► first byte ─► 0x16: TLS ─► ALPN: h2 | http/1.1
                                                              └► else: plain ─► redirect to https

The first bytes are only looked at (MSG_PEEK), so that whoever speaks next finds the stream whole. Plain listeners without
PROXY headers do not come here: they accept in the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable

from control_plane.proxy import proxy_protocol
from control_plane.proxy.client import ClientConnection
from control_plane.proxy.core import Core
from control_plane.proxy.http2 import Http2Connection
from control_plane.proxy.limits import Client, plain_address
from control_plane.proxy.plain_door import PlainDoorConnection
from control_plane.proxy.tls import Certificates

_ACCEPTS_AT_ONCE = 64
_GREETING_S = 10.0
_CLOSE_NOTIFY_S = 1.0  # a client that does not read must not hold its connection open by not saying goodbye
_LOOK_AGAIN_S = 0.02  # a partial PROXY header: the socket stays readable, so it is looked at by the clock
_TLS_RECORD = 0x16
_NO_ROOM = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_NO_ROOM_S = 0.1


class Door:
    def __init__(self, core: Core, sock: socket.socket, certificates: Certificates | None, *, proxied: bool) -> None:
        self.core = core
        self.certificates = certificates
        self.proxied = proxied
        self.greeted: set[_Greeting] = set()  # accepted, nothing known of them yet
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._loop.add_reader(sock.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                sock, peer = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _NO_ROOM:  # the listener stays readable: without a pause this would be all we do
                    self._loop.remove_reader(self._sock.fileno())
                    self._loop.call_later(_NO_ROOM_S, self._accept_again)
                return  # or the peer has left: the next round tries again
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            address = plain_address(str(peer[0])) if isinstance(peer, tuple) else ""
            core = self.core
            client: Client | None = None
            if len(self.greeted) < core.config.backlog and (not self.proxied or core.may_proxy(address)):
                # One address that says nothing must not take every place here: it has as many as it may have connections.
                client = core.clients.arrive(address, core.now, shared=self.proxied or core.is_trusted(address))
            if client is None:
                sock.close()
                continue
            self.greeted.add(_Greeting(self, sock, address, client))

    def _accept_again(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.add_reader(self._sock.fileno(), self._accept)

    def close(self) -> None:
        """Accept nobody any more; who was accepted is served."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()


class _Greeting:
    """One accepted socket until it is known what it speaks."""

    def __init__(self, door: Door, sock: socket.socket, address: str, client: Client) -> None:
        self._door = door
        self._client = client
        self._loop = door._loop
        self._sock = sock
        self._address = address
        self._proxied = door.proxied
        self._task: asyncio.Task[None] | None = None
        self._late = self._loop.call_later(_GREETING_S, self._drop)
        self._again: asyncio.TimerHandle | None = None
        self._loop.add_reader(sock.fileno(), self._look)

    def _drop(self) -> None:
        if self._task is None:
            self._end()
            self._sock.close()

    def _end(self) -> None:
        self._late.cancel()
        if self._again is not None:
            self._again.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._over()

    def _over(self) -> None:
        """Its place is free: it is gone, or a connection of its own from now on."""
        if self in self._door.greeted:
            self._door.greeted.discard(self)
            self._client.connections -= 1

    def _named(self, address: str) -> bool:
        """The balancer says who asks, and the place is theirs from now on; False when they hold too many."""
        core = self._door.core
        address = plain_address(address)
        client = core.clients.arrive(address, core.now)
        if client is None:
            return False
        self._client.connections -= 1
        self._address, self._client = address, client
        return True

    def _look(self) -> None:
        try:
            seen = self._sock.recv(proxy_protocol.PEEK_BYTES, socket.MSG_PEEK)
            if self._proxied and seen:
                header = proxy_protocol.read(seen)
                if header is None:
                    self._loop.remove_reader(self._sock.fileno())
                    self._again = self._loop.call_later(_LOOK_AGAIN_S, self._look)
                    return
                self._sock.recv(header.size)
                self._proxied = False
                seen = seen[header.size :]
                if header.address and not self._named(header.address):
                    seen = b""
                elif not seen:
                    self._loop.add_reader(self._sock.fileno(), self._look)
                    return
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, proxy_protocol.NotProxied):
            seen = b""
        if not seen:
            self._drop()
            return
        self._loop.remove_reader(self._sock.fileno())
        self._task = self._loop.create_task(self._serve(seen[0] == _TLS_RECORD))

    async def _serve(self, is_tls: bool) -> None:
        door, address = self._door, self._address
        context = door.certificates.context if door.certificates is not None and is_tls else None

        def made() -> asyncio.Protocol:
            if context is not None:
                return Negotiated(door.core, address, self._over)
            self._over()
            return ClientConnection(door.core, address) if door.certificates is None else PlainDoorConnection(door.core, address)

        try:
            timeout, closing = (_GREETING_S, _CLOSE_NOTIFY_S) if context is not None else (None, None)
            await self._loop.connect_accepted_socket(
                made, self._sock, ssl=context, ssl_handshake_timeout=timeout, ssl_shutdown_timeout=closing
            )
        except (OSError, asyncio.CancelledError):
            self._sock.close()
        finally:
            self._late.cancel()
            self._over()


class Negotiated(asyncio.Protocol):
    """Stands in until the handshake is over, then gives the connection to what ALPN chose."""

    def __init__(self, core: Core, address: str, greeted: Callable[[], None]) -> None:
        self._core = core
        self._address = address
        self._greeted = greeted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._greeted()
        chosen = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        protocol: asyncio.Protocol
        if chosen == "h2":
            protocol = Http2Connection(self._core, self._address)
        else:
            protocol = ClientConnection(self._core, self._address, b"https")
        with contextlib.suppress(AttributeError):
            transport.set_protocol(protocol)
        protocol.connection_made(transport)
