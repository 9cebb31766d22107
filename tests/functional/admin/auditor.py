"""One call per route, against a whole API on a port, and the audit events that it left."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from control_plane.accounts import people, tokens
from control_plane.accounts.sign_in import open_session
from control_plane.domain.accounts import TokenRole
from control_plane.domain.ids import new_id
from tests.functional.hub_api.running import WholePlatform


class Site(WholePlatform):
    """Open to new people."""

    more = {"registration": True}


class Auditor:
    """Makes one call per route and compares the events that it left."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.called: set[str] = set()
        self.client = httpx.Client(base_url=f"http://localhost:{site.port}", timeout=60)
        self.tokens = {"admin": site.admin_token}
        self.cookies: dict[str, tuple[str, str]] = {}

    def events(self, after: int) -> list[dict[str, Any]]:
        async def look() -> list[dict[str, Any]]:
            async with self.site.built.uow.read() as work:
                return [dict(row) for row in await work.audit.page(after_id=after, limit=1000)]

        return self.site.run(look())

    def newest(self) -> int:
        async def look() -> int:
            async with self.site.built.uow.read() as work:
                rows = await work.audit.list(limit=1)
            return int(rows[0]["id"]) if rows else 0

        return self.site.run(look())

    def person(self, name: str, *, password: str | None = None) -> None:
        async def make() -> tuple[str, str, str]:
            services = self.site.built
            async with services.uow.write() as work:
                user = await people.add_user(work, services.clock, name, password=password)
                session, cookie = await open_session(work, services.clock, user)
                return (await tokens.create_token(work, services.clock, user, "test", TokenRole.WRITE))[1], cookie, session.csrf

        token, cookie, csrf = self.site.run(make())
        self.tokens[name], self.cookies[name] = token, (cookie, csrf)

    def call(self, row: str, action: str, /, by: str | None = "alice", *, json_body: Any = None, form: dict[str, str] | None = None,
             query: str = "", headers: dict[str, str] | None = None, content: bytes | None = None, actor: str | None = None,
             cookie: tuple[str, str] | None = None, **parts: str | int) -> httpx.Response:  # fmt: skip
        """`row` is the route as the application has it; `parts` fill it. A form is sent as the browser of `by`."""
        method, _, path = row.partition(" ")
        prefix = str(parts.pop("P", "/spaces")) if "{P}" in path else ""
        path = path.replace("{P}", prefix)
        address = re.sub(r"\{(\w+)(:\w+)?\}", lambda m: quote(str(parts[m[1]]), safe="/" if m[2] == ":tail" else ""), path) + query
        sent = dict(headers or {})
        data = None
        if form is not None:
            value, csrf = cookie or self.cookies[str(by)]
            sent |= {"cookie": f"vitrine={value}", "origin": str(self.client.base_url).rstrip("/"), "accept": "text/html"}
            data = {"csrf": csrf, **form}
        elif by is not None:
            sent["authorization"] = f"Bearer {self.tokens[by]}"
        before = self.newest()
        files = {"files": ("up.txt", new_id().encode())} if "/upload/" in row else None
        answer = self.client.request(method, address, json=json_body, data=data, files=files, headers=sent, content=content)
        self.client.cookies.clear()
        assert answer.status_code < 400, (row, answer.status_code, answer.text[:400])
        found = self.events(before)
        assert [event["action"] for event in found] == [action], (row, found)
        assert found[0]["actor"] == (actor or by), (row, found)
        assert found[0]["address"], (row, found)
        self.called.add(row)
        return answer

    def git_push(self, folder: Path, prefix: str, name: str) -> None:
        """A push by real git: its receive-pack is the call."""
        env = {"HOME": str(folder), "PATH": "/usr/bin:/bin", "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1"}
        remote = f"http://alice:{self.tokens['alice']}@localhost:{self.site.port}{prefix}/alice/{name}"

        def git(*args: str) -> None:
            done = subprocess.run(["git", *args], cwd=folder, env=env, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr

        git("clone", "-q", remote, name)
        for command in (
            ("config", "user.name", "A"),
            ("config", "user.email", "a@example.org"),
            ("commit", "-q", "--allow-empty", "-m", "x"),
        ):
            git("-C", name, *command)
        before = self.newest()
        git("-C", name, "push", "-q", "origin", "HEAD:main")
        assert [event["action"] for event in self.events(before)] == ["repo.push"]
        self.called.add("POST {P}/{owner}/{name}/git-receive-pack")
