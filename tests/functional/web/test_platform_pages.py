"""A person's first hour, over HTTP, on real stores."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from control_plane.accounts.usage import UsageLine, usage
from control_plane.bootstrap import Services
from control_plane.domain.builds import Artifact, ArtifactKind, BuildPhase, BuildStatus, LaunchPlan
from control_plane.domain.errors import NotSignedIn
from control_plane.domain.ids import BuildId, RepoId, Sha, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.spaces import Deployment, RepoType, Space
from control_plane.http.live import LiveHub
from control_plane.ports.log_store import LogLine
from tests.functional.web.conftest import Browser


async def _new_space(browser: Browser, name: str = "demo", **form: str) -> None:
    body = {"owner": "alice", "name": name, "sdk": "gradio", "visibility": "public", "hardware": "cpu-basic", **form}
    made = await browser.post("/new-space", body, page="/new-space")
    assert made.status_code == 303, made.text
    assert made.headers["location"] == f"/spaces/alice/{name}"


async def _space(services: Services, name: str = "demo") -> Space:
    async with services.uow.read() as uow:
        repo = await uow.repos.by_name(RepoType.SPACE, "alice", name)
        assert repo is not None
        space = await uow.spaces.get(SpaceId(repo.id))
    assert space is not None
    return space


async def test_a_new_space_shows_the_exact_git_commands(alice: Browser, stranger: Browser) -> None:
    await _new_space(alice)
    page = (await alice.get("/spaces/alice/demo")).text
    assert "git clone http://localhost:7860/spaces/alice/demo" in page
    assert "git push -o wait origin main" in page
    assert "Nothing pushed yet" in (await stranger.get("/spaces/alice/demo")).text
    assert "/spaces/alice/demo" in (await stranger.get("/")).text


async def test_a_working_app_is_committed_and_queued(alice: Browser, services: Services) -> None:
    await _new_space(alice, template="1")
    page = (await alice.get("/spaces/alice/demo")).text
    assert "Going live" in page
    assert "place 1 in line" in page
    space = await _space(services)
    async with services.uow.write() as uow:
        build = await uow.builds.latest(space.id)
        assert build is not None
        now = services.clock.now()
        build = replace(
            build, status=BuildStatus.RUNNING, started_at=now, phase=BuildPhase.INSTALL, message="61 of 74 packages", progress=0.5
        )
        await uow.builds.save(build)
    await services.logs.append(f"build/{build.id}", [LogLine(now, "\x1b[31m<script>alert(1)</script>")])
    page = (await alice.get("/spaces/alice/demo")).text
    assert "61 of 74 packages" in page
    assert "<script>alert" not in page
    logs = (await alice.get("/spaces/alice/demo/logs")).text
    assert '<span class="ar">&lt;script&gt;alert(1)&lt;/script&gt;</span>' in logs
    async with services.uow.write() as uow:
        await uow.builds.save(
            replace(
                build, status=BuildStatus.FAILED, message="", reason=Reason.REQUIREMENTS_UNRESOLVED, finished_at=now + timedelta(seconds=9)
            )
        )
    page = (await alice.get("/spaces/alice/demo")).text
    assert "Build failed" in page
    assert "The requirements cannot be resolved" in page


async def test_the_api_tells_the_timeline_with_a_reason_for_each_wait(alice: Browser, bob: Browser, services: Services) -> None:
    await _new_space(alice)
    address = "/api/spaces/alice/demo/timeline"
    assert (await alice.get(address)).json() is None, "nothing was pushed"
    edit = "/spaces/alice/demo/new/main"
    form = {"path": "app.py", "content": "import gradio\n", "message": "A start"}
    assert (await alice.post(edit, form, page=edit)).status_code == 303
    told = (await alice.get(address)).json()
    assert (told["title"], told["author"], told["isOver"], told["usualSeconds"]) == ("A start", "alice", False, None)
    phases = {phase["phase"]: phase for phase in told["phases"]}
    assert list(phases) == ["Received", "Checked", "Queued", "Building", "Placing", "Starting", "Live"]
    assert (phases["Queued"]["state"], phases["Queued"]["reason"], phases["Queued"]["detail"]) == ("now", "BUILD_QUEUED", "place 1 in line")
    assert phases["Queued"]["since"] and phases["Queued"]["seconds"] >= 0 and phases["Live"]["state"] == "todo"
    assert 'data-reason="BUILD_QUEUED"' in (await alice.get("/spaces/alice/demo")).text
    assert (await bob.get(address)).json()["revision"] == told["revision"], "who may see the page may see this"
    space = await _space(services)
    async with services.uow.write() as uow:
        build = await uow.builds.latest(space.id)
        assert build is not None
        ended = replace(build, status=BuildStatus.FAILED, reason=Reason.REQUIREMENTS_FAILED, finished_at=services.clock.now())
        await uow.builds.save(ended)
    told = (await alice.get(address)).json()
    failed = next(phase for phase in told["phases"] if phase["state"] == "failed")
    assert (failed["phase"], failed["reason"], told["isOver"]) == ("Building", "REQUIREMENTS_FAILED", True)


async def test_files_are_edited_as_commits(alice: Browser, bob: Browser) -> None:
    await _new_space(alice, template="1")
    assert "app.py" in (await alice.get("/spaces/alice/demo/tree/main")).text
    source = (await alice.get("/spaces/alice/demo/blob/main/app.py")).text
    assert '<span class="p-kn">import</span>' in source
    edit = "/spaces/alice/demo/edit/main/app.py"
    form_page = (await alice.get(edit)).text
    parent = form_page.partition('name="parent" value="')[2].partition('"')[0]
    saved = await alice.post(edit, {"content": "print('two')\r\n", "message": "Say two", "parent": parent}, page=edit)
    assert saved.status_code == 303, saved.text
    assert (await alice.get("/spaces/alice/demo/raw/main/app.py")).text == "print('two')\n"
    stale = await alice.post(edit, {"content": "print('three')", "message": "x", "parent": parent}, page=edit)
    assert stale.status_code in (409, 412)
    assert "print(&#39;three&#39;)" in stale.text, "what was typed stays in the form"
    history = (await alice.get("/spaces/alice/demo/commits/main")).text
    assert "Say two" in history
    sha = history.partition("/spaces/alice/demo/commit/")[2].partition('"')[0]
    assert "print(&#39;two&#39;)" in (await alice.get(f"/spaces/alice/demo/commit/{sha}")).text
    refused = await bob.post(edit, {"content": "x", "message": "x"}, page="/settings/tokens")
    assert refused.status_code in (403, 404)


async def test_settings_take_effect(alice: Browser, services: Services) -> None:
    await _new_space(alice)
    base, page = "/spaces/alice/demo/settings", "/spaces/alice/demo/settings"
    moved = await alice.post(f"{base}/hardware", {"flavor": "cpu-upgrade"}, page=page)
    assert moved.status_code == 303
    await alice.post(f"{base}/sleep", {"seconds": "900"}, page=page)
    await alice.post(f"{base}/variable", {"key": "MODEL", "value": "small"}, page=page)
    await alice.post(f"{base}/secret", {"key": "KEY", "value": "canary-7731"}, page=page)
    space = await _space(services)
    assert (space.hardware, space.sleep_after_s) == ("cpu-upgrade", 900)
    shown = (await alice.get(page)).text
    assert "MODEL" in shown and "KEY" in shown and "canary-7731" not in shown
    bad = await alice.post(f"{base}/variable", {"key": "1BAD", "value": "x"}, page=page)
    assert bad.status_code == 400 and "not a usable key" in bad.text
    missing = await alice.post(f"{base}/delete", {"confirm": "wrong"}, page=page)
    assert missing.status_code == 400
    gone = await alice.post(f"{base}/delete", {"confirm": "alice/demo"}, page=page)
    assert gone.status_code == 303
    assert (await alice.get("/spaces/alice/demo")).status_code == 404


async def test_renamed_spaces_lead_on(alice: Browser) -> None:
    await _new_space(alice)
    page = "/spaces/alice/demo/settings"
    moved = await alice.post(f"{page}/rename", {"to_owner": "alice", "to_name": "second"}, page=page)
    assert moved.headers["location"].startswith("/spaces/alice/second")
    led = await alice.get("/spaces/alice/demo/tree/main")
    assert (led.status_code, led.headers["location"]) == (303, "/spaces/alice/second/tree/main")


async def test_private_is_absent_to_others(alice: Browser, bob: Browser, stranger: Browser) -> None:
    await _new_space(alice, visibility="private", template="1")
    for path in ("", "/tree/main", "/settings", "/logs", "/discussions", "/raw/main/app.py", "/commits/main"):
        for who in (bob, stranger):
            hidden, absent = await who.get(f"/spaces/alice/demo{path}"), await who.get(f"/spaces/alice/nope{path}")
            assert (hidden.status_code, hidden.headers.get("location", "").replace("demo", "nope")) == (
                absent.status_code, absent.headers.get("location", ""),
            ), path  # fmt: skip
    assert "alice/demo" not in (await stranger.get("/")).text


async def test_tokens_sessions_and_one_time_links(alice: Browser, stranger: Browser, services: Services) -> None:
    made = await alice.post("/settings/tokens", {"name": "laptop", "role": "write", "days": "30"}, page="/settings/tokens")
    assert made.status_code == 200 and "hf_" in made.text
    token = "hf_" + made.text.partition("hf_")[2][:36]
    assert token not in (await alice.get("/settings/tokens")).text
    assert (await stranger.http.get("/api/whoami-v2", headers={"authorization": f"Bearer {token}"})).status_code == 200
    assert (await alice.get("/settings/account")).status_code == 200
    from control_plane.accounts import sign_in

    async with services.uow.write() as uow:
        account = await uow.accounts.by_name("alice")
        assert account is not None
        secret = await sign_in.create_sign_in_link(uow, services.clock, account)
    page = f"/sign-in/once?token={secret}"
    assert (await stranger.get(page)).status_code == 200, "opening the link does not use it up"
    used = await stranger.post("/sign-in/once", {"token": secret}, page=page)
    assert used.status_code == 303
    assert (await stranger.get("/settings/tokens")).status_code == 200
    again = await stranger.post("/sign-in/once", {"token": secret}, page="/settings/tokens")
    assert again.status_code == 401


async def test_discussions(alice: Browser, bob: Browser) -> None:
    await _new_space(alice)
    new = "/spaces/alice/demo/discussions/new"
    made = await bob.post(new, {"title": "Which edition?", "text": "**bold** <img src=x onerror=alert(1)>"}, page=new)
    assert made.status_code == 303, made.text
    one = "/spaces/alice/demo/discussions/1"
    page = (await alice.get(one)).text
    assert "<strong>bold</strong>" in page and "onerror" not in page
    closed = await alice.post(f"{one}/status", {"status": "closed", "text": ""}, page=one)
    assert closed.status_code == 303
    assert "closed" in (await alice.get(one)).text
    await alice.post(f"{one}/status", {"status": "open", "text": ""}, page=one)
    assert "alice · reopened" in (await alice.get(one)).text


async def test_the_event_stream_says_that_something_changed(alice: Browser, services: Services) -> None:
    await _new_space(alice)
    space = await _space(services)
    async with services.uow.read() as uow:
        last = (await uow.events.of_space(space.id, limit=1))[-1].id
    async with services.uow.write() as uow:
        await uow.events.add(space.id, services.clock.now(), "build.queued", {})
    backend = alice.http._transport.app.state.web_backend  # type: ignore[attr-defined]
    actor = await backend.actor(alice.http.cookies["vitrine"], "")
    stream = backend.events(actor, "alice", "demo", last)
    try:
        assert await anext(stream) is None
        event = await anext(stream)
        assert event is not None and event.id > last and event.data["kind"] == "build.queued"
    finally:
        await stream.aclose()


async def test_streams_end_with_the_session_that_opened_them(alice: Browser, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    await _new_space(alice)
    space = await _space(services)
    backend = alice.http._transport.app.state.web_backend  # type: ignore[attr-defined]

    async def notify(topic: str, key: str) -> None:  # the bus is the scheduler's, and none runs here
        if topic == "access":
            backend.live._wake(key)

    monkeypatch.setattr(type(services.signals), "notify", staticmethod(notify))
    monkeypatch.setattr(LiveHub, "_listen", lambda self: asyncio.Event().wait())
    actor = await backend.actor(alice.http.cookies["vitrine"], "")
    await services.logs.append(f"run/{space.id}", [LogLine(services.clock.now(), "hello")])
    log, events = backend.follow_log(actor, "alice", "demo", "run", None, 0), backend.events(actor, "alice", "demo", None)
    assert (await anext(log)).text == "hello"
    assert await anext(events) is None
    waiting = [asyncio.create_task(anext(stream)) for stream in (log, events)]
    try:
        async with asyncio.timeout(30):  # signs of life come every 40 s: it is the sign-out that is heard
            await backend.sign_out(actor)
            for task in waiting:
                with pytest.raises(NotSignedIn):
                    await task
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_admin_pages_exist_for_admins_only(alice: Browser, services: Services) -> None:
    paths = ("/admin", "/admin/users", "/admin/quotas", "/admin/usage", "/admin/audit")
    assert {(await alice.get(p)).status_code for p in paths} == {404}
    async with services.uow.write() as uow:
        account = await uow.accounts.by_name("alice")
        assert account is not None
        await uow.accounts.save(replace(account, is_admin=True))
    assert {p: (await alice.get(p)).status_code for p in paths} == dict.fromkeys(paths, 200)
    limited = await alice.post("/admin/quotas", {"subject": "alice", "key": "spaces", "value": "0"}, page="/admin/quotas")
    assert limited.status_code == 303
    refused = await alice.post("/new-space", {"owner": "alice", "name": "one", "sdk": "static", "visibility": "public"}, page="/new-space")
    assert refused.status_code == 403 and "Quota" in refused.text
    assert "The chain of records is whole." in (await alice.get("/admin/audit")).text


async def test_admin_pages_tell_before_and_after_and_what_use_costs(alice: Browser, services: Services) -> None:
    await _new_space(alice)
    space = await _space(services)
    async with services.uow.write() as uow:
        account = await uow.accounts.by_name("alice")
        assert account is not None
        await uow.accounts.save(replace(account, is_admin=True))
        day = f"{services.clock.now():%Y-%m-%d}"
        for key in ("hours", "gpu-hours"):
            await uow.quotas.add_usage(account_id=account.id, space_id=space.id, key=key, flavor="t4-small", day=day, amount=2.5)
    page = (await alice.get("/admin/usage")).text
    price = services.catalog.find("t4-small").price_per_hour  # type: ignore[union-attr]
    assert f'<td class="end num" data-l="USD">{2.5 * price:.2f}</td>' in page
    lines = await usage_lines(services)
    assert [(line.key, line.amount, line.cost_usd) for line in lines] == [("gpu-hours", 2.5, None), ("hours", 2.5, 2.5 * price)]
    for value in ("5", "3"):
        await alice.post("/admin/quotas", {"subject": "alice", "key": "spaces", "value": value}, page="/admin/quotas")
    await alice.post("/admin/quotas", {"subject": "", "key": "vcpu", "value": "8"}, page="/admin/quotas")
    audit = (await alice.get("/admin/audit")).text
    for change in ("spaces: unset → 5", "spaces: 5 → 3", "vcpu: unset → 8"):
        assert change in audit
    async with services.uow.read() as uow:
        rows = [row for row in await uow.audit.list() if row["action"] == "quota.set"]
    assert [row["subject"] for row in rows] == ["quota:defaults", "quota:alice", "quota:alice"], "one event per change"
    assert rows[1]["facts"] == {"keys": {"spaces": {"before": "5", "after": "3"}}}


async def usage_lines(services: Services) -> tuple[UsageLine, ...]:
    """What `vitrine admin usage` shows."""
    async with services.uow.read() as uow:
        return await usage(uow, services.catalog, services.clock.now(), since_day="2000-01-01")


async def test_only_who_may_have_the_image_is_told_how_to_run_it_elsewhere(alice: Browser, stranger: Browser, services: Services) -> None:
    await _new_space(alice)
    space = await _space(services)
    words = "docker run --rm -p 7860:7860 localhost:7860/alice-demo"
    assert words not in (await alice.get("/spaces/alice/demo/share")).text, "there is no image yet"
    now, ref = services.clock.now(), f"127.0.0.1:5000/spaces/{space.id}@sha256:{'a' * 64}"
    artifact = Artifact(ArtifactKind.IMAGE, ref)
    async with services.uow.write() as uow:
        await uow.deployments.add(
            Deployment(space.id, 1, BuildId("b" * 24), Sha("a" * 40), artifact, LaunchPlan(), "cpu-basic", now, space.config, live_at=now)
        )
    assert words in (await alice.get("/spaces/alice/demo/share")).text
    assert "docker login" not in (await stranger.get("/spaces/alice/demo/share")).text


async def test_one_click_serves_an_earlier_version_and_builds_nothing(alice: Browser, services: Services) -> None:
    await _new_space(alice, template="1")
    space = await _space(services)
    async with services.uow.read() as uow:
        repo = await uow.repos.get(RepoId(space.id))
        builds = len(await uow.builds.of_space(space.id))
    assert repo is not None and repo.head
    now = services.clock.now()
    async with services.uow.write() as uow:
        for generation, revision in ((1, repo.head), *((n, Sha("a" * 40)) for n in range(2, 30))):
            ref = f"127.0.0.1:5000/spaces/{space.id}@sha256:{revision[:4] * 16}"
            made = Deployment(
                space.id, generation, BuildId("b" * 24), revision, Artifact(ArtifactKind.IMAGE, ref), LaunchPlan(), "cpu-basic", now,
                space.config, live_at=now,
            )  # fmt: skip
            await uow.deployments.add(made)
        await uow.spaces.save(replace(space, generation=29, live_generation=29))
    page = "/spaces/alice/demo/commits/main"
    assert "Deploy this revision" in (await alice.get(page)).text
    answer = await alice.post("/spaces/alice/demo/settings/deploy", {"revision": repo.head}, page=page)
    assert answer.status_code == 303, answer.text
    async with services.uow.read() as uow:
        newest = (await uow.deployments.of_space(space.id, 1))[0]
        assert (newest.generation, newest.revision, newest.cause) == (30, repo.head, "rollback")
        assert len(await uow.builds.of_space(space.id)) == builds
