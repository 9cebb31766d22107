"""Who is told what, on real stores: discussions, builds, apps, quotas; the bell, the list, the API."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from fastapi import FastAPI

from control_plane.accounts import people, tokens
from control_plane.bootstrap import Services
from control_plane.community.notices import SpaceNotices
from control_plane.domain.accounts import Membership, OrgRole, TokenRole
from control_plane.domain.ids import SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.spaces import Repo, RepoType
from control_plane.http.live import LiveHub
from tests.functional.web.conftest import Browser


async def a_space(browser: Browser, owner: str = "alice", visibility: str = "public") -> None:
    form = {"owner": owner, "name": "demo", "sdk": "gradio", "visibility": visibility, "hardware": "cpu-basic", "template": "1"}
    made = await browser.post("/new-space", form, page="/new-space")
    assert made.status_code == 303, made.text


async def repo_of(services: Services, owner: str = "alice") -> Repo:
    async with services.uow.read() as uow:
        found = await uow.repos.by_name(RepoType.SPACE, owner, "demo")
    assert found is not None
    return found


async def say(browser: Browser, text: str) -> None:
    address = "/spaces/alice/demo/discussions/1"
    assert (await browser.post(f"{address}/comment", {"text": text}, page=address)).status_code == 303


async def unread(browser: Browser) -> str:
    """The figure on the bell; "" when it is hidden."""
    figure = (await browser.get("/")).text.partition("data-count")[2].partition("</span>")[0]
    return "" if "hidden" in figure.partition(">")[0] else figure.partition(">")[2]


async def open_discussion(browser: Browser, title: str = "Which edition?", text: str = "Which one is it?") -> None:
    address = "/spaces/alice/demo/discussions/new"
    assert (await browser.post(address, {"title": title, "text": text}, page=address)).status_code == 303


async def test_a_discussion_is_told_to_the_owner_and_to_those_who_talk_in_it(alice: Browser, bob: Browser, app: FastAPI) -> None:
    carol = await Browser(app).sign_up("carol")
    await a_space(alice)
    await open_discussion(bob)
    assert (await unread(alice), await unread(bob)) == ("1", ""), "never the one who did it"
    await say(alice, "The first.")
    await say(carol, "Mine says the *second*, @bob.")
    assert (await unread(alice), await unread(bob), await unread(carol)) == ("1", "1", ""), "one notice per discussion"
    page = (await alice.get("/notifications")).text
    assert "Which edition?" in page and "carol: Mine says the *second*, @bob." in page and "2 new" in page
    assert "You were mentioned" in (await bob.get("/notifications")).text
    await carol.http.aclose()


async def test_reading_marks_and_leads_on(alice: Browser, bob: Browser) -> None:
    await a_space(alice)
    await open_discussion(bob)
    topic = (await alice.get("/notifications")).text.partition('name="topic" value="')[2].partition('"')[0]
    opened = await alice.post("/notifications/open", {"topic": topic}, page="/notifications")
    assert opened.headers["location"] == "/spaces/alice/demo/discussions/1"
    assert await unread(alice) == ""
    await alice.post("/notifications/mark", {"topic": topic, "read": ""}, page="/notifications")
    assert await unread(alice) == "1"
    await alice.post("/notifications/mark", {"read": "1"}, page="/notifications")
    assert await unread(alice) == ""
    assert "Nothing new" in (await alice.get("/notifications?show=unread")).text
    refused = await bob.post("/notifications/open", {"topic": topic}, page="/notifications")
    assert refused.status_code == 404, "another person's notice does not exist"
    assert (await bob.http.post("/notifications/mark", data={"read": "1"})).status_code == 403, "no form token"


async def test_strangers_are_sent_to_sign_in(stranger: Browser) -> None:
    answer = await stranger.get("/notifications")
    assert answer.status_code == 303 and answer.headers["location"].startswith("/sign-in")
    assert "data-bell" not in (await stranger.get("/")).text


async def test_a_pull_request_and_its_merge_are_told(alice: Browser, bob: Browser) -> None:
    await a_space(alice)
    edit = "/spaces/alice/demo/edit/main/README.md"
    form = (await bob.get(edit)).text
    parent = form.partition('name="parent" value="')[2].partition('"')[0]
    sent = {"content": "---\nsdk: gradio\n---\nBetter.\n", "message": "Better words", "parent": parent, "propose": "1"}
    assert (await bob.post(edit, sent, page=edit)).status_code == 303
    listing = (await alice.get("/notifications")).text
    assert "Pull request opened" in listing and "Better words" in listing
    number = "/spaces/alice/demo/discussions/1"
    assert (await alice.post(f"{number}/status", {"status": "merged"}, page=number)).status_code == 303
    assert "Merged" in (await bob.get("/notifications")).text


async def test_who_lost_the_right_to_see_is_neither_told_nor_shown(alice: Browser, bob: Browser, services: Services) -> None:
    await a_space(alice)
    await open_discussion(bob, "A secret plan", "Shall we?")
    await say(alice, "Yes.")
    assert "A secret plan" in (await bob.get("/notifications")).text
    settings = "/spaces/alice/demo/settings"
    assert (await alice.post(f"{settings}/visibility", {"visibility": "private"}, page=settings)).status_code == 303
    assert "A secret plan" not in (await bob.get("/notifications")).text
    await say(alice, "@bob is no longer here.")
    async with services.uow.read() as uow:
        user = await uow.accounts.by_name("bob")
        assert user is not None
        [kept] = await uow.notices.of_account(user.id)
    assert kept.words == "Yes.", "what was said behind closed doors is not told"


async def test_what_went_wrong_with_a_space_is_told_once_to_its_keepers(alice: Browser, bob: Browser, services: Services) -> None:
    async with services.uow.write() as uow:
        owner, member = await uow.accounts.by_name("alice"), await uow.accounts.by_name("bob")
        assert owner and member
        org = await people.add_org(uow, services.clock, "lab", creator=owner)
        await uow.accounts.set_member(Membership(org.id, member.id, OrgRole.WRITE))
    first, second = (SpaceNotices(services.uow, services.clock, services.signals) for _ in range(2))
    assert await first.once() == 0, "what happened before is history"
    await second.once()
    await a_space(alice, "lab")
    space = SpaceId((await repo_of(services, "lab")).id)
    now = services.clock.now()
    async with services.uow.write() as uow:
        build = await uow.builds.latest(space)
        assert build is not None
        await uow.events.add(
            space, now, "build.failed", {"build_id": build.id, "reason": Reason.REQUIREMENTS_FAILED.value, "message": "no torch"}
        )
        await uow.events.add(space, now, "replica.failed", {"reason": Reason.NODE_LOST.value, "message": "moved"})
        await uow.events.add(space, now, "deploy.failed", {"reason": Reason.APP_EXITED.value, "message": ""})
        await uow.events.add(space, now, "sleep", {"reason": Reason.IDLE.value})
        await uow.events.add(space, now, "sleep", {"reason": Reason.QUOTA.value, "message": "running: 1 of 1 in use"})
    assert await first.once() == 6, "three things for two people"
    assert await second.once() == 0, "another process tells nothing twice"
    for browser in (alice, bob):
        assert await unread(browser) == "3"
        page = (await browser.get("/notifications")).text
        assert "no torch" in page and build.commit_title in page
        assert Reason.APP_EXITED.words in page and "running: 1 of 1 in use" in page
        assert "/spaces/lab/demo" not in (await browser.get("/notifications?page=2")).text


async def test_the_bell_hears_at_once(
    alice: Browser, bob: Browser, app: FastAPI, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream gives the figure, and again when it changes; signing out ends it."""
    await a_space(alice)
    backend = app.state.web_backend

    async def notify(topic: str, key: str) -> None:  # the bus is the scheduler's, and none runs here
        backend.live._wake(key)

    monkeypatch.setattr(type(services.signals), "notify", staticmethod(notify))
    monkeypatch.setattr(LiveHub, "_listen", lambda self: asyncio.Event().wait())
    cookie = alice.http.cookies.get("vitrine")
    stream = backend.follow_notices(await backend.actor(cookie, ""))
    assert await anext(stream) == 0
    coming = asyncio.create_task(anext(stream))
    await open_discussion(bob)
    assert await asyncio.wait_for(coming, 30) == 1
    coming = asyncio.create_task(anext(stream))
    await alice.post("/sign-out", page="/notifications")
    async with services.uow.read() as uow:
        user = await uow.accounts.by_name("alice")
    assert user is not None
    backend.live._wake(user.id)
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(coming, 30)


