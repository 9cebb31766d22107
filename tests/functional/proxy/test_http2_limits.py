"""What one HTTP/2 client, or one address at the TLS door, may hold: streams, connections, places, answers it does not take."""

from __future__ import annotations

import asyncio
import errno
import ssl
from pathlib import Path
from typing import Any

import pytest

from control_plane.proxy.http2 import Http2Connection
from control_plane.proxy.tls import certificate_files
from tests.functional.proxy.certificates import certificate
from tests.functional.proxy.conftest import HOST, World


@pytest.fixture
def config(tmp_path: Path) -> dict[str, object]:
    return {"tls": certificate_files(certificate(tmp_path, "platform", "localhost", "*.localhost")), "public_url": "https://localhost:7860"}


async def _raw_http2(world: World) -> tuple[Any, asyncio.StreamReader, asyncio.StreamWriter]:
    from h2.config import H2Configuration
    from h2.connection import H2Connection

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection("127.0.0.1", world.proxy.port, ssl=context)
    raw = H2Connection(H2Configuration(header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False))
    raw.initiate_connection()
    return raw, reader, writer


async def _events(raw: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, until: str) -> list[Any]:
    """All events up to the first of the kind `until`, or to the end of the connection."""
    seen: list[Any] = []
    async with asyncio.timeout(60):
        while not any(type(event).__name__ == until for event in seen) and (data := await reader.read(65_536)):
            seen += raw.receive_data(data)
            writer.write(raw.data_to_send())
    return seen


_BASE = [(b":path", b"/"), (b":scheme", b"https"), (b":authority", HOST.encode())]


async def test_a_socket_over_http2_is_refused_and_its_connection_goes_on(world: World) -> None:
    """RFC 8441 is not offered: a client that tries it all the same loses that stream, not its others."""
    raw, reader, writer = await _raw_http2(world)
    raw.send_headers(1, [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *_BASE, (b"sec-websocket-version", b"13")])
    raw.send_headers(3, [(b":method", b"GET"), *_BASE], end_stream=True)
    writer.write(raw.data_to_send())
    events = await _events(raw, reader, writer, "StreamEnded")
    settings = {code: change.new_value for event in events for code, change in getattr(event, "changed_settings", {}).items()}
    assert not settings.get(8), "SETTINGS_ENABLE_CONNECT_PROTOCOL"
    events += await _events(raw, reader, writer, "StreamEnded") if not world.app.seen else []
    answers = {event.stream_id: dict(event.headers)[b":status"] for event in events if type(event).__name__ == "ResponseReceived"}
    assert answers.get(1, b"400") in (b"400", b"405", b"501")
    assert [seen.line for seen in world.app.seen] == ["GET / HTTP/1.1"]
    writer.close()


async def test_rapid_resets_end_the_connection(world: World) -> None:
    """CVE-2023-44487: a stream that is opened and reset at once costs us more than it costs the client."""
    raw, reader, writer = await _raw_http2(world)
    for number in range(1, 2 * 2_000, 2):
        raw.send_headers(number, [(b":method", b"GET"), *_BASE], end_stream=True)
        raw.reset_stream(number)
    writer.write(raw.data_to_send())
    events = await _events(raw, reader, writer, "ConnectionTerminated")
    (goodbye,) = [event for event in events if type(event).__name__ == "ConnectionTerminated"]
    assert goodbye.error_code == 11  # ENHANCE_YOUR_CALM
    writer.close()


