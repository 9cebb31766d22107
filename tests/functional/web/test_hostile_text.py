"""Users' texts never become a script, an event handler, a form or a foreign address of ours, wherever they are shown."""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from tests.e2e.web.screenshots import memory_app
from tests.fakes.web_backend import LONG
from tests.functional.web.xss_corpus import PAYLOADS
from web import ansi, markup

NEVER = {"iframe", "object", "embed", "base", "style", "math", "template", "frame", "applet", "audio", "video", "marquee", "noembed"}
OURS = "/spaces/alice/marginalia"


class Judge(HTMLParser):
    """Collects what a browser would obey."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.crimes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {k: v or "" for k, v in attrs}
        if tag in NEVER and not (tag == "iframe" and values.get("sandbox")):
            self.crimes.append(f"<{tag}>")
        if tag == "script" and not values.get("src", "").startswith("/static/"):
            self.crimes.append("script")
        if tag == "link" and not values.get("href", "").startswith("/static/"):
            self.crimes.append("link")
        if tag == "form" and not values.get("action", "/").startswith("/"):
            self.crimes.append("form")
        for name, value in attrs:
            if name.startswith("on") or (name in ("style", "srcdoc", "xlink:href", "formaction") and not (value or "").startswith("/")):
                self.crimes.append(f"{tag} {name}")
            plain = "".join(c for c in (value or "") if c > " ").lower()
            if name in ("href", "src", "action") and plain.partition(":")[0] in ("javascript", "vbscript", "data", "blob", "filesystem"):
                self.crimes.append(f"{tag} {name}={value}")


def crimes(html: str) -> list[str]:
    judge = Judge()
    judge.feed(html)
    judge.close()
    return judge.crimes


def test_the_corpus_is_large() -> None:
    assert len(set(PAYLOADS)) >= 120


@pytest.mark.parametrize("payload", PAYLOADS)
def test_markdown_and_log_lines(payload: str) -> None:
    html = markup.markdown(payload, file_base="/a/b/blob/main", raw_base="/a/b/raw/main")
    assert crimes(html) == []
    assert 'id="find"' not in html and 'id="main"' not in html and "name=" not in html.replace("&quot;", "")
    assert not any(word in html for word in ('class="sr', 'class="btn'))
    assert crimes(str(ansi.to_html(payload))) == []
    assert "\x1b" not in ansi.to_html(payload) and "\u202e" not in ansi.to_html(payload)
    for line in markup.highlight(payload, "x.py"):
        assert crimes(str(line)) == []


def test_every_place_that_shows_a_users_text() -> None:
    """All payloads in turn as title, description, file name and content, commit message, log line, discussion, comment, collection,
    organisation, notice, preview, tag, audit fact and reason (the output of a tool)."""
    from dataclasses import replace

    app, backend = memory_app()
    places = (
        "",
        "/tree/main",
        "/commits/main",
        "/commit/" + "a" * 40,
        "/logs",
        "/discussions",
        "/discussions/1",
        "/discussions/2",
        "/settings",
        "/share",
    )
    others = (
        "/", "/alice", "/collections/alice/reading-room", "/organizations/lab/settings", "/notifications", "/datasets", "/admin",
        "/admin/users", "/admin/audit", "/settings/tokens", "/settings/account", f"{OURS}/analytics", f"{OURS}/discussions/new",
        f"{OURS}/duplicate", "/spaces/alice/going-live", "/spaces/alice/broken", f"/spaces/alice/{LONG}",
    )  # fmt: skip
    with TestClient(app, base_url="http://localhost:7860", cookies={"vitrine": backend.signed_in}) as client:
        index = next(i for i, c in enumerate(backend.cards) if c.name == "marginalia")
        card = backend.cards[index]
        for start in range(0, len(PAYLOADS), 12):
            text = "\n\n".join(PAYLOADS[start : start + 12])
            flat = text.replace("\n", " ")
            backend.cards[index] = replace(card, title=flat, description=flat, emoji=flat[:40], tags=(flat,))
            backend.files = {"README.md": text, f"{flat.replace('/', '_')[:200]}.py": text, "x.html": text, "x.svg": text}
            backend.commit_title = backend.discussion_title = flat
            backend.comment_text = text
            backend.any_text = flat
            backend.lines = text.split("\n")
            backend.variables = {"X": flat}
            for path in (*others, f"/spaces?q={quote(flat[:50])}", *(OURS + place for place in places)):
                # In Russian what other rooms say stands beside the words of their code.
                response = client.get(path, headers={"accept-language": "ru" if start % 24 else "en"})
                assert response.status_code == 200, path
                assert crimes(response.text) == [], path


@pytest.mark.parametrize("name", ["x.html", "x.svg", "x.js", "x.xhtml", "x.py"])
def test_raw_files_cannot_run_under_our_name(name: str) -> None:
    app, backend = memory_app()
    backend.files = {name: "<script>alert(1)</script>"}
    with TestClient(app, base_url="http://localhost:7860") as client:
        response = client.get(f"{OURS}/raw/main/{name}")
    assert "sandbox" in response.headers["content-security-policy"] and "default-src 'none'" in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "html" not in response.headers["content-type"] and "javascript" not in response.headers["content-type"]
