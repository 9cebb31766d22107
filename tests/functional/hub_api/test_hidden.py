"""A private repository answers as one that does not exist, on every door of the API process: API, files, git, LFS, Xet, pages."""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Iterator

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from tests.functional.hub_api.running import WholePlatform

LFS = {"Content-Type": "application/vnd.git-lfs+json", "Accept": "application/vnd.git-lfs+json"}
JSON = {"Content-Type": "application/json"}
BATCH = {"operation": "download", "transfers": ["basic"], "objects": [{"oid": "0" * 64, "size": 1}]}

# {p} is the prefix of the kind in addresses, {k} its plural.
DOORS: tuple[tuple[str, str, dict[str, str], object], ...] = (
    ("GET", "/api/{k}/alice/NAME", {}, None),
    ("GET", "/api/{k}/alice/NAME/revision/main", {}, None),
    ("GET", "/api/{k}/alice/NAME/tree/main", {}, None),
    ("GET", "/api/{k}/alice/NAME/discussions", {}, None),
    ("GET", "/api/{k}/alice/NAME/auth-check", {}, None),
    ("POST", "/api/{k}/alice/NAME/commit/main", {"Content-Type": "application/x-ndjson"}, {"key": "header", "value": {"summary": "x"}}),
    ("POST", "/api/{k}/alice/NAME/preupload/main", {}, {"files": []}),
    ("POST", "/api/{k}/alice/NAME/branch/x", {}, {}),
    ("POST", "/api/{k}/alice/NAME/duplicate", {}, {"repository": "mallory/copy"}),
    ("PUT", "/api/{k}/alice/NAME/settings", {}, {"private": False}),
    ("GET", "/api/{k}/alice/NAME/xet-write-token/main", {}, None),
    ("GET", "/api/{k}/alice/NAME/xet-read-token/main", {}, None),
    ("HEAD", "/{p}alice/NAME/resolve/main/README.md", {}, None),
    ("GET", "/{p}alice/NAME/resolve/main/README.md", {"Range": "bytes=0-3"}, None),
    ("GET", "/{p}alice/NAME/raw/main/nothing", {}, None),
    ("GET", "/{p}alice/NAME/info/refs?service=git-upload-pack", {}, None),
    ("GET", "/{p}alice/NAME.git/info/refs?service=git-receive-pack", {}, None),
    ("POST", "/{p}alice/NAME.git/git-upload-pack", {"Content-Type": "application/x-git-upload-pack-request"}, None),
    ("POST", "/{p}alice/NAME.git/git-receive-pack", {"Content-Type": "application/x-git-receive-pack-request"}, None),
    ("POST", "/{p}alice/NAME.git/info/lfs/objects/batch", LFS, BATCH),
    ("POST", "/{p}alice/NAME.git/info/lfs/objects/batch", LFS, {**BATCH, "operation": "upload"}),
    ("POST", "/{p}alice/NAME.git/info/lfs/locks/verify", LFS, {}),
    ("GET", "/{p}alice/NAME.git/info/lfs/locks", LFS, None),
    ("GET", "/{p}alice/NAME", {"Accept": "text/html"}, None),
    ("GET", "/{p}alice/NAME/tree/main", {"Accept": "text/html"}, None),
    ("GET", "/{p}alice/NAME/blob/main/README.md", {"Accept": "text/html"}, None),
)
_TAILS = ("runtime", "host", "jwt", "secrets", "variables", "logs/run", "logs/build", "events", "metrics")
OF_SPACES: tuple[tuple[str, str, dict[str, str], object], ...] = (
    *(("GET", f"/api/spaces/alice/NAME/{tail}", {}, None) for tail in _TAILS),
    ("POST", "/api/spaces/alice/NAME/restart", {}, None),
    ("GET", "/spaces/alice/NAME/settings", {"Accept": "text/html"}, None),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholePlatform]:
    running = WholePlatform(tmp_path_factory.mktemp("hidden"))
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def callers(whole: WholePlatform) -> dict[str, dict[str, str]]:
    admin = {"Authorization": f"Bearer {whole.admin_token}"}
    found: dict[str, dict[str, str]] = {"anonymous": {}}
    with httpx.Client(base_url=whole.url, timeout=60, headers=admin) as client:
        for name in ("alice", "mallory"):
            client.post("/api/admin/users", json={"name": name}).raise_for_status()
            token = client.post("/api/admin/tokens", json={"user": name, "role": "write", "name": "test"}).json()["token"]
            found[name] = {"Authorization": f"Bearer {token}"}
        for kind in ("space", "model", "dataset"):
            body = {"name": "private-one", "type": kind, "sdk": "static", "private": True}
            client.post("/api/repos/create", headers=found["alice"], json=body).raise_for_status()
    return {who: headers for who, headers in found.items() if who != "alice"}


