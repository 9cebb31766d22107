"""What an owner does by form and reads on pages: files as commits, what moves and ends a Space, its figures. Real stores."""

from __future__ import annotations

import re

from control_plane.bootstrap import Services
from control_plane.domain.spaces import DesiredState, RepoType, Space
from control_plane.domain.traffic import Traffic, hour_of
from tests.functional.web.conftest import Browser
from tests.functional.web.test_organisations import make_admin, new_org

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"
)
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 5000000\n"
SPACE = "/spaces/alice/demo"


async def _space(services: Services, owner: str, name: str) -> Space:
    async with services.uow.read() as uow:
        repo = await uow.repos.by_name(RepoType.SPACE, owner, name)
        assert repo is not None, f"{owner}/{name}"
        space = await uow.spaces.get(repo.id)  # type: ignore[arg-type]
    assert space is not None
    return space


async def _made(browser: Browser, **form: str) -> None:
    body = {"owner": "alice", "name": "demo", "sdk": "gradio", "visibility": "public", "hardware": "cpu-basic", **form}
    assert (await browser.post("/new-space", body, page="/new-space")).status_code == 303


async def test_files_are_made_uploaded_and_deleted_as_commits(alice: Browser, stranger: Browser) -> None:
    await _made(alice)
    new, upload = f"{SPACE}/new/main", f"{SPACE}/upload/main"
    readme = {"path": "README.md", "content": "---\ntitle: Demo\n---\n# A heading\n\n![one](img/pixel.png)\n", "message": "Say what it is"}
    assert (await alice.post(new, readme, page=new)).status_code == 303
    files = [("files", ("pixel.png", PIXEL, "image/png")), ("files", ("notes.txt", b"two lines\nof text\n", "text/plain"))]
    assert (await alice.post(f"{upload}/img", {"message": "Pictures"}, page=upload, files=files)).status_code == 303
    assert (await alice.post(new, {"path": "weights.bin", "content": POINTER, "message": "Large"}, page=new)).status_code == 303
    tree = (await stranger.get(f"{SPACE}/tree/main")).text
    assert "<h1" in tree and "A heading</h1>" in tree and f'src="{SPACE}/raw/main/img/pixel.png"' in tree
    assert re.search(r'weights\.bin</a> <span class="tag">LFS</span>', tree) and "5 MB" in tree
    assert f'src="{SPACE}/raw/main/img/pixel.png"' in (await stranger.get(f"{SPACE}/blob/main/img/pixel.png")).text
    raw = await stranger.get(f"{SPACE}/raw/main/img/pixel.png")
    assert (raw.content, raw.headers["content-type"]) == (PIXEL, "image/png")
    kept = await stranger.get(f"{SPACE}/raw/main/img/notes.txt?download=1")
    assert kept.headers["content-disposition"].startswith("attachment") and "notes.txt" in kept.headers["content-disposition"]
    delete = f"{SPACE}/delete/main/img/notes.txt"
    parent = (await alice.get(delete)).text.partition('name="parent" value="')[2].partition('"')[0]
    assert (await alice.post(delete, {"message": "Not needed", "parent": parent}, page=delete)).status_code == 303
    assert (await stranger.get(f"{SPACE}/blob/main/img/notes.txt")).status_code == 404
    history = (await stranger.get(f"{SPACE}/commits/main")).text
    said = ["Not needed", "Large", "Pictures", "Say what it is"]
    assert sorted(said, key=history.index) == said, "each a commit, newest first"
    sha = history.partition(f"{SPACE}/commit/")[2].partition('"')[0]
    assert "of text" in (await stranger.get(f"{SPACE}/commit/{sha}")).text


async def test_a_space_is_paused_restarted_and_scaled(alice: Browser, services: Services) -> None:
    await _made(alice)
    page = f"{SPACE}/settings"
    assert (await alice.post(f"{page}/pause", page=page)).headers["location"].endswith("done=paused")
    assert (await _space(services, "alice", "demo")).desired is DesiredState.PAUSED
    assert "Paused" in (await alice.get(SPACE)).text
    assert (await alice.post(f"{page}/restart", page=page)).headers["location"].endswith("done=restarted")
    assert (await _space(services, "alice", "demo")).desired is DesiredState.RUNNING
    assert (await alice.post(f"{page}/rebuild", page=page)).headers["location"].endswith("done=rebuild")
    assert (await alice.post(f"{page}/replicas", {"replicas": "3"}, page=page)).status_code == 303
    assert (await _space(services, "alice", "demo")).replicas == 3
    assert 'value="3"' in (await alice.get(page)).text


