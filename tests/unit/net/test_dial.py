from __future__ import annotations

import array
import asyncio
import contextlib
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from control_plane.domain.routes import Endpoint, EndpointKind
from control_plane.net.dial import DialError, dial
from control_plane.net.listen import Address, listen_tcp
from control_plane.net.probe import probe


@pytest.fixture
def short_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="v"))
    yield path
    shutil.rmtree(path)


async def test_what_is_listened_on_answers_at_once() -> None:
    """Connections that asyncio takes from it do not gather small packets."""
    taken: asyncio.Queue[bool] = asyncio.Queue()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        taken.put_nowait(bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
        writer.close()
        await writer.wait_closed()

    listener = listen_tcp(Address("127.0.0.1", 0))
    server = await asyncio.start_server(serve, sock=listener)
    async with server:
        _, writer = await asyncio.open_connection(*listener.getsockname())
        assert await taken.get()
        writer.close()
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def answering(reply: bytes, path: Path | None = None) -> AsyncIterator[Endpoint]:
    handlers: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    if path is not None:
        server = await asyncio.start_unix_server(serve, path)
        endpoint = Endpoint(EndpointKind.UNIX, str(path))
    else:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        endpoint = Endpoint(EndpointKind.TCP, f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    async with server:
        yield endpoint
        await asyncio.sleep(0)
        await asyncio.gather(*handlers)


async def test_tcp_and_unix_connect_and_do_not_block(short_dir: Path) -> None:
    for path in (None, short_dir / "a.sock"):
        async with answering(b"", path) as endpoint:
            sock = await dial(endpoint, 2)
            assert not sock.getblocking()
            sock.close()


async def test_refused_and_bad_addresses_are_dial_errors(short_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    for kind, address in (
        (EndpointKind.TCP, f"127.0.0.1:{port}"),
        (EndpointKind.TCP, "nonsense"),
        (EndpointKind.UNIX, str(short_dir / "none.sock")),
        (EndpointKind.DOOR, str(short_dir / "none.sock")),
    ):
        with pytest.raises(DialError) as caught:
            await dial(Endpoint(kind, address), 2)
        assert not caught.value.timed_out


async def test_a_door_hands_out_a_socket_made_elsewhere(short_dir: Path) -> None:
    ours, theirs = socket.socketpair()
    path = short_dir / "door.sock"

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        assert connection.recv(1) == b"c"
        connection.sendmsg([b"k"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()]))])
        connection.close()

    with ours, theirs, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        task = asyncio.create_task(asyncio.to_thread(serve, listener))
        sock = await dial(Endpoint(EndpointKind.DOOR, str(path)), 2)
        await task
        with sock:
            ours.sendall(b"hello")
            assert await asyncio.get_running_loop().sock_recv(sock, 10) == b"hello"


async def test_a_door_that_answers_with_text_says_why(short_dir: Path) -> None:
    path = short_dir / "door.sock"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"connection refused")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_unix_server(serve, path):
        with pytest.raises(DialError, match="connection refused"):
            await dial(Endpoint(EndpointKind.DOOR, str(path)), 2)


async def test_a_silent_door_times_out(short_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(short_dir / "door.sock"))
        listener.listen()
        with pytest.raises(DialError) as caught:
            await dial(Endpoint(EndpointKind.DOOR, str(short_dir / "door.sock")), 0.05)
        assert caught.value.timed_out


@pytest.mark.parametrize(
    ("reply", "ok", "status"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", True, 200),
        (b"HTTP/1.0 404 Not Found\r\n\r\n", True, 404),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 401 No\r\n\r\n", True, 401),
        (b"HTTP/1.1 500 Oh\r\n\r\n", False, 500),
        (b"SSH-2.0-x\r\n\r\n", False, None),
        (b"", False, None),
    ],
)
async def test_probe_reads_only_the_status(reply: bytes, ok: bool, status: int | None) -> None:
    async with answering(reply) as endpoint:
        result = await probe(endpoint, "a.localhost")
    assert (result.ok, result.status, result.error == "") == (ok, status, ok)


async def test_probe_refuses_a_target_that_would_split_the_request() -> None:
    result = await probe(Endpoint(EndpointKind.TCP, "127.0.0.1:1"), "a", "/x\r\nEvil: 1")
    assert not result.ok and result.status is None
