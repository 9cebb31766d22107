"""Pictures on cards: which Spaces get one, who sees it, and what a browser that was taken over may leave behind."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from control_plane.bootstrap import Services
from control_plane.bus.local import BusClient, BusServer
from control_plane.domain.spaces import RepoType, Visibility
from control_plane.runtimes.process import camera as camera_room
from control_plane.runtimes.process.camera import SandboxedBrowser, _picture, find_browser
from tests.functional.proxy.certificates import certificate
from tests.functional.web.conftest import Browser
from tests.functional.web.test_platform_pages import _new_space
from web.services import thumbnails
from web.services.pictures import Pictures
from web.services.thumbnails import Thumbnails

PICTURE = b"RIFF\x00\x00\x00\x00WEBPVP8 "


class Camera:
    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def shoot(self, host: str, path: str) -> bytes | None:
        self.asked.append((host, path))
        return PICTURE


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not is_so():
            await asyncio.sleep(0.01)


async def test_a_public_app_is_pictured_once_and_never_after_it_went_private(
    alice: Browser, stranger: Browser, services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thumbnails, "SETTLE_S", 0.0)
    await _new_space(alice, template="1")
    backend = alice.http._transport.app.state.web_backend  # type: ignore[attr-defined]
    camera = Camera()
    shelf = Pictures(tmp_path / "t", services.signals)
    shelf.load()
    made = Thumbnails(shelf, camera, services.uow, services.clock, services.signals, services.actions, services.settings.app_url)
    backend.d = replace(backend.d, pictures=shelf)
    async with services.uow.read() as uow:
        repo = await uow.repos.by_name(RepoType.SPACE, "alice", "demo")
        assert repo is not None
        space = await uow.spaces.get(repo.id)  # type: ignore[arg-type]
    assert space is not None

    async def wanted(space_id: str) -> object:
        async with services.uow.read() as uow:
            now = await uow.repos.get(repo.id)
        return (space, "f" * 40) if now is not None and now.visibility is Visibility.PUBLIC else None

    monkeypatch.setattr(made, "_wanted", wanted)
    assert await made._take(space.id)
    assert not await made._take(space.id)  # the same revision is not pictured again
    assert camera.asked == [("alice-demo.localhost:7860", "/")]
    address = shelf.address(space.id)
    assert f'src="{address}"' in (await stranger.get("/")).text
    picture = await stranger.get(address)
    assert picture.content == PICTURE
    assert picture.headers["content-type"] == "image/webp"
    assert "sandbox" in picture.headers["content-security-policy"]
    hidden = await alice.post("/spaces/alice/demo/settings/visibility", {"visibility": "private"}, page="/spaces/alice/demo/settings")
    assert hidden.status_code == 303
    assert (await stranger.get(address)).status_code == 404
    assert (await alice.get(address)).status_code == 404
    monkeypatch.undo()
    assert not await made._take(space.id)
    assert shelf.address(space.id) == ""
    assert list((tmp_path / "t").glob("*")) == []


async def test_one_host_takes_the_picture_and_every_host_shows_it(tmp_path: Path) -> None:
    """Two API processes over one folder and one bus; the second one has no browser."""
    bus = BusServer(tmp_path / "bus")
    await bus.start()
    ears = [BusClient(tmp_path / "bus") for _ in range(2)]
    taker, shower = (Pictures(tmp_path / "t", ear) for ear in ears)
    (tmp_path / "t").mkdir()
    old, new = "a" * 40, "b" * 40
    (tmp_path / "t" / f"early.{old}.webp").write_bytes(PICTURE)
    following = [asyncio.create_task(one.follow()) for one in (taker, shower)]
    try:
        await _until(lambda: taker.revision_of("early") == shower.revision_of("early") == old)
        async with asyncio.timeout(60):  # until each hears the other
            while not (taker.revision_of("b") and shower.revision_of("a")):
                await taker.keep("a", old, PICTURE)
                await shower.keep("b", old, PICTURE)
                await asyncio.sleep(0.01)
        with taker.claim("demo") as first, shower.claim("demo") as second:
            assert (first, second) == (True, False)
        for revision in (old, new):
            await taker.keep("demo", revision, PICTURE)
            await _until(lambda: shower.revision_of("demo") == revision)  # noqa: B023
            assert shower.read("demo") == PICTURE
        assert [path.name for path in (tmp_path / "t").glob("demo*")] == [f"demo.{new}.webp"]
        await shower.drop("demo")
        await _until(lambda: taker.address("demo") == "")
        assert taker.read("demo") is None
    finally:
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
        for ear in ears:
            await ear.close()
        await bus.close()


async def test_a_claim_of_a_host_that_went_away_is_taken_over(services: Services, tmp_path: Path) -> None:
    shelf = Pictures(tmp_path, services.signals)
    left = tmp_path / "demo.claim"
    left.touch()
    os.utime(left, (0, 0))
    with shelf.claim("demo") as is_mine:
        assert is_mine
    assert not left.exists()
    with shelf.claim("../demo") as is_mine:
        assert not is_mine


async def test_there_is_no_picture_without_a_proxy_or_a_page(tmp_path: Path) -> None:
    """Neither the browser's own page about a refused connection nor an error page stands for an app."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await SandboxedBrowser("/bin/false", f"127.0.0.1:{port}").shoot("demo.localhost", "/") is None
    assert await SandboxedBrowser("/bin/false", f"127.0.0.1:{port}").shoot("demo.localhost", "/") is None


