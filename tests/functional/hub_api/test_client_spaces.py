"""Everything of the Spaces API that needs no running app, with the released client and raw requests."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from datetime import UTC, datetime
from queue import Queue

import httpx
import pytest
from huggingface_hub import HfApi, SpaceStage
from huggingface_hub.errors import BadRequestError, HfHubHTTPError, RepositoryNotFoundError

from control_plane.domain.builds import BuildStatus
from control_plane.domain.ids import SpaceId
from control_plane.domain.spaces import Build, RepoType
from control_plane.ports.log_store import LogLine
from control_plane.proxy.guard import Verdict
from control_plane.proxy.server import Proxy, ProxyConfig
from tests.functional.hub_api.running import Platform
from tests.functional.proxy.conftest import MemoryFeed


@pytest.fixture
def api(platform: Platform, alice: str) -> HfApi:
    return HfApi(endpoint=platform.url, token=alice)


@pytest.fixture(scope="module")
def space(platform: Platform, alice: str) -> str:
    api = HfApi(endpoint=platform.url, token=alice)
    api.create_repo("alice/demo", repo_type="space", space_sdk="gradio")
    api.upload_file(path_or_fileobj=b"print('hi')\n", path_in_repo="app.py", repo_id="alice/demo", repo_type="space")
    return "alice/demo"


def test_a_fresh_space_has_no_app_file(api: HfApi) -> None:
    api.create_repo("alice/fresh", repo_type="space", space_sdk="gradio")
    assert api.get_space_runtime("alice/fresh").stage == SpaceStage.NO_APP_FILE


def test_a_space_needs_an_sdk(platform: Platform, alice: str) -> None:
    reply = httpx.post(
        f"{platform.url}/api/repos/create", json={"name": "nosdk", "type": "space"}, headers={"authorization": f"Bearer {alice}"}
    )
    assert reply.status_code == 400
    assert "gradio" in reply.json()["error"]


def test_runtime_and_actions(api: HfApi, space: str) -> None:
    assert api.get_space_runtime(space).stage == SpaceStage.BUILDING
    runtime = api.request_space_hardware(space, "t4-small", sleep_time=3600)
    assert runtime.requested_hardware == "t4-small"
    assert runtime.sleep_time == 3600
    assert api.set_space_sleep_time(space, 7200).sleep_time == 7200
    with pytest.raises(HfHubHTTPError) as unknown:
        api.request_space_hardware(space, "abacus")
    assert unknown.value.response.status_code == 400
    assert api.pause_space(space).stage == SpaceStage.PAUSED
    assert api.restart_space(space, factory_reboot=True).stage in (SpaceStage.BUILDING, SpaceStage.APP_STARTING)
    with pytest.raises((BadRequestError, HfHubHTTPError)) as refused:
        api.enable_space_dev_mode(space)
    assert "dev mode" in str(refused.value)


def test_variables_and_secrets(api: HfApi, platform: Platform, space: str, alice: str) -> None:
    assert api.add_space_variable(space, "MODE", "fast", description="d")["MODE"].value == "fast"
    api.add_space_variable(space, "OTHER", "1")
    assert set(api.get_space_variables(space)) == {"MODE", "OTHER"}
    assert set(api.delete_space_variable(space, "OTHER")) == {"MODE"}
    api.add_space_secret(space, "KEY", "canary-value", description="what for")
    headers = {"authorization": f"Bearer {alice}"}
    listed = httpx.get(f"{platform.url}/api/spaces/{space}/secrets", headers=headers)
    assert listed.json()["KEY"]["description"] == "what for"
    assert "canary-value" not in listed.text
    api.delete_space_secret(space, "KEY")
    api.delete_space_secret(space, "KEY")
    with pytest.raises(HfHubHTTPError) as bad:
        api.add_space_variable(space, "1-bad", "x")
    assert bad.value.response.status_code == 400


def test_strangers_see_the_runtime_but_no_settings(platform: Platform, space: str, bob: str) -> None:
    guest = HfApi(endpoint=platform.url, token=bob)
    assert guest.get_space_runtime(space).stage
    for refused in (
        lambda: guest.get_space_variables(space),
        lambda: guest.pause_space(space),
        lambda: guest.add_space_secret(space, "A", "b"),
    ):
        with pytest.raises(HfHubHTTPError) as error:
            refused()
        assert error.value.response.status_code == 403


def test_info_list_search_hardware_templates(api: HfApi, space: str) -> None:
    info = api.space_info(space)
    assert info.subdomain == "alice-demo"
    assert info.host and info.host.startswith("http://alice-demo.localhost:")
    assert info.runtime
    assert any(s.id == space for s in api.list_spaces(author="alice"))
    assert any(s.id == space for s in api.list_spaces(search="demo", full=True))
    assert next(iter(api.list_spaces(author="alice", expand=["sdk", "likes"]))).sdk
    assert any(s.id == space for s in api.search_spaces("demo"))
    flavors = api.list_spaces_hardware()
    assert {"cpu-basic", "a100-large"} <= {f.name for f in flavors}
    assert next(f for f in flavors if f.name == "t4-small").accelerator
    assert isinstance(api.list_space_templates() if hasattr(api, "list_space_templates") else [], list)


def test_programs_are_told_how_to_use_an_app(api: HfApi, platform: Platform, alice: str) -> None:
    api.create_repo("alice/told", repo_type="space", space_sdk="gradio")
    address = f"{platform.url}/spaces/alice/told/agents.md"
    told = httpx.get(address)
    assert told.headers["content-type"].startswith("text/markdown")
    for words in (f"http://alice-told.localhost:{platform.port}/gradio_api/info", f"HF_ENDPOINT={platform.url}`", 'Client("alice/told")'):
        assert words in told.text
    assert "private" not in told.text
    api.update_repo_settings("alice/told", repo_type="space", private=True)
    assert httpx.get(address).status_code == 401
    assert "The app is private" in httpx.get(address, headers={"authorization": f"Bearer {alice}"}).text


def test_lists_page_through_links(api: HfApi, platform: Platform) -> None:
    for n in range(5):
        api.create_repo(f"alice/page-{n}", repo_type="dataset")
    first = httpx.get(f"{platform.url}/api/datasets", params={"author": "alice", "search": "page-", "limit": 2})
    assert len(first.json()) == 2
    assert first.links["next"]["url"].startswith(platform.url)
    seen = {d["id"] for d in first.json()}
    url: str | None = first.links["next"]["url"]
    while url:
        page = httpx.get(url)
        seen |= {d["id"] for d in page.json()}
        url = page.links.get("next", {}).get("url")
    assert seen == {f"alice/page-{n}" for n in range(5)}


def test_duplicate(api: HfApi, platform: Platform, space: str, bob: str) -> None:
    api.add_space_secret(space, "HIDDEN", "x")
    guest = HfApi(endpoint=platform.url, token=bob)
    assert guest.duplicate_repo(space, "bob/copy", repo_type="space", private=True).repo_id == "bob/copy"
    assert "app.py" in guest.list_repo_files("bob/copy", repo_type="space")
    assert httpx.get(f"{platform.url}/api/spaces/bob/copy/secrets", headers={"authorization": f"Bearer {bob}"}).json() == {}
    with pytest.raises(HfHubHTTPError) as taken:
        guest.duplicate_repo(space, "bob/copy", repo_type="space")
    assert taken.value.response.status_code == 409
    guest.duplicate_repo(space, "bob/copy", repo_type="space", exist_ok=True)


def test_build_logs_replay_and_end(api: HfApi, platform: Platform, space: str, alice: str) -> None:
    services = platform.services

    async def finish_build() -> None:
        async with services.uow.write() as uow:
            row = await uow.repos.by_name(RepoType.SPACE, "alice", "demo")
            assert row
            build = await uow.builds.latest(SpaceId(row.id))
            assert build
            await uow.builds.save(replace(build, status=BuildStatus.FAILED))
        at = datetime(2026, 1, 1, tzinfo=UTC)
        await services.logs.append(f"build/{build.id}", [LogLine(at, "first line"), LogLine(at, "second — line")])

    platform.run(finish_build())
    reply = httpx.get(f"{platform.url}/api/spaces/{space}/logs/build", headers={"authorization": f"Bearer {alice}"})
    lines = [x for x in reply.text.split("\n\n") if x]
    assert lines[0] == 'data: {"data":"first line\\n","timestamp":"2026-01-01T00:00:00.000Z"}'
    assert json.loads(lines[1].removeprefix("data: "))["data"] == "second — line\n"
    assert "date" in reply.headers
    tail = httpx.get(f"{platform.url}/api/spaces/{space}/logs/build?tail=1", headers={"authorization": f"Bearer {alice}"})
    assert tail.text.count("data: {") == 1
    assert [line.strip() for line in api.fetch_space_logs(space, build=True)][:1] == ["first line"]
    assert httpx.get(f"{platform.url}/api/spaces/{space}/logs/build").status_code in (401, 403)


def test_events_stream_starts_with_the_runtime(platform: Platform, space: str) -> None:
    with httpx.stream("GET", f"{platform.url}/api/spaces/{space}/events", timeout=10) as reply:
        first = next(reply.iter_lines())
    assert json.loads(first.removeprefix("data: "))["stage"]


def test_private_spaces_are_absent_on_every_look_up(api: HfApi, platform: Platform, bob: str) -> None:
    api.create_repo("alice/closed", repo_type="space", space_sdk="static", private=True)
    guest = HfApi(endpoint=platform.url, token=bob)
    with pytest.raises(RepositoryNotFoundError):
        guest.get_space_runtime("alice/closed")
    for path in ("host", "jwt", "events", "runtime", "refs", "discussions"):
        hidden = httpx.get(f"{platform.url}/api/spaces/alice/closed/{path}", headers={"authorization": f"Bearer {bob}"})
        absent = httpx.get(f"{platform.url}/api/spaces/alice/absent/{path}", headers={"authorization": f"Bearer {bob}"})
        assert (hidden.status_code, hidden.content) == (absent.status_code, absent.content)
        assert hidden.headers["x-error-code"] == "RepoNotFound"


def test_the_proxys_door(api: HfApi, platform: Platform, alice: str, bob: str) -> None:
    api.create_repo("alice/guarded", repo_type="space", space_sdk="static", private=True)
    secret = {"authorization": f"Bearer {platform.services.internal_secret}"}

    def ask(kind: str, credential: str, host: str = "alice-guarded.localhost:7860") -> dict[str, object]:
        reply = httpx.post(
            f"{platform.url}/internal/authorize", json={"host": host, "kind": kind, "credential": credential}, headers=secret
        )
        assert reply.status_code == 200
        return dict(reply.json())

    assert ask("bearer", alice) == {"allowed": True, "user": "alice"}
    assert not ask("hf_bearer", bob)["allowed"]
    assert not ask("bearer", "hf_nonsense")["allowed"]
    assert not ask("bearer", alice, "nobody.localhost")["allowed"]
    proof = httpx.get(f"{platform.url}/api/spaces/alice/guarded/jwt", headers={"authorization": f"Bearer {alice}"}).json()["token"]
    signed = ask("sign", proof)
    assert signed["allowed"]
    assert ask("cookie", str(signed["cookie"]))["allowed"]
    assert not ask("cookie", proof)["allowed"]
    assert not ask("sign", str(signed["cookie"]))["allowed"]
    assert not ask("sign", proof, "alice-demo.localhost")["allowed"]
    anonymous = httpx.post(f"{platform.url}/internal/authorize", json={"host": "a", "kind": "bearer", "credential": "x"})
    assert anonymous.status_code == 401


@pytest.mark.filterwarnings("ignore:.*thrown while requesting")
def test_a_followed_log_goes_on_through_a_renewed_proxy(platform: Platform, alice: str) -> None:
    """The released client over the real proxy, which is replaced while it follows: each line once, in order, to the end."""
    owner = HfApi(endpoint=platform.url, token=alice)
    owner.create_repo("alice/followed", repo_type="space", space_sdk="gradio")
    owner.upload_file(path_or_fileobj=b"print('hi')\n", path_in_repo="app.py", repo_id="alice/followed", repo_type="space")
    lines: Queue[str] = Queue()

    async def build() -> Build:
        async with platform.services.uow.read() as uow:
            row = await uow.repos.by_name(RepoType.SPACE, "alice", "followed")
            found = await uow.builds.latest(SpaceId(row.id)) if row else None
        assert found
        return found

    def write(*texts: str) -> None:
        stamped = [LogLine(datetime(2026, 1, 1, tzinfo=UTC), text) for text in texts]
        platform.run(platform.services.logs.append(f"build/{current.id}", stamped))

    def proxied(port: int = 0) -> tuple[Proxy, int]:
        async def start() -> Proxy:
            proxy = Proxy(ProxyConfig(port=port, api_address=f"127.0.0.1:{platform.port}"), MemoryFeed(), nobody)
            await proxy.start()
            return proxy

        proxy = platform.run(start())
        return proxy, proxy.port

    async def nobody(*_: object) -> Verdict:
        return Verdict(allowed=False)

    current = platform.run(build())
    write("one", "two")
    proxy, port = proxied()
    client = HfApi(endpoint=f"http://localhost:{port}", token=alice)

    def follow() -> None:
        for line in client.fetch_space_logs("alice/followed", build=True, follow=True):
            lines.put(line.strip())

    reader = threading.Thread(target=follow)
    reader.start()
    try:
        seen = [lines.get(timeout=60), lines.get(timeout=60)]
        platform.run(proxy.stop(0.1))
        write("three")
        proxy, _ = proxied(port)
        seen.append(lines.get(timeout=60))
        write("four")
        seen.append(lines.get(timeout=60))
    finally:

        async def end() -> None:
            async with platform.services.uow.write() as uow:
                await uow.builds.save(replace(current, status=BuildStatus.FAILED))
            await platform.services.signals.notify("events", current.space_id)

        platform.run(end())
        reader.join(60)
        platform.run(proxy.stop(0.1))
    assert not reader.is_alive()
    assert [*seen, *(lines.get_nowait() for _ in range(lines.qsize()))] == ["one", "two", "three", "four"]
