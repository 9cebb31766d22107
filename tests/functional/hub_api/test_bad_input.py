"""Commits and addresses that should not be: refused with a sentence, and nothing changed."""

from __future__ import annotations

import base64
import json

import httpx
import pytest
from huggingface_hub import HfApi

from tests.functional.hub_api.running import Platform


def line(key: str, **value: object) -> str:
    return json.dumps({"key": key, "value": value})


def file(path: str, content: bytes = b"x") -> str:
    return line("file", path=path, content=base64.b64encode(content).decode(), encoding="base64")


HEADER = line("header", summary="s", description="")
ODD_PATHS = ("/a", "../a", "a/../b", "a//b", ".git/config", "a/.GIT/x", "a\\b", "a\nb", "x" * 5000, "./a", "git~1/a")
BAD = {
    "empty": "",
    "no header": file("a"),
    "two headers": f"{HEADER}\n{HEADER}\n{file('a')}",
    "header after": f"{file('a')}\n{HEADER}",
    "not json": f"{HEADER}\nnot json",
    "not an object": f"{HEADER}\n[1]",
    "no value": f'{HEADER}\n{{"key": "file"}}',
    "unknown key": f"{HEADER}\n{line('chmod', path='a')}",
    "bad base64": f"{HEADER}\n{line('file', path='a', content='@@@', encoding='base64')}",
    "content is a number": f"{HEADER}\n{line('file', path='a', content=1, encoding='base64')}",
    "bad encoding": f"{HEADER}\n{line('file', path='a', content='x', encoding='rot13')}",
    "no path": f"{HEADER}\n{line('file', content='')}",
    "path twice": f"{HEADER}\n{file('a')}\n{file('a')}",
    "cut in a big file": f'{HEADER}\n{{"key": "file", "value": {{"path": "a", "content": "' + "A" * 3_000_000,
    "big line without content": f"{HEADER}\n" + "x" * 3_000_000,
    "deep nesting": f"{HEADER}\n" + "[" * 100_000,
    "unknown lfs object": f"{HEADER}\n{line('lfsFile', path='a', algo='sha256', oid='0' * 64, size=1)}",
    "lfs oid is a path": f"{HEADER}\n{line('lfsFile', path='a', algo='sha256', oid='../../etc/passwd', size=1)}",
    "other algo": f"{HEADER}\n{line('lfsFile', path='a', algo='md5', oid='0' * 32, size=1)}",
    "delete of nothing": f"{HEADER}\n{line('deletedFile', path='never-there')}",
    "parent is a number": f'{{"key": "header", "value": {{"summary": "s", "parentCommit": 1}}}}\n{file("a")}',
    "stale parent": line("header", summary="s", parentCommit="0" * 39 + "1") + "\n" + file("a"),
    **{f"path {p!r}": f"{HEADER}\n{file(p)}" for p in ODD_PATHS},
}  # fmt: skip


@pytest.fixture(scope="module")
def repo(platform: Platform, alice: str) -> str:
    HfApi(endpoint=platform.url, token=alice).create_repo("alice/strict")
    return "alice/strict"


@pytest.mark.parametrize("case", BAD, ids=str)
def test_a_bad_commit_changes_nothing(platform: Platform, alice: str, repo: str, case: str) -> None:
    api = HfApi(endpoint=platform.url, token=alice)
    before = api.repo_info(repo).sha
    body = BAD[case].encode()
    # A good file goes first: all or nothing.
    if body.startswith(HEADER.encode() + b"\n"):
        body = body.replace(HEADER.encode() + b"\n", f"{HEADER}\n{file('fine.txt')}\n".encode(), 1)
    reply = httpx.post(
        f"{platform.url}/api/models/{repo}/commit/main",
        content=body,
        headers={"authorization": f"Bearer {alice}", "content-type": "application/x-ndjson"},
    )
    assert 400 <= reply.status_code < 500, reply.text
    assert len(reply.json()["error"]) > 5
    assert reply.headers["x-error-message"].isascii()
    assert api.repo_info(repo).sha == before


def test_big_inline_content_becomes_a_large_file(platform: Platform, alice: str, repo: str) -> None:
    api = HfApi(endpoint=platform.url, token=alice)
    big = b"line of text\n" * 1_000_000
    body = f"{HEADER}\n{file('big.txt', big)}\n{file('small.txt')}"
    reply = httpx.post(
        f"{platform.url}/api/models/{repo}/commit/main", content=body.encode(), headers={"authorization": f"Bearer {alice}"}, timeout=60
    )
    assert reply.status_code == 200, reply.text
    info = {i.path: i for i in api.get_paths_info(repo, ["big.txt", "small.txt"])}
    assert info["big.txt"].lfs
    assert info["big.txt"].size == len(big)
    assert info["small.txt"].lfs is None
    part = httpx.get(f"{platform.url}/{repo}/resolve/main/big.txt", headers={"range": "bytes=13-24"})
    assert (part.status_code, part.content) == (206, b"line of text")
    assert part.headers["content-range"] == f"bytes 13-24/{len(big)}"
    assert httpx.get(f"{platform.url}/{repo}/raw/main/big.txt").text.startswith("version https://git-lfs")
    assert "big.txt" in httpx.get(f"{platform.url}/{repo}/raw/main/.gitattributes").text


