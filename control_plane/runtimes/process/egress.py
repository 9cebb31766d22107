"""The egress gateway: the only way from a replica to the outside. asyncio; standard library only.

The launcher hands out listening sockets that live in the replica's network namespace, where every address is local.
What is accepted on them is what the app called: its destination is the accepted socket's own address. The gateway
judges that address, connects from the outer network and copies bytes. Names are resolved here, by the same judgement.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine

from control_plane.background import ended
from control_plane.runtimes.process.egress_pipe import Pipe, Traffic
from control_plane.runtimes.process.egress_policy import (
    FORMAT_ERROR,
    HUB_ADDRESS,
    NAME_ERROR,
    NO_ERROR,
    REFUSED,
    SERVER_FAILURE,
    TYPE_A,
    TYPE_AAAA,
    EgressPolicy,
    Question,
    is_forbidden,
    parse_question,
)

CONNECT_TIMEOUT_S = 15.0
MAX_CONNECTIONS = 512
MAX_QUESTIONS = 64
_NAME_TTL_S = 30.0
_MAX_NAMES = 256
_IP_PKTINFO = 8

Listener = tuple[str, int, socket.socket]


class Egress:
    """What one replica (or build step) may call. `denied` and `allowed` count by "address:port"; `traffic` has the bytes."""

    def __init__(self, policy: EgressPolicy, *, on_denied: Callable[[str, str], None] | None = None) -> None:
        self.policy = policy
        self.allowed: Counter[str] = Counter()
        self.denied: Counter[str] = Counter()
        self.traffic = Traffic()
        self.on_denied = on_denied
        self._listeners: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._names: dict[tuple[str, int], tuple[float, list[str]]] = {}
        self._questions = 0

    def attach(self, listeners: list[Listener]) -> None:
        """Begin to answer on these sockets; they are closed by `close()`."""
        loop = asyncio.get_running_loop()
        for kind, port, sock in listeners:
            sock.setblocking(False)
            self._listeners.append(sock)
            if kind == "udp":
                loop.add_reader(sock.fileno(), self._on_datagram, sock)
            else:
                self._spawn(self._accept(sock, is_dns=port == 53))

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        await ended(*self._tasks)
        for transport in list(self.traffic.transports):
            transport.abort()
        for sock in self._listeners:
            loop.remove_reader(sock.fileno())
            sock.close()
        self._listeners.clear()
        await asyncio.sleep(0)

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket, *, is_dns: bool) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError:
                await asyncio.sleep(0.05)  # out of descriptors, or the client went: neither may end the loop
                continue
            if len(self._tasks) >= MAX_CONNECTIONS or len(self.traffic.transports) >= 2 * MAX_CONNECTIONS:
                self._refuse(client, "too many connections at once")
            elif is_dns:
                self._spawn(self._answer_stream(client))
            else:
                self._spawn(self._carry(client))

    # ── connections ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _carry(self, client: socket.socket) -> None:
        address, port = client.getsockname()[:2]
        try:
            upstream = await self._open(address, port)
        except _Denied as error:
            self._refuse(client, str(error))
            return
        except (OSError, TimeoutError):
            _reset(client)
            return
        except BaseException:
            client.close()
            raise
        self.allowed[f"{address}:{port}"] += 1
        loop = asyncio.get_running_loop()
        inward, outward = Pipe(self.traffic, sends=True), Pipe(self.traffic, sends=False)
        try:
            await loop.connect_accepted_socket(lambda: inward, client)
            await loop.create_connection(lambda: outward, sock=upstream)
        except OSError:
            client.close()
            upstream.close()
            return
        inward.join(outward)

    async def _open(self, address: str, port: int) -> socket.socket:
        if address.startswith("::ffff:"):
            address = address.removeprefix("::ffff:")
        if address == HUB_ADDRESS:
            return await self._open_hub()
        if not await self._is_allowed_pair(address, port):
            if port not in self.policy.ports:
                raise _Denied(f"port {port} is not open to apps")
            if is_forbidden(address) or _is_own(address):
                raise _Denied("private and local addresses are never reachable")
        return await _connect((address, port), socket.AF_INET6 if ":" in address else socket.AF_INET)

    async def _open_hub(self) -> socket.socket:
        upstream = self.policy.hub_upstream
        if not upstream:
            raise _Denied("no Hub endpoint is configured")
        if upstream.startswith("/"):
            return await _connect(upstream, socket.AF_UNIX)
        host, _, port = upstream.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        found = await asyncio.get_running_loop().getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
        return await _connect(found[0][4], found[0][0])

    async def _is_allowed_pair(self, address: str, port: int) -> bool:
        for name, open_port in self.policy.allow:
            if port == open_port and (address == name or address in await self._resolve(name, TYPE_AAAA if ":" in address else TYPE_A)):
                return True
        return False

    def _refuse(self, client: socket.socket, why: str) -> None:
        try:
            address, port = client.getsockname()[:2]
        except OSError:
            address, port = "?", 0
        _reset(client)
        self._deny(f"{address}:{port}", why)

    def _deny(self, target: str, why: str) -> None:
        if target in self.denied or len(self.denied) < 1000:
            self.denied[target] += 1
        if self.on_denied is not None:
            self.on_denied(target, why)

    # ── names ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _on_datagram(self, sock: socket.socket) -> None:
        try:
            message, ancillary, _, client = sock.recvmsg(1500, 256)
        except OSError:
            return
        if self._questions >= MAX_QUESTIONS:
            return
        self._spawn(self._answer_datagram(sock, message, client, _source(ancillary)))

    async def _answer_datagram(self, sock: socket.socket, message: bytes, client: object, source: list[tuple[int, int, bytes]]) -> None:
        reply = await self._answer(message)
        if reply is not None:
            with contextlib.suppress(OSError):
                sock.sendmsg([reply], source, 0, client)  # type: ignore[arg-type]

    async def _answer_stream(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        client.setblocking(False)
        with contextlib.closing(client), contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(10):
                buffer = b""
                while len(buffer) < 2 or len(buffer) < 2 + int.from_bytes(buffer[:2]):
                    piece = await loop.sock_recv(client, 2048)
                    if not piece:
                        return
                    buffer += piece
                reply = await self._answer(buffer[2:])
                if reply is not None:
                    await loop.sock_sendall(client, struct.pack("!H", len(reply)) + reply)

    async def _answer(self, message: bytes) -> bytes | None:
        question = parse_question(message)
        if question is None:
            return message[:2] + struct.pack("!HHHHH", 0x8080 | FORMAT_ERROR, 0, 0, 0, 0) if len(message) >= 12 else None
        self._questions += 1
        try:
            return await self._judge(question)
        finally:
            self._questions -= 1

    async def _judge(self, question: Question) -> bytes:
        if question.name in self.policy.hub_hosts:
            return question.answer(NO_ERROR, [HUB_ADDRESS] if question.kind == TYPE_A else [])
        if self.policy.is_refused_name(question.name):
            self._deny(question.name, "tokens of this platform must not reach the public Hub; ask HF_ENDPOINT, or the operator to open it")
            return question.answer(NAME_ERROR, [])
        if question.kind not in (TYPE_A, TYPE_AAAA):
            return question.answer(NO_ERROR, [])
        if question.kind == TYPE_AAAA and not _has_ipv6():
            return question.answer(NO_ERROR, [])  # a connection that cannot succeed must not look open to the app
        try:
            found = await self._resolve(question.name, question.kind)
        except socket.gaierror as error:
            gone = error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
            return question.answer(NAME_ERROR if gone else SERVER_FAILURE, [])
        public = found if self.policy.is_allowed_name(question.name) else [a for a in found if not is_forbidden(a)]
        if found and not public:
            self._deny(question.name, "the name leads to a private address")
            return question.answer(REFUSED, [])
        return question.answer(NO_ERROR, public)

    async def _resolve(self, name: str, kind: int) -> list[str]:
        """Addresses of `name` by the machine's own resolver, kept for 30 s. Raises gaierror."""
        kept = self._names.get((name, kind))
        now = time.monotonic()
        if kept is not None and kept[0] > now:
            return kept[1]
        family = socket.AF_INET6 if kind == TYPE_AAAA else socket.AF_INET
        # The final dot keeps the machine's search domains out; the operator's own names may be in /etc/hosts.
        asked = name if self.policy.is_allowed_name(name) else name + "."
        try:
            rows = await asyncio.get_running_loop().getaddrinfo(asked, None, family=family, type=socket.SOCK_STREAM)
        except UnicodeError as error:
            raise socket.gaierror(socket.EAI_NONAME, "not a host name") from error
        found = list(dict.fromkeys(str(row[4][0]) for row in rows))
        if len(self._names) >= _MAX_NAMES:
            self._names.pop(next(iter(self._names)))
        self._names[name, kind] = (now + _NAME_TTL_S, found)
        return found


