"""web: the gallery with 10,000 Spaces (server time, weight, largest paint), search over 100,000, and 1,000 idle event streams.

The whole API process in one thread; the figures have no reference but the goals that they are printed beside. SQLite; search
on PostgreSQL too where its server programs are installed (`web.search.postgresql…`).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import httpx
import uvicorn
from sqlalchemy import create_engine, insert, select

from control_plane.accounts import people, tokens
from control_plane.asgi import build_app
from control_plane.bootstrap import BUS_SOCKET, Services, build_services
from control_plane.bus.local import BusServer
from control_plane.db import tables
from control_plane.domain.accounts import TokenRole
from control_plane.domain.builds import BuildStatus
from control_plane.domain.ids import BuildId, Sha, SpaceId, new_id
from control_plane.domain.repo_query import RepoQuery
from control_plane.domain.spaces import Build, RepoType
from control_plane.http.live import ALIVE_S
from control_plane.settings import Settings
from tests.bench.api import _fill
from tests.fakes.postgres import PostgresServer, find_server, postgres_server

_REQUESTS = 200
_WARM = 10
_STREAMS = 1000
_IDLE_S = ALIVE_S + 1  # a sign of life of every stream falls into it
_PER_CALLER = 50
_PATHS = ("/", "/?sort=likes", "/?sdk=gradio", "/?page=3", "/spaces?sort=updated", "/?tag=audio", "/?running=1")
_SEARCHES = ("demo", "whisper", "needle", "torch", "transformers pipeline", "tokeniz", "gradio whisper", "load_model", "de", "zz-nothing")
# What each row asks, in turn: words of titles and of source, asked of the page (list, cards and figure together).
_SEARCH_ROWS = {
    "": _SEARCHES,
    ".rare": ("needle", "word77", "word5000", "word99000"),
    ".some": ("whisper", "gradio whisper"),
    ".common": ("transformers pipeline", "return launch", "demo torch", "import def"),
    ".none": ("zz-nothing", "haystack", "torch haystack"),
    ".short": ("de", "qz"),
}
_WORDS = ("torch", "transformers", "pipeline", "gradio", "tokenizer", "load_model", "numpy", "audio", "image", "def", "return", "launch")


def gallery() -> list[dict[str, Any]]:
    with _services(10_000) as services:
        return [_row("web.gallery", "ms p95", asyncio.run(_ask(services, _PATHS)), 50.0, _REQUESTS)]


def first_page() -> list[dict[str, Any]]:
    with _services(10_000) as services:
        weight, paint = _browser(services)
    return [_row("web.weight", "kB", weight, 150.0, 1), _row("web.lcp", "ms", paint, 1000.0, 5)]


def streams() -> list[dict[str, Any]]:
    with _services(10_000) as services:
        pages = _streams(services, ("/-/spaces/{name}/events",))
        api = _streams(services, ("/api/spaces/{name}/events", "/api/spaces/{name}/logs/build"))
    return [_row("web.streams", "% of a core", pages, 5.0, _STREAMS), _row("web.streams.api", "% of a core", api, 5.0, _STREAMS)]


def searches() -> list[dict[str, Any]]:
    found = _search("web.search", None)
    if programs := find_server():
        with postgres_server(programs) as server:
            found += _search("web.search.postgresql", server)
    return found


def _row(name: str, unit: str, value: float, goal: float, n: int) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "reference": "goal", "reference_value": goal, "ratio": value / goal, "n": n}


def _search(name: str, server: PostgresServer | None) -> list[dict[str, Any]]:
    """A row for every kind of search over 100,000 Spaces."""
    with _services(100_000, server) as services:
        found = []
        for tail, asked in _SEARCH_ROWS.items():
            paths = tuple(f"/spaces?q={quote_plus(words)}" for words in asked)
            found.append(_row(name + tail, "ms p95", asyncio.run(_ask(services, paths)), 50.0, _REQUESTS))
        return found


@contextlib.contextmanager
def _services(count: int, server: PostgresServer | None = None) -> Iterator[Services]:
    with tempfile.TemporaryDirectory(prefix="v") as folder:
        if server is not None:
            server.sql("CREATE DATABASE web")
        services = build_services(Settings(data_dir=Path(folder), database_url=server.url("web") if server else "", thumbnails=False))
        asyncio.run(_filled(services, count))
        if server is not None:
            server.sql("ANALYZE", "web")  # what its autovacuum does by itself within a minute
        yield services


async def _filled(services: Services, count: int) -> None:
    await services.database.migrate()
    await _fill(services, count)
    engine = create_engine(services.settings.resolved_database_url.replace("postgresql:", "postgresql+psycopg:", 1))
    pick = random.Random(1)
    with engine.begin() as rows:
        known = [seq for (seq,) in rows.execute(select(tables.repos.c.seq))]
        for start in range(0, len(known), 5000):
            bodies = [{"seq": s, "body": " ".join(pick.choices(_WORDS, k=120)) + f" word{s}"} for s in known[start : start + 5000]]
            rows.execute(insert(tables.repo_texts), bodies)
    engine.dispose()
    await services.database.close()
    await services.bus.close()


async def _ask(services: Services, paths: tuple[str, ...]) -> float:
    """p95 of the server's time, in process, each path in turn."""
    times: list[float] = []
    app = build_app(services)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost:7860") as client:
        for i in range(_REQUESTS + _WARM):
            app.state.web_backend._matches.clear()  # every search is somebody's first: no figure is kept from the one before
            began = time.perf_counter()
            (await client.get(paths[i % len(paths)], headers={"accept": "text/html"})).raise_for_status()
            if i >= _WARM:
                times.append((time.perf_counter() - began) * 1000)
    await services.database.close()
    await services.bus.close()
    return round(statistics.quantiles(times, n=20)[18], 2)


