"""A private app inside the platform's page, in a real Chromium: the edge cookie of the frame survives reloads and links.

The platform's page and the app are of different sites to a browser, also on *.localhost. So the cookie is a third party's
there, and where browsers refuse those only a partitioned one is kept. Plain http on *.localhost counts as secure to Chromium.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from pathlib import Path

import pytest
from playwright.async_api import Page, async_playwright

from control_plane.domain.routes import RouteAccess
from control_plane.proxy.tls import certificate_files
from tests.functional.proxy.certificates import certificate
from tests.functional.proxy.conftest import HOST, Seen, World

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
SANDBOX = "allow-scripts allow-same-origin allow-forms allow-popups"

pytestmark = pytest.mark.skipif(not CHROMIUM and not os.environ.get("CI"), reason="Chromium is not installed")


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.fixture(params=["http", "https"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, object]:
    port = _free_port()
    settings: dict[str, object] = {"port": port, "public_url": f"{request.param}://localhost:{port}"}
    if request.param == "https":
        settings["tls"] = certificate_files(certificate(tmp_path, "one", "localhost", HOST))
    return settings


def page(body: str, headers: bytes = b"") -> bytes:
    data = f"<!doctype html><title>t</title>{body}".encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n%b\r\n%b" % (len(data), headers, data)


async def app(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    writer.write(page(f"<h1>inside {seen.line.split()[1]}</h1><a href='/second'>on</a>", b"Set-Cookie: loose=1; Secure; SameSite=None\r\n"))
    return True


async def _framed(page: Page, path: str) -> None:
    await page.frame_locator("iframe").get_by_role("heading", name=f"inside {path}").wait_for(timeout=60_000)


def sent_loose(world: World) -> list[str]:
    return [seen.line for seen in world.app.seen if "loose=1" in "".join(seen.header("cookie"))]


async def test_the_frame_stays_signed_in(world: World) -> None:
    origin = world.proxy.core.config.public_url
    inside = origin.replace("localhost", HOST)
    world.allowed["sign"] = {"proof"}
    world.allowed["cookie"] = {"proof"}

    async def platform(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        where = "/first?__sign=proof" if "/signed" in seen.line else "/later"
        writer.write(page(f"<iframe src='{inside}{where}' sandbox='{SANDBOX}'></iframe>"))
        return True

    world.app.script, world.api.script = app, platform
    await world.put(access=RouteAccess.PRIVATE)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--test-third-party-cookie-phaseout"]
        )
        context = await browser.new_context(ignore_https_errors=True)
        tab = await context.new_page()
        await tab.goto(f"{origin}/signed")
        await _framed(tab, "/first")
        await tab.frame_locator("iframe").get_by_role("link", name="on").click()
        await _framed(tab, "/second")
        await tab.goto(f"{origin}/plain")  # no proof in the frame's address any more: the cookie alone
        await _framed(tab, "/later")
        await tab.reload()
        await _framed(tab, "/later")
        (cookie,) = [c for c in await context.cookies(inside) if "vitrine_app" in str(c.get("name"))]
        assert cookie.get("httpOnly") and cookie.get("secure") and cookie.get("sameSite") == "None"
        assert cookie.get("name") == ("__Host-vitrine_app" if origin.startswith("https") else "vitrine_app")
        assert not sent_loose(world)  # the browser refused what is not partitioned …
        await tab.goto(f"{inside}/alone?__sign=proof")
        await tab.goto(f"{inside}/alone")
        assert "GET /alone HTTP/1.1" in sent_loose(world)  # … because it was a third party's, not for another reason
        await browser.close()
    assert not [seen for seen in world.app.seen if "proof" in f"{seen.line}{seen.headers}"]
