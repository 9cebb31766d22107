"""What every page keeps: headers, form tokens, language, nothing inline. Over the memory backend."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

import pytest
from fastapi.routing import iter_route_contexts
from starlette.testclient import TestClient

from tests.e2e.web.screenshots import PAGES, STRANGER, memory_app
from tests.fakes.web_backend import MemoryWebBackend

CSRF = "csrf-token-of-alice-0123456789"
CHANGES = (
    "/sign-out", "/settings/tokens", "/settings/tokens/revoke", "/settings/sessions/end", "/settings/password", "/new-space",
    "/admin/users",
    "/admin/suspend", "/admin/quotas", "/datasets/alice/books/settings/delete", "/alice/books/settings/delete", "/alice/books/like",
    *(
        f"/spaces/alice/marginalia/{what}"
        for what in (
            "like", "duplicate", "settings/hardware", "settings/sleep", "settings/storage", "settings/storage-remove",
            "settings/volume", "settings/volume-remove",
            "settings/variable", "settings/secret", "settings/variable-remove",
            "settings/secret-remove", "settings/pause", "settings/restart", "settings/rebuild", "settings/deploy", "settings/cancel-build",
            "settings/visibility", "settings/rename", "settings/delete", "new/main", "edit/main/app.py", "upload/main",
            "delete/main/app.py",
            "discussions/new", "discussions/1/comment", "discussions/1/status",
        )
    ),
)  # fmt: skip


def _forms() -> list[str]:
    """Every address that takes a form, so that a new one is looked at without being named here."""
    app, _ = memory_app()
    found = {str(route.path) for route in iter_route_contexts(app.routes) if "POST" in (route.methods or ())}
    fill = {"owner": "alice", "name": "marginalia", "rev": "main", "file": "app.py", "number": "1", "slug": "reading-room"}
    paths = {re.sub(r"\{(\w+):\w+\}", lambda part: fill[part[1]], path) for path in found}
    return sorted(paths - {"/oauth/device/decide"})  # the stand-in of the OAuth provider, which looks at its own


FORMS = _forms()


@pytest.fixture
def world() -> Iterator[tuple[TestClient, MemoryWebBackend]]:
    app, backend = memory_app()
    with TestClient(app, base_url="http://localhost:7860", headers={"accept": "text/html"}) as client:
        yield client, backend


@pytest.fixture(scope="module")
def settled() -> Iterator[tuple[TestClient, MemoryWebBackend]]:
    """One platform for the tests that change nothing on it."""
    app, backend = memory_app()
    with TestClient(app, base_url="http://localhost:7860", headers={"accept": "text/html"}) as client:
        yield client, backend


@pytest.fixture
def alice_settled(settled: tuple[TestClient, MemoryWebBackend]) -> TestClient:
    client, backend = settled
    client.cookies.clear()
    client.cookies.set("vitrine", backend.signed_in)
    return client


@pytest.fixture
def alice(world: tuple[TestClient, MemoryWebBackend]) -> TestClient:
    client, backend = world
    client.cookies.set("vitrine", backend.signed_in)
    return client


@pytest.mark.parametrize("path", [*PAGES.values(), *STRANGER.values(), "/spaces?sdk=gradio&running=1&sort=likes&page=2", "/nobody"])
def test_every_page_is_closed_to_attackers_and_holds_nothing_inline(alice_settled: TestClient, path: str) -> None:
    response = alice_settled.get(path, follow_redirects=False)
    policy = response.headers["content-security-policy"]
    assert "script-src 'self'" in policy and "unsafe-inline" not in policy and "frame-ancestors 'none'" in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "same-origin"
    html = response.text
    assert not re.search(r"<[^>]+\s(on[a-z]+|style)\s*=", html), "nothing inline"
    assert not re.search(r"<script(?![^>]*\bsrc=)[^>]*>", html)
    for form in re.findall(r'<form[^>]*method="post".*?</form>', html, flags=re.S):
        assert 'name="csrf"' in form
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids)), "an id twice"
    for label in re.findall(r'<label[^>]*\bfor="([^"]+)"', html):
        assert label in ids


def test_every_form_is_known() -> None:
    assert {path.replace("/books/", "/marginalia/") for path in CHANGES} <= set(FORMS)
    assert len(FORMS) > 80


@pytest.mark.parametrize("path", FORMS)
def test_no_form_works_without_its_token_or_from_elsewhere(
    settled: tuple[TestClient, MemoryWebBackend], alice_settled: TestClient, path: str
) -> None:
    alice, calls = alice_settled, list(settled[1].calls)
    own = {"origin": "http://localhost:7860"}
    assert alice.post(path, data={}, headers=own, follow_redirects=False).status_code == 403
    assert alice.post(path, data={"csrf": "x" * 30}, headers=own, follow_redirects=False).status_code == 403
    for origin in ("http://alice-demo.localhost:7860", "http://evil.example", "null", "https://localhost"):
        response = alice.post(path, data={"csrf": CSRF}, headers={"origin": origin}, follow_redirects=False)
        assert response.status_code == 403, origin
    assert alice.post(path, data={"csrf": CSRF}, headers={"sec-fetch-site": "same-site"}, follow_redirects=False).status_code == 403
    assert settled[1].calls == calls, "nothing was done"


@pytest.mark.parametrize("path", CHANGES)
def test_strangers_are_led_to_sign_in_or_refused(settled: tuple[TestClient, MemoryWebBackend], path: str) -> None:
    client, backend = settled
    client.cookies.clear()
    page = client.get("/sign-in").text
    token = page.partition('name="csrf" value="')[2].partition('"')[0]
    response = client.post(path, data={"csrf": token}, headers={"origin": "http://localhost:7860"}, follow_redirects=False)
    assert response.status_code in (401, 403, 404) or path == "/sign-out"
    assert [c for c in backend.calls if c[0] != "sign_out"] == []


def test_session_cookies_are_hidden_from_scripts(world: tuple[TestClient, MemoryWebBackend]) -> None:
    client, _ = world
    token = client.get("/sign-in").text.partition('name="csrf" value="')[2].partition('"')[0]
    form = {"csrf": token, "name": "alice", "password": "correct horse", "next": "//evil.example"}
    response = client.post("/sign-in", data=form, follow_redirects=False)
    assert (response.status_code, response.headers["location"]) == (303, "/")
    cookie = next(c for c in response.headers.get_list("set-cookie") if c.startswith("vitrine="))
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie and "Domain" not in cookie


def test_https_gives_host_cookies_and_hsts() -> None:
    from fastapi import FastAPI

    from control_plane.http import context, error_map
    from tests.fakes.clock import FixedClock
    from web.router import web_pages, web_router

    app = FastAPI()
    app.include_router(web_router(web_pages(MemoryWebBackend(), FixedClock(), secure=True)))
    error_map.install(app)
    context.install_context(app)
    with TestClient(app, base_url="https://vitrine.example") as client:
        response = client.get("/sign-in")
    assert response.headers["set-cookie"].startswith("__Host-vitrine-form=") and "Secure" in response.headers["set-cookie"]
    assert "max-age" in response.headers["strict-transport-security"]


def test_a_quota_refusal_is_explained_where_it_happened(alice: TestClient) -> None:
    form = {"csrf": CSRF, "owner": "alice", "name": "one-too-many", "sdk": "gradio", "visibility": "public"}
    response = alice.post("/new-space", data=form)
    assert response.status_code == 403
    assert "limit 3, in use 3" in response.text and 'value="one-too-many"' in response.text
    response = alice.post("/spaces/alice/marginalia/settings/hardware", data={"csrf": CSRF, "flavor": "a100-large"})
    assert response.status_code == 403 and "gpu-hours" in response.text


def test_the_address_holds_the_whole_gallery(alice: TestClient) -> None:
    page = alice.get("/spaces?q=a&sdk=gradio&sort=likes").text
    assert "q=a&amp;sdk=gradio&amp;sdk=streamlit&amp;sort=likes" in page
    assert 'value="a"' in page
    assert "No demo matches" in alice.get("/spaces?q=zzzz").text


def test_languages_are_chosen_by_browser_and_by_hand(alice: TestClient) -> None:
    assert '<html lang="zh">' in alice.get("/", headers={"accept-language": "zh-CN,zh;q=0.9,en;q=0.5"}).text
    moved = alice.get("/-/language?to=ru&next=/models", follow_redirects=False)
    assert moved.headers["location"] == "/models"
    assert '<html lang="ru">' in alice.get("/").text


def test_gallery_is_small(world: tuple[TestClient, MemoryWebBackend]) -> None:
    client, backend = world
    card = backend.cards[0]
    backend.cards = [replace(card, name=f"demo-{i}") for i in range(200)]
    page = client.get("/")
    assert page.text.count('class="case"') == 24
    assert len(page.content) < 60_000
    css = client.get(re.findall(r'href="(/static/[^"]+\.css)"', page.text)[0])
    assert len(css.content) < 30_000 and "immutable" in css.headers["cache-control"]


def test_event_streams_resume(alice: TestClient) -> None:
    body = alice.get("/-/spaces/alice/marginalia/logs/run", headers={"last-event-id": "4"}).text
    assert body.startswith("id: 5\nevent: line\n")


_STAMP = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d")
_TIME = re.compile(r'<time datetime="([^"]+)"(?: title="([^"]+)")?>([^<]+)</time>')


@pytest.mark.parametrize(("language", "month", "until"), [("en", "September", "until"), ("zh", "9月1日", "至"), ("ru", "сентября", "до")])
def test_every_date_is_in_the_readers_words_and_readable_for_machines(
    settled: tuple[TestClient, MemoryWebBackend], language: str, month: str, until: str
) -> None:
    """Also the day on which a quota is free again, in a table, in the refusal itself and in its facts."""
    client, backend = settled
    client.cookies.set("vitrine", backend.signed_in)
    client.cookies.set("vitrine-lang", language)
    try:
        pages = {path: client.get(path).text for path in PAGES.values()}
        refused = client.post(
            "/spaces/alice/marginalia/settings/hardware",
            data={"csrf": CSRF, "flavor": "a100-large"},
            headers={"origin": "http://localhost:7860"},
        ).text
    finally:
        client.cookies.clear()
    dates = 0
    for path, page in {**pages, "refused": refused}.items():
        for at, title, said in _TIME.findall(page):
            assert datetime.fromisoformat(at.replace("Z", "+00:00")).tzinfo is not None, path
            assert not _STAMP.search(title + said), f"{path}: {said} {title}"
            dates += 1
        shown = re.sub(r"<(?:script|pre)[^>]*>.*?</(?:script|pre)>|<ol tabindex.*?</ol>", "", page, flags=re.DOTALL)
        assert not _STAMP.search(re.sub(r'(?:datetime|data-since)="[^"]+"', "", shown)), path
    assert dates > 50
    day = '<time datetime="2026-09-01T00:00:00'
    assert day in pages["/settings/account"] and f"{until} {day}" in pages["/settings/account"] and month in pages["/settings/account"]
    assert refused.count(day) >= 3, "the sentence, its facts and the picker's quota"
    assert "resets at" not in re.sub(r"<[^>]+>", "", refused) or language == "en"
