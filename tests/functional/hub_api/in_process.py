"""The application of the API process, called as its server calls it: no socket between, and none of the work it does beside requests.

Thousands of requests are as quick as the platform itself, and what happens during one is that request's doing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import httpx
from fastapi import FastAPI

from control_plane.asgi import build_app, first_start
from control_plane.bootstrap import build_services
from control_plane.settings import Settings
from tests.fakes.state import STATE

T = TypeVar("T")
_LONGEST_S = 60  # an answer that never ends is a fault, not a wait


class InProcess:
    def __init__(self, root: Path) -> None:
        self._loop = asyncio.new_event_loop()
        state: dict[str, Any] = {**STATE.settings()}
        self._services = build_services(Settings(data_dir=root, **state))
        self._run(self._services.database.migrate())
        self.admin_token = self._run(first_start(self._services))["admin_token"]
        self.app: FastAPI = build_app(self._services)
        transport = httpx.ASGITransport(app=self.app)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://localhost:7860")

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(asyncio.wait_for(work, _LONGEST_S))

    def ask(self, method: str, address: str, headers: dict[str, str], content: bytes | None = None) -> httpx.Response:
        """One request without cookies. TimeoutError when its answer has no end."""
        self._client.cookies.clear()
        return self._run(self._client.request(method, address, headers=headers, content=content))

    def made(self, address: str, headers: dict[str, str], **body: Any) -> Any:
        """What a POST that must work answers."""
        reply = self.ask("POST", address, {**headers, "Content-Type": "application/json"}, json.dumps(body).encode())
        assert reply.is_success, reply.text
        return reply.json()

    def people(self, *names: str) -> dict[str, dict[str, str]]:
        """New users, each with the header of a token that may write."""
        admin = {"Authorization": f"Bearer {self.admin_token}"}
        found = {}
        for name in names:
            self.made("/api/admin/users", admin, name=name)
            token = self.made("/api/admin/tokens", admin, user=name, role="write", name="test")["token"]
            found[name] = {"Authorization": f"Bearer {token}"}
        return found

    def close(self) -> None:
        self._run(self._client.aclose())
        self._run(self._services.bus.close())
        self._run(self._services.database.close())
        self._run(self._loop.shutdown_default_executor())
        self._loop.close()