def test_reading_files(platform: Platform, alice: str, repo: str) -> None:
    api = HfApi(endpoint=platform.url, token=alice)
    api.upload_file(path_or_fileobj=b"<script>alert(1)</script>", path_in_repo="page.html", repo_id=repo)
    url = f"{platform.url}/{repo}/resolve/main"
    page = httpx.get(f"{url}/page.html")
    assert page.headers["content-type"].startswith("text/plain")
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in page.headers["content-security-policy"]
    assert httpx.get(f"{url}/page.html", headers={"if-none-match": page.headers["etag"]}).status_code == 304
    head = httpx.head(f"{url}/page.html", headers={"accept-encoding": "identity"})
    assert head.headers["content-length"] == "25"
    assert httpx.get(f"{url}/page.html", headers={"range": "bytes=-3"}).content == b"pt>"
    assert httpx.get(f"{url}/page.html", headers={"range": "bytes=99-"}).status_code == 416
    missing = httpx.head(f"{url}/nothing.txt")
    assert (missing.status_code, missing.headers["x-error-code"]) == (404, "EntryNotFound")
    assert len(missing.headers["x-repo-commit"]) == 40
    rev = httpx.head(f"{platform.url}/{repo}/resolve/nowhere/page.html")
    assert (rev.status_code, rev.headers["x-error-code"]) == (404, "RevisionNotFound")
    many = ",".join(f"{i}-{i}" for i in range(10_000))
    assert httpx.get(f"{url}/page.html", headers={"range": f"bytes={many}"}).status_code in (200, 431)


@pytest.mark.parametrize(
    "path", ["%00", "%ff%fe", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "a%0d%0aset-cookie:x", "-c", "%F0%9F%92%A9"]
)
def test_odd_paths_are_4xx(platform: Platform, repo: str, path: str) -> None:
    for address in (
        f"/{repo}/resolve/main/{path}",
        f"/{repo}/resolve/{path}/a",
        f"/api/models/{repo}/tree/main/{path}",
        f"/api/models/{repo}/revision/{path}",
    ):
        reply = httpx.get(platform.url + address)
        assert 400 <= reply.status_code < 500, address
        assert "set-cookie" not in reply.headers


def test_foreign_hosts_and_preflights(platform: Platform) -> None:
    odd = httpx.get(f"{platform.url}/api/models?limit=1", headers={"host": "evil/..?x"})
    assert odd.status_code < 500
    preflight = httpx.options(
        f"{platform.url}/api/whoami-v2", headers={"origin": "https://a.example", "access-control-request-method": "GET"}
    )
    assert preflight.status_code == 204
    assert "access-control-allow-credentials" not in preflight.headers
    named = httpx.get(f"{platform.url}/api/models", headers={"x-request-id": "abc-1"})
    assert named.headers["x-request-id"] == "abc-1"


def test_validate_yaml_is_json_on_every_status(platform: Platform) -> None:
    bad = httpx.post(f"{platform.url}/api/validate-yaml", json={"content": "---\nsdk: cobol\n---\n", "repoType": "space"})
    assert bad.status_code == 400
    assert bad.json()["errors"][0]["message"]
    fine = httpx.post(f"{platform.url}/api/validate-yaml", json={"content": "---\nsdk: static\n---\n", "repoType": "space"})
    assert (fine.status_code, fine.json()["errors"]) == (200, [])


def test_other_spellings_lead_to_one_address(platform: Platform, repo: str) -> None:
    reply = httpx.get(f"{platform.url}/api/models/%41LICE/str%69ct/tree/refs%2Fheads%2Fmain?recursive=true")
    assert reply.status_code == 307
    assert reply.headers["location"] == "/api/models/alice/strict/tree/refs%2Fheads%2Fmain?recursive=true"
    assert httpx.get(platform.url + reply.headers["location"]).status_code == 200


@pytest.mark.parametrize("text", ["\\ud800", "\\u0000"])
def test_broken_text_is_refused_or_kept_harmless(platform: Platform, alice: str, repo: str, text: str) -> None:
    headers = {"authorization": f"Bearer {alice}", "content-type": "application/json"}
    bodies = {
        f"/api/models/{repo}/discussions": f'{{"title": "{text}", "description": "{text}"}}',
        "/api/repos/create": f'{{"name": "{text}"}}',
        f"/api/models/{repo}/commit/main": f'{{"key": "header", "value": {{"summary": "{text}"}}}}\n{file("a.txt")}',
        f"/api/models/{repo}/preupload/main": f'{{"files": [{{"path": "{text}", "size": 1}}]}}',
        f"/api/models/{repo}/paths-info/main": f'{{"paths": ["{text}"]}}',
        "/api/settings/webhooks": f'{{"url": "https://x/{text}", "watched": [{{"type": "user", "name": "a"}}]}}',
    }
    for path, body in bodies.items():
        assert httpx.post(platform.url + path, content=body.encode(), headers=headers).status_code < 500, path
    assert httpx.get(f"{platform.url}/api/models/{repo}/discussions").status_code == 200
    assert httpx.get(f"{platform.url}/api/models?search=%00").status_code == 400
