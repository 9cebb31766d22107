"""`vitrine up --runtime docker` as its users meet it: git, HTTP, WebSocket and event streams, on a real engine and a real registry."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest
from huggingface_hub import HfApi
from playwright.sync_api import expect, sync_playwright

from builder.engines.docker_engine import DockerEngine
from control_plane.runtimes.docker.manifests import Names
from tests.contract.docker_engine import TestEngine, test_engine
from tests.e2e.conftest import Platform, Work, start_platform, stop_platform
from tests.e2e.docker.conftest import Registry, free_port, marks, sleepers, until
from tests.e2e.docker.docker_client import Client, traces
from tests.e2e.docker.probe_app import APP
from tests.e2e.test_push_to_live import child_named, rewind
from tests.e2e.web.screenshots import ARGS, CHROMIUM

pytestmark = list(marks)
CARD = "---\ntitle: T\nsdk: {sdk}\n{more}---\n"
Make = Callable[..., Work]
APT_MIRROR = "debian-of-this-site"
HF = str(Path(sys.executable).parent / "hf")


@dataclass(frozen=True)
class Keys:
    """The platform's master key, what a registry must trust for its tokens, and the port where it signs them."""

    secret: str
    certificate: Path
    port: int


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    secret = base64.urlsafe_b64encode(os.urandom(32)).decode()
    done = subprocess.run(
        [sys.executable, "-m", "control_plane.cli.main", "images", "certificate"],
        env={**os.environ, "VITRINE_SECRET_KEY": secret}, capture_output=True, check=True,
    )  # fmt: skip
    file = tmp_path_factory.mktemp("keys") / "certificate.pem"
    file.write_bytes(done.stdout)
    return Keys(secret, file, free_port())


