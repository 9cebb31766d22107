"""Repositories, their names, listings, searches and likes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from control_plane.db import repo_listing
from control_plane.db.engine import Database
from control_plane.domain.accounts import Account, AccountKind
from control_plane.domain.errors import NameTaken, Rejected
from control_plane.domain.gates import Gate
from control_plane.domain.ids import AccountId
from control_plane.domain.repo_query import RepoQuery
from control_plane.domain.spaces import RepoType, Sdk, Visibility
from tests.contract.stores.rows import NOW, SHA, every_field_differs, repo, space, user


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
        assert await work.repos.by_name(RepoType.SPACE, "ann", "old") is None
        renamed = await work.repos.by_any_name(RepoType.SPACE, "ann", "OLD")
        assert renamed is not None and renamed == await work.repos.by_any_name(RepoType.SPACE, "Ann", "new")
        assert await work.repos.by_any_name(RepoType.MODEL, "ann", "old") is None
    async with db.write() as work:
        taken = repo(ann, name="old")
        await work.repos.add(taken)
        assert await work.repos.by_any_name(RepoType.SPACE, "ann", "old") == taken
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


async def test_a_word_and_a_tag_meet_far_from_the_head_of_the_order(db: Database, ann: Account) -> None:
    """The word's index knows tags too and is asked for both: whatever the tag's script, and wherever the word is."""
    async with db.write() as work:
        for number in range(12):
            await work.repos.add(repo(ann, f"newer-zebra-{number}", created_at=NOW + timedelta(days=number), tags=("other",)))
        for name, tags in (("zebra-titled", ("Ö-ΣΟΦΌΣ", "x%_y")), ("sourced", ("Ö-ΣΟΦΌΣ",)), ("untagged-zebra", ())):
            made = repo(ann, name, created_at=NOW - timedelta(days=9), tags=tags, card={"title": "Ö-ΣΟΦΌΣ"})
            await work.repos.add(made)
            await work.repos.set_text(made.id, "import zebra" if name == "sourced" else "")

    async def names(limit: int, *tags: str) -> set[str]:
        async with db.read() as work:
            return {r.name for r in await work.repos.list(RepoQuery(RepoType.SPACE, search="zebra", tags=tags), limit=limit)}

    for limit in (2, 50):
        assert await names(limit, "Ö-ΣΟΦΌΣ") == {"zebra-titled", "sourced"}
        assert await names(limit, "Ö-ΣΟΦΌΣ", "x%_y") == {"zebra-titled"}
        assert await names(limit, "ö-σοφός") == set()


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


async def test_what_a_listing_would_give_is_counted_up_to_a_bound(db: Database, ann: Account, monkeypatch: pytest.MonkeyPatch) -> None:
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
        # Among very many repositories a glance at the head of the order is enough: hits are costly to count.
        monkeypatch.setattr(repo_listing, "_MANY", 1)
        monkeypatch.setattr(repo_listing, "_GLANCE", 2)
        assert await count(RepoType.SPACE, search="zanzib") is None
        assert await count(RepoType.SPACE, search="nothing-like-it") == 0
        assert await count(RepoType.SPACE, tags=("audio",)) == 6
