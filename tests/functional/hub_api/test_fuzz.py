"""Requests made from the platform's own API document: every operation, several identities, and values that nobody planned for.

No answer is a 5xx, every refusal names its code and says why, and nobody sees what the access table keeps from them.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.functional.hub_api.in_process import InProcess
from tests.functional.hub_api.running import WholePlatform

# Addresses that never end, and those whose work is not the API's (they would start or stop things by the hundred).
_ENDLESS = re.compile(r"/(events|logs|metrics)(/|$)")
_METHODS = ("get", "head", "post", "put", "patch", "delete")
_ROUNDS = int(os.environ.get("VITRINE_FUZZ_ROUNDS", "2"))  # more of them finds more
_SEED = int(os.environ.get("VITRINE_FUZZ_SEED", "20260101"))

NASTY_TEXT = (
    "", " ", "\x00", "a\x00b", "\ud800", "x\udfff", "../../../etc/passwd", "%2e%2e%2f", "refs/heads/main", "refs/pr/1", "-c",
    "--upload-pack=x",
    "$(id)", "'; DROP TABLE repos; --", '" OR 1=1', "\r\nX-Evil: 1", "​", "‮", "é" * 300, "a" * 5000, "🙂", "null", "NaN", "1e999", "%",
    "%zz",
    "a/b", "a/b/c", "/", "//", "\\", ".", "..", ".git", "main", "HEAD", "HEAD~1", "@{1}", "*", "?", "#", "0", "-1", "9" * 40,
    "2026-02-30T99:99:99Z",
    "true", "[]", "{}", "<script>alert(1)</script>", "alice/demo", "hf_" + "a" * 34,
)  # fmt: skip
NASTY_JSON: tuple[Any, ...] = (
    None, True, False, 0, -1, 1 << 63, 1 << 200, 1.5, -0.0, 1e308, [], {}, [[]], [None], {"": None}, {"key": {"key": []}}, *NASTY_TEXT,
)  # fmt: skip

texts = st.one_of(st.sampled_from(NASTY_TEXT), st.text(max_size=20))
values = st.one_of(st.sampled_from(NASTY_JSON), st.text(max_size=20), st.integers(), st.lists(st.text(max_size=5), max_size=3))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholePlatform]:
    running = WholePlatform(tmp_path_factory.mktemp("fuzz"))
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def callers(whole: WholePlatform) -> dict[str, dict[str, str]]:
    """Identities by their header; alice owns a model."""
    admin = {"Authorization": f"Bearer {whole.admin_token}"}
    with httpx.Client(base_url=whole.url, timeout=60) as client:
        client.post("/api/admin/users", headers=admin, json={"name": "alice"}).raise_for_status()
        token = client.post("/api/admin/tokens", headers=admin, json={"user": "alice", "role": "write", "name": "fuzz"}).json()["token"]
        alice = {"Authorization": f"Bearer {token}"}
        for kind in ("space", "model"):
            body = {"name": "demo", "type": kind, "sdk": "static"}
            client.post("/api/repos/create", headers=alice, json=body).raise_for_status()
    return {"admin": admin, "alice": alice}


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    made = InProcess(tmp_path_factory.mktemp("inside"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def identities(inside: InProcess) -> dict[str, dict[str, str]]:
    """By their header; alice owns two repositories of each kind, mallory nothing."""
    found: dict[str, dict[str, str]] = {"anonymous": {}, "admin": {"Authorization": f"Bearer {inside.admin_token}"}}
    found |= {"garbage": {"Authorization": "Bearer hf_nobody"}, **inside.people("alice", "mallory")}
    for kind in ("space", "model", "dataset"):
        for name in ("demo", "hidden"):
            inside.made("/api/repos/create", found["alice"], name=name, type=kind, sdk="static", private=name == "hidden")
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(method, path, about) for path, verbs in document["paths"].items() for method, about in verbs.items() if method in _METHODS]


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def sample(document: dict[str, Any], schema: dict[str, Any], draw: random.Random, depth: int = 0) -> Any:
    """A value that fits the schema, or now and then one that does not."""
    schema = resolved(document, schema)
    if draw.random() < 0.15 or depth > 4:
        return draw.choice(NASTY_JSON)
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            return sample(document, draw.choice(schema[word]), draw, depth + 1)
    if "enum" in schema:
        return draw.choice(schema["enum"])
    match schema.get("type"):
        case "object" | None:
            known = schema.get("properties", {})
            chosen = [k for k in known if k in schema.get("required", ()) or draw.random() < 0.7]
            return {k: sample(document, known[k], draw, depth + 1) for k in chosen}
        case "array":
            return [sample(document, schema.get("items", {}), draw, depth + 1) for _ in range(draw.randrange(4))]
        case "integer" | "number":
            return draw.choice((0, 1, -1, 5, 1 << 31, 1 << 63, -(1 << 70)))
        case "boolean":
            return draw.random() < 0.5
    return draw.choice((*NASTY_TEXT, "alice/demo", "demo", "alice", "main", "README.md", "cpu-basic"))


def path_of(template: str, draw: random.Random, nasty: list[str]) -> str:
    usual = {
        "kind": ("spaces", "models", "datasets"), "ns": ("alice", "ALICE", "nobody"), "owner": ("alice",),
        "name": ("demo", "hidden", "absent"),
        "rev": ("main", "refs/pr/1", "0" * 40, "nope"), "path": ("README.md", "", "a/b", "index.html"),
        "branch": ("main", "x"),
        "user": ("alice",), "num": ("1", "0", "99"),
    }  # fmt: skip

    def fill(match: re.Match[str]) -> str:
        name = match[1].partition(":")[0]
        if name in usual and draw.random() < 0.7:
            return quote(draw.choice(usual[name]), safe="")
        return quote((nasty.pop() if nasty else draw.choice(NASTY_TEXT)).encode("utf-8", "surrogatepass"), safe="")

    return re.sub(r"\{([^}]+)\}", fill, template)


def judge(reply: httpx.Response, what: str, faults: list[str]) -> None:
    if reply.status_code >= 500 and reply.headers.get("x-error-code") != "NotImplemented":
        faults.append(f"{reply.status_code}: {what}: {reply.text[:200]}")
    elif reply.status_code >= 400:
        bad_token = reply.headers.get("x-error-message") == "Invalid credentials in Authorization header"
        if not reply.headers.get("x-error-message") or not (reply.headers.get("x-error-code") or bad_token):
            faults.append(f"unnamed {reply.status_code}: {what}: {dict(reply.headers)}")
    if "evil" in reply.headers.get("x-evil", ""):
        faults.append(f"header from input: {what}")


def test_every_operation_survives_what_nobody_planned(inside: InProcess, identities: dict[str, dict[str, str]]) -> None:
    document = dict(inside.ask("GET", "/openapi.json", {}).json())
    faults: list[str] = []
    asked = 0

    @seed(_SEED)
    @settings(max_examples=_ROUNDS, deadline=None, phases=(Phase.generate,), suppress_health_check=list(HealthCheck), database=None)
    @given(st.integers(0, 1 << 32), st.lists(texts, min_size=4, max_size=4), values)
    def round_of_requests(start: int, nasty: list[str], loose: Any) -> None:
        nonlocal asked
        draw = random.Random(start)
        for method, template, about in operations(document):
            if _ENDLESS.search(template):
                continue
            for label in draw.sample(sorted(identities), 2):
                headers = identities[label]
                if label == "admin" and ("/admin/" in template or template.endswith("/delete")):
                    continue  # an administrator may well suspend everybody; what those routes refuse is tested as others
                url = path_of(template, draw, list(nasty))
                query = {p["name"]: draw.choice(NASTY_TEXT) for p in about.get("parameters", []) if p["in"] == "query"}
                query |= {draw.choice(("limit", "cursor", "sort", "search", "expand", "filter", "p")): draw.choice(NASTY_TEXT)}
                url += "?" + "&".join(f"{k}={quote(v.encode('utf-8', 'surrogatepass'), safe='')}" for k, v in query.items())
                body = about.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
                content: bytes | None = None
                if method not in ("get", "head"):
                    given_body = sample(document, body, draw) if body and draw.random() < 0.85 else loose
                    content = json.dumps(given_body).encode() if draw.random() < 0.9 else b'{"a": "\xff'
                what = f"{method} {url[:300]} {(content or b'')[:300]!r} as {label}"
                try:
                    reply = inside.ask(method.upper(), url, {**headers, "Content-Type": "application/json"}, content)
                except (httpx.HTTPError, TimeoutError) as error:
                    faults.append(f"{type(error).__name__}: {what}")
                    continue
                asked += 1
                judge(reply, what, faults)
                if label in ("anonymous", "garbage", "mallory") and b"/hidden" in reply.content and "hidden" not in url + str(content):
                    faults.append(f"a private name was told: {what}")

    round_of_requests()
    assert faults == [] and asked > 150, f"{len(faults)} of {asked}:\n" + "\n".join(faults[:30])


@pytest.mark.parametrize("sink", ["validate-yaml", "repos/create", "discussions", "collections", "commit"])
@pytest.mark.parametrize("text", ["a\x00b", "\ud800", "\udc00x", "￾", "a" * 300_000], ids=["nul", "high", "low", "nonchar", "long"])
def test_text_that_no_database_keeps_alike(whole: WholePlatform, callers: dict[str, dict[str, str]], sink: str, text: str) -> None:
    """Stored whole or refused with a reason; never a crash, and what follows still works."""
    body: Any = {
        "validate-yaml": {"content": f"---\ntitle: {text}\n---\n", "repoType": "space"},
        "repos/create": {"name": text, "type": "model"},
        "discussions": {"title": text, "description": text, "pullRequest": False},
        "collections": {"title": text, "namespace": "alice", "description": text},
    }.get(sink)
    address = f"/api/models/alice/demo/{sink}" if sink == "discussions" else f"/api/{sink}"
    raw = json.dumps(body).encode()
    if sink == "commit":
        address = "/api/models/alice/demo/commit/main"
        lines = ({"key": "header", "value": {"summary": text}}, {"key": "file", "value": {"path": f"x{text}", "content": "eA=="}})
        raw = b"\n".join(json.dumps(line).encode() for line in lines)
    with httpx.Client(base_url=whole.url, timeout=30) as client:
        reply = client.post(address, content=raw, headers={**callers["alice"], "Content-Type": "application/json"})
        faults: list[str] = []
        judge(reply, f"{sink} {text[:10]!r}", faults)
        assert faults == []
        assert client.get("/api/models/alice/demo", headers=callers["alice"]).status_code == 200


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=-1", "limit=999999999", "limit=1e9", "cursor=999999999", "cursor=-5", "limit=%00", "p=99999999"]
)
@pytest.mark.parametrize(
    "address",
    ["/api/spaces", "/api/models/alice/demo/commits/main", "/api/models/alice/demo/tree/main", "/api/models/alice/demo/discussions"],
)
def test_absurd_paging(whole: WholePlatform, address: str, query: str) -> None:
    reply = httpx.get(f"{whole.url}{address}?{query}", timeout=30)
    faults: list[str] = []
    judge(reply, f"{address}?{query}", faults)
    assert faults == [] and len(reply.content) < 3_000_000


@pytest.mark.parametrize(
    "address", ["/api/repos/create", "/api/models/alice/demo/preupload/main", "/api/validate-yaml", "/api/models/alice/demo/discussions"]
)
def test_huge_and_deep_bodies(whole: WholePlatform, callers: dict[str, dict[str, str]], address: str) -> None:
    headers = {**callers["alice"], "Content-Type": "application/json"}
    for raw in (b"[" * 200_000, b'{"a":' * 50_000, b'{"name": "' + b"a" * 40_000_000 + b'"}', b"\x00" * 1000, b"1" * 100_000):
        reply = httpx.post(whole.url + address, content=raw, headers=headers, timeout=60)
        faults: list[str] = []
        judge(reply, f"{address} with {len(raw)} bytes of {raw[:8]!r}", faults)
        assert faults == [] and reply.status_code >= 400


@pytest.mark.parametrize("text", ["a\x00b", "\ud800x"], ids=["nul", "half a pair"])
def test_text_that_no_database_keeps(inside: InProcess, identities: dict[str, dict[str, str]], text: str) -> None:
    """Wherever a text goes into a query or a row, one that cannot be stored is refused or cleaned; PostgreSQL is stricter than SQLite."""
    where = "/api/spaces/alice/demo"
    lock = {"operation": "upload", "objects": [{"oid": text, "size": 3}], "ref": {"name": text}}
    bodies: tuple[tuple[str, Any], ...] = (
        ("/api/repos/create", {"name": text}), ("/api/repos/create", {"name": "n", "organization": text}),
        ("/api/repos/create", {"name": "s", "type": "space", "sdk": "static", "variables": [{"key": "K", "value": text}]}),
        (f"{where}/variables", {"key": "K", "value": text, "description": text}), (f"{where}/secrets", {"key": "S", "value": text}),
        (f"{where}/discussions", {"title": text, "description": text}), (f"{where}/super-squash/main", {"message": text}),
        (f"{where}/tag/main", {"tag": "t", "message": text}), (f"{where}/branch/b", {"startingPoint": text}),
        (f"{where}/paths-info/main", {"paths": [text]}), (f"{where}/duplicate", {"repository": f"alice/{text}"}),
        ("/api/models/alice/demo/user-access-request/grant", {"user": text}), ("/alice/demo/ask-access", {text: text}),
        ("/api/collections", {"title": text, "namespace": "alice", "description": text}), ("/alice/demo.git/info/lfs/objects/batch", lock),
        ("/api/settings/webhooks", {"url": "http://localhost/", "secret": text, "watched": [{"type": "user", "name": text}]}),
        ("/alice/demo.git/info/lfs/locks", {"path": text}), ("/api/admin/users", {"name": text, "email": text}),
        ("/api/admin/tokens", {"user": text, "role": "write", "name": text}), ("/api/tokens/revoke-leaked", {"tokens": [text]}),
    )  # fmt: skip
    odd = quote(text.encode("utf-8", "surrogatepass"), safe="")
    addresses = (
        f"/api/spaces?search={odd}", f"/api/spaces?author={odd}", f"/api/spaces?filter={odd}", f"/api/spaces/semantic-search?q={odd}",
        f"/api/users/{odd}/overview", f"/api/collections?owner={odd}&q={odd}", f"/api/spaces/alice/{odd}",
        f"/api/spaces/by-subdomain/{odd}", f"{where}/tree/{odd}", f"/alice/demo/resolve/main/{odd}",
        f"/oauth/authorize?client_id={odd}&redirect_uri={odd}&state={odd}", f"/spaces?q={odd}", f"/{odd}",
        f"/alice/demo.git/info/lfs/locks?path={odd}&id={odd}",
    )  # fmt: skip
    faults: list[str] = []
    for who in ("alice", "admin"):
        for path, body in bodies:
            reply = inside.ask("POST", path, {**identities[who], "content-type": "application/json"}, json.dumps(body).encode())
            if reply.status_code >= 500:
                faults.append(f"{reply.status_code}: {path} as {who}: {reply.text[:200]}")
        faults += [f"500: {path}" for path in addresses if inside.ask("GET", path, identities[who]).status_code >= 500]
    assert faults == []
