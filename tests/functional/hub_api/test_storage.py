"""Persistent storage of Spaces over the Hub API, with the released client where it has a call for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import HfApi, SpaceStorage

from control_plane.accounts import people, quotas
from control_plane.domain.accounts import Actor
from control_plane.domain.errors import QuotaExceeded
from control_plane.domain.ids import ReplicaId, SpaceId
from control_plane.domain.replicas import ReplicaState
from control_plane.domain.spaces import Replica, Repo, RepoType, Space
from control_plane.domain.storage import VOLUME_GONE
from control_plane.runtimes.volumes import VolumeFolders
from control_plane.scheduler.volumes import VolumeRemover
from control_plane.spaces import configure, lifecycle
from tests.functional.hub_api.running import Platform

Call = Callable[..., httpx.Response]


@pytest.fixture
def api(platform: Platform, alice: str) -> HfApi:
    return HfApi(endpoint=platform.url, token=alice)


@pytest.fixture
def call(platform: Platform, alice: str) -> Call:
    def ask(method: str, name: str, what: str = "storage", token: str = alice, **more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.request(method, f"{platform.url}/api/spaces/alice/{name}/{what}", headers=headers, **more)

    return ask


def stored(platform: Platform, name: str) -> tuple[Repo, Space]:
    async def read() -> tuple[Repo, Space]:
        async with platform.services.uow.read() as uow:
            repo = await uow.repos.by_name(RepoType.SPACE, "alice", name)
            assert repo is not None
            space = await uow.spaces.get(SpaceId(repo.id))
            assert space is not None
            return repo, space

    return platform.run(read())


def test_storage_is_asked_for_grown_and_given_up(platform: Platform, api: HfApi, call: Call) -> None:
    api.create_repo("alice/kept", repo_type="space", space_sdk="gradio")
    assert api.get_space_runtime("alice/kept").storage is None
    asked = call("POST", "kept", json={"tier": "small"})
    assert (asked.status_code, asked.json()["storage"]) == (200, "small")
    assert api.get_space_runtime("alice/kept").storage == SpaceStorage.SMALL
    assert api.space_info("alice/kept").runtime.storage == SpaceStorage.SMALL  # type: ignore[union-attr]
    key = stored(platform, "kept")[1].storage_key
    assert call("POST", "kept", json={"tier": "medium"}).json()["storage"] == "medium"
    assert stored(platform, "kept")[1].storage_key == key, "a larger one keeps what is there"
    smaller = call("POST", "kept", json={"tier": "small"})
    assert (smaller.status_code, "does not shrink" in smaller.json()["error"]) == (400, True)
    unknown = call("POST", "kept", json={"tier": "huge"})
    assert (unknown.status_code, "small, medium, large" in unknown.json()["error"]) == (400, True)
    assert call("DELETE", "kept").json()["storage"] is None
    again = call("DELETE", "kept")
    assert (again.status_code, "no persistent storage" in again.json()["error"]) == (400, True)
    assert call("POST", "kept", json={"tier": "small"}).json()["storage"] == "small"
    assert stored(platform, "kept")[1].storage_key != key, "a new one is another volume"

    async def told() -> list[tuple[str, Any]]:
        async with platform.services.uow.read() as uow:
            return [(r["action"], r["facts"].get("storage")) for r in await uow.audit.list() if r["subject"] == "space:alice/kept"][:4]

    assert platform.run(told()) == [
        ("spaces.update_storage", "small"), ("spaces.delete_storage", None),
        ("spaces.update_storage", "medium"), ("spaces.update_storage", "small"),
    ]  # fmt: skip


def test_strangers_change_nothing_and_static_spaces_need_none(api: HfApi, call: Call, bob: str) -> None:
    api.create_repo("alice/open", repo_type="space", space_sdk="gradio")
    assert call("POST", "open", token=bob, json={"tier": "small"}).status_code == 403
    assert call("DELETE", "open", token=bob).status_code == 403
    assert call("POST", "open", token="", json={"tier": "small"}).status_code == 401
    api.create_repo("alice/files", repo_type="space", space_sdk="static")
    refused = call("POST", "files", json={"tier": "small"})
    assert (refused.status_code, "static" in refused.json()["error"]) == (400, True)


def test_creation_takes_a_tier_and_a_copy_takes_none(api: HfApi, call: Call, platform: Platform, alice: str) -> None:
    body = {"name": "born", "type": "space", "sdk": "gradio", "storageTier": "small"}
    made = httpx.post(f"{platform.url}/api/repos/create", json=body, headers={"authorization": f"Bearer {alice}"})
    assert made.status_code == 200, made.text
    assert api.get_space_runtime("alice/born").storage == "small"
    api.duplicate_repo("alice/born", "alice/born-copy", repo_type="space")
    assert api.get_space_runtime("alice/born-copy").storage is None
    assert call("POST", "born", "duplicate", json={"repository": "alice/born-2", "storageTier": "medium"}).status_code == 200
    assert api.get_space_runtime("alice/born-2").storage == "medium"


def test_its_whole_size_is_taken_from_the_quota(platform: Platform, api: HfApi) -> None:
    api.create_repo("alice/large", repo_type="space", space_sdk="gradio")
    services = platform.services

    async def check(uow: Any, account: Any, key: str, asked: float, space_id: Any = None, /) -> None:
        await quotas.check(uow, account, key, asked, catalog=services.catalog, now=services.clock.now(), space_id=space_id)

    async def act() -> tuple[float, float]:
        deps = replace(services.spaces, check_quota=check)
        repo = await repo_of("large")
        async with services.uow.write() as uow:
            user, org = await people.find_account(uow, "alice"), await people.add_org(uow, services.clock, "small-org")
            held = (await uow.quotas.held(user.id)).storage_bytes
            await uow.quotas.set_limit("alice", "storage-gb", held / 1e9 + 100)
            await uow.quotas.set_limit("small-org", "storage-gb", 1)
        actor = Actor(user=user)
        await configure.request_storage(deps, actor, repo, "small")
        with pytest.raises(QuotaExceeded) as refused:
            await configure.request_storage(deps, actor, repo, "medium")
        assert refused.value.facts["asked"] == 130
        with pytest.raises(QuotaExceeded):
            await lifecycle.move_repo(deps, actor, repo, org, "large")
        async with services.uow.read() as uow:
            after = (await uow.quotas.held(user.id)).storage_bytes
        await configure.delete_storage(deps, actor, repo)
        async with services.uow.write() as uow:
            await uow.quotas.set_limit("alice", "storage-gb", None)
            return (after - held) / 1e9, ((await uow.quotas.held(user.id)).storage_bytes - held) / 1e9

    async def repo_of(name: str) -> Repo:
        async with services.uow.read() as uow:
            found = await uow.repos.by_name(RepoType.SPACE, "alice", name)
        assert found is not None
        return found

    assert platform.run(act()) == (20, 0)


def test_bytes_go_when_no_replica_can_use_them(platform: Platform, api: HfApi, call: Call, tmp_path: Path) -> None:
    api.create_repo("alice/busy", repo_type="space", space_sdk="gradio")
    call("POST", "busy", json={"tier": "small"})
    services, folders = platform.services, VolumeFolders(tmp_path / "volumes")
    space = stored(platform, "busy")[1]
    (mount,) = folders.mounts_of(space)
    Path(mount.source, "kept").write_text("x")
    remover = VolumeRemover(services.uow, folders)
    replica = Replica(ReplicaId("r1"), space.id, 0, ReplicaState.STARTING, services.clock.now())

    async def act() -> None:
        async with services.uow.write() as uow:
            await uow.spaces.save(replace(space, generation=1))
            await uow.deployments.save_replica(replica)
        await remover.look()
        assert Path(mount.source).exists(), "nobody gave it up"

    async def after() -> None:
        await remover.look()
        assert Path(mount.source).exists(), "an older replica may still write"
        async with services.uow.write() as uow:
            await uow.deployments.save_replica(replace(replica, state=ReplicaState.STOPPED))
        await remover.look()
        assert not Path(mount.source).exists()
        async with services.uow.read() as uow:
            assert [row for row in await uow.documents.list(VOLUME_GONE) if row["space_id"] == space.id] == []

    platform.run(act())
    assert call("DELETE", "busy").status_code == 200
    platform.run(after())
