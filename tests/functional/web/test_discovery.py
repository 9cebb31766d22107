"""Finding: words of README and source, collections, uploads as a first commit."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from control_plane.bootstrap import Services
from control_plane.domain.accounts import ANONYMOUS
from control_plane.domain.repo_query import RepoQuery
from control_plane.domain.spaces import RepoType
from tests.functional.web.conftest import Browser
from tests.functional.web.test_platform_pages import _new_space
from web.views import GalleryQuery


async def test_the_gallery_finds_words_of_the_source_and_not_of_hidden_code(alice: Browser, stranger: Browser) -> None:
    await _new_space(alice, template="1")
    edit = "/spaces/alice/demo/edit/main/app.py"
    saved = await alice.post(edit, {"content": "zanzibar_lookup = 1\n", "message": "Words"}, page=edit)
    assert saved.status_code == 303
    assert 'data-space="alice/demo"' in (await stranger.get("/?q=zanzibar_lo")).text
    hidden = await alice.post("/spaces/alice/demo/settings/visibility", {"visibility": "protected"}, page="/spaces/alice/demo/settings")
    assert hidden.status_code == 303
    assert 'data-space="alice/demo"' not in (await stranger.get("/?q=zanzibar_lo")).text
    assert 'data-space="alice/demo"' in (await stranger.get("/?q=demo")).text


async def test_a_collection_is_made_shown_and_emptied(alice: Browser, bob: Browser, stranger: Browser) -> None:
    await _new_space(alice)
    made = await bob.post("/spaces/alice/demo/collect", {"into": "", "title": "Weekend <b>"}, page="/spaces/alice/demo/share")
    where = made.headers["location"].partition("?")[0]
    assert where.startswith("/collections/bob/weekend-b-")
    page = (await stranger.get(where)).text
    assert "Weekend &lt;b&gt;" in page
    assert 'data-space="alice/demo"' in page
    assert "/remove-item" not in page
    assert where in (await stranger.get("/bob")).text
    item = (await bob.get(where)).text.partition('name="item" value="')[2].partition('"')[0]
    assert (await alice.post(f"{where}/remove-item", {"item": item}, page="/settings/tokens")).status_code == 403
    assert (await bob.post(f"{where}/remove-item", {"item": item}, page=where)).status_code == 303
    assert "Nothing in it yet" in (await stranger.get(where)).text
    assert (await bob.post(f"{where}/delete", page=where)).status_code == 303
    assert (await stranger.get(where)).status_code == 404


async def test_a_space_begins_with_uploaded_files(alice: Browser) -> None:
    form = {"owner": "alice", "name": "mine", "sdk": "static", "visibility": "public", "hardware": "cpu-basic"}
    files = [("files", ("index.html", b"<h1>mine</h1>", "text/html")), ("files", ("img/a.svg", b"<svg/>", "image/svg+xml"))]
    made = await alice.post("/new-space", form, page="/new-space", files=files)
    assert made.status_code == 303, made.text
    assert "mine" in (await alice.get("/spaces/alice/mine/blob/main/index.html")).text
    bad = await alice.post("/new-space", {**form, "name": "bad"}, page="/new-space", files=[("files", ("../x", b"x", "text/plain"))])
    assert bad.status_code == 400


async def test_the_figure_under_filters_is_true_on_every_page(alice: Browser, services: Services, app: FastAPI) -> None:
    """Exact up to a bound; where nobody counted, it says so and claims no more than is known."""
    for number in range(12):
        await _new_space(alice, f"demo-{number}", sdk="static" if number % 3 else "gradio")
    backend = app.state.web_backend

    async def shown(**query: Any) -> tuple[int, bool, int]:
        found = await backend.gallery(ANONYMOUS, GalleryQuery(page_size=3, **query))
        return found.total, found.is_exact, len(found.cards)

    assert await shown(sdk=("static",)) == (8, True, 3)
    assert await shown(sdk=("static",), page=3) == (8, True, 2)
    assert await shown(q="demo-1") == (3, True, 3)
    assert await shown(q="demo", owner="alice") == (12, True, 3)
    assert await shown(q="nothing-like-it") == (0, True, 0)
    assert await shown(q="demo", page=9) == (12, True, 0)
    assert "8 demos match" in (await alice.get("/spaces?sdk=static")).text
    async with services.uow.read() as uow:
        assert await uow.repos.count_matching(RepoQuery(RepoType.SPACE, sdk=("static",)), at_most=7) is None
        assert await uow.repos.count_matching(RepoQuery(RepoType.SPACE, sdk=("static",)), at_most=8) == 8
        assert await uow.repos.count_matching(RepoQuery(RepoType.SPACE, owner="nobody")) == 0
    backend._matches = {key: (at, None) for key, (at, _) in backend._matches.items()}
    assert await shown(sdk=("static",)) == (3, False, 3)
