"""Discussions and pull requests with the released client."""

from __future__ import annotations

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from tests.functional.hub_api.running import Platform


@pytest.fixture
def api(platform: Platform, alice: str) -> HfApi:
    return HfApi(endpoint=platform.url, token=alice)


@pytest.fixture
def guest(platform: Platform, bob: str) -> HfApi:
    return HfApi(endpoint=platform.url, token=bob)


def test_a_discussion_from_start_to_end(api: HfApi, guest: HfApi) -> None:
    api.create_repo("alice/talk", repo_type="space", space_sdk="static")
    opened = guest.create_discussion("alice/talk", title="It breaks", description="How?", repo_type="space")
    assert opened.num == 1
    comment = guest.comment_discussion("alice/talk", 1, comment="More words", repo_type="space")
    edited = guest.edit_discussion_comment("alice/talk", 1, comment.id, "Other words", repo_type="space")
    assert edited.content == "Other words"
    assert edited.edited
    with pytest.raises(HfHubHTTPError):
        api.edit_discussion_comment("alice/talk", 1, comment.id, "Put into your mouth", repo_type="space")
    api.rename_discussion("alice/talk", 1, new_title="It broke", repo_type="space")
    api.change_discussion_status("alice/talk", 1, "closed", comment="Fixed", repo_type="space")
    with pytest.warns(UserWarning, match="irreversible"):
        hidden = api.hide_discussion_comment("alice/talk", 1, comment.id, repo_type="space")
    assert hidden.hidden
    details = api.get_discussion_details("alice/talk", 1, repo_type="space")
    assert details.title == "It broke"
    assert details.status == "closed"
    assert [e.type for e in details.events] == ["comment", "comment", "title-change", "comment", "status-change"]
    assert [d.num for d in api.get_repo_discussions("alice/talk", repo_type="space")] == [1]
    assert list(api.get_repo_discussions("alice/talk", repo_type="space", discussion_status="open")) == []


def test_merging_a_pull_request(api: HfApi, guest: HfApi) -> None:
    api.create_repo("alice/merge")
    made = guest.create_commit("alice/merge", [CommitOperationAdd("new.txt", b"n")], commit_message="An idea", create_pr=True)
    details = api.get_discussion_details("alice/merge", made.pr_num or 0)
    assert details.is_pull_request
    assert details.conflicting_files in ([], False, None)
    assert "new.txt" in (details.diff or "")
    with pytest.raises(HfHubHTTPError):
        guest.merge_pull_request("alice/merge", details.num)
    api.upload_file(path_or_fileobj=b"o", path_in_repo="other.txt", repo_id="alice/merge")
    api.merge_pull_request("alice/merge", details.num, comment="Thanks")
    assert {"new.txt", "other.txt"} <= set(api.list_repo_files("alice/merge"))
    assert api.get_discussion_details("alice/merge", details.num).status == "merged"


def test_a_conflict_is_named_and_nothing_is_merged(api: HfApi, guest: HfApi) -> None:
    api.create_repo("alice/clash")
    api.upload_file(path_or_fileobj=b"base", path_in_repo="f.txt", repo_id="alice/clash")
    made = guest.create_commit("alice/clash", [CommitOperationAdd("f.txt", b"guest")], commit_message="Mine", create_pr=True)
    api.upload_file(path_or_fileobj=b"owner", path_in_repo="f.txt", repo_id="alice/clash")
    head = api.repo_info("alice/clash").sha
    with pytest.raises(HfHubHTTPError, match=r"f\.txt") as refused:
        api.merge_pull_request("alice/clash", made.pr_num or 0)
    assert refused.value.response.status_code == 409
    assert api.repo_info("alice/clash").sha == head
    assert api.get_discussion_details("alice/clash", made.pr_num or 0).conflicting_files == ["f.txt"]
