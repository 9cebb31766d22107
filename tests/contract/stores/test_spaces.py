"""Spaces and what belongs to them: settings, builds, deployments, replicas, events, hours."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from control_plane.db.engine import Database
from control_plane.domain.accounts import Account
from control_plane.domain.builds import Artifact, ArtifactKind, BuildPhase, BuildResult, BuildStatus, LaunchPlan
from control_plane.domain.errors import NameTaken, StaleGeneration
from control_plane.domain.ids import AccountId, BuildId, ReplicaId, RepoId, SpaceId, new_id
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaState
from control_plane.domain.routes import Endpoint, EndpointKind, IdleRule
from control_plane.domain.spaces import Build, Deployment, DesiredState, Replica, RepoType, RepoVolume, Sdk, Setting, Space, SpaceConfig
from control_plane.domain.traffic import Traffic
from tests.contract.stores.rows import NOW, SHA, build, deployment, every_field_differs, replica, repo, space
from tests.fakes.clock import FixedClock

VOLUME = RepoVolume(RepoType.DATASET, RepoId("r1"), "ann/words", "/words", AccountId("u1"), "v1", "deep", SHA, "o" * 40)
FULL_CONFIG = SpaceConfig(
    sdk=Sdk.DOCKER,
    title="T",
    emoji="😀",
    color_from="red",
    color_to="blue",
    short_description="d",
    sdk_version="6.0",
    python_version="3.12",
    app_file="a.py",
    app_port=8501,
    app_build_command="npm i",
    base_path="/x",
    suggested_hardware="t4-small",
    full_width=False,
    header="mini",
    models=("m/a",),
    datasets=("d/a", "d/b"),
    tags=("t",),
    thumbnail="http://t",
    pinned=True,
    license="mit",
    hf_oauth=True,
    hf_oauth_scopes=("email",),
    hf_oauth_expiration_minutes=5,
    hf_oauth_authorized_org=("o",),
    disable_embedding=True,
    startup_timeout_s=60,
    custom_headers={"cross-origin-embedder-policy": "require-corp"},
    preload_from_hub=("m/x file",),
)


async def test_hours_add_up_and_are_pruned(db: Database) -> None:
    space_id, hour = SpaceId("s" * 24), "2026-08-01T12"
    first = Traffic({"2xx": 3}, {"0.1": 3}, 10, 20, 1, 0.5, 1000)
    async with db.write() as work:
        await work.traffic.add(space_id, "2026-07-31T09", first)
        await work.traffic.add(space_id, hour, first)
        await work.traffic.add(space_id, hour, Traffic({"2xx": 1, "5xx": 2}, {"0.1": 1, "+Inf": 2}, 1, 2, 0, 0.25, 500, 1, 2.5))
        await work.traffic.add(space_id, hour, Traffic(woken=1, wake_s=1.25))
    async with db.read() as work:
        kept = await work.traffic.of_space(space_id, since_hour=hour)
        assert await work.traffic.of_space(SpaceId("t" * 24), since_hour="") == ()
    assert kept == ((hour, Traffic({"2xx": 4, "5xx": 2}, {"0.1": 4, "+Inf": 2}, 11, 22, 1, 0.75, 1000, 2, 3.75)),)
    async with db.write() as work:
        assert await work.traffic.prune(hour) == 1
    async with db.read() as work:
        assert len(await work.traffic.of_space(space_id, since_hour="")) == 1


async def test_a_space_comes_back_whole(db: Database, demo: Space) -> None:
    assert every_field_differs(FULL_CONFIG, SpaceConfig(Sdk.GRADIO))
    full = Space(
        demo.id,
        "other",
        Sdk.DOCKER,
        FULL_CONFIG,
        DesiredState.PAUSED,
        True,
        "t4-small",
        300,
        IdleRule.TABS,
        2,
        7,
        6,
        1,
        True,
        "bad",
        NOW,
        True,
        NOW,
        Reason.QUOTA,
        "the limit is 1",
        "small",
        "k1",
        1 << 40,
        (VOLUME,),
    )
    assert every_field_differs(full, demo)
    async with db.write() as work:
        await work.spaces.save(full)
    async with db.read() as work:
        assert await work.spaces.get(demo.id) == full
        assert await work.spaces.get_many(["x", demo.id, demo.id]) == (full,)
        assert await work.spaces.by_subdomain("OTHER") == full
        assert await work.spaces.all_ids() == (demo.id,)
        assert await work.spaces.by_subdomain("ann-demo") is None


async def test_a_subdomain_rests_for_thirty_days(db: Database, clock: FixedClock, ann: Account, demo: Space) -> None:
    second = repo(ann, "second")
    async with db.write() as work:
        await work.repos.add(second)
        with pytest.raises(NameTaken):
            await work.spaces.add(space(second, subdomain=demo.subdomain))
        await work.spaces.add(space(second))
        with pytest.raises(NameTaken):
            await work.spaces.save(space(second, subdomain=demo.subdomain))
        await work.spaces.save(replace(demo, subdomain="renamed"))
        assert await work.spaces.old_subdomains(demo.id) == (demo.subdomain,)
        assert not await work.spaces.subdomain_taken(demo.subdomain, by_other_than=demo.id), "it may go back"
        assert await work.spaces.subdomain_taken(demo.subdomain, by_other_than=SpaceId(second.id))
        await work.repos.remove(second.id)
        assert await work.spaces.get(SpaceId(second.id)) is not None
        assert await work.repos.removed(second.id) == (ann.id, "Ann/second")
        await work.spaces.remove(SpaceId(second.id))
    for name in ("ann-demo", "renamed", "ann-second"):
        async with db.read() as work:
            assert await work.spaces.subdomain_taken(name), name
    async with db.write() as work:
        await work.spaces.remove(demo.id)
    clock.advance(30 * 86400 + 1)
    async with db.read() as work:
        assert not await work.spaces.subdomain_taken("ann-demo")
        assert not await work.spaces.subdomain_taken("renamed")
    async with db.write() as work:  # what somebody else has taken over, or the Space has again, redirects no more
        heir = repo(ann, "heir")
        await work.repos.add(heir)
        await work.spaces.add(space(heir, subdomain="ann-demo"))
        await work.spaces.save(space(heir, subdomain="elsewhere"))
        await work.spaces.save(space(heir, subdomain="ann-demo"))
        assert await work.spaces.old_subdomains(demo.id) == ("renamed",)
        assert await work.spaces.old_subdomains(SpaceId(heir.id)) == ("elsewhere",)


async def test_settings_keep_no_plain_secret(db: Database, demo: Space) -> None:
    variable = Setting(demo.id, "KEY", False, "v", "", "words", NOW)
    secret = Setting(demo.id, "KEY", True, "plain", "sealed", "", NOW)
    async with db.write() as work:
        await work.spaces.put_setting(replace(variable, value="old"))
        await work.spaces.put_setting(variable)
        await work.spaces.put_setting(secret)
    async with db.read() as work:
        assert await work.spaces.settings(demo.id) == (variable, replace(secret, value=""))
    async with db.write() as work:
        await work.spaces.remove_setting(demo.id, "KEY", False)
        assert [s.is_secret for s in await work.spaces.settings(demo.id)] == [True]


async def test_builds_come_back_whole_and_in_order(db: Database, demo: Space) -> None:
    result = BuildResult(Artifact(ArtifactKind.IMAGE, "r@sha256:1", "k", 5), LaunchPlan(("a", "b"), 1, {"K": "V"}, "w"), ("careful",))
    full = Build(
        BuildId(new_id()),
        demo.id,
        SHA,
        BuildStatus.SUCCEEDED,
        NOW,
        2,
        True,
        BuildPhase.IMAGE,
        0.5,
        "m",
        Reason.BUILD_LOST,
        "w1",
        NOW,
        NOW + timedelta(seconds=2.5),
        NOW,
        NOW,
        result,
        "title",
        "ann",
    )
    assert every_field_differs(full, build(demo))
    older, same_time = build(demo, created_at=NOW - timedelta(1)), build(demo)
    async with db.write() as work:
        for one in (older, full, same_time):
            await work.builds.add(one)
        with pytest.raises(NameTaken):
            await work.builds.add(full)
    async with db.read() as work:
        assert await work.builds.get(full.id) == full
        assert await work.builds.of_space(demo.id) == (same_time, full, older)
        assert await work.builds.of_space(demo.id, limit=1) == (same_time,)
        assert await work.builds.latest(demo.id) == same_time
        assert await work.builds.latest_many([demo.id, "none"]) == {demo.id: same_time}
        assert await work.builds.open() == (older, same_time)
        assert await work.builds.recent_durations(demo.id) == (2.5,)
    async with db.write() as work:
        await work.builds.save(replace(same_time, status=BuildStatus.CANCELLED))
        await work.builds.save(replace(older, status=BuildStatus.RUNNING))
        assert [b.status for b in await work.builds.open()] == [BuildStatus.RUNNING]


async def test_deployments_are_added_once(db: Database, demo: Space) -> None:
    full = Deployment(
        demo.id,
        2,
        BuildId("b"),
        SHA,
        Artifact(ArtifactKind.SITE, "r", "k", 9),
        LaunchPlan(("x",), 80, {"A": "b"}, "d"),
        "t4-small",
        NOW,
        FULL_CONFIG,
        "rollback",
        Reason.APP_EXITED,
        "why",
        ("l1", "l2"),
        NOW,
        (VOLUME,),
    )
    assert every_field_differs(full, deployment(demo, 1))
    first = deployment(demo, 1)
    async with db.write() as work:
        await work.deployments.add(first)
        await work.deployments.add(full)
        with pytest.raises(StaleGeneration):
            await work.deployments.add(first)
        await work.deployments.save(replace(first, failed_message="later"))
    async with db.read() as work:
        assert await work.deployments.get(demo.id, 2) == full
        assert await work.deployments.get(demo.id, 3) is None
        assert [d.generation for d in await work.deployments.of_space(demo.id)] == [2, 1]
        assert await work.deployments.many([(demo.id, 2), ("x", 1), (demo.id, 2)]) == {(demo.id, 2): full}
        assert await work.deployments.many([]) == {}


async def test_replicas_are_open_until_terminal(db: Database, demo: Space) -> None:
    door = Endpoint(EndpointKind.DOOR, "/run/x.sock", ReplicaId("r"), "site")
    full = Replica(
        ReplicaId(new_id()), demo.id, 1, ReplicaState.READY, NOW, "t4-small", "n1", door, Reason.STARTING, "m", NOW, NOW, NOW, NOW, 3, 2, 40
    )
    assert every_field_differs(full, replica(demo))
    other = replica(demo)
    async with db.write() as work:
        await work.deployments.save_replica(full)
        await work.deployments.save_replica(other)
    async with db.read() as work:
        assert await work.deployments.replica(full.id) == full
        assert await work.deployments.replicas(demo.id) == (full, other)
        assert await work.deployments.replicas_many([demo.id, "x"]) == {demo.id: (full, other)}
        assert await work.deployments.open_replicas() == (full, other)
    async with db.write() as work:
        await work.deployments.save_replica(replace(full, state=ReplicaState.FAILED))
        await work.deployments.save_replica(replace(other, state=ReplicaState.STOPPED))
    async with db.read() as work:
        assert await work.deployments.replicas(demo.id) == ()
        assert [r.id for r in await work.deployments.failures(demo.id, 1)] == [full.id]
        assert await work.deployments.failures(demo.id, 2) == ()


async def test_events_are_read_from_a_position(db: Database, demo: Space) -> None:
    async with db.write() as work:
        assert await work.events.last_id() == 0
        for n in range(5):
            await work.events.add(demo.id, NOW + timedelta(seconds=n), "sleep", {"n": n})
        await work.events.add(SpaceId("other"), NOW, "wake")
    async with db.read() as work:
        mine = await work.events.of_space(demo.id)
        assert [e.facts["n"] for e in mine] == [0, 1, 2, 3, 4]
        assert mine[0].at == NOW
        assert [e.facts["n"] for e in await work.events.of_space(demo.id, limit=2)] == [3, 4]
        assert [e.facts["n"] for e in await work.events.of_space(demo.id, after_id=mine[1].id, limit=2)] == [2, 3]
        assert [e.kind for e in await work.events.since(mine[3].id)] == ["sleep", "wake"]
        assert await work.events.last_id() == (await work.events.since(0))[-1].id


async def test_what_should_run_and_has_nothing_open_is_unmet(db: Database, demo: Space) -> None:
    async def unmet(**now: Any) -> bool:
        async with db.write() as work:
            await work.spaces.save(replace(demo, **now))
        async with db.read() as work:
            return demo.id in await work.spaces.unmet()

    assert not await unmet(), "nothing was ever built"
    async with db.write() as work:
        await work.deployments.add(deployment(demo, 1))
        await work.deployments.add(deployment(demo, 2, failed_reason=Reason.APP_EXITED))
    assert await unmet(generation=1)
    assert not await unmet(generation=2), "the newest failed and nothing served before"
    assert await unmet(generation=2, live_generation=1), "the version before comes back"
    for otherwise in ({"asleep": True}, {"desired": DesiredState.PAUSED}, {"suspended": True}, {"sdk": Sdk.STATIC, "live_generation": 1}):
        assert not await unmet(**{"generation": 1, **otherwise}), otherwise
    assert await unmet(desired=DesiredState.DELETED)
    open_one = replica(demo)
    async with db.write() as work:
        await work.deployments.save_replica(open_one)
    assert not await unmet(generation=1)
    async with db.write() as work:
        await work.deployments.save_replica(replace(open_one, state=ReplicaState.STOPPED))
    assert await unmet(generation=1)


async def test_a_version_that_may_come_back_holds_its_room(db: Database, ann: Account, demo: Space) -> None:
    """Newest failed, the one before is down at this moment: its room is not free for others, on the hardware asked for last."""
    async with db.write() as work:
        await work.deployments.add(deployment(demo, 1))
        await work.deployments.add(deployment(demo, 2, failed_reason=Reason.APP_EXITED))
        await work.spaces.save(replace(demo, generation=2, hardware="cpu-upgrade", replicas=2))
    async with db.read() as work:
        assert (await work.quotas.held(ann.id)).running == {}
    async with db.write() as work:
        await work.spaces.save(replace(demo, generation=2, live_generation=1, hardware="cpu-upgrade", replicas=2))
    async with db.read() as work:
        assert (await work.quotas.held(ann.id)).running == {demo.id: {"cpu-upgrade": 2}}
