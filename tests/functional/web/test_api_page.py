"""The page about the API holds every call of the document, and nothing that is not ours."""

from __future__ import annotations

import html
import re

from tests.functional.web.conftest import Browser


async def test_every_call_of_the_document_is_on_the_page(stranger: Browser) -> None:
    document = (await stranger.get("/openapi.json")).json()
    page = await stranger.get("/docs")
    assert page.status_code == 200
    text = html.unescape(page.text)
    calls = [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]
    assert len(calls) > 100
    for method, path in calls:
        assert f'{method}</span><span class="mono grow">{path}</span>' in text
    assert "array of string" in text and ">needed<" in text


async def test_nothing_on_it_comes_from_elsewhere(stranger: Browser) -> None:
    """Whatever ran here could act for everybody who is signed in."""
    page = await stranger.get("/docs")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert re.findall(r'(?:src|<link[^>]+href)="(?!/static/)[^"]*"', page.text) == []
    assert "<script>" not in page.text
