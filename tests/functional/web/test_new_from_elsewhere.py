"""New Space from another git server's address, by form, against a real server over TLS."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from control_plane import asgi
from control_plane.api.webhook_delivery import Deliveries
from control_plane.bootstrap import Services, build_services
from control_plane.domain.ids import SpaceId
from control_plane.domain.spaces import RepoType, Sdk
from control_plane.http import context, error_map
from control_plane.settings import Settings
from control_plane.spaces.imported import app_file_of, with_header
from control_plane.spaces.starter import initial_files
from tests.functional.git.foreign_server import Foreign, repository, serving
from tests.functional.proxy.certificates import certificate
from tests.functional.web.conftest import Browser

WEIGHTS = b"weights" * 1000


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[Foreign]:
    root = tmp_path / "foreign"
    files: dict[str, str | bytes] = {"streamlit_app.py": "import streamlit\n", "README.md": "# Demo <script>\n\nIt shows.\n"}
    with serving(root, certificate(tmp_path, "foreign", "localhost")) as server:
        repository(root, "demo", [files, {"requirements.txt": "streamlit\n", "model.bin": server.pointer(WEIGHTS)}])
        yield server


@pytest.fixture
async def services(tmp_path: Path, foreign: Foreign) -> AsyncIterator[Services]:
    settings = Settings(
        data_dir=tmp_path / "d", registration=True, import_allow=f"localhost:{foreign.port}", ca_bundle=str(tmp_path / "foreign.crt")
    )
    made = build_services(settings)
    await made.database.migrate()
    yield made
    await made.database.close()
    await made.bus.close()


@pytest.fixture
async def alice(services: Services) -> AsyncIterator[Browser]:
    app = FastAPI()
    error_map.install(app, html=asgi._web(app, asgi._pages(app, services, Deliveries(services))))
    context.install_context(app)
    browser = await Browser(app).sign_up("alice")
    yield browser
    await browser.http.aclose()
    await app.state.web_backend.close()


def form(source: str, **more: str) -> dict[str, str]:
    values = {"owner": "alice", "name": "demo", "sdk": "streamlit", "visibility": "public", "hardware": "cpu-basic", "source": source}
    return values | more


async def test_a_repository_becomes_a_space_that_is_built(alice: Browser, foreign: Foreign, services: Services) -> None:
    answer = await alice.post("/new-space", form(f"{foreign.url}/demo"), page="/new-space")
    assert answer.status_code == 200, answer.text
    assert "<li>Asking localhost</li>" in answer.text and "<li>Checking what came</li>" in answer.text
    assert "<li>Large file 1 of 1: 0 of 0 MiB</li>" in answer.text
    assert answer.text.rstrip().endswith("</html>") and 'content="0;url=/spaces/alice/demo"' in answer.text
    async with services.uow.read() as uow:
        repo = await uow.repos.by_name(RepoType.SPACE, "alice", "demo")
        assert repo is not None
        space, build = await uow.spaces.get(SpaceId(repo.id)), await uow.builds.latest(SpaceId(repo.id))
    assert space is not None and build is not None and build.revision == repo.head
    assert (space.sdk, space.config.app_file, space.has_app_file, repo.origin) == (
        Sdk.STREAMLIT, "streamlit_app.py", True, f"{foreign.url}/demo",
    )  # fmt: skip
    assert repo.storage_bytes > len(WEIGHTS)
    assert await services.lfs.has(repo.id, hashlib.sha256(WEIGHTS).hexdigest()) == len(WEIGHTS)
    history = [c.title for c in await services.git.commits(repo.id, await services.git.resolve(repo.id, "main"))]
    assert history == ["Say how this Space is run", "Commit 1", "Commit 0"]


async def test_large_files_that_the_quota_has_no_room_for(alice: Browser, foreign: Foreign, services: Services) -> None:
    async with services.uow.write() as uow:
        await uow.quotas.set_limit("alice", "storage-gb", 0.000005)
    answer = await alice.post("/new-space", form(f"{foreign.url}/demo"), page="/new-space")
    assert "storage-gb" in answer.text and "Back to the form" in answer.text
    assert not [path for path in foreign.seen if "lfs" in path], "nothing of them was asked for"


async def test_refusals_before_and_during_the_import(alice: Browser, foreign: Foreign, services: Services) -> None:
    for source, more, words in (
        ("http://example.org/a", {}, "begins with https://"),
        (f"{foreign.url}/demo", {"name": "no/slash"}, "no/slash"),
        (f"{foreign.url}/demo", {"owner": "bob"}, "rights to create"),
    ):
        answer = await alice.post("/new-space", form(source, **more), page="/new-space")
        assert answer.status_code in (400, 403), source
        assert words in answer.text and 'name="source"' in answer.text, "the form is there again, filled in"
    for source, branch, words in (
        (f"{foreign.url}/nothing", "", "There is no such repository at localhost."),
        (f"{foreign.url}/demo", "absent", "There is no branch &#39;absent&#39;"),
        ("https://127.0.0.1:1/a", "", "private network"),
    ):
        answer = await alice.post("/new-space", form(source, branch=branch), page="/new-space")
        assert words in answer.text and "Back to the form" in answer.text, source
    async with services.uow.read() as uow:
        assert await uow.repos.by_name(RepoType.SPACE, "alice", "demo") is None
    assert not [p for p in (services.settings.data_dir / "repos").iterdir() if not p.name.startswith(".")], "nothing is left behind"


def test_what_is_put_before_a_readme() -> None:
    header = initial_files(Sdk.GRADIO, "demo")["README.md"]
    plain = with_header(b"# Hello\n", header, "main.py")
    assert plain is not None
    assert plain.startswith(b'---\ntitle: "demo"\n') and plain.endswith(b"---\n\n# Hello\n")
    assert b"app_file: main.py\n" in plain and b"sdk_version" not in plain
    assert with_header(b"---\nsdk: docker\n---\n", header, "app.py") is None, "it says so itself"
    assert with_header(b"---\n: [\n---\n", header, "app.py") is None, "a mistake is its author's to see"
    taken = with_header(b"---\ntitle: Mine\nlayout: page\n---\nText\n", header, "app.py")
    assert taken is not None
    assert taken.count(b"title:") == 1 and b"sdk: gradio\n" in taken and taken.endswith(b"title: Mine\nlayout: page\n---\nText\n")
    assert with_header(b"", header, "app.py") is not None
    assert [app_file_of(names) for names in ({"main.py", "x"}, {"app.py", "main.py"}, set[str]())] == ["main.py", "app.py", "app.py"]
