"""Every door at which a quota is asked, over HTTP: one refusal with one shape, and nothing changed by what was refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from control_plane.accounts import people, tokens
from control_plane.domain.accounts import OrgRole, TokenRole
from control_plane.domain.builds import Artifact, ArtifactKind, LaunchPlan
from control_plane.domain.ids import BuildId, Sha, SpaceId
from control_plane.domain.spaces import Deployment, RepoType
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
        assert client.post("/api/repos/create", json={"name": "app", "type": "space", "sdk": "gradio"}).status_code == 200

        async def built() -> None:
            now = services.clock.now()
            async with services.uow.write() as work:
                repo = await work.repos.by_name(RepoType.SPACE, "ann", "app")
                space = await work.spaces.get(SpaceId(repo.id)) if repo else None
                assert space is not None
                artifact = Artifact(ArtifactKind.BUNDLE, f"{space.id}/b")
                one = Deployment(space.id, 1, BuildId("b"), Sha("a" * 40), artifact, LaunchPlan(), "cpu-basic", now, space.config)
                await work.deployments.add(one)
                await work.spaces.save(replace(space, generation=1, asleep=True, has_app_file=True))

        site.run(built())
        yield client


LFS = {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": "a" * 64, "size": 5_000_000}]}
DOORS: tuple[tuple[str, dict[str, str], str, str, dict[str, Any], str], ...] = (
    ("create", {"spaces": "1"}, "POST", "/api/repos/create", {"json": {"name": "more", "type": "space", "sdk": "static"}}, "spaces"),
    ("duplicate", {"spaces": "1"}, "POST", f"{APP}/duplicate", {"json": {"repository": "ann/copy"}}, "spaces"),
    ("transfer", {"club:spaces": "0"}, "POST", "/api/repos/move",
     {"json": {"fromRepo": "ann/app", "toRepo": "club/app", "type": "space"}}, "spaces"),
    ("a flavor that is switched off", {"running.t4-small": "0"}, "POST", f"{APP}/hardware",
     {"json": {"flavor": "t4-small"}}, "running.t4-small"),
    ("hardware, by vcpu", {"vcpu": "4"}, "POST", f"{APP}/hardware", {"json": {"flavor": "cpu-upgrade"}}, "vcpu"),
    ("hardware, by memory", {"memory-gb": "20"}, "POST", f"{APP}/hardware", {"json": {"flavor": "cpu-upgrade"}}, "memory-gb"),
    ("hardware, by hours", {"gpu-hours": "0"}, "POST", f"{APP}/hardware", {"json": {"flavor": "t4-small"}}, "gpu-hours"),
    ("start", {"running": "0"}, "POST", f"{APP}/restart", {}, "running"),
    ("start, by flavor", {"running.cpu-basic": "0"}, "POST", f"{APP}/restart", {}, "running.cpu-basic"),
    ("build", {"build-minutes": "0"}, "POST", f"{APP}/restart?factory=true", {}, "build-minutes"),
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
        assert facts["subject"] == ("club" if door == "transfer" else "ann")
        assert facts["limit"] == float(next(value for name, value in limits.items() if name.rpartition(":")[2] == key))
        assert facts["used"] >= 0 and facts["how"]
        assert ("frees_at" in facts) is (key in ("gpu-hours", "build-minutes"))
        assert f"'{key}'" in facts["error"] and "limit" in facts["error"]
    finally:
        change(on=False)
    after = shown()
    assert {name: after[name] for name in before} == before, "what was refused used nothing"


def test_a_push_without_build_minutes_is_kept_and_not_built(site: WholePlatform, ann: httpx.Client) -> None:
    admin = {"authorization": f"Bearer {site.admin_token}"}
    assert ann.patch("/api/admin/quotas/ann", json={"limits": {"build-minutes": "0"}}, headers=admin).status_code == 200
    try:
        assert ann.post(f"{APP}/commit/main", content=commit_body(app__py="print(1)")).status_code == 200
        builds = ann.get("/api/admin/builds", params={"space": "ann/app"}, headers=admin).json()["items"]
        assert builds == []
    finally:
        assert ann.patch("/api/admin/quotas/ann", json={"unset": ["build-minutes"]}, headers=admin).status_code == 200
