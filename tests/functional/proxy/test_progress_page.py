"""The page a browser gets while a Space wakes: streamed stages, then the app, in a real Chromium and in any framing."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest
from playwright.async_api import async_playwright

from control_plane.domain.routes import RouteAccess, RouteState
from tests.functional.proxy.conftest import HOST, Seen, Wire, World

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""


async def _events(wire: Wire, count: int) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    async with asyncio.timeout(60):
        while len(found) < count:
            line = await wire.reader.readline()
            if line.startswith(b"data: "):
                found.append(json.loads(line[6:]))
    return found


async def _follow(world: World, **headers: str) -> Wire:
    wire = await world.wire()
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    await wire.send(f"GET /.well-known/vitrine/stages HTTP/1.1\r\nHost: {HOST}\r\n{lines}\r\n".encode())
    return wire


async def test_each_change_is_one_event_and_the_stream_ends_with_the_app(world: World) -> None:
    await world.put(state=RouteState.ASLEEP, endpoints=())
    wire = await _follow(world)
    status, headers, _raw = await wire.head()
    assert (status, headers["content-type"], headers["cache-control"]) == (200, "text/event-stream", "no-store")
    assert [event["state"] for event in await _events(wire, 1)] == ["asleep"]
    assert len(world.feed.woken) == 1
    await world.put(state=RouteState.STARTING, endpoints=(), message="Loading the model")
    assert [event["message"] for event in await _events(wire, 1)] == ["Loading the model"]
    await world.put()
    assert [event["ready"] for event in await _events(wire, 1)] == [True]
    assert (await wire.eof()).strip() == b""
    assert world.app.seen == []
    assert world.proxy.core.followers._following == {}


async def test_followers_are_guarded_counted_and_let_go(world: World) -> None:
    world.allowed["token"] = {"hf_good"}
    await world.put(state=RouteState.STARTING, endpoints=(), access=RouteAccess.PRIVATE)
    assert (await (await _follow(world)).head())[0] == 404
    wires = [await _follow(world, **{"X-HF-Authorization": "Bearer hf_good"}) for _ in range(3)]
    for wire in wires:
        assert (await wire.head())[0] == 200
        await _events(wire, 1)
    assert len(world.proxy.core.followers._following[HOST]) == 3
    await wires[0].close()
    async with asyncio.timeout(60):
        while len(world.proxy.core.followers._following[HOST]) != 2:
            await asyncio.sleep(0.001)
    for connection in tuple(world.proxy.core.connections):
        connection.check(world.proxy.core.now + 31)  # half a minute on: the guard is asked again with the next stream
    assert world.proxy.core.followers._following == {}
    world.feed.drop(HOST)
    await world.settled()


@pytest.mark.skipif(not CHROMIUM and not os.environ.get("CI"), reason="Chromium is not installed")
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
async def test_chromium_shows_the_stages_and_then_the_app(world: World, scheme: str, width: int, tmp_path: Path) -> None:
    async def script(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        body = b"<!doctype html><title>app</title><h1>The app itself</h1>"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        return True

    world.app.script = script
    await world.put(state=RouteState.ASLEEP, endpoints=(), title="Demo", emoji="🌊", eta_s=4.0)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--no-proxy-server", "--host-resolver-rules=MAP *.localhost 127.0.0.1"]
        )
        page = await browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
        errors: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: asked.append(request.url))
        await page.goto(f"http://{HOST}:{world.proxy.port}/deep?x=1")
        await page.get_by_text("Asleep, asking it to wake").wait_for()
        await world.put(
            state=RouteState.STARTING, endpoints=(), title="Demo", emoji="🌊", eta_s=4.0, message="Installing what the app needs"
        )
        await page.get_by_text("Installing what the app needs").wait_for()
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await page.screenshot(path=os.environ.get("VITRINE_SCREENSHOTS", str(tmp_path)) + f"/progress-{scheme}-{width}.png")
        streams = sum(url.endswith("/.well-known/vitrine/stages") for url in asked)
        await world.put(title="Demo")
        await page.get_by_text("The app itself").wait_for()
        assert page.url.endswith("/deep?x=1")
        assert streams == 1, asked  # streamed, not asked again and again
        assert [error for error in errors if "503" not in error] == []
        await browser.close()