def test_what_is_no_picture_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "html").write_bytes(b"<script>alert(1)</script>")
    (tmp_path / "large").write_bytes(PICTURE + b"\x00" * 500_000)
    os.symlink("/etc/passwd", tmp_path / "link")
    assert [_picture(tmp_path / name) for name in ("html", "large", "link", "none")] == [None] * 4


@pytest.mark.skipif(find_browser() is None and not os.environ.get("CI"), reason="no Chromium under /usr")
@pytest.mark.skipif(os.geteuid() != 0, reason="the sandbox is proven as root here; doctor tells for others")
async def test_a_page_is_pictured_inside_the_sandbox(tmp_path: Path) -> None:
    """A real browser: the app's host is reached, the loopback service beside it is not."""
    app, other = [], []

    def answer(seen: list[bytes], body: bytes) -> object:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(await reader.readline())
            head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
            writer.close()

        return handle

    async with await asyncio.start_server(answer(other, b"secret"), "127.0.0.1", 0) as beside:  # type: ignore[arg-type]
        port = beside.sockets[0].getsockname()[1]
        page = f"<body style='background:#123456'><img src='http://127.0.0.1:{port}/'><iframe src='http://localhost:{port}/'></iframe>".encode()
        async with await asyncio.start_server(answer(app, page), "127.0.0.1", 0) as server:  # type: ignore[arg-type]
            mine = server.sockets[0].getsockname()[1]
            camera = SandboxedBrowser(str(find_browser()), f"127.0.0.1:{mine}")
            picture = await camera.shoot(f"demo.localhost:{mine}", "/")
    assert picture is not None
    assert picture[8:12] == b"WEBP"
    assert any(line.startswith(b"GET / ") for line in app)
    assert other == []


@pytest.mark.skipif(find_browser() is None and not os.environ.get("CI"), reason="no Chromium under /usr")
@pytest.mark.skipif(os.geteuid() != 0, reason="the sandbox is proven as root here; doctor tells for others")
async def test_a_platform_under_tls_is_pictured_by_its_own_key_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate is nobody's but the platform's; another that nobody vouches for is not taken."""
    monkeypatch.setattr(camera_room, "_SETTLE_MS", 1500)  # nothing on this page takes longer
    ours, theirs = (certificate(tmp_path, name, "demo.localhost") for name in ("ours", "theirs"))
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        body = b"<body style='background:#123456'>"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*ours.split(":"))
    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        mine = server.sockets[0].getsockname()[1]
        for chain, is_asked in ((theirs, False), (ours, True)):
            camera = SandboxedBrowser(str(find_browser()), f"127.0.0.1:{mine}", [Path(chain.partition(":")[0])])
            picture = await camera.shoot(f"demo.localhost:{mine}", "/")
            assert picture is not None and picture[8:12] == b"WEBP"
            assert any(line.startswith(b"GET / ") for line in asked) is is_asked
