"""Repositories as volumes of Spaces over the Hub API, set and read with the released client."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from huggingface_hub import CommitOperationAdd, HfApi, Volume
from huggingface_hub.errors import BadRequestError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from control_plane.domain.accounts import Membership, OrgRole, TokenRole
from control_plane.domain.builds import Artifact, ArtifactKind, LaunchPlan
from control_plane.domain.errors import Rejected
from control_plane.domain.ids import BuildId, ReplicaId, RepoId, Sha, SpaceId, new_id
from control_plane.domain.replicas import ReplicaState
from control_plane.domain.spaces import Deployment, Replica, RepoType, Space
from control_plane.git.repo_trees import RepoTrees
from control_plane.git.volume_links import VolumeLinks
from control_plane.ports.stores import UnitOfWork
from tests.functional.hub_api.running import Platform

LONG = b"many words\n" * 2000


@pytest.fixture(scope="module")
def api(platform: Platform, alice: str) -> HfApi:
    made = HfApi(endpoint=platform.url, token=alice)
    made.create_repo("alice/weights", private=True)
    made.create_repo("alice/words", repo_type="dataset")
    files = {"config.json": b"plain", "deep/long.txt": LONG, "deep/part.txt": b"x"}
    made.create_commit("alice/weights", [CommitOperationAdd(*pair) for pair in files.items()], commit_message="all")
    made.create_repo("alice/app", repo_type="space", space_sdk="gradio")
    return made


@pytest.fixture
def of_bob(platform: Platform, bob: str) -> HfApi:
    return HfApi(endpoint=platform.url, token=bob)


def model(source: str = "alice/weights", mount_path: str = "/data/model", **more: Any) -> Volume:
    return Volume(type="model", source=source, mount_path=mount_path, **more)


def inside(platform: Platform, name: str, work: Callable[[UnitOfWork, Space], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with platform.services.uow.write() as uow:
            repo = await uow.repos.by_name(RepoType.SPACE, *name.split("/"))
            space = await uow.spaces.get(SpaceId(repo.id)) if repo else None
            assert space is not None
            return await work(uow, space)

    return platform.run(run())


def shown(volumes: list[Volume] | None) -> list[tuple[str, ...]]:
    return [(v.type, v.source, v.mount_path, v.revision or "", v.path or "") for v in volumes or []]


def test_set_replaced_shown_and_deleted(platform: Platform, api: HfApi, of_bob: HfApi) -> None:
    api.set_space_volumes("alice/app", [model(read_only=False), Volume(type="dataset", source="alice/words", mount_path="/words/")])
    told = api.get_space_runtime("alice/app").volumes
    assert shown(told) == [("model", "alice/weights", "/data/model", "", ""), ("dataset", "alice/words", "/words", "", "")]
    assert all(volume.read_only for volume in told or []), "read-only whatever was said, as the client's documentation promises"
    assert shown(api.space_info("alice/app").runtime.volumes) == shown(told)
    hidden = of_bob.space_info("alice/app").runtime.volumes
    assert shown(hidden) == [("model", "[private]", "/data/model", "", ""), ("dataset", "alice/words", "/words", "", "")]
    listed = httpx.get(f"{platform.url}/api/spaces", params={"expand": "runtime", "author": "alice"}).text
    assert "[private]" in listed
    assert "weights" not in listed
    api.set_space_volumes("alice/app", [model(revision="main", path="deep")])
    assert shown(api.get_space_runtime("alice/app").volumes) == [("model", "alice/weights", "/data/model", "main", "deep")]
    api.delete_space_volumes("alice/app")
    assert api.get_space_runtime("alice/app").volumes == []
    with pytest.raises(BadRequestError, match="no volumes"):
        api.delete_space_volumes("alice/app")


def test_given_with_a_new_space_and_with_a_copy(api: HfApi) -> None:
    api.create_repo("alice/born", repo_type="space", space_sdk="gradio", space_volumes=[model()])
    assert shown(api.get_space_runtime("alice/born").volumes) == [("model", "alice/weights", "/data/model", "", "")]
    api.duplicate_repo("alice/born", "alice/born-copy", repo_type="space")
    assert api.get_space_runtime("alice/born-copy").volumes == [], "a copy's owner names their own"
    api.duplicate_repo("alice/born", "alice/born-2", repo_type="space", space_volumes=[model(mount_path="/m")])
    assert shown(api.get_space_runtime("alice/born-2").volumes) == [("model", "alice/weights", "/m", "", "")]
    with pytest.raises(BadRequestError):
        api.create_repo("alice/pages", repo_type="space", space_sdk="static", space_volumes=[model()])
    assert not api.repo_exists("alice/pages", repo_type="space")


@pytest.mark.parametrize(
    ("volumes", "words"),
    [
        ([model(mount_path="/etc/x")], "nothing can be mounted"),
        ([model(mount_path="/")], "absolute path"),
        ([model(mount_path="data")], "absolute path"),
        ([model(mount_path="/data/../etc")], "absolute path"),
        ([model(mount_path="/home/user")], "nothing can be mounted"),
        ([model(mount_path="/proc/1/x")], "nothing can be mounted"),
        ([model(mount_path="/a:b")], "absolute path"),
        ([model(), model()], "taken by another"),
        ([model(), model(mount_path="/data/model/deeper")], "lie in each other"),
        ([model(mount_path=f"/m{n}") for n in range(11)], "at most 10"),
        ([model(path="../x")], "without"),
        ([model(source="weights")], "NAMESPACE/NAME"),
        ([Volume(type="bucket", source="alice/b", mount_path="/data")], "no buckets"),
        ([Volume(type="disk", source="alice/b", mount_path="/data")], "model, dataset, space"),  # type: ignore[arg-type]
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_mounted_is_refused_in_words(api: HfApi, volumes: list[Volume], words: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        api.set_space_volumes("alice/app", volumes)
    assert words in str(refused.value)
    assert api.get_space_runtime("alice/app").volumes == []


def test_a_volume_and_persistent_storage_keep_apart(platform: Platform, api: HfApi, alice: str) -> None:
    def storage(method: str, **more: Any) -> int:
        headers = {"authorization": f"Bearer {alice}"}
        return httpx.request(method, f"{platform.url}/api/spaces/alice/app/storage", headers=headers, **more).status_code

    assert storage("POST", json={"tier": "small"}) == 200
    with pytest.raises(BadRequestError, match="persistent storage is at /data"):
        api.set_space_volumes("alice/app", [model()])
    assert storage("DELETE") == 200
    api.set_space_volumes("alice/app", [model()])
    assert storage("POST", json={"tier": "small"}) == 400
    api.delete_space_volumes("alice/app")


def test_absent_and_hidden_are_one_answer(api: HfApi, of_bob: HfApi) -> None:
    of_bob.create_repo("bob/app", repo_type="space", space_sdk="gradio")
    said = []
    for source in ("alice/weights", "alice/absent", "nobody/absent"):
        with pytest.raises(RepositoryNotFoundError) as refused:
            of_bob.set_space_volumes("bob/app", [model(source)])
        headers = refused.value.response.headers
        said.append((headers["x-error-code"], headers["x-error-message"].replace(source, "NAME")))
    assert len(set(said)) == 1
    with pytest.raises(RepositoryNotFoundError):
        of_bob.create_repo("bob/thief", repo_type="space", space_sdk="gradio", space_volumes=[model()])
    with pytest.raises(HfHubHTTPError):
        of_bob.duplicate_repo("alice/app", "bob/copy", repo_type="space", space_volumes=[model()])
    assert not of_bob.repo_exists("bob/copy", repo_type="space")
    with pytest.raises(HfHubHTTPError) as forbidden:
        of_bob.set_space_volumes("alice/app", [])
    assert forbidden.value.response.status_code == 403


def test_what_the_token_may_not_read_it_may_not_mount(platform: Platform, api: HfApi) -> None:
    narrow = platform.token("alice", TokenRole.FINE_GRAINED, scopes={"alice/app": "write"})
    with pytest.raises(RepositoryNotFoundError):
        HfApi(endpoint=platform.url, token=narrow).set_space_volumes("alice/app", [model()])


def test_what_is_not_in_the_repository_is_named(api: HfApi) -> None:
    with pytest.raises(RevisionNotFoundError, match="no revision 'v9'"):
        api.set_space_volumes("alice/app", [model(revision="v9")])
    with pytest.raises(HfHubHTTPError, match="has no 'nothing'") as refused:
        api.set_space_volumes("alice/app", [model(path="nothing")])
    assert refused.value.response.headers["x-error-code"] == "EntryNotFound"


def test_a_gate_is_asked_too(api: HfApi, of_bob: HfApi) -> None:
    api.create_repo("alice/gated")
    api.update_repo_settings("alice/gated", gated="manual")
    of_bob.create_repo("bob/gate", repo_type="space", space_sdk="gradio")
    with pytest.raises(GatedRepoError):
        of_bob.set_space_volumes("bob/gate", [model("alice/gated")])
    api.grant_access("alice/gated", "bob")
    of_bob.set_space_volumes("bob/gate", [model("alice/gated")])


async def _deploy(uow: UnitOfWork, space: Space) -> Replica:
    """A deployment of the Space as it is set, with a replica that wants to start."""
    now = space.updated_at
    assert now is not None
    deployment = Deployment(
        space.id, 1, BuildId(new_id()), Sha("0" * 40), Artifact(ArtifactKind.BUNDLE, "x"), LaunchPlan(("python",)), "cpu-basic", now,
        space.config, volumes=space.volumes,
    )  # fmt: skip
    replica = Replica(ReplicaId(new_id()), space.id, 1, ReplicaState.PENDING, now)
    await uow.deployments.add(deployment)
    await uow.deployments.save_replica(replica)
    await uow.spaces.save(replace(space, generation=1))
    return replica


def test_a_pod_fetches_what_its_space_mounts_and_nothing_else(platform: Platform, api: HfApi) -> None:
    """The word is for one volume of one replica, and its right is looked at each time."""
    platform.org("shop", {"alice": OrgRole.ADMIN, "bob": OrgRole.WRITE})
    api.create_repo("shop/app", repo_type="space", space_sdk="gradio")
    api.set_space_volumes("shop/app", [model(), model(mount_path="/one", path="deep/part.txt"), model(mount_path="/deep", path="deep")])
    replica = inside(platform, "shop/app", _deploy)
    links = VolumeLinks(platform.services.signing_key)

    def ask(number: int, word: str = "", of: str = "") -> httpx.Response:
        word = word or links.token(ReplicaId(of or replica.id), number).reveal()
        address = f"{platform.url}{links.path(ReplicaId(of or replica.id), number)}"
        return httpx.get(address, headers={"authorization": f"Bearer {word}"})

    assert ask(0).status_code == 404, "no start has pinned it yet"

    async def pin(uow: UnitOfWork, space: Space) -> None:
        deployment = await uow.deployments.get(space.id, 1)
        assert deployment is not None
        pinned = []
        for volume in deployment.volumes:
            commit, oid = await platform.services.repo_trees.pin(volume.repo_id, volume.revision, volume.path)
            pinned.append(replace(volume, commit=commit, oid=oid))
        await uow.deployments.save(replace(deployment, volumes=tuple(pinned)))

    inside(platform, "shop/app", pin)

    def names(number: int) -> dict[str, bytes | None]:
        with tarfile.open(fileobj=io.BytesIO(ask(number).content)) as tar:
            return {m.name: (f.read() if (f := tar.extractfile(m)) else None) for m in tar.getmembers() if m.name != ".gitattributes"}

    assert names(0) == {"config.json": b"plain", "deep": None, "deep/part.txt": b"x", "deep/long.txt": LONG}
    assert names(1) == {"part.txt": b"x"}
    assert names(2) == {"part.txt": b"x", "long.txt": LONG}
    assert ask(1, word=links.token(replica.id, 0).reveal()).status_code == 403
    assert ask(0, word="x").status_code == 403
    assert ask(7).status_code == 404
    assert ask(0, of=new_id()).status_code == 404

    platform.run(_role(platform, "shop", "alice", OrgRole.READ))
    assert ask(0).status_code == 404, "who mounted it may not change the Space any more"
    platform.run(_role(platform, "shop", "alice", OrgRole.ADMIN))
    assert ask(0).status_code == 200

    async def ended(uow: UnitOfWork, space: Space) -> None:
        await uow.deployments.save_replica(replace(replica, state=ReplicaState.STOPPED))

    inside(platform, "shop/app", ended)
    assert ask(0).status_code == 404


async def _role(platform: Platform, org: str, user: str, role: OrgRole) -> None:
    async with platform.services.uow.write() as uow:
        group, person = await uow.accounts.by_name(org), await uow.accounts.by_name(user)
        assert group is not None
        assert person is not None
        await uow.accounts.set_member(Membership(group.id, person.id, role))


def test_a_copy_that_would_not_fit_is_refused(platform: Platform, api: HfApi) -> None:
    small = RepoTrees(platform._root / "small", platform.services.git, platform.services.lfs, max_bytes=3)

    async def fetch() -> None:
        repo = await _repo(platform)
        commit, oid = await small.pin(repo, "", "")
        with pytest.raises(Rejected, match="are left for all volumes"):
            await small.fetch(repo, commit, "", oid, lambda done: None)

    platform.run(fetch())


async def _repo(platform: Platform) -> RepoId:
    async with platform.services.uow.read() as uow:
        repo = await uow.repos.by_name(RepoType.MODEL, "alice", "weights")
    assert repo is not None
    return repo.id