async def test_a_copy_has_the_files_and_variables_and_no_secret(alice: Browser, bob: Browser, services: Services) -> None:
    await _made(alice, template="1")
    page = f"{SPACE}/settings"
    await alice.post(f"{page}/variable", {"key": "MODEL", "value": "small"}, page=page)
    await alice.post(f"{page}/secret", {"key": "KEY", "value": "canary-7731"}, page=page)
    form = {"owner": "bob", "name": "mine", "visibility": "private"}
    copied = await bob.post(f"{SPACE}/duplicate", form, page=f"{SPACE}/duplicate")
    assert (copied.status_code, copied.headers["location"]) == (303, "/spaces/bob/mine")
    assert "app.py" in (await bob.get("/spaces/bob/mine/tree/main")).text
    assert "duplicated from" in (await bob.get("/spaces/bob/mine")).text
    settings = (await bob.get("/spaces/bob/mine/settings")).text
    assert ">MODEL</td>" in settings and ">small</td>" in settings and ">KEY</td>" not in settings
    assert (await alice.get("/spaces/bob/mine")).status_code == 404
    again = await bob.post(f"{SPACE}/duplicate", form, page=f"{SPACE}/duplicate")
    assert again.status_code == 409 and 'role="alert"' in again.text, "a name in use"


async def test_a_space_is_handed_to_an_organisation_by_who_may(alice: Browser, bob: Browser, services: Services) -> None:
    await make_admin(services, "alice")
    await new_org(alice)
    body = {"owner": "bob", "name": "demo", "sdk": "static", "visibility": "public", "hardware": "cpu-basic"}
    assert (await bob.post("/new-space", body, page="/new-space")).status_code == 303
    page = "/spaces/bob/demo/settings"
    refused = await bob.post(f"{page}/rename", {"to_owner": "lab", "to_name": "demo"}, page=page)
    assert refused.status_code == 403, "it is not his organisation"
    members = "/organizations/lab/settings"
    assert (await alice.post(f"{members}/member", {"user": "bob", "role": "write"}, page=members)).status_code == 303
    moved = await bob.post(f"{page}/rename", {"to_owner": "lab", "to_name": "shown"}, page=page)
    assert moved.status_code == 303 and moved.headers["location"].startswith("/spaces/lab/shown")
    led = await bob.get("/spaces/bob/demo")
    assert (led.status_code, led.headers["location"]) == (303, "/spaces/lab/shown")
    assert (await _space(services, "lab", "shown")).subdomain


async def test_figures_of_a_space_are_what_was_measured(alice: Browser, stranger: Browser, services: Services) -> None:
    await _made(alice, hardware="t4-small")
    space, now = await _space(services, "alice", "demo"), services.clock.now()
    async with services.uow.write() as uow:
        measured = Traffic({"2xx": 97, "5xx": 3}, {"0.1": 50, "0.5": 50}, 1000, 2_000_000, 2, 7200.0, 512_000_000, 2, 0.5)
        await uow.traffic.add(space.id, hour_of(now), measured)
        account = await uow.accounts.by_name("alice")
        assert account is not None
        day = f"{now:%Y-%m-%d}"
        for key, amount in (("hours", 2.5), ("gpu-hours", 2.5)):
            await uow.quotas.add_usage(account_id=account.id, space_id=space.id, key=key, flavor="t4-small", day=day, amount=amount)
    page = (await alice.get(f"{SPACE}/analytics")).text
    shown = {k: v.strip() for k, v in re.findall(r'<dt class="small muted">([^<]+)</dt><dd class="num">([^<]*)</dd>', page)}
    assert (shown["Requests"], shown["Server errors"], shown["Wake-ups"], shown["GPU hours"]) == ("100", "3", "2", "2.50")
    assert (shown["Processor hours"], shown["Memory peak"], shown["Cost"]) == ("2.00", "512 MB", "$1.00")
    assert shown["Median answer"] == "100 ms" and shown["99 of 100 within"].endswith("ms")
    assert 'class="bad"' in page, "errors are a part of their bar"
    assert (await stranger.get(f"{SPACE}/analytics")).status_code in (303, 403)
