"""Volumes that a pod fetches by itself: the program run for real, what the pod looks like, and what its ends mean."""

from __future__ import annotations

import http.server
import importlib.resources
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from control_plane.domain.errors import Rejected
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import Fetch, ReplicaState
from control_plane.domain.sensitive import Sensitive
from control_plane.runtimes.kubernetes import fetched, manifests, volume_fetch
from control_plane.runtimes.kubernetes.manifests import ClusterOptions
from tests.restricted_pods import violations
from tests.unit.runtimes_kubernetes.specs import REPLICA, pool_of, spec
from tests.unit.runtimes_kubernetes.world import world

PROGRAM = importlib.resources.files("control_plane.runtimes.kubernetes").joinpath("volume_fetch.py").read_text()
FOLDER = Fetch("http://hub/api/volumes/r/0", Sensitive("canary-9c1e"), "/data/model", 5 << 20, 10)
FILE = Fetch("http://hub/api/volumes/r/1", Sensitive("canary-9c1e"), "/opt/one.txt", 5, 1, is_file=True)
OPTIONS = ClusterOptions(volume_image="registry.example/vitrine:1", storage_gib=5)


def packed(*members: tuple[str, bytes | None, str]) -> bytes:
    """name, content (None = a folder), target of a link."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content, link in members:
            info = tarfile.TarInfo(name)
            info.type = tarfile.SYMTYPE if link else tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            info.linkname, info.size, info.mode = link, len(content or b""), 0o644 if content is not None else 0o755
            tar.addfile(info, io.BytesIO(content or b""))
    return made.getvalue()


@pytest.fixture
def hub() -> Iterator[tuple[str, dict[str, bytes]]]:
    """An address, and what it answers there for the word "good"."""
    content: dict[str, bytes] = {}

    class Door(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_good = self.headers["Authorization"] == "Bearer good"
            self.send_response(200 if is_good and self.path in content else 503 if self.path == "/busy" else 404)
            self.send_header("X-Error-Message", "not for\u00e9 you")
            self.end_headers()
            self.wfile.write(content.get(self.path, b"") if is_good else b"")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Door)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", content
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def fetch(url: str, into: Path, *, token: str = "good", is_file: bool = False) -> tuple[int, str]:
    into.mkdir(exist_ok=True)
    volumes = json.dumps([{"url": url, "token": token, "into": str(into), "file": is_file}])
    env = {"PATH": os.environ["PATH"], "VITRINE_VOLUMES": volumes, "http_proxy": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-I", "-c", PROGRAM], env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout.strip()


def test_a_folder_and_a_file_are_fetched_anew_each_time(hub: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    url, content = hub
    content["/all"] = packed(("deep", None, ""), ("deep/a.bin", bytes(300_000), ""), ("run.sh", b"#!", ""), ("again", b"", "run.sh"))
    into = tmp_path / "v"
    assert fetch(f"{url}/all", into) == (0, "volume 0: fetched")
    (into / "left of an earlier try").mkdir()
    assert fetch(f"{url}/all", into)[0] == 0
    assert sorted(p.name for p in into.iterdir()) == ["again", "deep", "run.sh"]
    assert (into / "deep/a.bin").stat().st_size == 300_000
    assert (into / "again").read_bytes() == b"#!"
    content["/one"] = packed(("weights.bin", b"whole", ""))
    assert fetch(f"{url}/one", tmp_path / "f", is_file=True)[0] == 0
    assert (tmp_path / "f" / "content").read_bytes() == b"whole"


@pytest.mark.parametrize(("path", "token", "status"), [("/all", "bad", 3), ("/absent", "good", 3), ("/busy", "good", 1)])
def test_a_refusal_is_told_from_what_another_try_may_mend(
    hub: tuple[str, dict[str, bytes]], tmp_path: Path, path: str, token: str, status: int
) -> None:
    url, content = hub
    content["/all"] = packed(("a", b"a", ""))
    assert fetch(f"{url}{path}", tmp_path / "v", token=token) == (status, "volume 0: not for? you")
    assert volume_fetch.REFUSED == 3


@pytest.mark.parametrize(
    "member",
    [("../out", b"x", ""), ("/tmp/out", b"x", ""), ("out", b"", "/etc/passwd"), ("a/../../out", b"x", "")],
    ids=["parent", "absolute", "link out", "on its way"],
)  # fmt: skip
def test_nothing_leaves_the_volume(hub: tuple[str, dict[str, bytes]], tmp_path: Path, member: tuple[str, bytes, str]) -> None:
    url, content = hub
    content["/bad"] = packed(member)
    assert fetch(f"{url}/bad", tmp_path / "v")[0] == 1
    assert list((tmp_path / "v").iterdir()) == []
    assert not (tmp_path / "out").exists()


def test_a_cut_answer_is_no_volume(hub: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    url, content = hub
    content["/cut"] = packed(("a.bin", bytes(300_000), ""))[:100_000]
    assert fetch(f"{url}/cut", tmp_path / "v")[0] == 1


def test_the_pod_is_restricted_and_the_app_cannot_read_the_word() -> None:
    one = spec(fetches=(FOLDER, FILE))
    made = manifests.deployment(one, pool_of("cpu-basic"), "vitrine", OPTIONS)
    pod = made["spec"]["template"]["spec"]
    assert violations(pod) == []
    assert pod["automountServiceAccountToken"] is False
    assert "canary" not in yaml.safe_dump(made), "only the Secret has it"
    (fetching,) = pod["initContainers"]
    (app,) = pod["containers"]
    assert {"name": fetched.ENV, "value": ""} in app["env"], "the app gets the Secret's other keys alone"
    mounts = {m["mountPath"]: (m["name"], m.get("readOnly"), m.get("subPath")) for m in app["volumeMounts"]}
    assert mounts["/data/model"] == ("repo-0", True, None)
    assert mounts["/opt/one.txt"] == ("repo-1", True, "content")
    assert [m["name"] for m in fetching["volumeMounts"]] == ["repo-0", "repo-1"], "neither the app's disk nor its data"
    sizes = {v["name"]: v["emptyDir"]["sizeLimit"] for v in pod["volumes"] if v["name"].startswith("repo-")}
    assert sizes == {"repo-0": "22Mi", "repo-1": "17Mi"}
    disk = int(app["resources"]["limits"]["ephemeral-storage"].removesuffix("Mi"))
    assert int(fetching["resources"]["limits"]["ephemeral-storage"].removesuffix("Mi")) >= disk + 21 + 17, "the app's own room stays whole"
    assert fetching["resources"]["requests"]["memory"] == app["resources"]["requests"]["memory"], (
        "no node is asked for more than the app is"
    )
    secret = manifests.secret(one, "vitrine")["data"]
    assert fetched.ENV in secret
    assert "initContainers" not in manifests.deployment(spec(), pool_of("cpu-basic"), "vitrine", OPTIONS)["spec"]["template"]["spec"]
    assert fetched.ENV not in manifests.secret(spec(), "vitrine")["data"]


def test_a_volume_takes_the_place_of_the_data_that_every_space_gets() -> None:
    at_data = spec(fetches=(replace(FOLDER, path="/data"),))
    pod = manifests.deployment(at_data, pool_of("cpu-basic"), "vitrine", OPTIONS)["spec"]["template"]["spec"]
    assert [m["name"] for m in pod["containers"][0]["volumeMounts"] if m["mountPath"] == "/data"] == ["repo-0"]
    assert manifests.volume_claims(at_data, "vitrine", OPTIONS) == []


def test_without_an_image_to_fetch_in_it_is_refused_in_words() -> None:
    with pytest.raises(Rejected, match="in which image") as refused:
        manifests.deployment(spec(fetches=(FOLDER,)), pool_of("cpu-basic"), "vitrine", ClusterOptions())
    assert refused.value.facts["reason"] == "UNSUPPORTED_HERE"


def _first(**status: object) -> dict[str, object]:
    app = {"name": "app", "state": {"waiting": {"reason": "PodInitializing"}}}
    return {"initContainerStatuses": [{"name": "volumes", **status}], "containerStatuses": [app]}


def _ended(code: int, restarts: int = 0) -> dict[str, object]:
    ended = {"terminated": {"exitCode": code, "message": "volume 0: not for you\n"}}
    return _first(state={"waiting": {"reason": "CrashLoopBackOff"}} if restarts else ended, lastState=ended, restartCount=restarts)


@pytest.mark.parametrize(
    ("status", "state", "reason", "words"),
    [
        (_first(state={"running": {}}), "pending", Reason.VOLUME_FETCHING, ""),
        (_first(state={"waiting": {"reason": "PodInitializing"}}), "pending", Reason.STARTING, ""),
        (_first(state={"waiting": {"reason": "ImagePullBackOff", "message": "no"}}), "failed", Reason.IMAGE_PULL_FAILED, "fetch volumes"),
        (_ended(3), "failed", Reason.VOLUME_UNAVAILABLE, "not for you"),
        (_ended(1, restarts=1), "pending", Reason.VOLUME_FETCHING, "not for you"),
        (_ended(1, restarts=4), "failed", Reason.VOLUME_UNAVAILABLE, "not for you"),
        (_first(state={"terminated": {"exitCode": 0}}), "pending", Reason.STARTING, ""),
    ],
)
async def test_what_becomes_of_the_fetching_is_told(status: dict[str, object], state: str, reason: Reason, words: str) -> None:
    async with world() as w:
        await w.runtime.apply(spec(pool="cpu"))
        await w.server.bind(w.server.pod_of(REPLICA), "node-1")
        await w.server.set_status(w.server.pod_of(REPLICA), **status)
        seen = await w.until_state(ReplicaState(state), reason)
        assert words in seen.message