@pytest.fixture(scope="module")
def registry_server(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """One that takes nothing but the platform's tokens."""
    auth = (
        f"auth:\n  token:\n    realm: http://localhost:{keys.port}/v2/token\n    service: vitrine-registry\n    issuer: vitrine\n"
        f"    rootcertbundle: {keys.certificate}\n"
    )
    made = Registry(tmp_path_factory.mktemp("registry"), auth)
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def running(host: TestEngine, engine: DockerEngine, registry_server: Registry, keys: Keys, http_index: str) -> Iterator[Platform]:
    with tempfile.TemporaryDirectory(prefix="v", ignore_cleanup_errors=True) as folder:
        data = Path(folder) / "d"
        host.tags.add(Names.of_platform(data).tag)
        settings = {
            "VITRINE_DOCKER_HOST": host.host, "VITRINE_REGISTRY": registry_server.prefix, "VITRINE_PYPI_INDEX_URL": http_index,
            "VITRINE_SECRET_KEY": keys.secret, "VITRINE_REGISTRY_TOKENS": "true", "VITRINE_DRAIN_S": "2",
            "VITRINE_CA_BUNDLE": str(keys.certificate), "VITRINE_APT_MIRROR": f"{http_index}/{APT_MIRROR}",
        }  # fmt: skip
        platform = start_platform(data, "--runtime", "docker", env=settings, port=keys.port)
        yield platform
        stop_platform(platform)


@pytest.fixture
def space(running: Platform, tmp_path: Path) -> Make:
    def make(name: str, sdk: str = "gradio", *, more: str = "", **files: str) -> Work:
        running.create(name, sdk)
        work = Work(running, name, tmp_path / name)
        work.write(README__md=CARD.format(sdk=sdk, more=more + ("sdk_version: 6.0.0\n" if sdk == "gradio" else "")), **files)
        return work

    return make


def log_of(platform: Platform, name: str, which: str) -> str:
    """What is kept, read where it lies: the API's stream of it never ends."""
    with contextlib.closing(sqlite3.connect(platform.data_dir / "vitrine.db", timeout=10)) as db:
        (space_id,) = db.execute("select id from repos where name = ? and type = 'space'", (name,)).fetchone()
        rows = db.execute("select id from builds where space_id = ?", (space_id,)).fetchall()
    files = [f"run/{space_id}.log"] if which == "run" else [f"build/{build}.log" for (build,) in rows]
    found = [platform.data_dir / "logs" / file for file in files]
    return "".join(path.read_text(errors="replace") for path in found if path.exists())


def test_push_to_live_switch_roll_back_sleep_and_wake(running: Platform, space: Make, registry_server: Registry) -> None:
    from websockets.sync.client import connect

    demo = space("first", app__py=APP.format(words="one"), requirements__txt="tinydep\n")
    assert "Live at" in demo.push("one")
    first = demo.commit_id()
    answer = running.app("admin-first")
    assert (answer.text, answer.headers["x-vitrine-revision"]) == ("one", first)
    with (
        socket.create_connection(("127.0.0.1", running.port), timeout=10) as sock,
        connect(f"ws://admin-first.localhost:{running.port}/ws", sock=sock) as ws,
    ):
        assert ws.recv(timeout=10) == "one"
    assert running.app("admin-first", "/events").text == "data: 0\n\ndata: 1\n\ndata: 2\n\n"

    answer = running.app("admin-first", f"/probe?registry={registry_server.port}")
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["uid"], int(found["caps"], 16), found["no_new_privs"], found["seccomp"]) == (1000, 0, "1", "2")
    assert found["writable"] == []
    assert [found[place] for place in ("home", "app", "tmp")] == ["yes"] * 3
    assert found["hub_answers"] == "yes", found
    for closed in ("registry", "metadata", "ssh", "loopback", "raw"):
        assert found[closed] != "yes", closed
    assert not found["docker"] and found["processes"] <= 5 and found["files"] <= 65536 and found["tinydep"]
    assert not [name for name in found["environment"] if name.startswith(("VITRINE_", "UV_DEFAULT", "SSL_", "PIP_"))]

    demo.write(app__py=APP.format(words="two"))
    demo.push("two", wait=False)
    answers = []
    end = time.monotonic() + 60
    while (not answers or answers[-1] != "two") and time.monotonic() < end:
        answer = running.app("admin-first")
        assert answer.status_code == 200, answer.text
        answers.append(answer.text)
    assert set(answers) == {"one", "two"}
    assert answers == sorted(answers)

    demo.write(requirements__txt="no-such-package-of-ours\n")
    said = demo.push("broken")
    assert "REQUIREMENTS_UNRESOLVED" in said and "no-such-package-of-ours" in said, said
    assert running.app("admin-first").text == "two"

    versions = running.api("GET", "/api/spaces/admin/first/versions").json()
    assert [one["revision"] for one in versions][-1] == first and all("@sha256:" in one["image"] for one in versions)
    builds = build_count(running)
    answer = running.api("POST", "/api/spaces/admin/first/rollback", json={"revision": first[:8]})
    assert answer.status_code == 200, answer.text
    until(lambda: running.app("admin-first").text == "one", 30, "the earlier version")
    second = next(one["revision"] for one in versions if one["revision"] != first)
    one_click(running, "/spaces/admin/first/commits/main", f"Deploy revision {second[:7]}")
    until(lambda: running.app("admin-first").text == "two", 30, "the later version")
    assert running.api("POST", "/api/spaces/admin/first/rollback", json={}).status_code == 200, "without a name: the one before"
    until(lambda: running.app("admin-first").text == "one", 30, "the earlier version again")
    assert build_count(running) == builds

    running.api("POST", "/api/spaces/admin/first/sleeptime", json={"seconds": 60})
    os.kill(child_named(running.process.pid, "scheduler"), signal.SIGKILL)  # its memory of the last use goes, the container does not
    until(lambda: is_asleep(running, "first"), 90, "sleep")
    assert running.app("admin-first", "/x", headers={"Accept": "application/json"}).text == "one"


