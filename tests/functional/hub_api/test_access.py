"""The access table against the running API: every identity × every route × every visibility."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from control_plane.accounts import people, policy, tokens
from control_plane.accounts.sign_in import open_session
from control_plane.api.access_table import DOCUMENTATION, TABLE, Access, right_of
from control_plane.domain.accounts import Action, Actor, OrgRole, TokenRole
from control_plane.domain.spaces import Repo, RepoType, Sdk, Visibility
from control_plane.ports.space_actions import NewRepo
from tests.functional.hub_api.running import PlatformServices, make_app, make_services

ORG = "acme"


@dataclass
class Caller:
    """`actor` is what the policy should see; `headers` what goes over the wire. `is_bad`: credentials that must fail."""

    headers: dict[str, str]
    actor: Actor
    is_bad: bool = False


@dataclass
class World:
    services: PlatformServices
    app: FastAPI
    client: httpx.AsyncClient
    callers: dict[str, Caller]
    repos: dict[str, Repo]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    services = make_services(tmp_path)
    await services.uow.migrate()
    clock = services.clock
    callers: dict[str, Caller] = {"anonymous": Caller({}, Actor())}
    async with services.uow.write() as uow:
        org = await people.add_org(uow, clock, ORG)
        names = ("stranger", "reader", "contributor", "writer", "admin-of-org", "root", "suspended", "tokens")
        users = {n: await people.add_user(uow, clock, n, is_admin=n == "root", reserved=False) for n in names}
        roles = {"reader": OrgRole.READ, "contributor": OrgRole.CONTRIBUTOR, "writer": OrgRole.WRITE, "admin-of-org": OrgRole.ADMIN}
        roles |= {"tokens": OrgRole.ADMIN, "suspended": OrgRole.ADMIN}
        for name, role in roles.items():
            await people.set_member(uow, services.signals, org, users[name], role)

        async def add(label: str, name: str, role: TokenRole, *, bad: bool = False, **more: Any) -> None:
            token, text = await tokens.create_token(uow, clock, users[name], label, role, **more)
            member = {ORG: roles[name]} if name in roles else {}
            callers[label] = Caller({"authorization": f"Bearer {text}"}, Actor(user=users[name], token=token, roles=member), bad)

        for name in ("stranger", "reader", "contributor", "writer", "admin-of-org", "root"):
            await add(name, name, TokenRole.WRITE)
        await add("suspended", "suspended", TokenRole.WRITE, bad=True)
        await people.set_suspended(uow, services.signals, users["suspended"], True)
        await add("read token", "tokens", TokenRole.READ)
        await add("fine-grained elsewhere", "tokens", TokenRole.FINE_GRAINED, scopes={"other/repo": "write"})
        await add("fine-grained reader", "tokens", TokenRole.FINE_GRAINED, scopes={ORG: "read"})
        await add("fine-grained writer", "tokens", TokenRole.FINE_GRAINED, scopes={ORG: "write"})
        await add("revoked", "tokens", TokenRole.WRITE, bad=True)
        revoked = callers["revoked"].actor.token
        assert revoked
        await tokens.revoke_token(uow, clock, services.signals, revoked.id)
        await add("expired", "tokens", TokenRole.WRITE, bad=True)
        expired = callers["expired"].actor.token
        assert expired
        await uow.tokens.save(replace(expired, expires_at=clock.now() - timedelta(seconds=1)))
        session, cookie = await open_session(uow, clock, users["writer"])
        callers["session without page token"] = Caller(
            {"cookie": f"vitrine={cookie}"}, Actor(user=users["writer"], session=session, roles={ORG: OrgRole.WRITE})
        )
        callers["session"] = Caller(
            {"cookie": f"vitrine={cookie}", "x-csrf-token": session.csrf},
            Actor(user=users["writer"], session=session, roles={ORG: OrgRole.WRITE}),
        )
    creator = Actor(user=users["admin-of-org"], roles={ORG: OrgRole.ADMIN})
    repos = {}
    for visibility in Visibility:
        order = NewRepo(RepoType.SPACE, org, visibility.value, visibility, sdk=Sdk.STATIC)
        repos[visibility.value] = await services.actions.create_repo(creator, order)
    app = make_app(services)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:7860") as client:
        yield World(services, app, client, callers, repos)
    await services.uow.close()


BODIES: dict[str, Any] = {
    "hardware": {"flavor": "cpu-basic"}, "sleeptime": {"seconds": -1}, "replicas": {"replicas": 1}, "storage": {"tier": "small"},
    "volumes": {"volumes": []},
    "dev-mode": {"enabled": False},
    "secrets": {"key": "K", "value": "v"}, "variables": {"key": "K", "value": "v"}, "tag/main": {"tag": "t"},
    "preupload/main": {"files": []},
    "discussions": {"title": "t"}, "comment": {"comment": "c"}, "title": {"title": "t"}, "status": {"status": "open"},
    "edit": {"content": "c"}, "duplicate": {"repository": "stranger/copy"}, "validate-yaml": {"content": "", "repoType": "model"},
    "handle": {"user": "reader", "status": "accepted"}, "grant": {"user": "reader"},
}  # fmt: skip
_ENDLESS = ("/events", "/metrics", "/logs/")


def address(path: str, name: str) -> str:
    found = path.replace("{kind:kind}", "spaces").replace("{ns:seg}", ORG).replace("{name:seg}", name)
    return re.sub(r"\{\w+:(\w+)\}", lambda m: {"int": "1"}.get(m[1], "x"), found.replace("{rev:seg}", "main").replace("{branch:seg}", "x"))


def body_of(method: str, path: str, name: str) -> bytes | None:
    if path == "/api/repos/delete":
        return json.dumps({"name": name, "organization": ORG, "type": "space"}).encode()
    if path == "/api/repos/move":
        return json.dumps({"fromRepo": f"{ORG}/{name}", "toRepo": f"{ORG}/elsewhere", "type": "space"}).encode()
    end = next((b for suffix, b in BODIES.items() if address(path, name).endswith("/" + suffix)), {})
    return json.dumps(end).encode() if method != "GET" else None


def test_every_route_is_declared(tmp_path: Path) -> None:
    services = make_services(tmp_path)
    app = make_app(services)
    routes = {(m, str(r.path)) for r in iter_route_contexts(app.routes) for m in r.methods or () if r.path not in DOCUMENTATION}
    undeclared = sorted(f"{m} {p}" for m, p in routes if right_of(m, p) is None)
    assert undeclared == []
    stale = [row for row in TABLE if not any(row in (f"{m} {p}", f"ANY {p}") for m, p in routes)]
    assert stale == []


@pytest.mark.slow
async def test_no_identity_gets_more_than_the_table_says(world: World) -> None:
    """Refusals are exact; what is allowed and reads only must answer. Changing calls are not made where allowed."""
    wrong: list[str] = []
    for row, right in TABLE.items():
        method, _, path = row.partition(" ")
        if "{ns:seg}" not in path and path not in ("/api/repos/delete", "/api/repos/move"):
            continue
        if not isinstance(right, Action):
            continue
        space_path = path if "/api/" in path or path.startswith("/spaces") else None
        if space_path is None:  # the test's repositories are Spaces
            continue
        for visibility in (*Visibility, "absent"):
            name = str(visibility.value if isinstance(visibility, Visibility) else visibility)
            repo = world.repos.get(name)
            for label, caller in world.callers.items():
                needs_page = label == "session without page token" and method not in ("GET", "HEAD")
                if caller.is_bad or needs_page:
                    expected = "bad" if caller.is_bad else "forbidden"
                elif repo is None or not policy.allowed(caller.actor, Action.VIEW, repo):
                    expected = "absent"
                elif policy.allowed(caller.actor, right, repo):
                    expected = "allowed"
                else:
                    expected = "401" if caller.actor.is_anonymous else "forbidden"
                if expected == "allowed" and (method not in ("GET", "HEAD") or any(w in path for w in _ENDLESS)):
                    continue
                reply = await world.client.request(
                    method,
                    address(path, name),
                    headers=caller.headers | {"content-type": "application/json"},
                    content=body_of(method, path, name),
                )
                code = reply.headers.get("x-error-code", "")
                seen = {
                    "bad": reply.status_code == 401
                    and reply.headers.get("x-error-message") == "Invalid credentials in Authorization header",
                    "absent": code == "RepoNotFound" and reply.status_code == (401 if caller.actor.is_anonymous else 404),
                    "401": reply.status_code == 401 and code != "RepoNotFound",
                    "forbidden": reply.status_code == 403,
                    "allowed": reply.status_code < 500 and reply.status_code not in (401, 403) and code != "RepoNotFound",
                }[expected]
                if not seen:
                    wrong.append(f"{row} on {name} as {label}: expected {expected}, got {reply.status_code} {code} {reply.text[:100]}")
    assert wrong == []


async def test_account_routes(world: World) -> None:
    for row, right in TABLE.items():
        method, _, path = row.partition(" ")
        if right in (Access.SIGNED_IN, Access.SIGNED_IN_WRITE, Access.INTERNAL) and "{ns:seg}" not in path:
            body = json.dumps({"name": "x", "host": "x", "kind": "bearer", "credential": "x"}).encode() if method == "POST" else None
            reply = await world.client.request(method, address(path, "x"), content=body, headers={"content-type": "application/json"})
            assert reply.status_code == 401, row
    refused = await world.client.post("/api/repos/create", json={"name": "x"}, headers=world.callers["read token"].headers)
    assert refused.status_code == 403


async def test_private_and_absent_answer_alike(world: World) -> None:
    headers = world.callers["stranger"].headers
    for row, right in TABLE.items():
        method, _, path = row.partition(" ")
        if "{ns:seg}" in path and "/api/" in path and isinstance(right, Action):
            content = body_of(method, path, "private")
            replies = [
                await world.client.request(
                    method, address(path, n), headers=headers | {"content-type": "application/json"}, content=content
                )
                for n in ("private", "absent")
            ]
            # Everything but the request's own id.
            assert (
                len({(r.status_code, r.content, *sorted((k, v) for k, v in r.headers.items() if k != "x-request-id")) for r in replies})
                == 1
            ), row
