"""Every door at which a quota is asked, over HTTP: one refusal with one shape, and nothing changed by what was refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from control_plane.accounts import people, tokens
from control_plane.domain.accounts import OrgRole, TokenRole
from control_plane.domain.builds import Artifact, ArtifactKind, LaunchPlan
from control_plane.domain.ids import BuildId, Sha, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.spaces import Deployment, Repo, RepoType, Space
from control_plane.ports.stores import UnitOfWork
from control_plane.scheduler.sleeping import Sleeper
from tests.functional.admin.changes import commit_body
from tests.functional.hub_api.running import WholePlatform

APP = "/api/spaces/ann/app"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholePlatform]:
    running = WholePlatform(tmp_path_factory.mktemp("doors"))
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def ann(site: WholePlatform) -> Iterator[httpx.Client]:
    services = site.built

    async def make() -> str:
        async with services.uow.write() as work:
            user = await people.add_user(work, services.clock, "ann")
            await people.set_member(work, services.signals, await people.add_org(work, services.clock, "club"), user, OrgRole.ADMIN)
            return (await tokens.create_token(work, services.clock, user, "t", TokenRole.WRITE))[1]

    headers = {"authorization": f"Bearer {site.run(make())}"}
    with httpx.Client(base_url=f"http://localhost:{site.port}", headers=headers, timeout=60) as client:

        async def built(name: str, hardware: str) -> None:
            now = services.clock.now()
            async with services.uow.write() as work:
                repo = await work.repos.by_name(RepoType.SPACE, "ann", name)
                space = await work.spaces.get(SpaceId(repo.id)) if repo else None
                assert space is not None
                artifact = Artifact(ArtifactKind.BUNDLE, f"{space.id}/b")
                one = Deployment(space.id, 1, BuildId("b"), Sha("a" * 40), artifact, LaunchPlan(), hardware, now, space.config)
                await work.deployments.add(one)
                await work.spaces.save(replace(space, generation=1, asleep=True, has_app_file=True, hardware=hardware))

        for name, hardware in (("app", "cpu-basic"), ("gpu", "t4-small")):
            assert client.post("/api/repos/create", json={"name": name, "type": "space", "sdk": "gradio"}).status_code == 200
            site.run(built(name, hardware))
        yield client


# Each that running on a flavor with a GPU is refused for.
RUNNING = {"running": "0", "running.t4-small": "0", "vcpu": "1", "memory-gb": "1", "gpu-hours": "0"}
LFS = {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": "a" * 64, "size": 5_000_000}]}
DOORS: tuple[tuple[str, dict[str, str], str, str, dict[str, Any], str], ...] = (
    ("create", {"spaces": "1"}, "POST", "/api/repos/create", {"json": {"name": "more", "type": "space", "sdk": "static"}}, "spaces"),
    ("duplicate", {"spaces": "1"}, "POST", f"{APP}/duplicate", {"json": {"repository": "ann/copy"}}, "spaces"),
    ("transfer", {"club:spaces": "0"}, "POST", "/api/repos/move",
     {"json": {"fromRepo": "ann/app", "toRepo": "club/app", "type": "space"}}, "spaces"),
    ("hardware, by vcpu", {"vcpu": "4"}, "POST", f"{APP}/hardware", {"json": {"flavor": "cpu-upgrade"}}, "vcpu"),
    ("hardware, by memory", {"memory-gb": "20"}, "POST", f"{APP}/hardware", {"json": {"flavor": "cpu-upgrade"}}, "memory-gb"),
    ("start", {"running": "0"}, "POST", f"{APP}/restart", {}, "running"),
    ("start, by flavor", {"running.cpu-basic": "0"}, "POST", f"{APP}/restart", {}, "running.cpu-basic"),
    ("build", {"build-minutes": "0"}, "POST", f"{APP}/restart?factory=true", {}, "build-minutes"),
    *((f"start on a GPU, by {key}", {key: limit}, "POST", "/api/spaces/ann/gpu/restart", {}, key) for key, limit in RUNNING.items()),
    *((f"hardware with a GPU, by {key}", {key: limit}, "POST", f"{APP}/hardware", {"json": {"flavor": "t4-small"}}, key)
      for key, limit in RUNNING.items()),
    ("replicas, by vcpu", {"vcpu": "2"}, "POST", f"{APP}/replicas", {"json": {"replicas": 3}}, "vcpu"),
    ("replicas, by memory", {"memory-gb": "16"}, "POST", f"{APP}/replicas", {"json": {"replicas": 3}}, "memory-gb"),
    ("replicas, by flavor", {"running.cpu-basic": "1"}, "POST", f"{APP}/replicas", {"json": {"replicas": 3}}, "running.cpu-basic"),
    ("duplicate, by storage", {"storage-gb": "0"}, "POST", f"{APP}/duplicate", {"json": {"repository": "ann/copy"}}, "storage-gb"),
    ("transfer, by storage", {"club:storage-gb": "0"}, "POST", "/api/repos/move",
     {"json": {"fromRepo": "ann/app", "toRepo": "club/app", "type": "space"}}, "storage-gb"),
    ("replicas", {"running": "1"}, "POST", f"{APP}/replicas", {"json": {"replicas": 3}}, "running"),
    ("disk", {"storage-gb": "1"}, "POST", f"{APP}/storage", {"json": {"tier": "small"}}, "storage-gb"),
    ("commit", {"storage-gb": "0.00001"}, "POST", f"{APP}/commit/main", {"content": commit_body(big__txt="x" * 100_000)}, "storage-gb"),
    ("large file", {"storage-gb": "0.001"}, "POST", "/spaces/ann/app.git/info/lfs/objects/batch", {"json": LFS}, "storage-gb"),
)  # fmt: skip


@pytest.mark.parametrize(("door", "limits", "method", "path", "sent", "key"), DOORS, ids=[door[0] for door in DOORS])
def test_a_refusal_has_one_shape_everywhere(
    site: WholePlatform, ann: httpx.Client, door: str, limits: dict[str, str], method: str, path: str, sent: dict[str, Any], key: str
) -> None:
    admin = {"authorization": f"Bearer {site.admin_token}"}

    def change(**body: object) -> None:
        for name in limits:
            subject, _, quota = name.rpartition(":")
            limit = {"limits": {quota: limits[name]}} if body["on"] else {"unset": [quota]}
            assert ann.patch(f"/api/admin/quotas/{subject or 'ann'}", json=limit, headers=admin).status_code == 200

    def shown() -> dict[str, float]:
        rows = ann.get("/api/admin/quotas/ann", headers=admin).json()["items"]
        return {row["key"]: row["used"] for row in rows}

    before = shown()
    change(on=True)
    try:
        refused = ann.request(method, path, **sent)
        status = 507 if door == "large file" else 403  # the word of the large-file protocol for a store that is full
        assert (refused.status_code, refused.headers["x-error-code"]) == (status, "QuotaExceeded"), refused.text
        facts = refused.json()
        assert facts["key"] == key
        assert facts["subject"] == ("club" if door.startswith("transfer") else "ann")
        assert facts["limit"] == float(next(value for name, value in limits.items() if name.rpartition(":")[2] == key))
        assert facts["used"] >= 0 and facts["how"]
        assert ("frees_at" in facts) is (key in ("gpu-hours", "build-minutes"))
        assert f"'{key}'" in facts["error"] and "limit" in facts["error"]
    finally:
        change(on=False)
    after = shown()
    assert {name: after[name] for name in before} == before, "what was refused used nothing"


@pytest.mark.parametrize("key", RUNNING)
def test_a_visitor_wakes_nothing_that_a_quota_keeps_down(site: WholePlatform, ann: httpx.Client, key: str) -> None:
    services, admin = site.built, {"authorization": f"Bearer {site.admin_token}"}

    async def knock() -> Space:
        async def check(uow: UnitOfWork, repo: Repo, space: Space) -> None:
            await services.admit(uow, space)

        deps: Any = SimpleNamespace(uow=services.uow, clock=services.clock, signals=services.signals, check_running_quota=check)
        sleeper = Sleeper(deps, cast(Any, None), cast(Any, SimpleNamespace(mark_busy=lambda space_id: None)), lambda space_id: None)
        async with services.uow.read() as work:
            repo = await work.repos.by_name(RepoType.SPACE, "ann", "gpu")
        assert repo is not None
        await sleeper.wake(SpaceId(repo.id))
        async with services.uow.read() as work:
            found = await work.spaces.get(SpaceId(repo.id))
        assert found is not None
        return found

    assert ann.patch("/api/admin/quotas/ann", json={"limits": {key: RUNNING[key]}}, headers=admin).status_code == 200
    try:
        space = site.run(knock())
        assert (space.asleep, space.sleep_reason) == (True, Reason.QUOTA)
        assert f"'{key}'" in space.sleep_message
    finally:
        assert ann.patch("/api/admin/quotas/ann", json={"unset": [key]}, headers=admin).status_code == 200


def test_a_push_without_build_minutes_is_kept_and_not_built(site: WholePlatform, ann: httpx.Client) -> None:
    admin = {"authorization": f"Bearer {site.admin_token}"}
    assert ann.patch("/api/admin/quotas/ann", json={"limits": {"build-minutes": "0"}}, headers=admin).status_code == 200
    try:
        assert ann.post(f"{APP}/commit/main", content=commit_body(app__py="print(1)")).status_code == 200
        builds = ann.get("/api/admin/builds", params={"space": "ann/app"}, headers=admin).json()["items"]
        assert builds == []
    finally:
        assert ann.patch("/api/admin/quotas/ann", json={"unset": ["build-minutes"]}, headers=admin).status_code == 200
