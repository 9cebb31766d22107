"""One suite for every store, on a SQLite file and on PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from control_plane.db.engine import Database, create_database
from control_plane.domain.accounts import Account, AccountKind, Membership, OrgRole, Session, Token, TokenRole
from control_plane.domain.builds import Artifact, ArtifactKind, BuildPhase, BuildResult, BuildStatus, LaunchPlan
from control_plane.domain.errors import Broken, Conflict, NameTaken, Rejected, StaleGeneration, Unavailable
from control_plane.domain.gates import AccessRequest, Gate, RequestStatus
from control_plane.domain.ids import AccountId, BuildId, ReplicaId, RepoId, SessionId, Sha, SpaceId, TokenId, new_id
from control_plane.domain.notices import Notice, NoticeKind
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaState
from control_plane.domain.repo_query import RepoQuery
from control_plane.domain.routes import Endpoint, EndpointKind, IdleRule
from control_plane.domain.spaces import (
    Build,
    Deployment,
    DesiredState,
    Replica,
    Repo,
    RepoType,
    Sdk,
    Setting,
    Space,
    SpaceConfig,
    Visibility,
)
from control_plane.domain.traffic import Traffic
from tests.fakes.clock import FixedClock
from tests.fakes.postgres import PostgresServer, find_server, postgres_server

NOW = datetime(2026, 8, 1, 12, 0, 0, 123456, tzinfo=UTC)
SHA = Sha("a" * 40)


async def _migrated(url: str) -> None:
    database = create_database(url)
    await database.migrate()
    await database.close()


@pytest.fixture(scope="module")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "empty.db"
    asyncio.run(_migrated(f"sqlite:///{path}"))
    return path


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    programs = find_server()
    if programs is None:
        if os.environ.get("CI") == "true":
            pytest.fail("PostgreSQL is not installed")
        pytest.skip("PostgreSQL is not installed")
    with postgres_server(programs) as server:
        server.sql("CREATE DATABASE template_vitrine")
        asyncio.run(_migrated(server.url("template_vitrine")))
        yield server


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(NOW)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "v.db")
        return f"sqlite:///{tmp_path / 'v.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    name = f"t{new_id()}"
    server.sql(f"CREATE DATABASE {name} TEMPLATE template_vitrine")
    return server.url(name)


@pytest.fixture
async def db(url: str, clock: FixedClock) -> AsyncIterator[Database]:
    database = create_database(url, clock=clock)
    yield database
    await database.close()


def user(name: str = "Ann", **more: Any) -> Account:
    return Account(AccountId(new_id()), AccountKind.USER, name, name, NOW, **more)


def repo(owner: Account, name: str = "demo", **more: Any) -> Repo:
    values: dict[str, Any] = {"type": RepoType.SPACE, "visibility": Visibility.PUBLIC, "created_at": NOW, "updated_at": NOW}
    values |= more
    return Repo(id=RepoId(new_id()), owner_id=owner.id, owner_name=owner.name, name=name, created_by=owner.id, **values)


def space(of: Repo, **more: Any) -> Space:
    values: dict[str, Any] = {"sdk": Sdk.GRADIO, "config": SpaceConfig(Sdk.GRADIO)} | more
    return Space(id=SpaceId(of.id), subdomain=values.pop("subdomain", f"{of.owner_name}-{of.name}".lower()), **values)


def build(of: Space, **more: Any) -> Build:
    values: dict[str, Any] = {"status": BuildStatus.QUEUED, "created_at": NOW} | more
    return Build(id=BuildId(new_id()), space_id=of.id, revision=SHA, **values)


def replica(of: Space, **more: Any) -> Replica:
    values: dict[str, Any] = {"generation": 1, "state": ReplicaState.PENDING, "created_at": NOW} | more
    return Replica(id=ReplicaId(new_id()), space_id=of.id, **values)


def deployment(of: Space, generation: int, **more: Any) -> Deployment:
    return Deployment(
        of.id, generation, BuildId("b"), SHA, Artifact(ArtifactKind.BUNDLE, "s/b"), LaunchPlan(), "cpu-basic", NOW, of.config, **more
    )


@pytest.fixture
async def ann(db: Database) -> Account:
    account = user()
    async with db.write() as work:
        await work.accounts.add(account)
    return account


@pytest.fixture
async def demo(db: Database, ann: Account) -> Space:
    its_repo = repo(ann)
    its_space = space(its_repo)
    async with db.write() as work:
        await work.repos.add(its_repo)
        await work.spaces.add(its_space)
    return its_space


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


def every_field_differs(value: object, plain: object) -> bool:
    """So that a field added to the domain and forgotten in the mapping fails here."""
    return all(getattr(value, f.name) != getattr(plain, f.name) for f in fields(value) if f.name not in _IDENTITY)  # type: ignore[arg-type]


_IDENTITY = {
    "id",
    "space_id",
    "created_at",
    "revision",
    "type",
    "owner_id",
    "owner_name",
    "name",
    "created_by",
    "build_id",
    "generation",
    "key",
}


async def test_an_account_comes_back_whole(db: Database) -> None:
    full = Account(AccountId(new_id()), AccountKind.ORG, "BigCo", "Big Company", NOW, "a@b.c", True, True, "$argon2id$x")
    assert every_field_differs(full, user())
    async with db.write() as work:
        await work.accounts.add(full)
    async with db.read() as work:
        assert await work.accounts.get(full.id) == full
        assert await work.accounts.by_name("bigCO") == full
        assert await work.accounts.list() == (full,)
        assert await work.accounts.list(AccountKind.USER) == ()
        assert await work.accounts.get(AccountId("none")) is None


async def test_a_name_is_taken_in_any_case_and_the_unit_of_work_goes_on(db: Database, ann: Account) -> None:
    bob = user("bob")
    async with db.write() as work:
        with pytest.raises(NameTaken):
            await work.accounts.add(user("ANN"))
        await work.accounts.add(bob)
    async with db.write() as work:
        with pytest.raises(NameTaken):
            await work.accounts.save(replace(bob, name="Ann"))
        await work.accounts.save(replace(ann, fullname="Ann B"))
    async with db.read() as work:
        assert [a.fullname for a in await work.accounts.list()] == ["Ann B", "bob"]


async def test_memberships_follow_both_sides(db: Database, ann: Account) -> None:
    org = replace(user("org"), kind=AccountKind.ORG)
    async with db.write() as work:
        await work.accounts.add(org)
        await work.accounts.set_member(Membership(org.id, ann.id, OrgRole.READ))
        await work.accounts.set_member(Membership(org.id, ann.id, OrgRole.ADMIN))
    async with db.read() as work:
        assert await work.accounts.memberships(ann.id) == ((org, OrgRole.ADMIN),)
        assert await work.accounts.members(org.id) == ((ann, OrgRole.ADMIN),)
    async with db.write() as work:
        await work.accounts.remove_member(org.id, ann.id)
        assert await work.accounts.members(org.id) == ()


async def test_tokens_and_sessions_come_back_whole_and_die_with_their_user(db: Database, ann: Account) -> None:
    later = NOW + timedelta(days=1)
    token = Token(TokenId(new_id()), ann.id, "ci", TokenRole.FINE_GRAINED, "f" * 64, NOW, later, later, later, {"ann/demo": "write"})
    session = Session(SessionId(new_id()), ann.id, "e" * 64, "csrf", NOW, later, "agent", "1.2.3.4")
    async with db.write() as work:
        await work.tokens.add(token)
        await work.tokens.add_session(session)
        with pytest.raises(NameTaken):
            await work.tokens.add(replace(token, id=TokenId(new_id())))
    async with db.read() as work:
        assert await work.tokens.by_hash("f" * 64) == token
        assert await work.tokens.get(token.id) == token
        assert await work.tokens.of_user(ann.id) == (token,)
        assert await work.tokens.session_by_hash("e" * 64) == session
        assert await work.tokens.sessions_of(ann.id) == (session,)
    async with db.write() as work:
        await work.tokens.save(replace(token, revoked_at=None))
        await work.tokens.remove_session(session.id)
        found = await work.tokens.get(token.id)
        assert found is not None
        assert found.revoked_at is None
        assert await work.tokens.sessions_of(ann.id) == ()
        await work.accounts.remove(ann.id)
        assert await work.tokens.by_hash("f" * 64) is None


async def test_a_repo_comes_back_whole_and_its_name_is_unique_per_type(db: Database, ann: Account) -> None:
    full = replace(
        repo(ann, visibility=Visibility.PROTECTED, updated_at=NOW + timedelta(hours=1)),
        head=SHA,
        likes=3,
        tags=("a", "b"),
        card={"title": "Hi", "n": [1, None]},
        storage_bytes=1 << 40,
        discussions_disabled=True,
        origin="x/y",
        gate=Gate.MANUAL,
    )
    assert every_field_differs(full, repo(ann))
    async with db.write() as work:
        await work.repos.add(full)
        await work.repos.add(repo(ann, type=RepoType.MODEL))
        with pytest.raises(NameTaken):
            await work.repos.add(repo(ann, name="DEMO"))
    async with db.read() as work:
        assert await work.repos.get(full.id) == full
        assert await work.repos.by_name(RepoType.SPACE, "ANN", "Demo") == full
        assert await work.repos.by_name(RepoType.DATASET, "ann", "demo") is None
        assert await work.repos.count(RepoType.SPACE) == 1
        assert await work.repos.count(RepoType.SPACE, owner_id=AccountId("x")) == 0


async def test_an_old_name_leads_to_the_repo_until_somebody_takes_it(db: Database, ann: Account) -> None:
    first = repo(ann, name="old")
    async with db.write() as work:
        await work.repos.add(first)
        await work.repos.remember_old_name(first)
        await work.repos.save(replace(first, name="new"))
    async with db.read() as work:
        assert await work.repos.moved_to(RepoType.SPACE, "ann", "OLD") == first.id
        assert await work.repos.by_name(RepoType.SPACE, "ann", "old") is None
    async with db.write() as work:
        await work.repos.add(repo(ann, name="old"))
        assert await work.repos.moved_to(RepoType.SPACE, "ann", "old") is None
        with pytest.raises(NameTaken):
            await work.repos.save(replace(first, name="Old"))


async def test_a_listing_shows_what_the_viewer_may_see_in_each_order(db: Database, ann: Account) -> None:
    bob, org = user("bob"), replace(user("org"), kind=AccountKind.ORG)
    day = timedelta(days=1)
    rows = {
        "pub1": repo(ann, "pub1", created_at=NOW, updated_at=NOW + 3 * day, likes=1),
        "pub2": repo(bob, "pub2", created_at=NOW + day, updated_at=NOW + day, likes=5, visibility=Visibility.PROTECTED),
        "anns": repo(ann, "anns", created_at=NOW + 2 * day, updated_at=NOW + 2 * day, likes=2, visibility=Visibility.PRIVATE),
        "orgs": repo(org, "orgs", created_at=NOW + 3 * day, updated_at=NOW, likes=3, visibility=Visibility.PRIVATE),
    }
    async with db.write() as work:
        await work.accounts.add(bob)
        await work.accounts.add(org)
        for one in rows.values():
            await work.repos.add(one)

    async def names(sort: str = "trending", limit: int = 50, offset: int = 0, **query: Any) -> list[str]:
        async with db.read() as work:
            return [r.name for r in await work.repos.list(RepoQuery(RepoType.SPACE, **query), sort=sort, limit=limit, offset=offset)]

    assert await names(sort="created") == ["pub2", "pub1"]
    assert await names(sort="updated") == ["pub1", "pub2"]
    assert await names(sort="likes", viewer=ann.id) == ["pub2", "anns", "pub1"]
    assert await names(sort="likes", viewer=ann.id, viewer_orgs=(org.id,)) == ["pub2", "orgs", "anns", "pub1"]
    assert await names(sort="likes", viewer=ann.id, viewer_orgs=(org.id,), limit=2, offset=1) == ["orgs", "anns"]
    assert await names(sort="created", see_all=True) == ["orgs", "anns", "pub2", "pub1"]
    assert await names(sort="created", owner="ANN") == ["pub1"]
    assert await names(sort="created", owner="ann", viewer=ann.id) == ["anns", "pub1"]
    assert await names(sort="created", owner="org", viewer=ann.id) == []
    assert await names(sort="created", owner="nobody", see_all=True) == []
    assert await names(sort="trending", see_all=True, limit=1) == ["pub2"]
    with pytest.raises(Rejected):
        await names(sort="age")


async def test_a_listing_filters_by_words_tags_sdk_hardware_and_running(db: Database, ann: Account) -> None:
    cat = repo(ann, "cat-finder", tags=("vision", "demo"), card={"title": "Finds 100% of Cats", "short_description": "Größe egal"})
    dog = repo(ann, "dog", tags=("demo",), card={"title": 'A "quoted" dog'})
    async with db.write() as work:
        for one, more in (
            (cat, {"hardware": "t4-small", "live_generation": 2}),
            (dog, {"sdk": Sdk.STATIC, "asleep": True, "live_generation": 1}),
        ):
            await work.repos.add(one)
            await work.spaces.add(space(one, **more))

    async def names(**query: Any) -> set[str]:
        async with db.read() as work:
            return {r.name for r in await work.repos.list(RepoQuery(RepoType.SPACE, **query))}

    assert await names(search="FINDS cats") == {"cat-finder"}
    assert await names(search="at-fin") == {"cat-finder"}
    assert await names(search="größe") == {"cat-finder"}
    assert await names(search="0%") == {"cat-finder"}
    assert await names(search="100_") == set()
    assert await names(search='"quo') == {"dog"}
    assert await names(search="ann/") == {"cat-finder", "dog"}
    assert await names(search="do") == {"dog"}  # shorter than the search index can hold
    assert await names(search="' OR 1=1 --\x00*") == set()
    assert await names(tags=("demo",)) == {"cat-finder", "dog"}
    assert await names(tags=("demo", "vision")) == {"cat-finder"}
    assert await names(sdk=("static", "docker")) == {"dog"}
    assert await names(hardware=("t4-small",)) == {"cat-finder"}
    assert await names(running_only=True) == {"cat-finder"}
    async with db.write() as work:
        await work.repos.save(replace(cat, name="lion", tags=(), card={}))
    assert await names(search="cat-finder") == set()
    assert await names(search="lion") == {"lion"}
    assert await names(tags=("vision",)) == set()
    async with db.write() as work:
        await work.repos.remove(cat.id)
    assert await names(search="lion") == set()


async def test_a_search_looks_into_readme_and_source(db: Database, ann: Account) -> None:
    cat, dog = repo(ann, "cat-finder"), repo(ann, "dog", card={"title": "Transformers at home"})
    hidden = repo(ann, "vault", visibility=Visibility.PROTECTED)
    async with db.write() as work:
        for one, body in (
            (cat, "import torch\nfrom transformers import pipeline\nload_model()"),
            (dog, ""),
            (hidden, "transformers sk_live_1"),
        ):
            await work.repos.add(one)
            await work.repos.set_text(one.id, body)

    async def names(words: str) -> set[str]:
        async with db.read() as work:
            return {r.name for r in await work.repos.list(RepoQuery(RepoType.SPACE, search=words))}

    assert await names("transformers") == {"cat-finder", "dog"}
    assert await names("transf finder") == {"cat-finder"}
    assert await names("torch transformers") == {"cat-finder"}
    assert await names("load_mod") == {"cat-finder"}
    assert await names("import.pipeline") == {"cat-finder"}
    assert await names("sk_live_1") == set()  # the code of a protected Space is hidden, from the search too
    assert await names("tor'ch & ') | \"") == set()
    async with db.write() as work:
        await work.repos.set_text(cat.id, "streamlit")
    assert await names("torch") == set()
    assert await names("streamlit") == {"cat-finder"}
    async with db.write() as work:
        await work.repos.remove(cat.id)
    assert await names("streamlit") == set()


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


async def test_likes_count_once_and_move_the_trend(db: Database, ann: Account) -> None:
    bob = user("bob")
    young, liked = repo(ann, "young", created_at=NOW + timedelta(days=2)), repo(ann, "liked")
    async with db.write() as work:
        await work.accounts.add(bob)
        await work.repos.add(young)
        await work.repos.add(liked)
        assert [r.name for r in await work.repos.list(RepoQuery(RepoType.SPACE))] == ["young", "liked"]
        for account in (ann, ann, bob):
            await work.repos.like(account.id, liked.id, True, NOW + timedelta(days=3))
        await work.repos.save(replace(liked, likes=0))
    async with db.read() as work:
        found = await work.repos.get(liked.id)
        assert found is not None
        assert found.likes == 2
        assert [r.name for r in await work.repos.list(RepoQuery(RepoType.SPACE))] == ["liked", "young"]
        assert {a.name for a in await work.repos.likers(liked.id)} == {"Ann", "bob"}
        assert [(r.name, at) for r, at in await work.repos.liked_by(bob.id)] == [("liked", NOW + timedelta(days=3))]
    async with db.write() as work:
        await work.repos.like(bob.id, liked.id, False, NOW)
        await work.repos.like(bob.id, liked.id, False, NOW)
        await work.repos.like(ann.id, liked.id, False, NOW)
        await work.repos.like(bob.id, young.id, True, NOW)
        await work.accounts.remove(bob.id)
    async with db.read() as work:
        assert [(r.name, r.likes) for r in await work.repos.list(RepoQuery(RepoType.SPACE))] == [("young", 0), ("liked", 0)]


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


async def test_quota_limits_and_usage_add_up(db: Database, ann: Account) -> None:
    async with db.write() as work:
        await work.quotas.set_limit("", "spaces", 3)
        await work.quotas.set_limit("Ann", "spaces", 5)
        await work.quotas.set_limit("ann", "running", None)
        for amount in (1.5, 2.0):
            await work.quotas.add_usage(
                account_id=ann.id, space_id=SpaceId("s"), key="gpu-hours", flavor="t4-small", day="2026-08-01", amount=amount
            )
        await work.quotas.add_usage(
            account_id=ann.id, space_id=SpaceId("s"), key="gpu-hours", flavor="t4-small", day="2026-09-01", amount=1
        )
    async with db.read() as work:
        assert await work.quotas.limits("ANN") == {"running": None, "spaces": 5}
        assert await work.quotas.limits("") == {"spaces": 3}
        assert await work.quotas.subjects() == ("ann",)
        rows = await work.quotas.usage(since_day="2026-08-01", until_day="2026-08-31")
        assert [dict(r) for r in rows] == [
            {"account_id": ann.id, "space_id": "s", "key": "gpu-hours", "flavor": "t4-small", "day": "2026-08-01", "amount": 3.5}
        ]
        assert len(await work.quotas.usage(account_id=ann.id, since_day="2026-08-01")) == 2
        assert await work.quotas.usage(account_id=AccountId("x"), since_day="2026-08-01") == ()
    async with db.write() as work:
        await work.quotas.unset_limit("ann", "spaces")
        assert await work.quotas.limits("ann") == {"running": None}


async def test_a_tampered_audit_row_is_found(db: Database) -> None:
    async with db.write() as work:
        for n in range(4):
            at = NOW + timedelta(hours=n)
            await work.audit.append(at=at, actor="ann" if n % 2 else "bob", action="a.b", subject="s", address="", facts={"n": n, "ü": "é"})
    async with db.read() as work:
        assert await work.audit.verify() is None
        rows = await work.audit.list()
        assert [r["facts"]["n"] for r in rows] == [3, 2, 1, 0]
        assert [r["facts"]["n"] for r in await work.audit.list(actor="ann", since=NOW + timedelta(hours=2))] == [3]
    victim = rows[1]["id"]
    async with db._writer.begin() as connection:
        await connection.execute(text("UPDATE audit SET subject = 'other' WHERE id = :id"), {"id": victim})
    async with db.read() as work:
        assert await work.audit.verify() == victim
    async with db._writer.begin() as connection:
        await connection.execute(text("DELETE FROM audit WHERE id = :id"), {"id": victim})
    async with db.read() as work:
        assert await work.audit.verify() == victim + 1


async def test_a_removed_end_of_the_audit_is_found(db: Database) -> None:
    async with db.write() as work:
        for n in range(3):
            await work.audit.append(at=NOW, actor="a", action="b", subject=str(n), address="", facts={})
        last = (await work.audit.list())[0]["id"]
    async with db._writer.begin() as connection:
        await connection.execute(text("DELETE FROM audit WHERE id = :id"), {"id": last})
    async with db.read() as work:
        assert await work.audit.verify() == last


async def test_documents_are_keyed_and_listed_in_order(db: Database) -> None:
    async with db.write() as work:
        await work.documents.put("hook", "2", "ann", {"n": 2})
        await work.documents.put("hook", "1", "ann", {"n": 1})
        await work.documents.put("hook", "2", "ann", {"n": 22})
        await work.documents.put("hook", "3", "bob", {"n": 3})
        assert await work.documents.get("hook", "2") == {"n": 22}
        assert await work.documents.get("other", "2") is None
        assert [d["n"] for d in await work.documents.list("hook")] == [22, 1, 3]
        assert [d["n"] for d in await work.documents.list("hook", "ann")] == [22, 1]
        await work.documents.remove("hook", "1")
        assert [d["n"] for d in await work.documents.list("hook", "ann")] == [22]


async def test_what_a_listing_would_give_is_counted_up_to_a_bound(db: Database, ann: Account) -> None:
    bob = user("bob")
    async with db.write() as work:
        await work.accounts.add(bob)
        for number in range(7):
            is_hidden = number == 0
            made = repo(ann, f"counted-{number}", visibility=Visibility.PRIVATE if is_hidden else Visibility.PUBLIC, tags=("audio",))
            await work.repos.add(made)
            await work.repos.set_text(made.id, "zanzibar lookup")
    async with db.read() as work:

        async def count(type: RepoType, at_most: int = 1000, **query: Any) -> int | None:
            return await work.repos.count_matching(RepoQuery(type, **query), at_most=at_most)

        assert await count(RepoType.SPACE) == 6
        assert await count(RepoType.SPACE, viewer=ann.id, tags=("audio",)) == 7
        assert await count(RepoType.SPACE, search="zanzib", viewer=bob.id) == 6
        assert await count(RepoType.SPACE, search="counted zanzib", owner=ann.name, viewer=ann.id) == 7
        assert await count(RepoType.SPACE, search="zanzib", at_most=6) == 6
        assert await count(RepoType.SPACE, tags=("audio",), at_most=5) is None
        assert await count(RepoType.MODEL) == await count(RepoType.SPACE, owner="nobody") == 0


async def test_a_notice_is_one_row_per_person_and_topic(db: Database) -> None:
    ann, bob = user(), user("bob")
    its_repo = repo(ann)
    first = Notice(ann.id, "t", NoticeKind.COMMENT, its_repo.id, NOW, "bob", "Which edition?", "The first?", 3)
    async with db.write() as work:
        await work.accounts.add(ann)
        await work.accounts.add(bob)
        await work.repos.add(its_repo)
        await work.notices.tell(first)
        assert await work.notices.get(ann.id, "t") == first
        later = replace(first, at=NOW + timedelta(hours=1), kind=NoticeKind.CLOSED, words="")
        await work.notices.tell(later)  # nobody read the first
        await work.notices.tell(replace(first, topic="u", at=NOW - timedelta(days=1)))
        await work.notices.tell(replace(first, account_id=bob.id))
        assert await work.notices.of_account(ann.id) == (
            replace(later, count=2),
            replace(first, topic="u", at=NOW - timedelta(days=1)),
        )
        assert [n.topic for n in await work.notices.of_account(ann.id, limit=1, offset=1)] == ["u"]
        assert await work.notices.mark(ann.id, NOW, ["t", "nothing"]) == 1
        assert await work.notices.mark(ann.id, NOW, ["t"]) == 0
        assert (await work.notices.count(ann.id), await work.notices.count(ann.id, unread_only=True)) == (2, 1)
        assert [n.topic for n in await work.notices.of_account(ann.id, unread_only=True)] == ["u"]
        await work.notices.tell(later)  # after it was read, the count begins again
        told = await work.notices.get(ann.id, "t")
        assert told is not None and (told.count, told.read_at) == (1, None)
        assert await work.notices.mark(ann.id, NOW) == 2
        assert await work.notices.mark(ann.id, None, ["u"]) == 1
        assert await work.notices.count(bob.id, unread_only=True) == 1, "another person's stay"
        assert await work.notices.prune(NOW) == 1
        await work.repos.remove(its_repo.id)
        assert await work.notices.of_account(bob.id) == ()


async def test_a_request_for_access_is_one_row_per_person_and_repository(db: Database) -> None:
    ann, bob, eve = user(), user("bob"), user("eve")
    model = repo(ann, type=RepoType.MODEL, gate=Gate.MANUAL)
    first = AccessRequest("one", model.id, bob.id, RequestStatus.PENDING, NOW, {"why": "work"})
    later = AccessRequest("two", model.id, eve.id, RequestStatus.PENDING, NOW + timedelta(hours=1), is_granted=True)
    async with db.write() as work:
        for account in (ann, bob, eve):
            await work.accounts.add(account)
        await work.repos.add(model)
        await work.repos.add(repo(ann, "open", type=RepoType.MODEL))
        for request in (first, later):
            await work.gates.put(request)
        assert await work.gates.get(model.id, bob.id) == first == await work.gates.by_id(model.id, "one")
        assert await work.gates.by_id(RepoId("other"), "one") is None
        assert await work.gates.of_repo(model.id, RequestStatus.PENDING) == (later, first)
        assert await work.gates.of_repo(model.id, RequestStatus.PENDING, limit=1, offset=1) == (first,)
        await work.gates.put(replace(first, id="never", status=RequestStatus.REJECTED, reason="no"))
        assert await work.gates.get(model.id, bob.id) == replace(first, status=RequestStatus.REJECTED, reason="no"), "the id stays"
        assert await work.gates.of_repo(model.id, RequestStatus.PENDING) == (later,)
        await work.accounts.save(replace(eve, is_suspended=True))
        assert await work.gates.of_repo(model.id, RequestStatus.PENDING) == ()
        for gated, names in ((True, ["demo"]), (False, ["open"]), (None, ["open", "demo"])):
            assert [r.name for r in await work.repos.list(RepoQuery(RepoType.MODEL, gated=gated), sort="created")] == names
        await work.repos.remove(model.id)
        assert await work.gates.get(model.id, bob.id) is None


async def test_numbers_are_handed_out_once_by_parallel_writers_of_two_processes(db: Database, url: str) -> None:
    second = create_database(url)  # its own engines, as another process has
    taken: list[int] = []

    async def take(database: Database) -> None:
        async with database.write() as work:
            taken.append(await work.documents.next_number("discussion", "r"))

    try:
        await asyncio.gather(*(take(one) for one in (db, second) for _ in range(25)))
    finally:
        await second.close()
    assert sorted(taken) == list(range(1, 51))


async def test_read_then_write_is_never_interleaved(db: Database, url: str) -> None:
    second = create_database(url)

    async def raise_limit(database: Database) -> None:
        async with database.write() as work:
            seen = (await work.quotas.limits("ann")).get("spaces") or 0
            await asyncio.sleep(0)
            await work.quotas.set_limit("ann", "spaces", seen + 1)

    try:
        await asyncio.gather(*(raise_limit(one) for one in (db, second) for _ in range(20)))
    finally:
        await second.close()
    async with db.read() as work:
        assert await work.quotas.limits("ann") == {"spaces": 40}


async def test_an_exception_rolls_back_and_calls_nothing(db: Database) -> None:
    called: list[str] = []

    async def note() -> None:
        called.append("told")

    async def fail() -> None:
        raise Unavailable("the broker is down")

    with pytest.raises(RuntimeError):
        async with db.write() as work:
            await work.accounts.add(user())
            work.after_commit(note)
            raise RuntimeError
    async with db.write() as work:
        assert await work.accounts.list() == ()
        await work.accounts.add(user())
        work.after_commit(fail)
        work.after_commit(note)
        assert called == []
    assert called == ["told"]


async def test_a_cancelled_write_leaves_no_lock(db: Database) -> None:
    inside = asyncio.Event()

    async def hang() -> None:
        async with db.write() as work:
            await work.accounts.add(user())
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hang())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with db.write() as work:
        assert await work.accounts.list() == ()


async def test_a_read_sees_one_moment_and_cannot_write(db: Database, ann: Account) -> None:
    async with db.read() as reading:
        assert len(await reading.accounts.list()) == 1
        async with db.write() as work:
            await work.accounts.add(user("bob"))
        assert len(await reading.accounts.list()) == 1
    with pytest.raises((Broken, Unavailable)):
        async with db.read() as work:
            await work.accounts.remove(ann.id)


async def test_what_refers_to_nothing_is_a_conflict(db: Database) -> None:
    ghost = space(repo(user()))
    with pytest.raises(Conflict):
        async with db.write() as work:
            await work.builds.save(build(ghost))


async def test_hostile_text_is_kept_or_rejected(db: Database, demo: Space) -> None:
    words = "'; DROP TABLE repos; -- \u202e😀\ud7ff"
    async with db.write() as work:
        await work.spaces.put_setting(Setting(demo.id, words, False, words))
    async with db.read() as work:
        assert (await work.spaces.settings(demo.id))[0].value == words
    try:
        async with db.write() as work:
            await work.spaces.put_setting(Setting(demo.id, "nul", False, "a\x00b"))
    except Rejected:
        return
    async with db.read() as work:
        assert (await work.spaces.settings(demo.id))[1].value == "a\x00b"


async def test_a_restarted_server_is_unavailable_and_then_answers_again(postgres: PostgresServer) -> None:
    name = f"t{new_id()}"
    postgres.sql(f"CREATE DATABASE {name} TEMPLATE template_vitrine")
    database = create_database(postgres.url(name))
    try:
        async with database.write() as work:
            await work.accounts.add(user())
        with pytest.raises(Unavailable):
            async with database.write() as work:
                await work.accounts.add(user("bob"))
                postgres.stop()
                await work.accounts.add(user("eve"))
        for again in (database.read, database.write):
            with pytest.raises(Unavailable):
                async with again() as work:
                    await work.accounts.list()
        with pytest.raises(Unavailable):
            await database.ping()
        postgres.start_again()
        await database.ping()
        async with database.write() as work:
            assert [a.name for a in await work.accounts.list()] == ["Ann"]
    finally:
        await database.close()


async def test_a_snapshot_moves_everything_between_the_two_databases(
    db: Database, demo: Space, postgres: PostgresServer, tmp_path: Path
) -> None:
    async with db.write() as work:
        await work.builds.add(build(demo))
        await work.events.add(demo.id, NOW, "sleep", {"n": [1, None, "ü"]})
        await work.audit.append(at=NOW, actor="a", action="b", subject="c", address="", facts={"k": 1})
    await db.snapshot(tmp_path / "copy.db")
    name = f"t{new_id()}"
    postgres.sql(f"CREATE DATABASE {name} TEMPLATE template_vitrine")
    target = create_database(postgres.url(name))
    file = create_database(f"sqlite:///{tmp_path / 'copy.db'}")
    try:
        counts = await target.load_snapshot(tmp_path / "copy.db")
        assert (counts["spaces"], counts["builds"], counts["audit"]) == (1, 1, 1)
        with pytest.raises(Rejected, match="empty"):
            await target.load_snapshot(tmp_path / "copy.db")
        await file.migrate()
        for one in (target, file):
            async with one.write() as work:
                assert await work.spaces.get(demo.id) == demo
                assert (await work.events.since(0))[0].facts == {"n": [1, None, "ü"]}
                assert await work.audit.verify() is None
                await work.audit.append(at=NOW, actor="a", action="b", subject="c", address="", facts={})
                await work.builds.add(build(demo))
                assert await work.audit.verify() is None
                assert len(await work.builds.open()) == 2
    finally:
        await target.close()
        await file.close()
