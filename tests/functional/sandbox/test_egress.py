"""The gateway carries bytes truly: large answers, half-closed connections, names, many at once, and counts them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest

from control_plane.runtimes.process.floor import sandbox_report
from tests.functional.sandbox.places import Place

pytestmark = pytest.mark.skipif(not sandbox_report("egress").is_met, reason="this machine cannot isolate apps")

PAYLOAD = hashlib.sha256(b"seed").digest() * 100_000  # 3.2 MB


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers when the caller has closed its half: the digest of what came, then the payload."""
    asked = await reader.read()
    writer.write(hashlib.sha256(asked).hexdigest().encode() + PAYLOAD)
    await writer.drain()
    writer.close()
    await writer.wait_closed()


@pytest.fixture
async def mirror() -> AsyncIterator[int]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


@pytest.fixture
async def place(mirror: int) -> AsyncIterator[Place]:
    made = Place()
    made.runtime = made.new_runtime((f"127.0.0.1:{mirror}", f"localhost:{mirror}"))
    await made.runtime.start()
    yield made
    await made.runtime.close()
    made.remove()


async def test_bytes_pass_unchanged_both_ways_and_are_counted(place: Place, mirror: int) -> None:
    app = f"""
import hashlib, socket, threading
sent = bytes(range(256)) * 8000
def once(results):
    s = socket.create_connection(("127.0.0.1", {mirror}), 10)
    s.sendall(sent); s.shutdown(socket.SHUT_WR)
    got = b""
    while piece := s.recv(1 << 16): got += piece
    results.append((got[:64].decode() == hashlib.sha256(sent).hexdigest(), hashlib.sha256(got[64:]).hexdigest()))
results = []
threads = [threading.Thread(target=once, args=(results,)) for _ in range(5)]
[t.start() for t in threads]; [t.join() for t in threads]
print(len(results), set(results), flush=True)
socket.create_server(("0.0.0.0", 7860)).accept()
"""
    spec = place.spec(app)
    await place.runtime.apply(spec)
    await place.poke(spec)
    egress = place.runtime.egress_of(spec.replica_id)
    assert egress is not None
    async with asyncio.timeout(60):
        while not place.lines or egress.traffic.transports:  # a connection whose halves have both ended is closed
            await asyncio.sleep(0.01)
    assert place.lines == [f"5 {{(True, '{hashlib.sha256(PAYLOAD).hexdigest()}')}}"]
    assert dict(egress.allowed) == {f"127.0.0.1:{mirror}": 5}
    assert (egress.traffic.sent_bytes, egress.traffic.received_bytes) == (5 * 2_048_000, 5 * (64 + len(PAYLOAD)))


async def test_names_are_answered_over_udp_and_tcp(place: Place) -> None:
    app = """
import socket, struct
query = struct.pack("!HHHHHH", 9, 0x100, 1, 0, 0, 0) + b"\\x09localhost\\0" + struct.pack("!HH", 1, 1)
for server in ("198.18.0.53", "8.8.8.8"):
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(5); u.connect((server, 53)); u.send(query)
    print(socket.inet_ntoa(u.recv(512)[-4:]))
t = socket.create_connection(("198.18.0.53", 53), 5); t.sendall(struct.pack("!H", len(query)) + query)
print(socket.inet_ntoa(t.recv(512)[-4:]))
u.send(b"x" * 20); print(len(u.recv(512)))
"""
    seen = await place.until_end(place.spec(app))
    assert seen.log_tail == ("127.0.0.1", "127.0.0.1", "127.0.0.1", "12"), seen


async def test_what_was_refused_is_told_to_the_owner_once(place: Place) -> None:
    app = """
import urllib.request
for _ in range(3):
    try: urllib.request.urlopen("http://169.254.169.254/latest/meta-data/", timeout=5)
    except OSError: pass
"""
    spec = place.spec(app)
    await place.until_end(spec)
    said = [line for line in place.lines if "169.254.169.254" in line]
    assert said == ["[network: 169.254.169.254:80 was refused: private and local addresses are never reachable]"]
    egress = place.runtime.egress_of(spec.replica_id)
    assert egress is not None
    assert egress.denied["169.254.169.254:80"] == 3
