"""From `git push` to a live demo on its own address: real git, real Celery, real uv, real Gradio and Streamlit, one command."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Platform, Work, patience, start_platform, stop_platform, wait_gone

# A demo without any dependency: quick, and every byte of its answer is its own.
PLAIN = """
import http.server, os, sys
TEXT = {text!r}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = TEXT.encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *args): print("asked", self.path, flush=True)
print("listening", flush=True)
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
"""

GRADIO = """
import gradio as gr
def shout(name, file=None):
    return f"{name.upper()}!"
def count(n):
    for i in range(int(n)):
        yield i
with gr.Blocks() as demo:
    text, out = gr.Textbox(), gr.Textbox()
    gr.Button("go").click(shout, text, out, api_name="shout")
    number, steps = gr.Number(3), gr.Number()
    gr.Button("count").click(count, number, steps, api_name="count")
    upload, size = gr.File(), gr.Number()
    gr.Button("size").click(lambda path: len(open(path, "rb").read()), upload, size, api_name="size")
demo.queue().launch()
"""

Make = Callable[..., Work]


def plain(work: Work, text: str) -> None:
    """A Gradio Space whose app is any Python program that serves HTTP."""
    work.write(**{"app.py": PLAIN.format(text=text), "requirements.txt": ""})


def test_a_gradio_demo_goes_live_and_answers_the_official_client(platform: Platform, work: Make, tmp_path: Path) -> None:
    demo = work("shout")
    demo.write(**{"app.py": GRADIO})
    said = demo.push("First")
    for words in ("README.md: gradio ", "Build queued", "http://admin-shout.localhost", "Building", "Live at"):
        assert words in said, said
    page = platform.app("admin-shout")
    assert page.status_code == 200
    assert "gradio" in page.text
    assert page.headers["x-vitrine-revision"] == demo.commit_id()
    (tmp_path / "data.bin").write_bytes(b"x" * 4321)
    # In a process of its own: this machine's resolver may not know *.localhost, the client's process is told.
    script = f"""
