"""api.list: the gallery's call, and every other way to sort, filter and search it, with 100,000 Spaces against 100.

SQLite always; PostgreSQL too where its server programs are installed (rows named `api.list.postgresql…`).
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import Table, create_engine, insert

from control_plane.asgi import build_app
from control_plane.bootstrap import Services, build_services
from control_plane.db import mapping, tables
from control_plane.domain.accounts import Account, AccountKind
from control_plane.domain.ids import AccountId, RepoId, SpaceId, new_id
from control_plane.domain.spaces import Repo, RepoType, Sdk, Space, SpaceConfig, Visibility
from control_plane.settings import Settings
from tests.fakes.postgres import PostgresServer, find_server, postgres_server

_REQUESTS = 60
_WARM = 5
_BOTH = 50  # Spaces that have every word and tag: both sizes answer each question with a full page or with the same few
QUESTIONS: Mapping[str, Mapping[str, str]] = {
    "": {},
    ".likes": {"sort": "likes"},
    ".created": {"sort": "createdAt"},
    ".updated": {"sort": "lastModified"},
    ".author": {"author": "filler"},
    ".author-few": {"author": "fewer"},
    ".sdk": {"filter": "gradio"},
    ".sdk-few": {"filter": "streamlit"},
    ".sdk-likes": {"filter": "streamlit", "sort": "likes"},
    ".tag": {"filter": "audio"},
    ".tag-rare": {"filter": "unique"},
    ".tag-none": {"filter": "nobody-has-it"},
    ".search": {"search": "demo"},
    ".search-some": {"search": "whisper"},
    ".search-one": {"search": "needle"},
    ".search-none": {"search": "haystack"},
    ".search-short": {"search": "de"},
    ".search-short-none": {"search": "qz"},
    ".search-likes": {"search": "demo", "sort": "likes"},
    ".search-tag": {"search": "whisper", "filter": "audio"},
}


def rows(large: int = 100_000, small: int = 100) -> list[dict[str, Any]]:
    """p95 in milliseconds of `GET /api/spaces?limit=50…`, in process, so that only the API and its database count."""
    found = _rows("api.list", large, small, None)
    if programs := find_server():
        with postgres_server(programs) as server:
            found += _rows("api.list.postgresql", large, small, server)
    return found


def _rows(name: str, large: int, small: int, server: PostgresServer | None) -> list[dict[str, Any]]:
    few, many = asyncio.run(_both((small, large), server))
    base = {"unit": "ms p95", "reference": f"with {small} Spaces", "n": _REQUESTS}
    return [
        {**base, "name": name + tail, "value": many[tail], "reference_value": few[tail], "ratio": round(many[tail] / few[tail], 3)}
        for tail in QUESTIONS
    ]


async def _both(counts: tuple[int, int], server: PostgresServer | None) -> tuple[dict[str, float], dict[str, float]]:
    """Both sizes at once, asked in turn, so that a busy moment of the machine falls on both."""
    with tempfile.TemporaryDirectory(prefix="v") as folder:
        worlds = []
        for count in counts:
            if server is not None:
                server.sql(f"CREATE DATABASE bench{count}")
            url = server.url(f"bench{count}") if server is not None else ""
            worlds.append(build_services(Settings(data_dir=Path(folder) / str(count), database_url=url)))
        clients = []
        try:
            for services, count in zip(worlds, counts, strict=True):
                await services.database.migrate()
                await _fill(services, count)
                if server is not None:
                    server.sql("ANALYZE", f"bench{count}")  # what its autovacuum does by itself within a minute
                transport = httpx.ASGITransport(app=build_app(services))
                clients.append(httpx.AsyncClient(transport=transport, base_url="http://localhost"))
            few, many = {}, {}
            for tail, question in QUESTIONS.items():
                times: tuple[list[float], list[float]] = ([], [])
                for i in range(_REQUESTS + _WARM):
                    for client, kept in zip(clients, times, strict=True):
                        began = time.perf_counter()
                        (await client.get("/api/spaces", params={"limit": 50, **question})).raise_for_status()
                        if i >= _WARM:
                            kept.append((time.perf_counter() - began) * 1000)
                few[tail], many[tail] = (round(statistics.quantiles(kept, n=20)[18], 2) for kept in times)
            return few, many
        finally:
            for client in clients:
                await client.aclose()
            for services in worlds:
                await services.bus.close()
                await services.database.close()


async def _fill(services: Services, count: int) -> None:
    """Straight into the tables, as the stores would write it: through them it takes longer than everything else together."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    owners = [Account(AccountId(new_id()), AccountKind.USER, name, name.title(), now) for name in ("filler", "fewer")]
    async with services.uow.write() as uow:
        for owner in owners:
            await uow.accounts.add(owner)
    url = services.settings.resolved_database_url.replace("postgresql:", "postgresql+psycopg:", 1)
    engine = create_engine(url)
    for start in range(0, count, 5000):
        rows: dict[Table, list[dict[str, Any]]] = {tables.repos: [], tables.repo_tags: [], tables.spaces: []}
        for i in range(start, min(count, start + 5000)):
            repo_id, at = RepoId(new_id()), now + timedelta(seconds=i)
            owner = owners[i < _BOTH or i % 1009 == 5]
            word = "needle" if i == 77 else "whisper" if i < _BOTH or i % 97 == 3 else "demo"
            tags = ("unique",) if i == 77 else ("audio",) if i < _BOTH or i % 31 == 3 else ("vision", "english")
            card: dict[str, object] = {"title": f"Demo {i}", "tags": list(tags)}
            repo = Repo(
                repo_id, RepoType.SPACE, owner.id, owner.name, f"{word}-{i}", Visibility.PUBLIC, at, at, owner.id,
                likes=i % 97, tags=tags, card=card,
            )  # fmt: skip
            sdk = Sdk.STREAMLIT if i < _BOTH else Sdk.DOCKER if i % 53 == 3 else Sdk.GRADIO
            space = Space(SpaceId(repo_id), f"{owner.name}-demo-{i}", sdk, SpaceConfig(sdk=sdk, title=f"Demo {i}"), updated_at=at)
            rows[tables.repos].append(mapping.repo_to_row(repo) | {"trending": float(i % 97)})
            rows[tables.repo_tags] += [{"tag": tag, "repo_id": repo_id} for tag in tags]
            rows[tables.spaces].append(mapping.space_to_row(space))
        with engine.begin() as connection:
            for table, made in rows.items():
                connection.execute(insert(table), made)
    engine.dispose()
