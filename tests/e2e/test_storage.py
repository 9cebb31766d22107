"""Persistent storage as an owner has it: what an app wrote in /data is there after a restart, a new version, a rebuild and a sleep.

And the repositories that a Space mounts: read-only, at a commit, for as long as who mounted them may read them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from huggingface_hub import CommitOperationAdd, HfApi, Volume
from huggingface_hub.errors import RepositoryNotFoundError

from tests.e2e.conftest import Platform, Work, patience, start_platform, stop_platform

README = "---\ntitle: Diary\nsdk: gradio\napp_file: app.py\n---\n"
APP = """import http.server, os

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            if self.path.startswith("/write/"):
                with open("/data/diary", "a") as file:
                    file.write(self.path[7:])
            elif self.path.startswith("/fill/"):
                with open("/data/big", "wb") as file:
                    file.write(os.urandom(int(self.path[6:])))
            text = open("/data/diary").read() if os.path.exists("/data/diary") else "empty"
        except OSError as error:
            text = f"no: {error}"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"VERSION {text}".encode())

http.server.ThreadingHTTPServer(("0.0.0.0", 7860), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with tempfile.TemporaryDirectory(prefix="v", ignore_cleanup_errors=True) as name:
        running = start_platform(Path(name) / "d", env={"VITRINE_STORAGE_TIERS": "small=0.02,medium=0.5", "VITRINE_DRAIN_S": "1"})
        yield running
        stop_platform(running)


def until(look: object, wanted: str, platform: Platform, path: str = "/", seconds: float = 60, space: str = "admin-diary") -> None:
    end = time.monotonic() + seconds * patience()
    while (text := platform.app(space, path).text) != wanted:
        assert time.monotonic() < end, f"{look}: {text!r}, wanted {wanted!r}"
        time.sleep(0.1)


def volumes(platform: Platform) -> list[Path]:
    return sorted((platform.data_dir / "volumes").glob("*/*"))


def test_a_diary_outlives_everything_but_its_deletion(platform: Platform, tmp_path: Path) -> None:
    platform.create("diary")
    work = Work(platform, "diary", tmp_path / "diary")
    work.write(README__md=README, app__py=APP.replace("VERSION", "one"))
    work.push()
    base = "/api/spaces/admin/diary"
    assert platform.app("admin-diary").text == "one empty"
    assert "no:" in platform.app("admin-diary", "/write/x").text, "without storage there is nothing to write to"

    asked = platform.api("POST", f"{base}/storage", json={"tier": "small"})
    assert (asked.status_code, asked.json()["storage"]) == (200, "small")
    platform.until("diary", "RUNNING")
    end = time.monotonic() + 60
    while platform.app("admin-diary", "/write/a").text != "one a":
        assert time.monotonic() < end
        time.sleep(0.2)
    assert [folder.name for folder in volumes(platform)[0].iterdir()] == ["diary"]
    assert (platform.data_dir / "volumes").stat().st_mode & 0o777 == 0o700

    generation = len(platform.api("GET", f"{base}/versions").json())
    assert generation
    platform.api("POST", f"{base}/restart")
    platform.until("diary", "RUNNING")
    until("after a restart", "one a", platform)
    work.write(app__py=APP.replace("VERSION", "two"))
    work.push("two")
    until("after a new version", "two a", platform)
    platform.api("POST", f"{base}/restart?factory=true")
    platform.until("diary", "RUNNING", seconds=120)
    until("after a rebuild", "two a", platform)
    platform.api("POST", f"{base}/pause")
    platform.until("diary", "PAUSED")
    platform.api("POST", f"{base}/restart")
    platform.until("diary", "RUNNING")
    until("after a pause", "two a", platform)

    copy = platform.api("POST", f"{base}/duplicate", json={"repository": "admin/copy"})
    assert copy.status_code == 200, copy.text
    assert platform.runtime("copy")["storage"] is None
    assert len(volumes(platform)) == 1, "a copy starts without what the original keeps"

    # More than the tier holds: the app is ended with the reason, and may be started again with a larger one.
    platform.app("admin-diary", "/fill/30000000")
    end = time.monotonic() + 60
    while "persistent storage" not in str(platform.runtime("diary").get("reason")):
        assert time.monotonic() < end, platform.runtime("diary")
        time.sleep(0.2)
    assert platform.api("POST", f"{base}/storage", json={"tier": "medium"}).json()["storage"] == "medium"
    platform.until("diary", "RUNNING")
    until("with a larger tier", "two a", platform)

    assert platform.api("DELETE", f"{base}/storage").json()["storage"] is None
    until("after the deletion", "two empty", platform)
    end = time.monotonic() + 40
    while volumes(platform):
        assert time.monotonic() < end, "the bytes are still there"
        time.sleep(0.2)


def test_the_volume_goes_with_its_space(platform: Platform) -> None:
    platform.create("brief", storageTier="small")
    assert platform.runtime("brief")["storage"] == "small"
    space_id = platform.api("GET", "/api/spaces/admin/brief").json()["_id"]
    left = platform.data_dir / "volumes" / space_id
    (left / "k").mkdir(parents=True)
    platform.api("DELETE", "/api/repos/delete", json={"name": "brief", "type": "space"})
    end = time.monotonic() + 30
    while left.exists():
        assert time.monotonic() < end
        time.sleep(0.1)


READER = """import http.server, os, pathlib

def tried(path):
    try:
        open(path, "ab").close()
        return "written"
    except OSError as error:
        return "kept out" if error.errno in (1, 13, 30) else str(error)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        model, part = pathlib.Path("/data/model"), pathlib.Path("/home/user/app/part.txt")
        found = []
        if model.is_dir():
            config, weights = (model / "config.json").read_text(), (model / "weights.bin").read_bytes()
            found = [config, len(weights), sum(weights[:100]), os.path.lexists(model / "escape"), part.read_text()]
            found += [tried(model / "new"), tried(model / "config.json"), tried(model / "weights.bin"), tried(part)]
            try:
                os.chmod(model / "weights.bin", 0o777)
                found.append("changed")
            except OSError as error:
                found.append("kept out" if error.errno in (1, 30) else str(error))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(repr(found).encode())

http.server.ThreadingHTTPServer(("0.0.0.0", 7860), Handler).serve_forever()
"""


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's own, where it uploads without Xet
def test_a_private_model_is_read_at_its_mount_path_and_cannot_be_written(platform: Platform, tmp_path: Path) -> None:
    """One plain file, one in LFS; a restart takes the newer commit; a right that ends refuses the next start and nothing else."""
    api = HfApi(endpoint=platform.url, token=platform.token)
    api.create_repo("admin/weights", private=True)
    weights = bytes(range(256)) * 4096
    files = {"config.json": b"first", "weights.bin": weights, "deep/part.txt": b"x"}
    first = api.create_commit("admin/weights", [CommitOperationAdd(name, content) for name, content in files.items()], commit_message="all")
    mounted = [
        Volume(type="model", source="admin/weights", mount_path="/data/model", read_only=False),
        Volume(type="model", source="admin/weights", mount_path="/home/user/app/part.txt", path="deep/part.txt", revision=first.oid),
    ]
    api.create_repo("admin/reader", repo_type="space", space_sdk="gradio", space_volumes=mounted)
    assert [v.mount_path for v in api.get_space_runtime("admin/reader").volumes] == ["/data/model", "/home/user/app/part.txt"]
    work = Work(platform, "reader", tmp_path / "reader")
    work.write(README__md=README, app__py=READER)
    work.push()
    seen = f"['first', {len(weights)}, {sum(weights[:100])}, False, 'x', {', '.join([repr('kept out')] * 5)}]"
    assert platform.app("admin-reader").text == seen
    runtime = platform.runtime("reader")
    assert [(v["sha"], v["readOnly"]) for v in runtime["volumes"]] == [(first.oid, True)] * 2  # type: ignore[attr-defined]
    stranger = httpx.get(f"{platform.url}/api/spaces/admin/reader").json()["runtime"]["volumes"]
    assert {v["source"] for v in stranger} == {"[private]"}
    assert "sha" not in stranger[0]
    copies = list((platform.data_dir / "volume-trees").glob("*/*/content"))
    assert len(copies) == 2
    (large,) = (platform.data_dir / "volume-trees").glob("*/*/content/weights.bin")
    assert large.stat().st_nlink == 3, "the repository's own bytes, not a copy of them"

    api.upload_file(path_or_fileobj=b"second", path_in_repo="config.json", repo_id="admin/weights")
    assert platform.app("admin-reader").text == seen, "what runs stays at its commit"
    api.restart_space("admin/reader")
    platform.until("reader", "RUNNING")
    until("after a restart", seen.replace("first", "second"), platform, space="admin-reader")

    api.delete_repo("admin/weights")
    api.restart_space("admin/reader")
    end = time.monotonic() + 60 * patience()
    while (found := platform.runtime("reader")).get("reason", {}).get("code") != "VOLUME_UNAVAILABLE":  # type: ignore[attr-defined]
        assert time.monotonic() < end, found
        time.sleep(0.2)
    assert found["stage"] == "RUNNING", "the version before it serves on"
    assert "/data/model" in str(found["reason"])
    assert "weights" not in str(found["reason"]), "everybody can read the reason"
    assert platform.app("admin-reader").text == seen.replace("first", "second")
    with pytest.raises(RepositoryNotFoundError):
        api.set_space_volumes("admin/reader", mounted)
    api.delete_space_volumes("admin/reader")
    platform.until("reader", "RUNNING")
    until("without volumes", "[]", platform, space="admin-reader")
    assert api.get_space_runtime("admin/reader").volumes == []