import socket
real = socket.getaddrinfo
socket.getaddrinfo = lambda host, *a, **k: real("127.0.0.1" if str(host).endswith(".localhost") else host, *a, **k)
from gradio_client import Client, handle_file
client = Client("admin/shout", verbose=False)
assert client.predict("hello", api_name="/shout") == "HELLO!"
job = client.submit(3, api_name="/count"); job.result(timeout=30)
assert job.outputs() == [0, 1, 2], job.outputs()
assert client.predict(handle_file({str(tmp_path / "data.bin")!r}), api_name="/size") == 4321
print("client is content")
"""
    env = {
        **os.environ,
        "HF_ENDPOINT": f"http://localhost:{platform.port}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], env=env, capture_output=True, text=True, timeout=120, check=False)
    assert "client is content" in done.stdout, done.stdout + done.stderr


def test_a_pinned_older_gradio_is_what_runs(platform: Platform, work: Make) -> None:
    demo = work("older")
    demo.write(**{"README.md": "---\ntitle: Older\nsdk: gradio\nsdk_version: 5.50.0\n---\n", "app.py": GRADIO})
    assert "README.md: gradio 5.50.0" in (said := demo.push("First"))
    assert "Live at" in said, said
    assert platform.app("admin-older", "/config").json()["version"] == "5.50.0"


def test_a_streamlit_demo_goes_live_and_keeps_a_websocket(platform: Platform, work: Make) -> None:
    from websockets.sync.client import connect

    demo = work("stream", "streamlit")
    demo.write(**{"app.py": "import streamlit as st\nst.title('It streams')\nst.slider('n', 0, 9)\n"})
    assert "Live at" in demo.push("First")
    assert platform.app("admin-stream", "/_stcore/health").text == "ok"
    with (
        socket_to(platform) as sock,
        connect(f"ws://admin-stream.localhost:{platform.port}/_stcore/stream", sock=sock, open_timeout=20) as ws,
    ):
        # A rerun request as the page sends it: BackMsg.rerun_script with empty state (streamlit's BackMsg proto, field 11).
        ws.send(b"\x5a\x00")
        assert b"It streams" in b"".join(ws.recv(timeout=20) for _ in range(6))  # type: ignore[arg-type]


def socket_to(platform: Platform) -> object:
    import socket

    return socket.create_connection(("127.0.0.1", platform.port), timeout=20)


def test_a_static_space_is_served_from_its_first_commit_on(platform: Platform, work: Make) -> None:
    site = work("site", "static")
    platform.until("site", "RUNNING")
    assert "It works" in platform.app("admin-site").text
    site.write(**{"index.html": "<h1>Second</h1>", "a b.txt": "spaces"})
    assert "Live at" in site.push("Second")
    assert "Second" in platform.app("admin-site").text
    assert platform.app("admin-site", "/a%20b.txt").text == "spaces"
    assert platform.app("admin-site", "/../../../etc/passwd").status_code in (400, 404)
    assert platform.app("admin-site", "/%2e%2e/%2e%2e/vitrine.db").status_code in (400, 404)
    assert platform.app("admin-site", "/none.txt").status_code == 404


def test_a_code_only_push_switches_without_losing_a_request_and_a_broken_push_changes_nothing(platform: Platform, work: Make) -> None:
    demo = work("switch")
    plain(demo, "one")
    assert "Live at" in demo.push("one")
    assert platform.app("admin-switch").text == "one"
    plain(demo, "two")
    demo.push("two", wait=False)
    answers = []
    end = time.monotonic() + 60
    while (not answers or answers[-1] != "two") and time.monotonic() < end:
        answer = platform.app("admin-switch")
        assert answer.status_code == 200, answer.text
        answers.append(answer.text)
    assert set(answers) == {"one", "two"}
    assert answers == sorted(answers), "an older version answered after a newer one"
    good = demo.commit_id()

    demo.write(**{"app.py": "raise SystemExit('boom: no model')"})
    said = demo.push("crash")
    assert "APP_EXITED" in said
    assert "boom: no model" in said
    assert "What served before keeps serving" in said
    demo.write(**{"requirements.txt": "no-such-package-of-ours==99\n"})
    said = demo.push("unresolvable")
    assert "REQUIREMENTS_UNRESOLVED" in said, said
    assert "no-such-package-of-ours" in said
    still = platform.app("admin-switch")
    assert (still.text, still.headers["x-vitrine-revision"]) == ("two", good)
    assert platform.runtime("switch")["stage"] == "RUNNING"


def test_an_app_on_the_wrong_port_is_told_which_one(platform: Platform, work: Make) -> None:
    demo = work("port")
    demo.write(**{"app.py": PLAIN.format(text="x").replace('int(os.environ["PORT"])', "8123")})
    said = demo.push("wrong port")
    assert "APP_WRONG_PORT" in said, said
    assert "8123" in said


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ("---\nsdk: gradoi\n---\n", ["README.md line 2", "gradoi", "allowed: gradio"]),
        ("---\n- a\n- b\n---\n", ["README.md"]),
        ("---\nsdk: docker\napp_port: 99999\n---\n", ["line 3", "app_port"]),
        ("---\nsdk: gradio\ntitle: &a x\nemoji: *a\n---\n", ["README.md line"]),
        ("---\nsdk: !!python/name:os.system gradio\n---\n", ["README.md line 2"]),
        ("---\nsdk: gradio\n" + "x" * 5_000_000 + "\n---\n", ["README.md"]),
    ],
)
def test_a_bad_card_is_refused_in_the_push_and_changes_nothing(platform: Platform, work: Make, card: str, words: list[str]) -> None:
    demo = work(f"card{abs(hash(card)) % 10**8}")
    before = demo.git("ls-remote", "origin", "main").stdout
    demo.write(**{"README.md": card})
    said = demo.push("bad", ok=False)
    assert "rejected" in said
    for word in words:
        assert word in said, said
    assert demo.git("ls-remote", "origin", "main").stdout == before


def test_big_files_other_branches_and_deleting_main(platform: Platform, work: Make) -> None:
    demo = work("bad-push")
    plain(demo, "x")
    demo.git("add", "-A")
    demo.git("commit", "-q", "-m", "x")
    said = demo.git("push", "origin", "HEAD:refs/heads/idea").stderr
    assert "only main is deployed" in said
    assert "cannot be deleted" in demo.git("push", "origin", ":main", ok=False).stderr
    (demo.folder / "weights.dat").write_bytes(os.urandom(11 << 20))
    said = demo.push("big", ok=False)
    assert "larger than 10 MiB" in said
    assert 'git lfs migrate import --include="weights.dat"' in said, said


def test_who_may_push(platform: Platform, work: Make, tmp_path: Path) -> None:
    demo = work("mine")
    url = f"http://x:hf_wrong@localhost:{platform.port}/spaces/admin/mine"
    assert demo.git("push", url, "HEAD:main", ok=False).returncode != 0
    anonymous = f"http://localhost:{platform.port}/spaces/admin/mine"
    assert demo.git("push", anonymous, "HEAD:main", ok=False).returncode != 0
    assert demo.git("ls-remote", anonymous).stdout  # public code may be read


REACH = """
import http.server, json, os, socket, urllib.request
def tried(what):
    try:
        return what()
    except Exception as error:
        return type(error).__name__