def _seen(reply: httpx.Response, name: str) -> tuple[object, ...]:
    """All that a caller gets, with the name it asked for written as NAME; but for what differs between any two answers."""
    own = {"date", "x-request-id", "set-cookie"}
    headers = sorted((k, v.replace(name, "NAME")) for k, v in reply.headers.items() if k not in own)
    return reply.status_code, headers, reply.content.replace(name.encode(), b"NAME")


@pytest.mark.parametrize("who", ["anonymous", "mallory"])
@pytest.mark.parametrize("kind", ["spaces", "models", "datasets"])
def test_hidden_and_absent_are_one_answer(whole: WholePlatform, callers: dict[str, dict[str, str]], who: str, kind: str) -> None:
    prefix = "" if kind == "models" else f"{kind}/"
    wrong = []
    with httpx.Client(base_url=whole.url, timeout=60, headers=callers[who]) as client:
        for method, door, headers, body in (*DOORS, *(OF_SPACES if kind == "spaces" else ())):
            content = None if body is None else json.dumps(body).encode()
            replies = []
            for name in ("private-one", "missing-one"):
                address = door.format(p=prefix, k=kind).replace("NAME", name)
                replies.append(_seen(client.request(method, address, headers={**JSON, **headers}, content=content), name))
            if replies[0] != replies[1] or replies[0][0] not in (303, 401, 404):  # 303: a page that asks to sign in first
                wrong.append(f"{method} {door}: {replies}"[:900])
    assert wrong == []


def _every_door(whole: WholePlatform) -> Iterator[tuple[str, str]]:
    """Method and address of each route of the process that names a repository, for each kind that it is for."""
    for route in iter_route_contexts(whole.app.routes):
        path = str(route.path)
        if re.search(r"\{(?:ns|owner)\b", path) is None or "{name" not in path:
            continue
        path = re.sub(r"\{(?:ns|owner)\b[^}]*\}", "alice", re.sub(r"\{name\b[^}]*\}", "NAME", path))
        path = re.sub(r"\{(?:rev|branch)\b[^}]*\}", "main", re.sub(r"\{\w+:int\}", "1", path))
        for method in sorted(route.methods or ()):
            for kind in ("spaces", "models", "datasets") if "{kind:kind}" in path else ("",):
                yield method, re.sub(r"\{[^}]+\}", "x", path.replace("{kind:kind}", kind))
    yield "GET", "/api/spaces/by-subdomain/alice-NAME"


@pytest.mark.parametrize("who", ["anonymous", "mallory"])
def test_no_route_tells_a_hidden_one_from_an_absent_one(whole: WholePlatform, callers: dict[str, dict[str, str]], who: str) -> None:
    """Whatever is added to the process: with an empty body, which a route may only refuse before or after it looked."""
    doors, wrong = list(_every_door(whole)), []
    assert len(doors) > 300
    if who == "anonymous":  # who has no rights to change anything anywhere
        doors = [(method, door) for method, door in doors if method in ("GET", "HEAD")]
    with httpx.Client(base_url=whole.url, timeout=60, headers={**callers[who], "Accept": "*/*"}) as client:
        for method, door in doors:
            content = b"{}" if method in ("POST", "PUT", "PATCH", "DELETE") else None
            hidden, absent = (
                _seen(client.request(method, door.replace("NAME", name), headers=JSON, content=content), name)
                for name in ("private-one", "missing-one")
            )
            if hidden != absent or hidden[0] not in (303, 400, 401, 403, 404, 422):
                wrong.append(f"{method} {door}: {hidden} {absent}"[:900])
    assert wrong == []


def test_neither_does_the_clock_tell(whole: WholePlatform, callers: dict[str, dict[str, str]]) -> None:
    """Asked in turn, so that a busy machine falls on both; medians of many."""
    doors = (
        "/api/spaces/alice/NAME",
        "/spaces/alice/NAME/resolve/main/README.md",
        "/spaces/alice/NAME.git/info/refs?service=git-upload-pack",
    )
    with httpx.Client(base_url=whole.url, timeout=60, headers=callers["mallory"]) as client:
        for door in doors:
            times: dict[str, list[float]] = {"private-one": [], "missing-one": []}
            for n in range(120):
                for name in ("private-one", "missing-one") if n % 2 else ("missing-one", "private-one"):
                    began = time.perf_counter()
                    client.get(door.replace("NAME", name))
                    times[name].append((time.perf_counter() - began) * 1000)
            hidden, absent = (statistics.median(sorted(times[name])[:60]) for name in ("private-one", "missing-one"))
            assert abs(hidden - absent) < max(2.0, 0.5 * min(hidden, absent)), (door, hidden, absent)