async def test_an_answer_that_nobody_takes_is_dropped(world: World) -> None:
    raw, reader, writer = await _raw_http2(world)
    raw.update_settings({4: 0})  # SETTINGS_INITIAL_WINDOW_SIZE
    raw.send_headers(1, [(b":method", b"GET"), *_BASE], end_stream=True)
    writer.write(raw.data_to_send())
    await _events(raw, reader, writer, "ResponseReceived")
    connection = next(one for one in world.proxy.core.connections if isinstance(one, Http2Connection))
    stream = connection.streams[1]
    async with asyncio.timeout(60):
        while not stream.is_closing():
            await asyncio.sleep(0.001)
    connection.check(connection.deadline)
    assert 1 in connection.streams
    connection.check(connection.deadline + world.proxy.config.body_stall_s + 1)
    assert not connection.streams
    (reset,) = [event for event in await _events(raw, reader, writer, "StreamReset") if type(event).__name__ == "StreamReset"]
    assert reset.stream_id == 1
    writer.close()


async def test_http2_connections_are_counted_themselves(world: World) -> None:
    first, second = await _raw_http2(world), await _raw_http2(world)
    for raw, reader, writer in (first, second):
        writer.write(raw.data_to_send())
        await _events(raw, reader, writer, "RemoteSettingsChanged")
    object.__setattr__(world.proxy.config, "max_connections", 2)
    raw, reader, writer = await _raw_http2(world)
    writer.write(raw.data_to_send())
    events = await _events(raw, reader, writer, "ConnectionTerminated")
    assert [event.error_code for event in events if type(event).__name__ == "ConnectionTerminated"] == [11]
    for _raw, _reader, each in (first, second, (raw, reader, writer)):
        each.close()


async def test_without_descriptors_the_door_pauses_and_opens_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener that cannot accept stays readable: looked at without a pause it would take the whole core."""
    (door,) = world.proxy._doors
    looks = 0

    class Full:
        def fileno(self) -> int:
            return listener.fileno()

        def accept(self) -> None:
            nonlocal looks
            looks += 1
            raise OSError(errno.EMFILE, "no descriptor left")

    listener = door._sock
    with monkeypatch.context() as patched:
        patched.setattr(door, "_sock", Full())
        waiting = asyncio.create_task(_raw_http2(world))
        async with asyncio.timeout(60):
            while looks < 3:
                await asyncio.sleep(0.001)
        turns = looks
        for _ in range(50):
            await asyncio.sleep(0)
        assert looks < turns + 25  # without a pause: every turn
    async with asyncio.timeout(60):
        _raw, _reader, writer = await waiting
    writer.close()


async def test_there_are_no_more_connections_than_descriptors(world: World) -> None:
    core = world.proxy.core
    assert core.has_room()
    object.__setattr__(core.config, "descriptors", 128 + 3)
    core.upstreams = 3
    assert core.has_room()
    core.upstreams = 4
    assert not core.has_room()
    object.__setattr__(core.config, "descriptors", 0)
    assert core.has_room(), "no limit"


class TestWhoSaysNothing:
    """A place at the door is held without a word for ten seconds: no address may take them all."""

    @pytest.fixture
    def config(self, tmp_path: Path) -> dict[str, object]:
        files = certificate_files(certificate(tmp_path, "platform", "localhost", "*.localhost"))
        return {"tls": files, "proxy_protocol": True, "connections_per_client": 2, "public_url": "https://localhost:7860"}

    async def test_is_limited_by_address(self, world: World) -> None:
        wires = []
        for address in ("7.7.7.7", "7.7.7.7", "7.7.7.7", "8.8.8.8"):
            wire = await world.wire()
            await wire.send(b"PROXY TCP4 %b 10.0.0.1 1234 443\r\n" % address.encode())
            wires.append(wire)
            async with asyncio.timeout(60):
                while not world.proxy.core.clients.of(address, 0.0).connections:
                    await asyncio.sleep(0.001)
        assert await wires[2].eof() == b""
        (door,) = world.proxy._doors
        async with asyncio.timeout(60):
            while len(door.greeted) != 3:
                await asyncio.sleep(0.001)
        assert not wires[0].reader.at_eof() and not wires[3].reader.at_eof()
        await wires[0].close()  # and gets its place back
        async with asyncio.timeout(60):
            while world.proxy.core.clients.of("7.7.7.7", 0.0).connections != 1:
                await asyncio.sleep(0.001)
