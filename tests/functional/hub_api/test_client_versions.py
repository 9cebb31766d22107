"""The whole journey on the whole API process, with the newest and the oldest supported client, with and without Xet."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from huggingface_hub import CommitInfo, CommitOperationCopy, HfApi
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from huggingface_hub.hf_api import RepoFile

from control_plane.accounts.oauth import space_credentials
from control_plane.accounts.people import find_account
from control_plane.accounts.sign_in import open_session
from control_plane.api.access_rooms import right_of_room
from control_plane.api.access_table import DOCUMENTATION, right_of
from control_plane.domain.ids import SpaceId
from control_plane.domain.spaces import RepoType
from tests.fakes.cut_wire import cut_wire
from tests.functional.hub_api import rows
from tests.functional.hub_api.oldest import OLDEST, environment
from tests.functional.hub_api.running import WholePlatform

JOURNEY, SWEEP, METHODS, ATTACHED, RESUMED = (
    Path(__file__).with_name(f"{name}.py") for name in ("journey", "sweep", "methods", "attached", "resumed")
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholePlatform]:
    running = WholePlatform(tmp_path_factory.mktemp("whole"))
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> str:
    return environment(tmp_path_factory.mktemp("oldest"))


@pytest.fixture(scope="module")
def guest(whole: WholePlatform) -> str:
    """A token of somebody who owns nothing."""
    headers = {"Authorization": f"Bearer {whole.admin_token}"}
    httpx.post(f"{whole.url}/api/admin/users", json={"name": "guest"}, headers=headers).raise_for_status()
    made = httpx.post(f"{whole.url}/api/admin/tokens", json={"user": "guest", "role": "write", "name": "t"}, headers=headers)
    return str(made.json()["token"])


def travel(python: str, whole: WholePlatform, folder: Path, script: Path = JOURNEY, *more: str, xet: bool = True) -> str:
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    env = keep | {"HF_HUB_DISABLE_XET": "0" if xet else "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [python, "-I", str(script), whole.url, whole.admin_token, *more, str(folder)], env=env, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("xet", [True, False], ids=["xet", "lfs"])
def test_current_client(whole: WholePlatform, tmp_path: Path, xet: bool) -> None:
    assert "journey complete 2." in travel(sys.executable, whole, tmp_path, xet=xet)


@pytest.mark.slow
def test_oldest_supported_client(whole: WholePlatform, tmp_path: Path, oldest: str) -> None:
    for xet in (True, False):
        folder = tmp_path / str(xet)
        folder.mkdir()
        assert f"journey complete {OLDEST}" in travel(oldest, whole, folder, xet=xet)


def test_every_command(whole: WholePlatform, tmp_path: Path) -> None:
    """All that `hf` has and that is a platform's of one's own: done, or refused with a sentence. One of a newer client is noticed."""
    assert re.fullmatch(r"\s*swept 1\d of 2\.\S+\n", travel(sys.executable, whole, tmp_path, SWEEP))


@pytest.mark.slow
def test_every_command_of_the_oldest_client(whole: WholePlatform, tmp_path: Path, oldest: str) -> None:
    assert re.fullmatch(rf"\s*swept 14 of {OLDEST}\n", travel(oldest, whole, tmp_path, SWEEP))


def test_every_method(whole: WholePlatform, tmp_path: Path, guest: str) -> None:
    """All that `HfApi` has and that is a platform's of one's own. A method of a newer client is noticed."""
    assert re.fullmatch(r"\s*methods complete 2\.\S+\n", travel(sys.executable, whole, tmp_path, METHODS, guest))


@pytest.mark.slow
def test_every_method_of_the_oldest_client(whole: WholePlatform, tmp_path: Path, guest: str, oldest: str) -> None:
    assert re.fullmatch(rf"\s*methods complete {OLDEST}\n", travel(oldest, whole, tmp_path, METHODS, guest))


@pytest.fixture(scope="module")
def large(whole: WholePlatform) -> str:
    """The sha256 of `large.bin` in the repository admin/large: more than two of the pieces that clients write."""
    api, data = HfApi(endpoint=whole.url, token=whole.admin_token), os.urandom(24 << 20)
    api.create_repo("admin/large", private=True)
    api.upload_file(path_or_fileobj=data, path_in_repo="large.bin", repo_id="admin/large")
    return hashlib.sha256(data).hexdigest()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Use 'content=")  # the client's own
@pytest.mark.parametrize("version", ["current", "oldest"])
def test_a_broken_download_goes_on(whole: WholePlatform, large: str, tmp_path: Path, request: pytest.FixtureRequest, version: str) -> None:
    """Where it broke, not from its beginning."""
    python = sys.executable if version == "current" else request.getfixturevalue("oldest")
    with cut_wire(whole.port) as wire:
        wire.cut_after = 15 << 20
        words = (str(RESUMED), f"http://localhost:{wire.port}", whole.admin_token, "admin/large", str(tmp_path))
        done = subprocess.run([python, "-I", "-W", "ignore", *words], capture_output=True, text=True, timeout=120, check=False)
        assert done.stdout == f"{large}\n", done.stdout + done.stderr
        assert [start for start in wire.asked_from if start >= 10 << 20], wire.asked_from


@pytest.mark.slow
def test_sign_in_of_an_app_by_the_oldest_client(whole: WholePlatform, oldest: str) -> None:
    """`attach_huggingface_oauth`, through the page on which the person agrees. Gradio's own: `tests/e2e/test_clients_live.py`."""
    api = HfApi(endpoint=whole.url, token=whole.admin_token)
    api.create_repo("admin/signed", repo_type="space", space_sdk="static")
    card = b"---\nsdk: static\nhf_oauth: true\n---\n"
    api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="admin/signed", repo_type="space")

    async def prepare() -> tuple[str, str, str]:
        async with whole.built.uow.write() as uow:
            repo = await uow.repos.by_name(RepoType.SPACE, "admin", "signed")
            assert repo is not None
            _, cookie = await open_session(uow, whole.built.clock, await find_account(uow, "admin"))
        return (*space_credentials(whole.built.signing_key, SpaceId(repo.id)), cookie)

    client_id, secret, cookie = whole.run(prepare())
    words = (whole.url, client_id, secret, f"admin-signed.localhost:{whole.port}", cookie)
    done = subprocess.run([oldest, "-I", "-W", "ignore", str(ATTACHED), *words], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "nobody / admin\n", done.stdout + done.stderr


def test_every_row_of_the_wire_contract(whole: WholePlatform) -> None:
    """What clients send and read that none of their methods shows by itself."""
    assert rows.walk(whole.url, whole.admin_token) == []


def test_command_line(whole: WholePlatform, tmp_path: Path) -> None:
    """`hf` from sign-in to sign-out, as a person types it: a program for each line. All else it has: `test_every_command`."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    env |= {"HF_ENDPOINT": whole.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1", "NO_COLOR": "1"}
    source = tmp_path / "source"
    source.mkdir()
    (source / "app.py").write_text("print('hi')\n")

    def hf(*words: str) -> str:
        program = str(Path(sys.executable).parent / "hf")
        done = subprocess.run([program, *words], env=env, capture_output=True, text=True, timeout=120, cwd=tmp_path)
        assert done.returncode == 0, f"hf {' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    hf("auth", "login", "--token", whole.admin_token)
    assert "admin" in hf("auth", "whoami")
    hf("repos", "create", "cli", "--type", "space", "--space-sdk", "gradio")
    assert "/spaces/admin/cli/commit/" in hf("upload", "admin/cli", str(source), "--type", "space")
    hf("download", "admin/cli", "--type", "space", "--local-dir", str(tmp_path / "down"))
    assert (tmp_path / "down" / "app.py").read_text() == "print('hi')\n"
    hf("cp", str(source / "app.py"), "hf://spaces/admin/cli/copied.py")
    hf("repos", "delete", "admin/cli", "--type", "space", "--yes")
    hf("auth", "logout")


def test_git_uses_what_hf_auth_login_stored(whole: WholePlatform, tmp_path: Path) -> None:
    """`--add-to-git-credential`: clone and push of a private repository ask for nothing."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "GIT_"))}
    env |= {"HF_ENDPOINT": whole.url, "HF_HOME": str(tmp_path / "hf"), "HOME": str(tmp_path), "GIT_TERMINAL_PROMPT": "0", "NO_COLOR": "1"}
    env |= {f"GIT_{who}_{what}": "a@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

    def run(*words: str, cwd: Path = tmp_path) -> None:
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120, cwd=cwd, check=False)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"

    HfApi(endpoint=whole.url, token=whole.admin_token).create_repo("admin/kept", private=True)
    run("git", "config", "--global", "credential.helper", "store")
    run(str(Path(sys.executable).parent / "hf"), "auth", "login", "--token", whole.admin_token, "--add-to-git-credential")
    run("git", "clone", "-q", f"{whole.url}/admin/kept", "kept")
    (tmp_path / "kept" / "note.txt").write_text("x")
    run("git", "add", ".", cwd=tmp_path / "kept")
    run("git", "commit", "-q", "-m", "Note", cwd=tmp_path / "kept")
    run("git", "push", "-q", cwd=tmp_path / "kept")


def test_every_route_of_the_process_is_declared(whole: WholePlatform) -> None:
    """Whoever adds a route anywhere says in the access table which right it asks for."""
    missing = [
        f"{method} {route.path}"
        for route in iter_route_contexts(whole.app.routes)
        for method in route.methods or ()
        if route.path not in DOCUMENTATION and right_of(method, str(route.path)) is None and right_of_room(method, str(route.path)) is None
    ]
    assert missing == []


@pytest.mark.filterwarnings("ignore:Use 'content=")  # the client's own
def test_a_reader_proposes_a_large_file(whole: WholePlatform) -> None:
    """Whoever may read may open a pull request, also one whose bytes go the way of large files; and still not write to main."""
    owner = HfApi(endpoint=whole.url, token=whole.admin_token)
    headers = {"Authorization": f"Bearer {whole.admin_token}"}
    httpx.post(f"{whole.url}/api/admin/users", json={"name": "reader"}, headers=headers).raise_for_status()
    token = httpx.post(f"{whole.url}/api/admin/tokens", json={"user": "reader", "role": "write", "name": "t"}, headers=headers).json()[
        "token"
    ]
    reader = HfApi(endpoint=whole.url, token=token)
    owner.create_repo("admin/proposals", exist_ok=True)
    weights = os.urandom(200_000)
    with pytest.raises(HfHubHTTPError) as refused:
        reader.upload_file(path_or_fileobj=weights, path_in_repo="w.bin", repo_id="admin/proposals")
    assert refused.value.response.status_code == 403
    pull = reader.upload_file(path_or_fileobj=weights, path_in_repo="w.bin", repo_id="admin/proposals", create_pr=True)
    assert isinstance(pull, CommitInfo)
    assert pull.pr_num == 1
    owner.merge_pull_request("admin/proposals", 1)
    entry = owner.get_paths_info("admin/proposals", ["w.bin"])[0]
    assert isinstance(entry, RepoFile)
    assert entry.lfs is not None
    assert entry.lfs.size == len(weights)


@pytest.mark.filterwarnings("ignore:Use 'content=")  # the client's own
def test_large_files_are_deleted_for_good(whole: WholePlatform, tmp_path: Path) -> None:
    """With their history, as the client asks unless told otherwise, also where a head still names them; or only the bytes."""
    api = HfApi(endpoint=whole.url, token=whole.admin_token)
    api.create_repo("admin/purged")
    for name in ("a.bin", "b.bin", "c.bin"):
        api.upload_file(path_or_fileobj=name.encode() + bytes(5000), path_in_repo=name, repo_id="admin/purged")
    api.upload_file(path_or_fileobj=b"notes", path_in_repo="notes.txt", repo_id="admin/purged")
    api.delete_file("c.bin", "admin/purged")
    stored = {f.filename: f for f in api.list_lfs_files("admin/purged")}
    assert set(stored) == {"a.bin", "b.bin", "c.bin"}
    assert (stored["a.bin"].ref, stored["c.bin"].ref) == ("refs/heads/main", None)
    before = [c.title for c in api.list_repo_commits("admin/purged")]

    api.permanently_delete_lfs_files("admin/purged", [stored["a.bin"]])
    assert "a.bin" not in api.list_repo_files("admin/purged")
    assert [c.title for c in api.list_repo_commits("admin/purged")] == before
    assert {f.filename for f in api.list_lfs_files("admin/purged")} == {"b.bin", "c.bin"}
    downloaded = api.snapshot_download("admin/purged", cache_dir=tmp_path)
    assert {p.name for p in Path(downloaded).iterdir()} == {".gitattributes", "b.bin", "notes.txt"}

    api.permanently_delete_lfs_files("admin/purged", [stored["b.bin"]], rewrite_history=False)
    assert "b.bin" in api.list_repo_files("admin/purged")
    with pytest.raises(EntryNotFoundError, match="never uploaded"):
        api.hf_hub_download("admin/purged", "b.bin", cache_dir=tmp_path / "again")
    api.upload_file(path_or_fileobj=b"b.bin" + bytes(5000), path_in_repo="b.bin", repo_id="admin/purged")
    api.hf_hub_download("admin/purged", "b.bin", cache_dir=tmp_path / "back")


@pytest.mark.filterwarnings("ignore:Use 'content=")  # the client's own
def test_large_files_are_copied_between_repositories(whole: WholePlatform, tmp_path: Path) -> None:
    """Without their bytes: by who may read the one and write to the other, and only what the source really names."""
    api = HfApi(endpoint=whole.url, token=whole.admin_token)
    headers = {"Authorization": f"Bearer {whole.admin_token}"}
    httpx.post(f"{whole.url}/api/admin/users", json={"name": "copier"}, headers=headers).raise_for_status()
    made = httpx.post(f"{whole.url}/api/admin/tokens", json={"user": "copier", "role": "write", "name": "t"}, headers=headers).json()
    copier = HfApi(endpoint=whole.url, token=made["token"])
    api.create_repo("admin/origin")
    api.create_repo("admin/closed", private=True)
    copier.create_repo("copier/mine", repo_type="dataset")
    weights = os.urandom(100_000)
    for name in ("admin/origin", "admin/closed"):
        api.upload_file(path_or_fileobj=weights[::-1] if name == "admin/closed" else weights, path_in_repo="w.bin", repo_id=name)
        api.upload_file(path_or_fileobj=b"small", path_in_repo="note.txt", repo_id=name)

    copies = [
        CommitOperationCopy("w.bin", "copy/w.bin", src_repo_id="admin/origin", src_repo_type="model"),
        CommitOperationCopy("note.txt", "note.txt", src_repo_id="admin/origin", src_repo_type="model"),
    ]
    copier.create_commit("copier/mine", copies, commit_message="Copy", repo_type="dataset")
    copier.copy_files("hf://admin/origin", "hf://datasets/copier/mine/all/")
    for path in ("copy/w.bin", "all/w.bin"):
        found = copier.hf_hub_download("copier/mine", path, repo_type="dataset", cache_dir=tmp_path)
        assert Path(found).read_bytes() == weights
    api.delete_repo("admin/origin")
    copier.hf_hub_download("copier/mine", "copy/w.bin", repo_type="dataset", cache_dir=tmp_path / "later")

    def duplicate(source: str, target: str, oid: str, who: HfApi = copier) -> httpx.Response:
        body = {"target": {"type": "dataset", "name": target}, "files": [{"sha256": oid, "xetHash": oid, "filename": "w.bin"}]}
        address = f"{whole.url}/api/models/{source}/lfs-files/duplicate"
        return httpx.post(address, json=body, headers={"Authorization": f"Bearer {who.token}"})

    hidden = hashlib.sha256(weights[::-1]).hexdigest()
    assert duplicate("admin/closed", "copier/mine", hidden).status_code == 404
    copier.create_repo("copier/empty")
    assert duplicate("copier/empty", "copier/mine", hidden).json()["failed"][0]["sha256"] == hidden
    api.create_repo("admin/own", repo_type="dataset")
    api.create_repo("admin/secret", repo_type="dataset", private=True)
    assert duplicate("copier/empty", "admin/own", hidden).status_code == 403
    assert duplicate("copier/empty", "admin/secret", hidden).status_code == 404
    assert duplicate("admin/closed", "admin/own", hidden, api).json() == {"failed": []}
