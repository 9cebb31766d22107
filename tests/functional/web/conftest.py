"""The pages over real stores: a database, bare git repositories, file logs. Nothing runs; rows are written as the scheduler would."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from control_plane import asgi
from control_plane.api.webhook_delivery import Deliveries
from control_plane.bootstrap import Services, build_services
from control_plane.http import context, error_map
from control_plane.settings import Settings
from tests.fakes.state import STATE


class Browser:
    """One visitor: cookies, forms with their token, redirects followed by hand."""

    def __init__(self, app: FastAPI, host: str = "localhost:7860") -> None:
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=f"http://{host}", headers={"accept": "text/html"})

    async def get(self, path: str) -> httpx.Response:
        return await self.http.get(path)

    async def token(self, path: str) -> str:
        page = (await self.get(path)).text
        return page.partition('name="csrf" value="')[2].partition('"')[0]

    async def post(self, path: str, form: dict[str, str] | None = None, *, page: str = "/sign-in", **extra: object) -> httpx.Response:
        data = {"csrf": await self.token(page), **(form or {})}
        return await self.http.post(path, data=data, headers={"origin": str(self.http.base_url)}, **extra)  # type: ignore[arg-type]

    async def sign_up(self, name: str) -> Browser:
        response = await self.post("/sign-up", {"name": name, "password": "a long sentence", "email": ""}, page="/sign-up")
        assert response.status_code == 303, response.text
        return self


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    made = build_services(Settings(data_dir=tmp_path / "d", registration=True, **STATE.settings()))
    await made.database.migrate()
    yield made
    await made.database.close()
    await made.bus.close()


@pytest.fixture
async def app(services: Services) -> AsyncIterator[FastAPI]:
    made = FastAPI(docs_url=None, redoc_url=None)
    deliveries = Deliveries(services)
    pages = asgi._pages(made, services, deliveries)
    asgi._hub(made, services, deliveries, pages)
    error_map.install(made, html=asgi._web(made, pages))
    context.install_context(made)
    yield made
    await made.state.web_backend.close()


@pytest.fixture
async def stranger(app: FastAPI) -> AsyncIterator[Browser]:
    browser = Browser(app)
    yield browser
    await browser.http.aclose()


@pytest.fixture
async def alice(app: FastAPI) -> AsyncIterator[Browser]:
    browser = await Browser(app).sign_up("alice")
    yield browser
    await browser.http.aclose()


@pytest.fixture
async def bob(app: FastAPI) -> AsyncIterator[Browser]:
    browser = await Browser(app).sign_up("bob")
    yield browser
    await browser.http.aclose()
