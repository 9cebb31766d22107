"""A private repository answers as one that does not exist, on every door of the API process: API, files, git, LFS, Xet, pages.

Status, headers and body are compared, and what the process did for the answer: each statement it gave the database, each program it
started, each file of the platform's data it opened. What is done alike takes equally long; that needs no clock. The doors of running
apps are the proxy's: `tests/functional/proxy/test_wake_and_guard.py`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from sqlalchemy import event
from sqlalchemy.engine import Engine

from tests.functional.hub_api.in_process import InProcess

HIDDEN, ABSENT = "private-one", "missing-one"
LFS = {"Content-Type": "application/vnd.git-lfs+json", "Accept": "application/vnd.git-lfs+json"}
JSON = {"Content-Type": "application/json", "Accept": "*/*"}
PAGE = {"Accept": "text/html"}
BATCH = {"operation": "download", "transfers": ["basic"], "objects": [{"oid": "0" * 64, "size": 1}]}

# Doors that ask for more than an address and an empty body. {p} is the prefix of the kind in addresses, {k} its plural.
DOORS: tuple[tuple[str, str, dict[str, str], object], ...] = (
    ("POST", "/api/{k}/alice/NAME/commit/main", {"Content-Type": "application/x-ndjson"}, {"key": "header", "value": {"summary": "x"}}),
    ("POST", "/api/{k}/alice/NAME/preupload/main", {}, {"files": []}),
    ("POST", "/api/{k}/alice/NAME/duplicate", {}, {"repository": "mallory/copy"}),
    ("PUT", "/api/{k}/alice/NAME/settings", {}, {"private": False}),
    ("POST", "/api/{k}/alice/NAME/discussions", {}, {"title": "t", "description": "d"}),
    ("POST", "/api/{k}/alice/NAME/lfs-files/duplicate", {}, {"target": {"type": "model", "name": "mallory/x"}, "files": []}),
    ("GET", "/{p}alice/NAME/resolve/main/README.md", {"Range": "bytes=0-3"}, None),
    ("GET", "/{p}alice/NAME/info/refs?service=git-upload-pack", {"Git-Protocol": "version=2"}, None),
    ("GET", "/{p}alice/NAME.git/info/refs?service=git-receive-pack", {}, None),
    ("GET", "/{p}Alice/NAME.git/info/refs?service=git-upload-pack", {}, None),
    ("POST", "/{p}alice/NAME.git/git-upload-pack", {"Content-Type": "application/x-git-upload-pack-request"}, None),
    ("POST", "/{p}alice/NAME.git/git-receive-pack", {"Content-Type": "application/x-git-receive-pack-request"}, None),
    ("POST", "/{p}alice/NAME.git/info/lfs/objects/batch", LFS, BATCH),
    ("POST", "/{p}alice/NAME.git/info/lfs/objects/batch", LFS, {**BATCH, "operation": "upload"}),
    ("POST", "/{p}alice/NAME.git/info/lfs/locks/verify", LFS, {}),
    ("GET", "/{p}alice/NAME.git/info/lfs/locks", LFS, None),
    ("GET", "/{p}alice/NAME", PAGE, None),
    ("GET", "/{p}alice/NAME/tree/main", PAGE, None),
    ("GET", "/{p}alice/NAME/blob/main/README.md", PAGE, None),
    ("GET", "/{p}alice/NAME/commits/main", PAGE, None),
    ("GET", "/{p}alice/NAME/discussions", PAGE, None),
    ("GET", "/{p}alice/NAME/settings", PAGE, None),
    ("POST", "/api/repos/move", {}, {"fromRepo": "alice/NAME", "toRepo": "mallory/NAME", "type": "{t}"}),
    ("DELETE", "/api/repos/delete", {}, {"name": "NAME", "organization": "alice", "type": "{t}"}),
)
OF_SPACES: tuple[tuple[str, str, dict[str, str], object], ...] = (
    ("GET", "/api/spaces/by-subdomain/alice-NAME", {}, None),
    ("GET", "/spaces/alice/NAME/logs", PAGE, None),
    ("POST", "/api/spaces/alice/NAME/restart?factory=true", {}, None),
    ("POST", "/api/spaces/alice/NAME/secrets", {}, {"key": "K", "value": "v"}),
    ("POST", "/api/repos/create", {}, {"name": "from", "type": "space", "template": "alice/NAME"}),
)

_steps: list[str] = []
_watched: list[str] = []  # the folder whose files count, while somebody looks


def _on_audit(name: str, args: tuple[Any, ...]) -> None:
    if not _watched:
        return
    if name == "subprocess.Popen":
        _steps.append(f"started {args[1]}")
    elif name in ("open", "os.listdir", "os.scandir") and str(args[0]).startswith(_watched[0]):
        _steps.append(f"{name} {args[0]}")


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    def on_statement(_: Any, cursor: Any, statement: str, *rest: Any) -> None:
        _steps.append(statement)

    root = tmp_path_factory.mktemp("hidden")
    made = InProcess(root)
    sys.addaudithook(_on_audit)
    event.listen(Engine, "before_cursor_execute", on_statement)
    _watched.append(str(root))
    try:
        yield made
    finally:
        _watched.clear()
        event.remove(Engine, "before_cursor_execute", on_statement)
        made.close()


@pytest.fixture(scope="module")
def callers(process: InProcess) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {"anonymous": {}, **process.people("alice", "mallory")}
    for kind in ("space", "model", "dataset"):
        process.made("/api/repos/create", found["alice"], name=HIDDEN, type=kind, sdk="static", private=True)
    process.ask("GET", "/api/whoami-v2", found["mallory"])  # that a token was used is written down once an hour
    return found


def _asked(process: InProcess, *question: Any) -> tuple[httpx.Response, list[str]]:
    """The answer, and the steps that led to it."""
    _steps.clear()
    return process.ask(*question), list(_steps)


def _seen(reply: httpx.Response, name: str) -> tuple[object, ...]:
    """All that a caller gets, with the name it asked for written as NAME; but for what differs between any two answers."""
    own = {"date", "x-request-id", "set-cookie"}
    headers = sorted((k, v.replace(name, "NAME")) for k, v in reply.headers.items() if k not in own)
    return reply.status_code, headers, reply.content.replace(name.encode(), b"NAME")


def _difference(process: InProcess, method: str, door: str, headers: dict[str, str], body: str | None) -> str:
    """ "" when neither the answer nor what was done for it tells the hidden one from the absent one."""
    seen = []
    for name in (HIDDEN, ABSENT):
        content = None if body is None else body.replace("NAME", name).encode()
        reply, steps = _asked(process, method, door.replace("NAME", name), headers, content)
        seen.append((*_seen(reply, name), [step.replace(name, "NAME") for step in steps]))
    hidden, absent = seen
    if hidden == absent and hidden[0] in (303, 400, 401, 403, 404, 422):  # 303: a page that asks to sign in first
        return ""
    return f"{method} {door}:\n  hidden {hidden}"[:2000] + f"\n  absent {absent}"[:2000]


@pytest.mark.parametrize("who", ["anonymous", "mallory"])
def test_hidden_and_absent_are_one_answer(process: InProcess, callers: dict[str, dict[str, str]], who: str) -> None:
    """What real clients send."""
    wrong = []
    for kind in ("space", "model", "dataset"):
        prefix = "" if kind == "model" else f"{kind}s/"
        for method, door, headers, body in (*DOORS, *(OF_SPACES if kind == "space" else ())):
            address = door.format(p=prefix, k=f"{kind}s")
            content = None if body is None else json.dumps(body).replace("{t}", kind)
            wrong.append(_difference(process, method, address, {**JSON, **headers, **callers[who]}, content))
    assert [one for one in wrong if one] == []


def _every_door(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Method and address of each route of the process that names a repository, for each kind that it is for."""
    for route in iter_route_contexts(app.routes):
        path = str(route.path)
        if re.search(r"\{(?:ns|owner)\b", path) is None or "{name" not in path:
            continue
        path = re.sub(r"\{(?:ns|owner)\b[^}]*\}", "alice", re.sub(r"\{name\b[^}]*\}", "NAME", path))
        path = re.sub(r"\{(?:rev|branch)\b[^}]*\}", "main", re.sub(r"\{\w+:int\}", "1", path))
        for method in sorted(route.methods or ()):
            for kind in ("spaces", "models", "datasets") if "{kind:kind}" in path else ("",):
                yield method, re.sub(r"\{[^}]+\}", "x", path.replace("{kind:kind}", kind))


