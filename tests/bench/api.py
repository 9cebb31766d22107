"""api.list: the gallery's call with 100,000 Spaces in the database against the same with 100."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from control_plane.asgi import build_app
from control_plane.bootstrap import Services, build_services
from control_plane.domain.accounts import Account, AccountKind
from control_plane.domain.ids import AccountId, RepoId, SpaceId, new_id
from control_plane.domain.spaces import Repo, RepoType, Sdk, Space, SpaceConfig, Visibility
from control_plane.settings import Settings

_REQUESTS = 60


def rows(large: int = 100_000, small: int = 100) -> list[dict[str, Any]]:
    """p95 in milliseconds of `GET /api/spaces?limit=50`, in process, so that only the API and its database count."""
    few, many = asyncio.run(_measured(small)), asyncio.run(_measured(large))
    row = {"name": "api.list", "value": many, "unit": "ms p95", "reference": f"with {small} Spaces", "reference_value": few}
    return [{**row, "ratio": round(many / few, 3), "n": _REQUESTS}]


async def _measured(count: int) -> float:
    with tempfile.TemporaryDirectory(prefix="v") as folder:
        services = build_services(Settings(data_dir=Path(folder)))
        try:
            await services.database.migrate()
            await _fill(services, count)
            transport = httpx.ASGITransport(app=build_app(services))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                times = []
                for i in range(_REQUESTS + 5):
                    began = time.perf_counter()
                    answer = await client.get("/api/spaces", params={"limit": 50})
                    answer.raise_for_status()
                    if i >= 5:
                        times.append((time.perf_counter() - began) * 1000)
                return round(statistics.quantiles(times, n=20)[18], 2)
        finally:
            await services.bus.close()
            await services.database.close()


async def _fill(services: Services, count: int) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    owner = Account(AccountId(new_id()), AccountKind.USER, "filler", "Filler", now)
    async with services.uow.write() as uow:
        await uow.accounts.add(owner)
    for start in range(0, count, 2000):
        async with services.uow.write() as uow:
            for i in range(start, min(count, start + 2000)):
                repo_id = RepoId(new_id())
                at = now + timedelta(seconds=i)
                repo = Repo(repo_id, RepoType.SPACE, owner.id, owner.name, f"demo-{i}", Visibility.PUBLIC, at, at, owner.id, likes=i % 97)
                await uow.repos.add(repo)
                config = SpaceConfig(sdk=Sdk.GRADIO, title=f"Demo {i}")
                await uow.spaces.add(replace(Space(SpaceId(repo_id), f"filler-demo-{i}", Sdk.GRADIO, config), updated_at=at))
