"""Pull requests made, looked at, run and merged in the browser, on real stores and real git."""

from __future__ import annotations

import re
from typing import Any

import pytest

from control_plane.api.webhook_delivery import Deliveries
from control_plane.bootstrap import Services
from control_plane.domain.ids import Sha
from control_plane.domain.spaces import Repo, RepoType
from tests.functional.web.conftest import Browser
from tests.functional.web.test_platform_pages import _new_space

EDIT, PULL = "/spaces/alice/demo/edit/main/app.py", "/spaces/alice/demo/discussions/1"


async def _proposed(alice: Browser, bob: Browser) -> None:
    await _new_space(alice, template="1")
    made = await bob.post(EDIT, {"content": "print('from bob')\n", "message": "Say who", "propose": "1"}, page=EDIT)
    assert made.headers["location"] == f"{PULL}?done=proposed", made.text


async def test_a_strangers_edit_becomes_a_pull_request_and_is_merged(alice: Browser, bob: Browser, services: Services) -> None:
    await _proposed(alice, bob)
    assert "from bob" not in (await alice.get("/spaces/alice/demo/blob/main/app.py")).text
    seen = (await bob.get(PULL)).text
    assert "from bob" in seen
    assert 'value="merged"' not in seen
    assert (await bob.post(f"{PULL}/status", {"status": "merged"}, page=PULL)).status_code in (403, 404)
    assert (await alice.post(f"{PULL}/status", {"status": "merged"}, page=PULL)).status_code == 303
    assert "from bob" in (await alice.get("/spaces/alice/demo/blob/main/app.py")).text
    assert "from bob" in (await alice.get(PULL)).text
    async with services.uow.read() as uow:
        repo = await uow.repos.by_name(RepoType.SPACE, "alice", "demo")
        assert repo is not None
        build = await uow.builds.latest(repo.id)  # type: ignore[arg-type]
    assert build is not None
    assert build.commit_title == "Say who (#1)"


async def test_both_sides_changed_the_file(alice: Browser, bob: Browser) -> None:
    await _proposed(alice, bob)
    assert (await alice.post(EDIT, {"content": "print('mine')\n", "message": "Mine"}, page=EDIT)).status_code == 303
    assert "Both sides changed app.py." in (await alice.get(PULL)).text
    refused = await alice.post(f"{PULL}/status", {"status": "merged"}, page=PULL)
    assert refused.status_code == 409


async def test_a_preview_follows_its_pull_request_and_goes_with_it(alice: Browser, bob: Browser, services: Services) -> None:
    await _proposed(alice, bob)
    assert (await bob.post(f"{PULL}/preview", page=PULL)).status_code in (403, 404)
    assert (await alice.post(f"{PULL}/preview", page=PULL)).status_code == 303
    address = "/spaces/alice/demo-pr-1"
    assert f'href="{address}"' in (await bob.get(PULL)).text
    assert "from bob" in (await bob.get(f"{address}/blob/main/app.py")).text
    assert address not in (await bob.get("/")).text
    async with services.uow.read() as uow:
        source = await uow.repos.by_name(RepoType.SPACE, "alice", "demo")
        preview = await uow.repos.by_name(RepoType.SPACE, "alice", "demo-pr-1")
        assert source is not None and preview is not None
        builds = await uow.builds.of_space(preview.id, 10)  # type: ignore[arg-type]
    assert [b.revision for b in builds] == [await services.git.resolve(source.id, "refs/pr/1")]
    again = await alice.post("/spaces/alice/demo/edit/refs%2Fpr%2F1/app.py", {"content": "x"}, page=PULL)
    assert again.status_code == 404  # only branches are edited in the browser; the ref moves by git and the API
    token = (await bob.post("/settings/tokens", {"name": "t", "role": "write", "days": ""}, page="/settings/tokens")).text
    found = re.search(r"hf_[A-Za-z0-9]{20,}", token)
    assert found is not None
    lines = (
        '{"key":"header","value":{"summary":"More"}}\n'
        '{"key":"file","value":{"path":"app.py","content":"cHJpbnQoInR3aWNlIikK","encoding":"base64"}}'
    )
    headers = {"Authorization": f"Bearer {found[0]}", "Content-Type": "application/x-ndjson", "Accept": "application/json"}
    moved = await bob.http.post("/api/spaces/alice/demo/commit/refs%2Fpr%2F1", content=lines, headers=headers)
    assert moved.status_code == 200, moved.text
    assert "twice" in (await bob.get(f"{address}/blob/main/app.py")).text
    assert (await alice.post(f"{PULL}/status", {"status": "closed", "text": ""}, page=PULL)).status_code == 303
    assert (await alice.get(address)).status_code == 404


async def test_webhooks_hear_of_what_is_said_in_the_browser(
    alice: Browser, bob: Browser, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[str, str, str]] = []

    async def fire(self: Deliveries, repo: Repo, action: str, scope: str, *, head: Sha | None = None, more: Any = None) -> None:
        if scope.startswith("discussion"):
            heard.append((action, scope, more.get("comment", more["discussion"]).get("content", more["discussion"]["status"])))

    monkeypatch.setattr(Deliveries, "fire", fire)
    await _new_space(alice, template="1")
    base = "/spaces/alice/demo/discussions"
    await bob.post(f"{base}/new", {"title": "A question", "text": "Why?"}, page=f"{base}/new")
    await alice.post(f"{base}/1/comment", {"text": "Because."}, page=f"{base}/1")
    await alice.post(f"{base}/1/status", {"status": "closed", "text": ""}, page=f"{base}/1")
    await bob.post(EDIT, {"content": "x = 2\n", "message": "Better", "propose": "1"}, page=EDIT)
    await alice.post(f"{base}/2/status", {"status": "merged", "text": ""}, page=f"{base}/2")
    assert heard == [
        ("create", "discussion", "open"),
        ("create", "discussion.comment", "Because."),
        ("update", "discussion", "closed"),
        ("create", "discussion", "open"),
        ("update", "discussion", "merged"),
    ]
