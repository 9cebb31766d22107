"""Gated models and datasets with the official client and git: who sees, who asks, who is let in, and what stays closed."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import BadRequestError, GatedRepoError, HfHubHTTPError

from control_plane.domain.accounts import OrgRole
from tests.functional.hub_api.running import WholePlatform

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=")  # the client's own
WEIGHTS = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholePlatform]:
    running = WholePlatform(tmp_path_factory.mktemp("gated"))
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def people(whole: WholePlatform) -> dict[str, HfApi]:
    """Owner, somebody who asks, somebody else, a colleague of the owner, nobody."""
    found: dict[str, HfApi] = {"nobody": HfApi(endpoint=whole.url, token=False)}
    headers = {"Authorization": f"Bearer {whole.admin_token}"}
    for name in ("owner", "asker", "other", "colleague"):
        body = {"name": name, "email": f"{name}@example.org"}
        httpx.post(f"{whole.url}/api/admin/users", json=body, headers=headers).raise_for_status()
        made = httpx.post(f"{whole.url}/api/admin/tokens", json={"user": name, "role": "write", "name": "t"}, headers=headers)
        found[name] = HfApi(endpoint=whole.url, token=made.json()["token"])
    httpx.post(f"{whole.url}/api/admin/orgs", json={"name": "lab"}, headers=headers).raise_for_status()
    for name, role in (("owner", OrgRole.ADMIN), ("colleague", OrgRole.READ)):
        httpx.put(f"{whole.url}/api/admin/orgs/lab/members/{name}", json={"role": role.value}, headers=headers).raise_for_status()
    return found


def ask(whole: WholePlatform, api: HfApi, name: str, prefix: str = "") -> httpx.Response:
    headers = {"Authorization": f"Bearer {api.token}"}
    return httpx.post(f"{whole.url}/{prefix}{name}/ask-access", content=rb'{"purpose": "a test\ud800\u0000"}', headers=headers)


def gated(people: dict[str, HfApi], name: str, gate: str, repo_type: str = "model") -> str:
    owner = people["owner"]
    owner.create_repo(name, repo_type=repo_type)
    owner.upload_file(path_or_fileobj=WEIGHTS, path_in_repo="w.bin", repo_id=name, repo_type=repo_type)
    owner.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id=name, repo_type=repo_type)
    owner.update_repo_settings(name, repo_type=repo_type, gated=gate)  # type: ignore[arg-type]
    return name


def reads(api: HfApi, name: str, cache: Path, repo_type: str = "model") -> bool:
    """Both a small and a large file, or neither."""
    answers: set[int] = set()
    for file in ("config.json", "w.bin"):
        try:
            api.hf_hub_download(name, file, repo_type=repo_type, cache_dir=cache / secrets.token_hex(4))
            answers.add(200)
        except GatedRepoError as error:
            answers.add(error.response.status_code)
    assert answers in ({200}, {403 if api.token else 401})
    return answers == {200}


@pytest.mark.parametrize("repo_type", ["model", "dataset"])
def test_requests_are_asked_decided_and_decided_again(
    whole: WholePlatform, people: dict[str, HfApi], tmp_path: Path, repo_type: str
) -> None:
    name = gated(people, f"lab/manual-{repo_type}", "manual", repo_type)
    owner, asker = people["owner"], people["asker"]
    prefix = "datasets/" if repo_type == "dataset" else ""

    # Everybody sees that it exists and what it is; the bytes are for those who were let in.
    info = people["nobody"].repo_info(name, repo_type=repo_type)
    assert info.gated == "manual"
    assert {f.rfilename for f in info.siblings or ()} >= {"w.bin", "config.json"}
    assert "config.json" in asker.list_repo_files(name, repo_type=repo_type)
    readers = {who for who, api in people.items() if reads(api, name, tmp_path, repo_type)}
    assert readers == {"owner", "colleague"}
    with pytest.raises(GatedRepoError):
        asker.auth_check(name, repo_type=repo_type)

    def listed() -> dict[str, list[str | None]]:
        lists = {
            "pending": owner.list_pending_access_requests, "accepted": owner.list_accepted_access_requests,
            "rejected": owner.list_rejected_access_requests,
        }  # fmt: skip
        return {status: names for status, of in lists.items() if (names := [r.username for r in of(name, repo_type=repo_type)])}

    assert listed() == {}
    assert ask(whole, asker, name, prefix).json()["status"] == "pending"
    assert ask(whole, asker, name, prefix).status_code == 200, "asking again changes nothing"
    assert listed() == {"pending": ["asker"]}
    [request] = owner.list_pending_access_requests(name, repo_type=repo_type)
    assert (request.fullname, request.email, request.status) == ("asker", "asker@example.org", "pending")
    assert request.fields == {"purpose": "a test?"}
    with pytest.raises(GatedRepoError, match="awaits a decision"):
        asker.hf_hub_download(name, "config.json", repo_type=repo_type, cache_dir=tmp_path / "pending")

    owner.accept_access_request(name, "asker", repo_type=repo_type)
    assert listed() == {"accepted": ["asker"]}
    assert reads(asker, name, tmp_path, repo_type)
    assert not reads(people["other"], name, tmp_path, repo_type)
    asker.auth_check(name, repo_type=repo_type)
    asker.snapshot_download(name, repo_type=repo_type, cache_dir=tmp_path / "whole")
    with pytest.raises(HfHubHTTPError) as twice:
        owner.accept_access_request(name, "asker", repo_type=repo_type)
    assert twice.value.response.status_code == 404

    owner.reject_access_request(name, request_id=request.request_id, repo_type=repo_type, rejection_reason="not now")
    assert listed() == {"rejected": ["asker"]}
    assert not reads(asker, name, tmp_path, repo_type), "taken back at once"
    assert ask(whole, asker, name, prefix).json()["status"] == "rejected", "asking again does not undo a decision"
    owner.cancel_access_request(name, "asker", repo_type=repo_type)
    assert listed() == {"pending": ["asker"]}

    granted = owner.grant_access(name, "other", repo_type=repo_type)
    assert granted
    assert reads(people["other"], name, tmp_path, repo_type)
    [given] = owner.list_accepted_access_requests(name, repo_type=repo_type)
    assert (given.username, given.email) == ("other", None), "who was let in unasked did not agree to be known"
    with pytest.raises(HfHubHTTPError):
        owner.grant_access(name, "other", repo_type=repo_type)
    with pytest.raises(HfHubHTTPError) as unknown:
        owner.grant_access(name, "no-such-person", repo_type=repo_type)
    assert unknown.value.response.status_code == 404
    for call in (
        lambda: list(people["other"].list_accepted_access_requests(name, repo_type=repo_type)),
        lambda: people["other"].grant_access(name, "asker", repo_type=repo_type),
        lambda: people["colleague"].accept_access_request(name, "asker", repo_type=repo_type),
    ):
        with pytest.raises(HfHubHTTPError) as forbidden:
            call()
        assert forbidden.value.response.status_code == 403

    owner.update_repo_settings(name, repo_type=repo_type, gated=False)
    assert reads(people["nobody"], name, tmp_path, repo_type)
    with pytest.raises(BadRequestError):
        list(owner.list_pending_access_requests(name, repo_type=repo_type))


def test_an_automatic_gate_lets_in_whoever_asks(whole: WholePlatform, people: dict[str, HfApi], tmp_path: Path) -> None:
    name = gated(people, "owner/auto", "auto")
    assert people["nobody"].model_info(name).gated == "auto"
    assert not reads(people["asker"], name, tmp_path)
    assert ask(whole, people["asker"], name).json()["status"] == "accepted"
    assert reads(people["asker"], name, tmp_path)
    assert httpx.post(f"{whole.url}/{name}/ask-access").status_code == 401
    assert [m.id for m in people["nobody"].list_models(gated=True, author="owner")] == [name]
    assert name not in [m.id for m in people["nobody"].list_models(gated=False)]
    assert name in [m.id for m in people["nobody"].list_models()]
    with pytest.raises(BadRequestError, match="Spaces cannot be gated"):
        people["owner"].create_repo("owner/page", repo_type="space", space_sdk="static")
        people["owner"].update_repo_settings("owner/page", repo_type="space", gated="auto")


def test_no_other_door_hands_out_the_bytes(whole: WholePlatform, people: dict[str, HfApi], tmp_path: Path) -> None:
    """git, git-lfs, Xet, copies, differences and pages: everything that shows what is in the files asks the same question."""
    name = gated(people, "owner/doors", "manual")
    other, owner = people["other"], people["owner"]
    head = owner.model_info(name).sha
    oid = next(f.lfs.sha256 for f in owner.get_paths_info(name, ["w.bin"]) if f.lfs)  # type: ignore[union-attr]
    headers = {"Authorization": f"Bearer {other.token}"}

    def status(path: str, *, token: bool = True, **more: object) -> int:
        method = "POST" if more else "GET"
        return httpx.request(method, f"{whole.url}/{path}", headers=headers if token else {}, **more).status_code  # type: ignore[arg-type]

    batch = {"operation": "download", "transfers": ["basic"], "objects": [{"oid": oid, "size": len(WEIGHTS)}]}
    for path, more in (
        (f"{name}/resolve/main/w.bin", {}), (f"{name}/resolve/{head}/config.json", {}), (f"{name}/raw/main/config.json", {}),
        (f"{name}.git/info/refs?service=git-upload-pack", {}), (f"{name}.git/info/lfs/objects/batch", {"json": batch}),
        (f"api/models/{name}/xet-read-token/main", {}), (f"api/models/{name}/duplicate", {"json": {"repository": "other/copy"}}),
    ):  # fmt: skip
        assert status(path, **more) == 403, path  # type: ignore[arg-type]
        assert status(path, token=False, **more) == 401, path  # type: ignore[arg-type]
    for page in (f"{name}/blob/main/config.json", f"{name}/raw/main/config.json", f"{name}/commit/{head}"):
        answer = httpx.get(f"{whole.url}/{page}", headers={"Accept": "text/html"})
        assert answer.status_code in (303, 401, 403), page  # to the sign-in page, or told why not

    pull = owner.create_pull_request(name, "change")
    owner.upload_file(path_or_fileobj=b"secret line", path_in_repo="n.txt", repo_id=name, revision=f"refs/pr/{pull.num}")
    assert "secret line" in (owner.get_discussion_details(name, pull.num).diff or "")  # type: ignore[union-attr]
    assert not other.get_discussion_details(name, pull.num).diff  # type: ignore[union-attr]

    owner.grant_access(name, "other")
    clone = ["git", "clone", "-q", f"http://x:{other.token}@localhost:{whole.port}/{name}", str(tmp_path / "clone")]
    done = subprocess.run(clone, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "GIT_LFS_SKIP_SMUDGE": "1"}, check=False)
    assert done.returncode == 0
    assert (tmp_path / "clone/config.json").read_text() == "{}"