def test_an_image_is_pulled_by_name_elsewhere(running: Platform, space: Make, host: TestEngine, tmp_path: Path) -> None:
    work = space("Export", app__py=APP.format(words="taken along"))
    assert "Live at" in work.push("x")
    assert running.api("POST", "/api/admin/users", json={"name": "stranger"}).status_code == 201
    tokens = {
        name: running.api("POST", "/api/admin/tokens", json={"user": name, "role": "read", "name": "pull"}).json()["token"]
        for name in ("admin", "stranger")
    }
    (version,) = running.api("GET", "/api/spaces/admin/Export/versions").json()
    client = Client(host.host, f"localhost:{running.port}", tmp_path / "client")

    assert "no basic auth credentials" in client.run("pull", client.image("admin-export"), ok=False)
    assert "unauthorized" in client.login("admin", "hf_" + "x" * 34, ok=False).lower()
    client.login("stranger", tokens["stranger"])
    assert "no such Space" in client.run("pull", client.image("admin-export"), ok=False)
    client.login("admin", tokens["admin"])
    for name in ("admin-export", "admin/export", "spaces/admin/export", f"admin-export:{work.commit_id()[:7]}"):
        assert version["image"].rpartition("@")[2] in client.run("pull", client.image(name)), name
    with test_engine() as elsewhere:  # a machine with Docker and nothing of the platform
        other, port = Client(elsewhere.host, client.address, tmp_path / "other"), free_port()
        other.login("admin", tokens["admin"])
        other.run("pull", client.image("admin-export"))
        other.run("run", "--detach", "--publish", f"127.0.0.1:{port}:7860", client.image("admin-export"))
        until(lambda: answer_of(port) == "taken along", 60, "the app elsewhere")
    assert "405" in client.run("push", client.image("admin-export"), ok=False) or "only be pulled" in client.said

    registry = Client(host.host, version["image"].partition("/")[0], tmp_path / "registry")
    for name in tokens:
        assert f"docker pull localhost:{running.port}/NS-NAME" in registry.login(name, tokens[name], ok=False), "no token of a person there"
    running.api("POST", "/api/admin/users/stranger/suspension", json={"suspended": True})
    assert "unauthorized" in client.login("stranger", tokens["stranger"], ok=False).lower()


def one_click(platform: Platform, path: str, button: str) -> None:
    """The administrator's, in a browser that was just opened."""
    link = re.search(r"http\S+/sign-in/once\S+", "".join(platform.output))
    assert link is not None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGS))
        try:
            page = browser.new_page(locale="en-GB")
            page.goto(link[0])
            page.locator("main button").click()
            expect(page.locator("summary[aria-label*=admin]")).to_be_visible(timeout=60_000)
            page.goto(platform.url + path)
            page.get_by_role("button", name=button).click()
            expect(page.get_by_text("being brought live")).to_be_visible(timeout=60_000)
        finally:
            browser.close()


def answer_of(port: int) -> str:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"http://127.0.0.1:{port}/", timeout=5, trust_env=False).text
    return ""


def is_asleep(platform: Platform, name: str) -> bool:
    """Its last use is put back each time: what the proxy saw a moment ago may be told after us."""
    rewind(platform, name, seconds=120)
    with contextlib.suppress(AssertionError):
        platform.until(name, "SLEEPING", seconds=4)
        return True
    return False


def build_count(platform: Platform) -> int:
    with contextlib.closing(sqlite3.connect(platform.data_dir / "vitrine.db", timeout=10)) as db:
        return int(db.execute("select count(*) from builds").fetchone()[0])


def test_requirements_that_another_space_declared_are_not_installed_again(
    running: Platform, space: Make, host: TestEngine, http_index: str, keys: Keys
) -> None:
    assert "Live at" in space("shared-a", app__py=APP.format(words="a"), requirements__txt="tinydep\n").push("x")
    (image,) = [one["image"] for one in running.api("GET", "/api/spaces/admin/shared-a/versions").json()]
    client = docker.DockerClient(base_url=host.host, version="1.41")
    try:
        assert traces(client.images.get(image), of_this_site(http_index, keys)) == []
    finally:
        client.close()
    second = space("shared-b", app__py=APP.format(words="b"), requirements__txt="tinydep\n")
    said = second.push("x")
    assert "Live at" in said
    assert "Using cache" in said, said


def of_this_site(http_index: str, keys: Keys) -> tuple[str, ...]:
    """Words of the platform's package index, Debian mirror and authorities: builds are told them, and images are not."""
    port = http_index.rpartition(":")[2]
    return (f":{port}", APT_MIRROR, keys.certificate.read_text().splitlines()[1])


