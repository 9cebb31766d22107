"""TLS, HTTP/2 and PROXY headers at the listener, spoken by httpx, curl, websockets and raw sockets."""

from __future__ import annotations

import asyncio
import gzip
import os
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from control_plane.domain.errors import Rejected
from control_plane.domain.routes import Endpoint, EndpointKind, RouteState
from control_plane.proxy.tls import certificate_files
from tests.functional.proxy.certificates import certificate
from tests.functional.proxy.conftest import HOST, Seen, World

OTHER = "bob-demo.localhost"


@pytest.fixture
def config(tmp_path: Path) -> dict[str, object]:
    pairs = ",".join((certificate(tmp_path, "platform", "localhost", "*.localhost"), certificate(tmp_path, "bob", OTHER)))
    return {"tls": certificate_files(pairs), "public_url": "https://localhost:7860", "platform_hosts": ("hub.inner",)}


def _client(world: World, *, http2: bool = True) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=f"https://127.0.0.1:{world.proxy.port}", headers={"Host": HOST}, verify=False, http2=http2, trust_env=False, timeout=20
    )


async def _served_name(world: World, name: str | None) -> str:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _reader, writer = await asyncio.open_connection("127.0.0.1", world.proxy.port, ssl=context, server_hostname=name or "")
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    return str(x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


async def test_http2_and_http1_reach_the_app_with_the_same_trust_headers(world: World) -> None:
    for http2, version in ((True, "HTTP/2"), (False, "HTTP/1.1")):
        async with _client(world, http2=http2) as client:
            answer = await client.get("/a?b=1", headers={"Cookie": "x=1", "X-Forwarded-Proto": "gopher", "X-Forwarded-For": "9.9.9.9"})
            assert (answer.http_version, answer.status_code) == (version, 200)
            assert answer.headers["x-vitrine-revision"] == "f" * 40
            seen = world.app.seen[-1]
            assert seen.line == "GET /a?b=1 HTTP/1.1"
            assert seen.header("x-forwarded-proto") == ["https"]
            assert seen.header("x-forwarded-for") == ["127.0.0.1"]
            assert seen.header("host") == [HOST]
            assert seen.header("cookie") == ["x=1"]


async def test_many_streams_share_one_connection(world: World) -> None:
    async with _client(world) as client:
        answers = await asyncio.gather(*(client.get(f"/{n}") for n in range(300)))
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["line"] for answer in answers} == {f"GET /{n} HTTP/1.1" for n in range(300)}


async def test_http2_uploads_of_known_and_unknown_length(world: World) -> None:
    async def blocks():  # type: ignore[no-untyped-def]
        for _ in range(60):
            yield b"x" * 50_000

    async with _client(world) as client:
        for content in (blocks(), b"y" * 3_000_000):
            answer = await client.post("/up", content=content)
            assert answer.json()["size"] == 3_000_000


async def test_http2_answers_of_every_framing_arrive_whole(world: World) -> None:
    body = os.urandom(2_000_000)

    async def script(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        kind = seen.line.split(" ")[1]
        if kind == "/chunked":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for at in range(0, len(body), 70_001):
                piece = body[at : at + 70_001]
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            writer.write(b"0\r\n\r\n")
        elif kind == "/eof":
            writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + body)
            await writer.drain()
            return False
        elif kind == "/empty":
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        elif kind == "/gzip":
            packed = gzip.compress(body)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(packed), packed))
        elif kind == "/short":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            await writer.drain()
            return False
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + (b"" if seen.line[:4] == "HEAD" else body))
        await writer.drain()
        return True

    world.app.script = script
    async with _client(world) as client:
        for path in ("/length", "/chunked", "/eof", "/gzip"):
            assert (await client.get(path)).content == body, path
        assert (await client.get("/empty")).status_code == 204
        head = await client.head("/length")
        assert (head.headers["content-length"], head.content) == (str(len(body)), b"")
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/short")
        assert (await client.get("/length")).content == body  # the connection outlives the broken stream