@contextlib.contextmanager
def _served(services: Services) -> Iterator[tuple[int, threading.Thread]]:
    """The API process as a thread with a loop of its own, and the bus that it listens to."""
    config = uvicorn.Config(build_app(services), host="127.0.0.1", port=0, log_config=None, access_log=False, ws="none")
    server = uvicorn.Server(config)

    async def life() -> None:
        bus = BusServer(services.settings.run_dir / BUS_SOCKET)
        await bus.start()
        await server.serve()
        await bus.close()
        await services.database.close()
        await services.bus.close()

    thread = threading.Thread(target=lambda: asyncio.run(life()))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1], thread
    finally:
        server.should_exit = True
        thread.join()


def _browser(services: Services) -> tuple[float, float]:
    """kB that Chromium fetched for the first page, and the median of its largest contentful paint (cold cache)."""
    from playwright.sync_api import sync_playwright

    from tests.e2e.web.screenshots import ARGS, CHROMIUM

    paint = """() => new Promise(done => new PerformanceObserver(l => done(l.getEntries().at(-1).startTime))
      .observe({type: 'largest-contentful-paint', buffered: true}))"""
    weigh = """() => [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
      .reduce((sum, e) => sum + e.transferSize, 0)"""
    paints: list[float] = []
    with _served(services) as (port, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGS))
        for _i in range(5):
            context = browser.new_context(viewport={"width": 1280, "height": 860})
            page = context.new_page()
            page.goto(f"http://localhost:{port}/", wait_until="load")
            paints.append(float(page.evaluate(paint)))
            weight = float(page.evaluate(weigh)) / 1000
            context.close()
        browser.close()
    return round(weight, 1), round(statistics.median(paints), 1)


def _streams(services: Services, paths: tuple[str, ...]) -> float:
    """Processor time of the API's thread while every stream is open and nothing happens, as a share of the time.

    One caller may hold 50 streams of the API: there are as many operators as it takes, and a build that waits.
    """

    async def prepare() -> tuple[str, list[str]]:
        words = []
        async with services.uow.write() as uow:
            [repo] = await uow.repos.list(RepoQuery(RepoType.SPACE), limit=1)
            build = Build(BuildId(new_id()), SpaceId(repo.id), Sha("a" * 40), BuildStatus.QUEUED, services.clock.now())
            await uow.builds.add(build)
            for _ in range(_STREAMS // _PER_CALLER):
                user = await people.add_user(uow, services.clock, f"u{new_id()}", is_admin=True)
                words.append((await tokens.create_token(uow, services.clock, user, "bench", TokenRole.WRITE))[1])
        await services.database.close()
        return repo.full_name, words

    name, words = asyncio.run(prepare())

    async def listen(port: int, thread: threading.Thread) -> float:
        clock = time.pthread_getcpuclockid(thread.ident or 0)
        async with contextlib.AsyncExitStack() as stack:
            readers = [
                await stack.enter_async_context(_stream(port, paths[i % len(paths)].format(name=name), words[i // _PER_CALLER]))
                for i in range(_STREAMS)
            ]
            drains = [asyncio.create_task(reader.read()) for reader in readers]
            await asyncio.sleep(5)
            began, used = time.monotonic(), time.clock_gettime(clock)
            await asyncio.sleep(_IDLE_S)
            share = (time.clock_gettime(clock) - used) / (time.monotonic() - began) * 100
            for drain in drains:
                drain.cancel()
            await asyncio.gather(*drains, return_exceptions=True)
        return share

    with _served(services) as (port, thread):
        return round(asyncio.run(listen(port, thread)), 2)


@contextlib.asynccontextmanager
async def _stream(port: int, path: str, token: str) -> AsyncIterator[asyncio.StreamReader]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\n" + (f"Authorization: Bearer {token}\r\n" if path.startswith("/api/") else "")
    writer.write(f"{head}\r\n".encode())
    status = await reader.readline()
    assert b"200" in status, status
    try:
        yield reader
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