async def test_the_api_lists_and_marks(alice: Browser, bob: Browser, app: FastAPI, services: Services) -> None:
    await a_space(alice)
    await open_discussion(bob)
    async with services.uow.write() as uow:
        user = await uow.accounts.by_name("alice")
        assert user is not None
        _, read = await tokens.create_token(uow, services.clock, user, "r", TokenRole.READ)
        _, write = await tokens.create_token(uow, services.clock, user, "w", TokenRole.WRITE)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost:7860") as http:
        assert (await http.get("/api/notifications")).status_code == 401
        hers = {"authorization": f"Bearer {read}"}
        body = (await http.get("/api/notifications?readStatus=unread", headers=hers)).json()
        [row] = body["notifications"]
        assert body["count"] == {"view": 1, "unread": 1, "all": 1}
        assert (row["read"], row["repo"], row["kind"]) == (False, {"type": "space", "name": "alice/demo"}, "discussion.opened")
        assert (row["discussion"]["num"], row["discussion"]["title"]) == (1, "Which edition?")
        mark = {"discussionIds": [row["id"]], "read": True}
        assert (await http.post("/api/discussions/mark-as-read", json=mark, headers=hers)).status_code == 403, "that token only reads"
        hers = {"authorization": f"Bearer {write}"}
        assert (await http.post("/api/discussions/mark-as-read", json={}, headers=hers)).status_code == 400
        assert (await http.post("/api/discussions/mark-as-read", json=mark, headers=hers)).json() == {"changed": 1}
        assert (await http.get("/api/notifications?readStatus=unread", headers=hers)).json()["notifications"] == []
        again = await http.post("/api/discussions/mark-as-read?applyToAll=true", json={"read": False}, headers=hers)
        assert again.json() == {"changed": 1}