async def test_an_event_stream_arrives_event_by_event(world: World) -> None:
    go = asyncio.Event()

    async def script(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\nb\r\ndata: one\n\n\r\n")
        await writer.drain()
        await go.wait()
        writer.write(b"9\r\ndata: two\r\n0\r\n\r\n")
        await writer.drain()
        return True

    world.app.script = script
    async with _client(world) as client, client.stream("GET", "/events") as answer:
        pieces = answer.aiter_bytes()
        assert b"one" in await anext(pieces)
        go.set()
        assert b"two" in await anext(pieces)


async def test_a_slow_reader_holds_the_app_back(world: World) -> None:
    """Back-pressure through both windows: the proxy takes a bounded part of an answer nobody reads."""
    sent = 0

    async def script(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 200000000\r\n\r\n")
        while sent < 200_000_000:
            writer.write(bytes(1_000_000))
            await asyncio.wait_for(writer.drain(), 1.5)
            sent += 1_000_000
        return True

    world.app.script = script
    async with _client(world) as client, client.stream("GET", "/big"):
        async with asyncio.timeout(60):
            while not world.app._tasks or not all(task.done() for task in world.app._tasks):
                await asyncio.sleep(0.05)
                if not world.app._tasks:
                    break
        assert sent < 20_000_000


async def test_wake_and_refusals_over_http2(world: World) -> None:
    await world.put(state=RouteState.ASLEEP, endpoints=())
    async with _client(world) as client:
        page = await client.get("/", headers={"Accept": "text/html", "Sec-Fetch-Mode": "navigate"})
        assert (page.status_code, page.headers["x-vitrine-error"]) == (503, "SPACE_STARTING")
        held = asyncio.create_task(client.post("/api", content=b"{}"))
        async with asyncio.timeout(60):
            while not world.proxy.core.activator.count:
                await asyncio.sleep(0.001)
        await world.put()
        answer = await held
        assert (answer.status_code, answer.json()["size"]) == (200, 2)
        stranger = await client.get("/", headers={"Host": "nobody.localhost"})
        assert (stranger.status_code, stranger.headers["x-vitrine-error"]) == (404, "NOT_FOUND")


async def test_what_http1_would_split_never_leaves_http2(world: World) -> None:
    """Line breaks, spaces and doubled authorities in HTTP/2 fields: each a classic of downgrade smuggling."""
    from h2.config import H2Configuration
    from h2.connection import H2Connection

    base = [(b":method", b"GET"), (b":path", b"/"), (b":scheme", b"https"), (b":authority", HOST.encode())]
    bad = [
        [*base, (b"x", b"1\r\nGET /evil HTTP/1.1")],
        [*base, (b"x\r\ny", b"1")],
        [*base, (b"x", b"1\n2")],
        [*base, (b"host", b"other.localhost")],
        [(b":method", b"GET / HTTP/1.1\r\nX: y"), *base[1:]],
        [base[0], (b":path", b"/ HTTP/1.1\r\nX: y"), *base[2:]],
        [base[0], (b":path", b"/a b"), *base[2:]],
        [*base[:3], (b":authority", b"a.localhost\r\nX: y")],
        [*base, (b"transfer-encoding", b"chunked")],
        [*base, (b"content-length", b"5"), (b"content-length", b"6")],
        [(b":method", b"POST"), *base[1:], (b"content-length", b"5, 5")],
    ]
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    for headers in bad:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.proxy.port, ssl=context)
        raw = H2Connection(H2Configuration(header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False))
        raw.initiate_connection()
        raw.send_headers(1, headers, end_stream=True)
        writer.write(raw.data_to_send())
        async with asyncio.timeout(60):
            status = None
            while status is None:
                data = await reader.read(65_536)
                if not data:
                    break
                for event in raw.receive_data(data):
                    if type(event).__name__ == "ResponseReceived":
                        status = int(dict(event.headers)[b":status"])  # type: ignore[attr-defined]
                    elif type(event).__name__ in ("StreamReset", "ConnectionTerminated"):
                        status = 0
        assert status in (None, 0, 400), (headers, status)
        writer.close()
    assert world.app.seen == []


async def test_sockets_pass_over_tls(world: World) -> None:
    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with serve(echo, "127.0.0.1", 0, max_size=2**22) as server:
        port = server.sockets[0].getsockname()[1]
        await world.put(endpoints=(Endpoint(EndpointKind.TCP, f"127.0.0.1:{port}"),))
        async with connect(f"wss://{HOST}/ws", host="127.0.0.1", port=world.proxy.port, ssl=context, max_size=2**22) as client:
            for size in (1, 200_000, 2_000_000):
                await client.send(b"x" * size)
                assert len(await client.recv()) == size


async def test_sni_chooses_and_a_renewed_file_is_served_without_a_restart(world: World, tmp_path: Path) -> None:
    assert await _served_name(world, OTHER) == "bob"
    assert await _served_name(world, HOST) == "platform"
    assert await _served_name(world, "elsewhere.example") == "platform"
    (tmp_path / "new").mkdir()
    certificate(tmp_path / "new", "renewed", OTHER)
    (tmp_path / "bob.key").write_text("half a file")
    (tmp_path / "bob.crt").write_bytes((tmp_path / "new" / "renewed.crt").read_bytes())
    certificates = world.proxy._certificates
    assert certificates is not None
    assert not certificates.reload()
    assert await _served_name(world, OTHER) == "bob"  # a half-written pair leaves the old one in service
    os.replace(tmp_path / "new" / "renewed.key", tmp_path / "bob.key")
    assert certificates.reload()
    assert await _served_name(world, OTHER) == "renewed"


async def test_plain_http_is_sent_to_https_apart_from_the_inner_name(world: World) -> None:
    answer = await world.get("/x?y=1")
    assert (answer.status, answer.headers["location"]) == (308, f"https://{HOST}:7860/x?y=1")
    assert world.app.seen == []
    inner = await world.get("/api/whoami-v2", host="hub.inner")
    assert inner.status == 200
    assert world.api.seen[-1].header("x-forwarded-proto") == ["http"]
    bad = await world.ask(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n")
    assert bad.status == 400


async def test_an_open_http2_connection_is_told_to_go_and_finishes_its_stream(world: World) -> None:
    go = asyncio.Event()

    async def script(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await go.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")
        await writer.drain()
        return True

    world.app.script = script
    async with _client(world) as client:
        late = asyncio.create_task(client.get("/"))
        async with asyncio.timeout(60):
            while not world.app.seen:
                await asyncio.sleep(0.001)
        stopping = asyncio.create_task(world.proxy.stop(5))
        async with asyncio.timeout(60):
            while not world.proxy.core.draining:
                await asyncio.sleep(0.001)
        go.set()
        assert (await late).text == "done"
        await stopping


@pytest.mark.skipif(shutil.which("curl") is None and not os.environ.get("CI"), reason="curl is not installed")
async def test_curl_speaks_http2(world: World) -> None:
    command = ["curl", "-sk", "--http2", "--noproxy", "*", "-o", "/dev/null", "-w", "%{http_version} %{http_code}",
               "--resolve", f"{HOST}:{world.proxy.port}:127.0.0.1", f"https://{HOST}:{world.proxy.port}/"]  # fmt: skip
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=20)
    assert done.stdout == "2 200"


def test_a_missing_certificate_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="there is no file"):
        certificate_files(f"{tmp_path}/none.pem")


class TestBehindALoadBalancer:
    @pytest.fixture
    def config(self) -> dict[str, object]:
        return {"proxy_protocol": True, "trusted_proxies": ("127.0.0.0/8",)}

    async def test_version_1_and_2_name_the_client(self, world: World) -> None:
        request = f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
        second = b"\r\n\r\n\0\r\nQUIT\n"
        v4 = socket.inet_aton("203.0.113.7") + socket.inet_aton("127.0.0.1") + b"\x30\x39\x1e\xb4"
        v6 = socket.inet_pton(socket.AF_INET6, "2001:db8::7") + bytes(16) + bytes(4)
        for header, address in (
            (b"PROXY TCP4 203.0.113.9 127.0.0.1 5000 80\r\n", "203.0.113.9"),
            (b"PROXY TCP6 2001:db8::9 ::1 5000 80\r\n", "2001:db8::9"),
            (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
            (second + b"\x21\x11\x00\x0c" + v4, "203.0.113.7"),
            (second + b"\x21\x21\x00\x24" + v6, "2001:db8::7"),
            (second + b"\x21\x11\x00\x10" + v4 + b"\x04\0\x01x", "203.0.113.7"),
            (second + b"\x20\x00\x00\x00", "127.0.0.1"),
        ):
            answer = await world.ask(header + request)
            assert answer.status == 200
            assert world.app.seen[-1].header("x-forwarded-for") == [address]

    async def test_a_header_in_pieces_is_waited_for(self, world: World) -> None:
        wire = await world.wire()
        for piece in (b"PRO", b"XY TCP4 203.0.113.9 127.0.0.1 50", b"00 80\r\nGET / HTT", f"P/1.1\r\nHost: {HOST}\r\n\r\n".encode()):
            await wire.send(piece)
            await asyncio.sleep(0.03)  # pieces must arrive apart: that is the case under test
        assert (await wire.answer()).status == 200
        assert world.app.seen[-1].header("x-forwarded-for") == ["203.0.113.9"]

    async def test_what_is_not_a_header_is_closed_without_a_byte(self, world: World) -> None:
        second = b"\r\n\r\n\0\r\nQUIT\n"
        for bad in (
            f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode(), b"PROXY TCP4 1.2.3 127.0.0.1 1 2\r\n", b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 99999\r\n", b"PROXY " + b"x" * 200, second + b"\x31\x11\x00\x0c" + bytes(12),
            second + b"\x21\x11\xff\xff", second + b"\x21\x31\x00\xd8" + bytes(216),
        ):  # fmt: skip
            wire = await world.wire()
            await wire.send(bad)
            try:
                assert await wire.eof() == b""
            except ConnectionResetError:
                pass
        assert world.app.seen == []


class TestBehindAStrangersBalancer:
    @pytest.fixture
    def config(self) -> dict[str, object]:
        return {"proxy_protocol": True, "trusted_proxies": ("192.0.2.0/24",)}

    async def test_a_header_from_outside_the_list_is_not_read(self, world: World) -> None:
        wire = await world.wire()
        try:
            await wire.send(b"PROXY TCP4 203.0.113.9 127.0.0.1 5000 80\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await wire.eof() == b""
        except ConnectionResetError:
            pass
        assert world.app.seen == []
