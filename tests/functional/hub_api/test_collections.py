"""Collections with the released client."""

from __future__ import annotations

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from control_plane.domain.accounts import OrgRole, TokenRole
from tests.functional.hub_api.running import Platform


@pytest.fixture(scope="module")
def api(platform: Platform, alice: str) -> HfApi:
    api = HfApi(endpoint=platform.url, token=alice)
    api.create_repo("alice/demo", repo_type="space", space_sdk="static")
    api.create_repo("alice/model")
    api.create_repo("alice/hidden", repo_type="dataset", private=True)
    return api


@pytest.fixture
def guest(platform: Platform, bob: str) -> HfApi:
    return HfApi(endpoint=platform.url, token=bob)


def status(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return error.value.response.status_code


def test_from_creation_to_deletion(api: HfApi, guest: HfApi) -> None:
    made = api.create_collection("My best demos", description="what I show")
    assert made.slug.startswith("alice/my-best-demos-")
    assert (made.title, made.description, made.private, made.items) == ("My best demos", "what I show", False, [])
    with pytest.raises(HfHubHTTPError) as twice:
        api.create_collection("My best demos")
    assert status(twice) == 409
    assert api.create_collection("My best demos", exists_ok=True).slug == made.slug

    api.add_collection_item(made.slug, "alice/demo", "space", note="start here")
    api.add_collection_item(made.slug, "alice/hidden", "dataset")
    full = api.add_collection_item(made.slug, "alice/model", "model")
    assert [(i.item_id, i.item_type, i.note) for i in full.items] == [
        ("alice/demo", "space", "start here"), ("alice/hidden", "dataset", None), ("alice/model", "model", None),
    ]  # fmt: skip
    with pytest.raises(HfHubHTTPError) as again:
        api.add_collection_item(made.slug, "alice/demo", "space")
    assert status(again) == 409
    assert len(api.add_collection_item(made.slug, "alice/demo", "space", exists_ok=True).items) == 3
    with pytest.raises(HfHubHTTPError) as nothing:
        api.add_collection_item(made.slug, "alice/nothing", "space")
    assert status(nothing) == 404

    assert [i.item_id for i in guest.get_collection(made.slug).items] == ["alice/demo", "alice/model"]
    api.update_collection_item(made.slug, full.items[2].item_object_id, note="weights", position=0)
    assert next((i.item_id, i.note) for i in api.get_collection(made.slug).items) == ("alice/model", "weights")
    api.move_repo("alice/model", "alice/model-2")
    assert api.get_collection(made.slug).items[0].item_id == "alice/model-2"
    api.delete_collection_item(made.slug, full.items[1].item_object_id)
    api.delete_collection_item(made.slug, full.items[1].item_object_id, missing_ok=True)
    renamed = api.update_collection_metadata(made.slug, title="Renamed", private=True, theme="green", position=0)
    assert (renamed.title, renamed.private, renamed.theme) == ("Renamed", True, "green")
    assert api.get_collection(made.slug).title == "Renamed"  # the old slug still leads there
    with pytest.raises(HfHubHTTPError) as hidden:
        guest.get_collection(renamed.slug)
    with pytest.raises(HfHubHTTPError) as absent:
        guest.get_collection("alice/renamed-" + "0" * 24)
    assert (status(hidden), hidden.value.server_message) == (status(absent), absent.value.server_message)
    api.delete_collection(renamed.slug)
    api.delete_collection(renamed.slug, missing_ok=True)
    with pytest.raises(HfHubHTTPError) as gone:
        api.delete_collection(renamed.slug)
    assert status(gone) == 404


def test_lists(api: HfApi, guest: HfApi) -> None:
    shown = api.create_collection("Shown")
    api.create_collection("Kept back", private=True)
    api.add_collection_item(shown.slug, "alice/demo", "space")
    assert {c.title for c in api.list_collections(owner="alice")} == {"Shown", "Kept back"}
    assert [c.title for c in guest.list_collections(owner="alice")] == ["Shown"]
    assert [c.slug for c in guest.list_collections(item="spaces/alice/demo", sort="trending")] == [shown.slug]
    assert [c.slug for c in guest.list_collections(item="spaces/alice/none")] == []
    assert len(list(api.list_collections(limit=1))) == 1
    assert list(api.list_collections(owner="bob")) == []


def test_who_may_change_them(platform: Platform, api: HfApi, guest: HfApi) -> None:
    made = api.create_collection("Alice's own")
    for refused in (
        lambda: guest.delete_collection(made.slug),
        lambda: guest.add_collection_item(made.slug, "alice/demo", "space"),
        lambda: guest.create_collection("In her name", namespace="alice"),
        lambda: HfApi(endpoint=platform.url, token=platform.token("alice", TokenRole.READ)).delete_collection(made.slug),
    ):
        with pytest.raises(HfHubHTTPError) as error:
            refused()
        assert status(error) == 403
    platform.org("club", {"alice": OrgRole.WRITE, "bob": OrgRole.READ})
    ours = api.create_collection("Ours", namespace="club", private=True)
    assert guest.get_collection(ours.slug).title == "Ours"
    with pytest.raises(HfHubHTTPError) as reader:
        guest.update_collection_metadata(ours.slug, title="Mine")
    assert status(reader) == 403
    anonymous = HfApi(endpoint=platform.url, token=False)
    with pytest.raises(HfHubHTTPError) as unknown:
        anonymous.delete_collection(made.slug)
    assert status(unknown) == 401
