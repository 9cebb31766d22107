"""Two Spaces under one domain, in a real Chromium: the page of one tries to use what its visitor may see of the other.

On a domain of the operator's own, Spaces are one site to a browser: it attaches the edge cookie of a private Space to whatever
the neighbour's page asks of it. On *.localhost they are sites of their own, so this needs a domain and a resolver that knows it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import shutil
import socket
from pathlib import Path

import pytest
from playwright.async_api import Page, async_playwright

from control_plane.domain.ids import SpaceId
from control_plane.domain.routes import RouteAccess
from control_plane.proxy.tls import certificate_files
from tests.functional.proxy.certificates import certificate
from tests.functional.proxy.conftest import Seen, World

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
PRIVATE, NEIGHBOUR = "alice-diary.apps.example", "mallory-toy.apps.example"
ASK = "([url, options]) => fetch(url, options).then(answer => answer.text(), error => 'refused')"
SOCKET = """url => new Promise(told => {
  const socket = new WebSocket(url);
  socket.onopen = () => socket.send("hello");
  socket.onmessage = event => told(event.data);
  socket.onerror = () => told("refused");
})"""

pytestmark = pytest.mark.skipif(not CHROMIUM and not os.environ.get("CI"), reason="Chromium is not installed")


@pytest.fixture
def config(tmp_path: Path) -> dict[str, object]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    files = certificate_files(certificate(tmp_path, "apps", "*.apps.example"))
    return {"port": port, "public_url": f"https://platform.example:{port}", "apps_domain": "apps.example", "tls": files}


async def app(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Like Gradio, it lets every origin read with credentials; and it echoes what a socket says."""
    if key := seen.header("sec-websocket-key"):
        accept = base64.b64encode(hashlib.sha1(f"{key[0]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest())
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %b\r\n\r\n" % accept
        )
        await reader.readexactly(6 + 5)
        writer.write(b"\x81\x06secret")
        await reader.read()
        return False
    if length := seen.header("content-length"):
        await reader.readexactly(int(length[0]))
    origin = (seen.header("origin") or ["null"])[0].encode()
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\nAccess-Control-Allow-Origin: %b\r\n"
        b"Access-Control-Allow-Credentials: true\r\n\r\nsecret" % origin
    )
    return True


async def tried(tab: Page, inside: str) -> list[str]:
    """What the page in `tab` gets of `inside`: by fetch, by a form's method, by socket."""
    got = [await tab.evaluate(ASK, [f"{inside}/read", {"credentials": "include"}])]
    got.append(await tab.evaluate(ASK, [f"{inside}/write", {"method": "POST", "credentials": "include", "body": "x"}]))
    got.append(await tab.evaluate(SOCKET, inside.replace("https", "wss") + "/ws"))
    return got


async def test_only_the_apps_own_page_uses_its_visitors_cookie(world: World) -> None:
    world.app.script = app
    world.allowed |= {"sign": {"proof"}, "cookie": {"proof"}}
    await world.put(host=PRIVATE, space_id=SpaceId("b" * 24), space_name="alice/diary", access=RouteAccess.PRIVATE)
    await world.put(host=NEIGHBOUR, space_id=SpaceId("c" * 24), space_name="mallory/toy")
    inside, outside = (f"https://{host}:{world.proxy.port}" for host in (PRIVATE, NEIGHBOUR))
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            timeout=120_000,
            args=["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP *.example 127.0.0.1"],
        )
        try:
            context = await browser.new_context(ignore_https_errors=True)
            context.set_default_timeout(60_000)
            tab = await context.new_page()
            await tab.goto(f"{inside}/?__sign=proof")
            assert await tried(tab, inside) == ["secret"] * 3
            diary = [one.line for one in world.app.seen]
            await tab.goto(outside)
            assert await tried(tab, inside) == ["refused"] * 3
            await tab.evaluate(
                "url => new Promise(done => { const p = new Image(); p.onload = p.onerror = done; p.src = url })", f"{inside}/picture"
            )
            assert [one.line for one in world.app.seen if one.header("x-forwarded-host")[0].startswith(PRIVATE)] == diary
            async with tab.expect_navigation():
                await tab.evaluate("url => { location = url }", f"{inside}/link")
            assert await tab.inner_text("body") == "secret", "a link to it is a visit like any other"
        finally:
            await browser.close()