@pytest.mark.parametrize("who", ["anonymous", "mallory"])
def test_no_route_tells_a_hidden_one_from_an_absent_one(process: InProcess, callers: dict[str, dict[str, str]], who: str) -> None:
    """Whatever is added to the process, every method: with an empty body, which a route may only refuse before or after it looked."""
    doors = list(_every_door(process.app))
    assert len(doors) > 300
    wrong = [
        _difference(process, method, door, {**JSON, **callers[who]}, "{}" if method in ("POST", "PUT", "PATCH", "DELETE") else None)
        for method, door in doors
    ]
    assert [one for one in wrong if one] == []


def test_what_was_done_is_seen(process: InProcess, callers: dict[str, dict[str, str]]) -> None:
    """The owner's own requests start git and open files: the comparison above would notice."""
    headers = {**JSON, **callers["alice"]}
    reply, steps = _asked(process, "GET", f"/api/spaces/alice/{HIDDEN}/commits/main", headers)
    assert reply.status_code == 200 and any(step.startswith("started") for step in steps)
    assert any("spaces" in step for step in steps)
    lines = [{"key": "header", "value": {"summary": "x"}}, {"key": "file", "value": {"path": "x", "content": "eA=="}}]
    content = "\n".join(map(json.dumps, lines)).encode()
    reply, steps = _asked(process, "POST", f"/api/spaces/alice/{HIDDEN}/commit/main", headers, content)
    assert reply.status_code == 200 and any(step.startswith("open") for step in steps), steps