class _Denied(Exception):
    pass


async def _connect(address: object, family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if family != socket.AF_UNIX:  # the second piece of what an app sends must not wait until the first is acknowledged
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await asyncio.get_running_loop().sock_connect(sock, address)  # type: ignore[arg-type]
    except BaseException:
        sock.close()
        raise
    return sock


def _reset(client: socket.socket) -> None:
    """Close with a reset, so that the app sees a refused connection and not an empty answer."""
    with contextlib.suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def _is_own(address: str) -> bool:
    """Whether `address` belongs to this machine: its services on public addresses are not for apps either."""
    with contextlib.closing(socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        try:
            sock.bind((address, 0))
        except OSError:
            return False
        return True


def _has_ipv6() -> bool:
    try:
        with contextlib.closing(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as sock:
            sock.connect(("2001:4860:4860::8888", 53))  # a route look-up; nothing is sent
            return not is_forbidden(sock.getsockname()[0])
    except OSError:
        return False


def _source(ancillary: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """The control message that makes a reply come from the address that was asked."""
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            return [(level, kind, struct.pack("=I4s4s", 0, data[8:12], b"\0" * 4))]
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            return [(level, kind, data)]
    return []


def receive_listeners(raw: bytes, ancillary: list[tuple[int, int, bytes]]) -> list[Listener]:
    """The sockets of a `listeners` packet."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    kinds = json.loads(raw)["kinds"]
    return [(str(kind), int(port), socket.socket(fileno=fd)) for (kind, port), fd in zip(kinds, fds, strict=True)]


def serve_inline(channel: socket.socket, options: object) -> None:
    """The launcher's own gateway: serve until the launcher ends. Refusals go to stderr, where the build log has them."""
    raw, ancillary, _, _ = channel.recvmsg(65536, socket.CMSG_SPACE(4 * 64))
    if not raw:
        return
    said: set[str] = set()

    def on_denied(target: str, why: str) -> None:
        if target not in said and len(said) < 50:
            said.add(target)
            sys.stderr.write(f"network: {target} refused: {why}\n")

    async def serve() -> None:
        egress = Egress(EgressPolicy.from_spec(options), on_denied=on_denied)
        egress.attach(receive_listeners(raw, ancillary))
        closed = asyncio.Event()
        asyncio.get_running_loop().add_reader(channel.fileno(), closed.set)
        await closed.wait()
        await egress.close()

    asyncio.run(serve())
