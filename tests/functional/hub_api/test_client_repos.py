"""The released `huggingface_hub` against the API: repositories, files, refs."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.functional.hub_api.running import Platform


@pytest.fixture
def api(platform: Platform, alice: str) -> HfApi:
    return HfApi(endpoint=platform.url, token=alice)


@pytest.fixture
def stranger(platform: Platform, bob: str) -> HfApi:
    return HfApi(endpoint=platform.url, token=bob)


def test_whoami(api: HfApi) -> None:
    me = api.whoami()
    assert me["name"] == "alice"
    assert me["type"] == "user"
    assert me["orgs"] == []
    assert me["auth"]["accessToken"]["role"] == "write"


def test_create_exists_and_delete(api: HfApi) -> None:
    url = api.create_repo("first", repo_type="space", space_sdk="gradio")
    assert url.repo_id == "alice/first"
    assert api.repo_exists("alice/first", repo_type="space")
    again = api.create_repo("first", repo_type="space", space_sdk="gradio", exist_ok=True)
    assert again.repo_id == url.repo_id
    with pytest.raises(HfHubHTTPError) as refused:
        api.create_repo("first", repo_type="space", space_sdk="gradio")
    assert refused.value.response.status_code == 409
    assert set(api.list_repo_files("alice/first", repo_type="space")) >= {".gitattributes", "README.md"}
    api.delete_repo("alice/first", repo_type="space")
    assert not api.repo_exists("alice/first", repo_type="space")
    api.delete_repo("alice/first", repo_type="space", missing_ok=True)


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_models_and_datasets_are_first_class(api: HfApi, kind: str, cache: Path) -> None:
    name = f"alice/{kind}-repo"
    api.create_repo(name, repo_type=kind)
    api.upload_file(path_or_fileobj=b"hello", path_in_repo="a/hello.txt", repo_id=name, repo_type=kind)
    path = hf_hub_download(name, "a/hello.txt", repo_type=kind, endpoint=api.endpoint, token=api.token, cache_dir=cache)
    assert Path(path).read_bytes() == b"hello"
    assert api.repo_info(name, repo_type=kind).sha
    assert any(r.id == name for r in (api.list_models() if kind == "model" else api.list_datasets()))


def test_commit_operations(api: HfApi, cache: Path) -> None:
    name = "alice/ops"
    api.create_repo(name)
    first = api.create_commit(
        name,
        [CommitOperationAdd("a.txt", b"one"), CommitOperationAdd("dir/b.txt", b"two"), CommitOperationAdd("dir/c.txt", b"three")],
        commit_message="three files",
    )
    assert api.repo_info(name).sha == first.oid
    second = api.create_commit(
        name,
        [CommitOperationDelete("dir/", is_folder=True), CommitOperationCopy("a.txt", "copy.txt")],
        commit_message="move about",
        parent_commit=first.oid,
    )
    assert set(api.list_repo_files(name)) == {".gitattributes", "a.txt", "copy.txt"}
    with pytest.raises(HfHubHTTPError) as stale:
        api.create_commit(name, [CommitOperationAdd("x", b"y")], commit_message="late", parent_commit=first.oid)
    assert stale.value.response.status_code == 412
    titles = [c.title for c in api.list_repo_commits(name)]
    assert titles[:2] == ["move about", "three files"]
    with pytest.raises(EntryNotFoundError):
        api.delete_file("gone.txt", name)
    assert api.repo_info(name).sha == second.oid
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(name, "gone.txt", endpoint=api.endpoint, token=api.token, cache_dir=cache)


def test_upload_folder_and_snapshot(api: HfApi, tmp_path: Path, cache: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "deep name é.txt").write_text("é")
    for i in range(30):
        (source / f"file{i}.txt").write_text(str(i))
    (source / ".gitignore").write_text("*.log\n")
    (source / "noise.log").write_text("no")
    api.create_repo("alice/folder")
    api.upload_folder(folder_path=source, repo_id="alice/folder")
    files = set(api.list_repo_files("alice/folder"))
    assert "sub/deep name é.txt" in files
    assert "noise.log" not in files
    target = Path(snapshot_download("alice/folder", endpoint=api.endpoint, token=api.token, cache_dir=cache))
    assert (target / "file7.txt").read_text() == "7"
    assert (target / "sub" / "deep name é.txt").read_text() == "é"
    infos = api.get_paths_info("alice/folder", ["file1.txt", "sub", "nothing"], expand=True)
    assert {i.path for i in infos} == {"file1.txt", "sub"}
    assert all(i.last_commit for i in infos)
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree("alice/folder", "additional_chat_templates"))


def test_branches_tags_squash(api: HfApi) -> None:
    name = "alice/refs"
    api.create_repo(name)
    head = api.repo_info(name).sha
    api.create_branch(name, branch="feature/x")
    with pytest.raises(HfHubHTTPError) as taken:
        api.create_branch(name, branch="feature/x")
    assert taken.value.response.status_code == 409
    api.create_branch(name, branch="feature/x", exist_ok=True)
    with pytest.raises(RevisionNotFoundError):
        api.create_branch(name, branch="y", revision="nowhere")
    api.upload_file(path_or_fileobj=b"1", path_in_repo="f", repo_id=name, revision="feature/x")
    api.create_tag(name, tag="v1.0", revision=head)
    api.create_tag(name, tag="v1.0", exist_ok=True)
    refs = api.list_repo_refs(name)
    assert {b.name for b in refs.branches} == {"main", "feature/x"}
    assert refs.tags[0].name == "v1.0"
    assert refs.tags[0].target_commit == head
    assert "f" in api.list_repo_files(name, revision="feature/x")
    assert "f" not in api.list_repo_files(name)
    api.delete_tag(name, tag="v1.0")
    with pytest.raises(RevisionNotFoundError):
        api.delete_tag(name, tag="v1.0")
    api.super_squash_history(name, branch="feature/x")
    assert len(api.list_repo_commits(name, revision="feature/x")) == 1
    api.delete_branch(name, branch="feature/x")
    with pytest.raises(HfHubHTTPError):
        api.delete_branch(name, branch="main")


def test_private_is_as_absent(api: HfApi, stranger: HfApi, platform: Platform) -> None:
    api.create_repo("alice/hidden", private=True)
    assert api.repo_info("alice/hidden").private
    for asked in ("alice/hidden", "alice/absent"):
        with pytest.raises(RepositoryNotFoundError) as signed_in:
            stranger.repo_info(asked)
        assert signed_in.value.response.status_code == 404
        with pytest.raises(RepositoryNotFoundError) as anonymous:
            HfApi(endpoint=platform.url, token=False).repo_info(asked)
        assert anonymous.value.response.status_code == 401
    assert not any(m.id == "alice/hidden" for m in stranger.list_models())
    api.update_repo_settings("alice/hidden", private=False)
    assert stranger.repo_exists("alice/hidden")
    with pytest.raises(HfHubHTTPError) as forbidden:
        stranger.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id="alice/hidden")
    assert forbidden.value.response.status_code == 403


def test_move_keeps_the_old_name_working(api: HfApi, cache: Path) -> None:
    api.create_repo("alice/before")
    api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="alice/before")
    api.move_repo("alice/before", "alice/after")
    assert api.repo_info("alice/after").id == "alice/after"
    assert api.repo_info("alice/before").id == "alice/after"
    assert api.repo_info("Alice/AFTER").id == "alice/after"
    path = hf_hub_download("alice/before", "x.txt", endpoint=api.endpoint, token=api.token, cache_dir=cache)
    assert Path(path).read_bytes() == b"x"


def test_bad_metadata_stops_an_upload(api: HfApi) -> None:
    api.create_repo("alice/meta", repo_type="space", space_sdk="static")
    with pytest.raises((BadRequestError, ValueError)) as refused:
        api.upload_file(path_or_fileobj=b"---\nsdk: cobol\n---\n", path_in_repo="README.md", repo_id="alice/meta", repo_type="space")
    assert "sdk" in str(refused.value)


def test_pull_request(api: HfApi, stranger: HfApi) -> None:
    api.create_repo("alice/pulled")
    made = stranger.create_commit("alice/pulled", [CommitOperationAdd("new.txt", b"n")], commit_message="An idea", create_pr=True)
    assert made.pr_num == 1
    assert made.pr_revision == "refs/pr/1"
    assert "new.txt" in api.list_repo_files("alice/pulled", revision="refs/pr/1")
    assert "new.txt" not in api.list_repo_files("alice/pulled")


def test_likes(api: HfApi, platform: Platform, alice: str) -> None:
    import httpx

    api.create_repo("alice/liked")
    reply = httpx.post(f"{platform.url}/api/models/alice/liked/like", headers={"authorization": f"Bearer {alice}"})
    assert reply.status_code == 200
    assert [u.username for u in api.list_repo_likers("alice/liked")] == ["alice"]
    assert "alice/liked" in api.list_liked_repos("alice").models
    api.unlike("alice/liked")
    assert list(api.list_repo_likers("alice/liked")) == []


def test_lists_filter_by_the_facts_of_cards(api: HfApi) -> None:
    card = "---\nlicense: mit\nlanguage: [fr]\npipeline_tag: text-generation\ntags: [odd]\n---\n"
    for name, text in (("found", card), ("other", "---\nlicense: apache-2.0\n---\n")):
        api.create_repo(f"alice/{name}")
        api.upload_file(path_or_fileobj=text.encode(), path_in_repo="README.md", repo_id=f"alice/{name}")
    for question in ({"filter": "license:mit"}, {"filter": ["fr", "odd"]}, {"pipeline_tag": "text-generation"}):
        assert [m.id for m in api.list_models(**question)] == ["alice/found"], question
    api.create_repo("alice/linked", repo_type="space", space_sdk="static")
    readme = b"---\nsdk: static\nmodels: [alice/found]\n---\n"
    api.upload_file(path_or_fileobj=readme, path_in_repo="README.md", repo_id="alice/linked", repo_type="space")
    assert [s.id for s in api.list_spaces(models="alice/found")] == ["alice/linked"]