def test_a_docker_space_by_the_hf_command(running: Platform, host: TestEngine, http_index: str, keys: Keys, tmp_path: Path) -> None:
    """Made, filled, built with a secret and a variable, followed, given hardware and storage, rebuilt and paused, by its users' client."""
    dockerfile = (
        "# syntax=docker/dockerfile:1\nFROM vitrine/python:3.11\nARG GREETING\nWORKDIR /srv\nUSER root\n"
        "RUN --mount=type=secret,id=TOKEN,mode=0444,required=true \\\n"
        "    cat /run/secrets/TOKEN && wc -c < /run/secrets/TOKEN > /srv/size\n"
        "RUN python3 -m venv /srv/venv && /srv/venv/bin/python -m pip --version; uv pip install --target /srv/lib tinydep\n"
        'RUN echo "$GREETING" > /srv/greeting && mkdir /data && chmod 777 /data\n'
        'COPY app.py /srv/\nCMD ["python3", "/srv/app.py"]\n'
    )
    app = APP.format(words="x").replace(
        "WORDS = 'x'",
        'open("/data/starts", "a").write("x"); starts = len(open("/data/starts").read())\n'
        'WORDS = " ".join((open("/srv/size").read().strip(), open("/srv/greeting").read().strip(), str(os.getuid()), str(starts)))',
    )
    work = tmp_path / "own"
    work.mkdir()
    files = {
        "README.md": CARD.format(sdk="docker", more="app_port: 8123\n"),
        "Dockerfile": dockerfile,
        "app.py": app.replace('"7860"', '"8123"'),
    }
    for name, text in files.items():
        (work / name).write_text(text)
    environment = {"PATH": os.environ["PATH"], "HF_ENDPOINT": running.url, "HF_TOKEN": running.token, "HF_HOME": str(tmp_path / "hf")}

    def hf(*words: str) -> str:
        done = subprocess.run([HF, *words], env=environment, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def answers(words: str) -> None:
        until(lambda: running.app("admin-own").text == words, 60, f"{words!r} of {running.runtime('own')}")

    api = HfApi(endpoint=running.url, token=running.token)
    hf("repos", "create", "admin/own", "--type", "space", "--space-sdk", "docker")
    api.add_space_secret("admin/own", "TOKEN", "s3cret-of-ours")
    api.add_space_variable("admin/own", "GREETING", "hello")
    hf("upload", "admin/own", str(work), ".", "--repo-type", "space")
    said = hf("spaces", "logs", "admin/own", "--build", "--follow")
    hf("spaces", "wait", "admin/own", "--timeout", "240")
    assert "[secret]" in said and "s3cret-of-ours" not in said and "vitrine-pip" not in said, said
    answers("14 hello 1000 1")
    until(lambda: "listening" in hf("spaces", "logs", "admin/own"), 30, "what the app said first")
    found = running.app("admin-own", "/probe?registry=1").json()
    assert (found["writable"], found["home"], found["tmp"]) == (["/data"], "yes", "yes")
    (image,) = [one["image"] for one in running.api("GET", "/api/spaces/admin/own/versions").json()]
    client = docker.DockerClient(base_url=host.host, version="1.41")
    try:
        made = client.images.get(image)
        assert traces(made, ("s3cret-of-ours", *of_this_site(http_index, keys))) == []
        assert "index-url" not in str(made.history())
        (container,) = client.containers.list(filters={"ancestor": made.id})
        assert container.attrs["HostConfig"]["ReadonlyRootfs"]
        assert "s3cret-of-ours" not in log_of(running, "own", "build")

        assert running.api("POST", "/api/spaces/admin/own/storage", json={"tier": "small"}).status_code == 200
        until(
            lambda: container.id not in [c.id for c in client.containers.list(ignore_removed=True)], 60, "the app without a disk has gone"
        )
    finally:
        client.close()
    answers("14 hello 1000 1")  # a new disk, and its first start
    api.request_space_hardware("admin/own", "cpu-upgrade")
    until(lambda: api.get_space_runtime("admin/own").hardware == "cpu-upgrade", 60, "the hardware")
    answers("14 hello 1000 2")
    builds = build_count(running)
    hf("spaces", "restart", "admin/own", "--factory-reboot")
    answers("14 hello 1000 3")
    assert build_count(running) == builds + 1
    assert api.pause_space("admin/own").stage == "PAUSED"
    until(lambda: running.app("admin-own").status_code == 503, 30, "nobody answers any more")
    api.restart_space("admin/own")
    answers("14 hello 1000 4")


def test_streamlit_and_static_with_a_build_command(running: Platform, space: Make) -> None:
    assert "Live at" in space("stream", "streamlit", more="sdk_version: 1.50.0\n", app__py="print(1)\n").push("x")
    assert running.app("admin-stream").text == "streamlit ran app.py"
    more = "app_build_command: mkdir dist && sed s/old/new/ page.html > dist/index.html\napp_file: dist/index.html\n"
    assert "Live at" in (said := space("built", "static", more=more, page__html="<h1>old</h1>").push("x")), said
    assert "<h1>new</h1>" in running.app("admin-built").text


def test_a_model_that_the_card_names_is_in_the_image(running: Platform, space: Make) -> None:
    assert running.api("POST", "/api/repos/create", json={"name": "small", "type": "model"}).status_code == 200
    lines = [
        {"key": "header", "value": {"summary": "x"}},
        {"key": "file", "value": {"path": "sub/config.json", "content": base64.b64encode(b"weights").decode(), "encoding": "base64"}},
        {"key": "file", "value": {"path": "unwanted.json", "content": "", "encoding": "base64"}},
    ]
    body = "".join(json.dumps(line) + "\n" for line in lines)
    answer = running.api("POST", "/api/models/admin/small/commit/main", content=body.encode())
    assert answer.status_code == 200, answer.text
    sha = answer.json()["commitOid"]
    app = APP.format(words="x").replace(
        "WORDS = 'x'",
        "hub = '/home/user/.cache/huggingface/hub/'; open(hub + 'written', 'w').close(); place = hub + 'models--admin--small/snapshots/'\n"
        f"WORDS = open(place + '{sha}/sub/config.json').read() + str(os.listdir(place + '{sha}'))",
    )
    demo = space("loaded", more="preload_from_hub:\n  - admin/small sub/config.json\n  - admin/nowhere\n", app__py=app)
    said = demo.push("x")
    assert "Live at" in said and "admin/nowhere is not a public model here" in said, said
    assert running.app("admin-loaded").text == "weights['sub']"


def test_a_crash_keeps_its_log_and_the_app_comes_back(running: Platform, space: Make) -> None:
    demo = space("crash", app__py=APP.format(words="alive"))
    assert "Live at" in demo.push("x")
    running.app("admin-crash", "/exit")
    until(lambda: running.app("admin-crash").text == "alive", 30, "the restart")
    assert "leaving now" in log_of(running, "crash", "run")


def test_a_killed_builder_s_build_goes_on(running: Platform, space: Make) -> None:
    slow = "FROM vitrine/python:3.11\nRUN sleep 4\n" + 'CMD ["python3", "-m", "http.server", "7860"]\n'
    demo = space("killed", "docker", Dockerfile=slow)
    demo.push("x", wait=False)
    running.until("killed", "BUILDING")
    until(lambda: "RUN sleep" in log_of(running, "killed", "build"), 20, "the step")
    os.kill(child_named(running.process.pid, "builder"), signal.SIGKILL)
    running.until("killed", "RUNNING", seconds=40)


def test_a_cancelled_build_ends_in_the_engine(running: Platform, space: Make) -> None:
    demo = space("stopped", "docker", Dockerfile="FROM vitrine/python:3.11\nRUN sleep 54321\n")
    demo.push("x", wait=False)
    until(lambda: "RUN sleep" in log_of(running, "stopped", "build"), 20, "the step")
    assert until(lambda: sleepers("54321"), 10, "its process")
    (build,) = running.api("GET", "/api/admin/builds?space=admin/stopped").json()["items"]
    assert running.api("POST", f"/api/admin/builds/{build['id']}/cancel").status_code == 200
    until(lambda: not sleepers("54321"), 15, "the end of the step")


def test_a_load_that_never_stops_is_served_over_a_switch(running: Platform, space: Make) -> None:
    demo = space("busy", app__py=APP.format(words="busy"))
    assert "Live at" in demo.push("x")
    bad: list[Any] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answer = running.app("admin-busy")
            if answer.status_code != 200:
                bad.append((answer.status_code, answer.text))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    demo.write(app__py=APP.format(words="busier"))
    said = demo.push("y")
    stop.set()
    for thread in threads:
        thread.join()
    assert "Live at" in said and not bad, bad[:3]