def get(url):
    return urllib.request.urlopen(url, timeout=5).read().decode()
def port(address, number):
    socket.create_connection((address, number), 3).close()
    return "open"
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        found = {} if self.path != "/found" else {
            "hub": tried(lambda: get(os.environ["HF_ENDPOINT"] + "/healthz")),
            "me": tried(lambda: json.loads(get(os.environ["HF_ENDPOINT"] + "/api/spaces/" + os.environ["SPACE_ID"]))["id"]),
            "door": tried(lambda: get(os.environ["HF_ENDPOINT"] + "/internal/authorize")),
            "metadata": tried(lambda: get("http://169.254.169.254/latest/")),
            "platform": tried(lambda: port("127.0.0.1", PORT_OF_PLATFORM)),
            "secret": os.environ.get("MY_SECRET"),
            "names": sorted(k for k in os.environ if "VITRINE" in k),
            "files": tried(lambda: os.listdir("DATA_DIR")),
        }
        body = json.dumps(found).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
"""


def test_an_app_reaches_the_hub_like_a_visitor_and_nothing_else_of_the_platform(platform: Platform, work: Make) -> None:
    demo = work("reach")
    answer = platform.api("POST", "/api/spaces/admin/reach/secrets", json={"key": "MY_SECRET", "value": "only mine"})
    assert answer.status_code == 200, answer.text
    app = REACH.replace("PORT_OF_PLATFORM", str(platform.port)).replace("DATA_DIR", str(platform.data_dir))
    demo.write(**{"app.py": app, "requirements.txt": ""})
    assert "Live at" in demo.push("x")
    found = platform.app("admin-reach", "/found").json()
    assert (found["hub"], found["me"]) == ("ok\n", "admin/reach"), found
    assert found["secret"] == "only mine"
    assert found["names"] == []
    assert found["door"] == "HTTPError"  # the proxy's 404: workers' door is not for visitors
    assert found["metadata"].endswith("Error")
    assert found["platform"] == "ConnectionRefusedError"
    assert found["files"] == ["envs"] or found["files"].endswith("Error"), "of the data dir only the way to the shared environment is there"


def test_an_idle_app_sleeps_and_a_request_wakes_it_and_is_answered(platform: Platform, work: Make) -> None:
    demo = work("sleepy")
    plain(demo, "awake")
    assert "Live at" in demo.push("x")
    answer = platform.api("POST", "/api/spaces/admin/sleepy/sleeptime", json={"seconds": 60})
    assert answer.status_code == 200, answer.text
    # Not waiting a minute: the pause of a restarted owner is the same stop; sleep itself is told through the use log.
    rewind(platform, "sleepy", seconds=120)
    platform.until("sleepy", "SLEEPING", seconds=30)
    page = platform.app("admin-sleepy", headers={"Accept": "text/html", "Sec-Fetch-Mode": "navigate"})
    assert page.status_code == 503
    assert "text/html" in page.headers["content-type"]
    began = time.monotonic()
    assert platform.app("admin-sleepy", "/api/x", headers={"Accept": "application/json"}).text == "awake"
    assert time.monotonic() - began < 60


def rewind(platform: Platform, name: str, seconds: int) -> None:
    """Make the platform believe that the Space was last used earlier: its own record, in its own database."""
    import sqlite3

    with sqlite3.connect(platform.data_dir / "vitrine.db", timeout=10) as db:
        columns = [row[1] for row in db.execute("pragma table_info(spaces)")]
        assert "last_used_at" in columns
        (space_id,) = db.execute("select id from repos where name = ? and type = 'space'", (name,)).fetchone()
        (old,) = db.execute("select last_used_at from spaces where id = ?", (space_id,)).fetchone()
        new = old - seconds if isinstance(old, int | float) else re.sub(r"^\d{4}", "2020", str(old))
        db.execute("update spaces set last_used_at = ? where id = ?", (new, space_id))
    db.close()


def test_ctrl_c_leaves_nothing_and_kill_9_loses_nothing() -> None:
    """Kill -9 of every process in turn, then of the whole tree: acknowledged pushes are there, apps come back, nothing is left over."""
    with tempfile.TemporaryDirectory(prefix="v", ignore_cleanup_errors=True) as folder:
        data = Path(folder) / "d"
        platform = start_platform(data)
        assert any("/sign-in/once?token=" in line for line in platform.output)
        platform.create("kept")
        work = Work(platform, "kept", Path(folder) / "kept")
        plain(work, "kept")
        assert "Live at" in work.push("x")
        platform.create("former")
        move = {"fromRepo": "admin/former", "toRepo": "admin/renamed", "type": "space"}
        assert platform.api("POST", "/api/repos/move", json=move).status_code == 200
        wait_for(lambda: leads_to(platform, "former") == "admin-renamed", 10, "the old address of a renamed Space")
        for component in ("scheduler", "api", "proxy", "builder"):
            victim = child_named(platform.process.pid, component)
            os.kill(victim, signal.SIGKILL)
            wait_for(lambda: answers(platform, "kept"), 10, f"after kill -9 of {component}")
            wait_for(lambda: signed_in(platform), 10, f"ready.json's token after kill -9 of {component}")
        os.killpg(platform.process.pid, signal.SIGKILL)
        platform.process.wait()
        assert platform.process.stdout is not None
        platform.process.stdout.close()
        wait_for(lambda: not processes_of(data), 10, "processes are left after kill -9 of the parent")
        second = start_platform(data, port=platform.port)
        wait_for(lambda: answers(second, "kept"), 10, "after a new start")
        assert second.app("admin-kept").headers["x-vitrine-revision"] == work.commit_id()
        assert leads_to(second, "former") == "admin-renamed"
        stop_platform(second)
        assert second.process.returncode == 0
        assert not processes_of(data)
        assert not (data / "ready.json").exists()


def test_an_acknowledged_push_survives_kill_9_at_any_moment() -> None:
    """Processes die at random moments between a push and its going live; the last acknowledged push is what is served, within 10 s."""
    chance = random.Random(20260701)
    with tempfile.TemporaryDirectory(prefix="v", ignore_cleanup_errors=True) as folder:
        data = Path(folder) / "d"
        platform = start_platform(data)
        platform.create("tough")
        work = Work(platform, "tough", Path(folder) / "tough")
        for turn in range(6):
            text = f"turn {turn}"
            plain(work, text)
            work.push(text, wait=False)
            time.sleep(chance.uniform(0, 1.2))
            if turn % 3 == 2:
                os.killpg(platform.process.pid, signal.SIGKILL)
                wait_gone(platform.process)
                wait_for(lambda: not processes_of(data), 10, "processes are left after kill -9 of the parent")
                platform = start_platform(data, port=platform.port)
            else:
                os.kill(child_named(platform.process.pid, chance.choice(("scheduler", "api", "builder", "proxy"))), signal.SIGKILL)
            began = time.monotonic()
            wait_for(partial(serves, platform, "tough", text), 20, f"{text} is not served")
            print(f"{text}: {time.monotonic() - began:.1f} s")
            assert platform.app("admin-tough").headers["x-vitrine-revision"] == work.commit_id()
            wait_for(partial(signed_in, platform), 10, "ready.json's token")
        stop_platform(platform)
        assert not processes_of(data)


def serves(platform: Platform, name: str, text: str) -> bool:
    try:
        return platform.app(f"admin-{name}", timeout=20).text == text
    except httpx.HTTPError:
        return False


def signed_in(platform: Platform) -> bool:
    try:
        return platform.api("GET", "/api/whoami-v2").status_code == 200
    except httpx.HTTPError:
        return False


def leads_to(platform: Platform, name: str) -> str:
    """The app label that this one's address redirects to."""
    answer = platform.app(f"admin-{name}", "/x?y=1")
    assert answer.status_code != 308 or answer.headers["location"].endswith(f".localhost:{platform.port}/x?y=1")
    return answer.headers.get("location", "").removeprefix("http://").partition(".")[0]


def answers(platform: Platform, name: str) -> bool:
    return serves(platform, name, name)


def wait_for(check: Callable[[], bool], seconds: float, words: str) -> None:
    end = time.monotonic() + seconds * patience()
    while not check():
        assert time.monotonic() < end, words
        time.sleep(0.1)


def child_named(parent: int, component: str) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (
                    f"serve\0{component}\0" in (entry / "cmdline").read_text()
                    and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent
                ):
                    return int(entry.name)
            except OSError:
                continue
    raise AssertionError(f"no {component} below {parent}")


def processes_of(data: Path) -> list[str]:
    """Command lines of processes that still have this data dir in their environment or open files in it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if str(data).encode() in (entry / "environ").read_bytes() and (entry / "cmdline").read_bytes():
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
    return found
