"""Official clients and a browser against a live Gradio Space: sign-in for apps, private Spaces, log streams, `gradio deploy`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import httpx
import pytest
from huggingface_hub import HfApi
from playwright.sync_api import Page, expect, sync_playwright

from tests.e2e.conftest import Platform
from tests.e2e.web.screenshots import ARGS, CHROMIUM
from tests.functional.hub_api import rows
from tests.functional.hub_api.oldest import environment

APP = """
import os, time
import gradio as gr
import spaces

print("starting with", os.environ.get("KEY"), flush=True)

def hello(profile: gr.OAuthProfile | None, token: gr.OAuthToken | None):
    if profile is None:
        return "nobody"
    from huggingface_hub import whoami
    return f"{profile.username} is {whoami(token.token)['name']} at {profile.profile}"

@spaces.GPU
def shout(text):
    print("asked for", text, flush=True)
    return text.upper()

def count(n):
    for i in range(int(n)):
        yield i

with gr.Blocks() as demo:
    gr.LoginButton()
    who = gr.Markdown(elem_id="who")
    demo.load(hello, None, who, api_name=False)
    text, out = gr.Textbox(), gr.Textbox()
    gr.Button("shout").click(shout, text, out, api_name="shout")
    number, steps = gr.Number(3), gr.Number()
    gr.Button("count").click(count, number, steps, api_name="count")
    upload, size = gr.File(), gr.Number()
    gr.Button("size").click(lambda path: len(open(path, "rb").read()), upload, size, api_name="size")
demo.launch()
"""
README = "---\ntitle: Live\nsdk: gradio\napp_file: app.py\nhf_oauth: true\nhf_oauth_scopes: [email]\n---\n"

# In a process of its own: this machine's resolver may not know *.localhost, the client's process is told.
CLIENT = """
import socket, sys
real = socket.getaddrinfo
socket.getaddrinfo = lambda host, *a, **k: real("127.0.0.1" if str(host).endswith(".localhost") else host, *a, **k)
from gradio_client import Client, handle_file
token, data, *sources = sys.argv[1:]
for source in sources:
    try:
        client = Client(source, token=token or False, verbose=False)
        job = client.submit(3, api_name="/count")
        job.result(timeout=120)
        print(source, client.predict("hello", api_name="/shout"), job.outputs(), client.predict(handle_file(data), api_name="/size"))
        client.close()
    except Exception as error:
        print(source, "refused", type(error).__name__)
"""


expect.set_options(timeout=30_000)  # milliseconds; a busy machine starts an app in seconds


@pytest.fixture(scope="module")
def api(platform: Platform) -> HfApi:
    return HfApi(endpoint=platform.url, token=platform.token)


@pytest.fixture(scope="module")
def live(platform: Platform, api: HfApi) -> str:
    """A running Gradio Space with a sign-in button. Nothing but Gradio is declared; sign-in and `spaces` come along."""
    api.create_repo("admin/live", repo_type="space", space_sdk="gradio")
    for path, text in (("app.py", APP), ("README.md", README)):
        api.upload_file(path_or_fileobj=text.encode(), path_in_repo=path, repo_id="admin/live", repo_type="space")
    assert api.wait_for_space("admin/live", timeout=120).stage == "RUNNING"
    return "admin/live"


@pytest.fixture
def page(platform: Platform, live: str) -> Iterator[Page]:
    """A browser in which the visitor is signed in."""
    if not os.path.exists(CHROMIUM):
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGS))
        page = browser.new_page()
        page.goto(f"{platform.url}/sign-in")
        page.fill("#name", "visitor")
        page.fill("#password", "a long enough password")
        page.locator("form[action='/sign-in'] button").click()
        page.wait_for_url(f"{platform.url}/")
        yield page
        browser.close()


@pytest.fixture(scope="module", autouse=True)
def visitor(platform: Platform) -> str:
    """A token of a user who is not the owner."""
    made = platform.api("POST", "/api/admin/users", json={"name": "visitor", "password": "a long enough password"})
    assert made.status_code == 201, made.text
    return str(platform.api("POST", "/api/admin/tokens", json={"user": "visitor", "role": "read"}).json()["token"])


@pytest.mark.browser
def test_the_sign_in_button_of_an_app(platform: Platform, page: Page) -> None:
    app = f"http://admin-live.localhost:{platform.port}/"
    page.goto(app)
    expect(page.locator("#who")).to_contain_text("nobody")
    page.get_by_role("button", name=re.compile("Sign in with")).click()
    page.wait_for_url(f"{platform.url}/oauth/authorize?**")
    expect(page.locator("main")).to_contain_text("Sign in to admin/live as visitor?")
    expect(page.locator("main li")).to_have_count(3)
    page.get_by_role("button", name="Allow").click()
    page.wait_for_url(app)
    # The app's own server asked us with the token it was given; the profile leads to an address that browsers can open.
    expect(page.locator("#who")).to_contain_text(f"visitor is visitor at {platform.url}/visitor")

    page.get_by_role("button", name=re.compile("Logout")).click()
    expect(page.locator("#who")).to_contain_text("nobody")
    page.get_by_role("button", name=re.compile("Sign in with")).click()  # agreed before: not asked again
    expect(page.locator("#who")).to_contain_text("visitor is visitor")

    tokens = platform.api("GET", "/api/admin/tokens", params={"user": "visitor"}).json()["items"]
    for token in tokens:
        if token["name"] == "App: admin/live":
            assert platform.api("DELETE", f"/api/admin/tokens/{token['id']}").status_code == 200
    page.goto(f"{app}logout")
    page.goto(f"{app}login/huggingface")
    expect(page.locator("main")).to_contain_text("Sign in to admin/live as visitor?")  # taken back, so asked again
    page.get_by_role("button", name="Deny").click()
    page.wait_for_url(f"{app}login/callback?**error=access_denied**")


@pytest.mark.browser
def test_the_button_inside_the_space_page_goes_on_in_a_tab(platform: Platform, page: Page) -> None:
    page.goto(f"{platform.url}/spaces/admin/live")
    frame = page.frame_locator("iframe")
    expect(frame.locator("#who")).to_contain_text("nobody")
    frame.get_by_role("button", name=re.compile("Sign in with")).click()
    with page.context.expect_page() as opened:
        frame.locator("a.btn.go").click()
    tab = opened.value
    expect(tab.locator("main")).to_contain_text("Sign in to admin/live as visitor?")
    tab.get_by_role("button", name="Allow").click()
    expect(tab.locator("#who")).to_contain_text("visitor is visitor")


def test_gradio_client_by_name_and_address_public_and_private(
    platform: Platform, api: HfApi, live: str, visitor: str, tmp_path: Path
) -> None:
    (tmp_path / "data.bin").write_bytes(b"x" * 4321)
    address = f"http://admin-live.localhost:{platform.port}/"
    env = {**os.environ, "HF_ENDPOINT": platform.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}

    def ask(token: str, python: str = sys.executable) -> list[str]:
        command = [python, "-W", "ignore", "-c", CLIENT, token, str(tmp_path / "data.bin"), live, address]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
        return done.stdout.splitlines() or [done.stderr]

    works = [f"{live} HELLO [0, 1, 2] 4321", f"{address} HELLO [0, 1, 2] 4321"]
    assert ask("") == works
    api.update_repo_settings(live, repo_type="space", private=True)
    try:
        assert ask(platform.token) == works
        assert ask(platform.token, environment(tmp_path, "gradio_client")) == works  # over the oldest supported client
        assert ask(visitor) == [f"{live} refused RepositoryNotFoundError", f"{address} refused ValueError"]
        assert ask("") == [f"{live} refused RepositoryNotFoundError", f"{address} refused ValueError"]
    finally:
        api.update_repo_settings(live, repo_type="space", private=False)


def test_every_row_of_the_wire_contract(platform: Platform) -> None:
    """Through the proxy, while everything runs. The same without: `tests/functional/hub_api/test_client_versions.py`."""
    assert rows.walk(platform.url, platform.token) == []


def test_streams_of_a_running_app(platform: Platform, api: HfApi, live: str) -> None:
    """The log follows the app through a restart with its new secret; events tell each stage; metrics give figures."""
    lines: Queue[str] = Queue()

    def read() -> None:
        for line in api.fetch_space_logs(live, follow=True):
            lines.put(line)
            if "canary" in line:
                return

    def until(words: str) -> list[str]:
        seen: list[str] = []
        while not any(words in line for line in seen):
            seen.append(lines.get(timeout=60))
        return seen

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    first = until("Running on local URL")
    assert not any("Traceback" in line for line in first), first
    headers = {"Authorization": f"Bearer {platform.token}", "Host": f"localhost:{platform.port}"}
    base = f"http://127.0.0.1:{platform.port}/api/spaces/{live}"
    with httpx.stream("GET", f"{base}/events", headers=headers, timeout=60) as events:
        stages: list[str] = []
        for line in events.iter_lines():
            if line.startswith("data: "):
                stages.append(json.loads(line[6:])["stage"])
                if len(stages) == 1:
                    api.add_space_secret(live, "KEY", "canary-77")
                if len(stages) > 1 and stages[-1] == "RUNNING":
                    break
    assert stages == ["RUNNING", "RUNNING_APP_STARTING", "RUNNING"]
    until("starting with canary-77")
    reader.join(30)
    assert not reader.is_alive()
    with httpx.stream("GET", f"{base}/logs/run", params={"tail": 2}, headers=headers, timeout=60) as logs:
        texts = (json.loads(line[6:])["data"].strip() for line in logs.iter_lines() if line.startswith("data: {"))
        tail = [next(texts), next(texts)]
    everything = [line.strip() for line in api.fetch_space_logs(live)]  # ends by itself: the backlog is drained
    assert [line for line in everything if "canary-77" in line]
    assert tail in [everything[at : at + 2] for at in range(len(everything))]
    with httpx.stream("GET", f"{base}/metrics", headers=headers, timeout=60) as metrics:
        figures = next(json.loads(line[6:]) for line in metrics.iter_lines() if line.startswith("data: {"))
    assert 10 << 20 < figures["memory_used_bytes"] < figures["memory_total_bytes"]
    assert figures["cpu_usage_pct"] >= 0


def test_gradio_deploy(platform: Platform, api: HfApi, tmp_path: Path) -> None:
    folder = tmp_path / "deployed"
    folder.mkdir()
    (folder / "app.py").write_text('import gradio as gr\ngr.Interface(lambda x: x[::-1], "text", "text").launch()\n')
    # As in a person's shell: none of what the client's other tests set for this process.
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith("HF_")},
        "HF_ENDPOINT": platform.url, "HF_TOKEN": platform.token, "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_ANALYTICS_ENABLED": "False",
    }  # fmt: skip
    # title, app file, hardware, secrets (one, then no more), requirements.txt, GitHub action
    answers = "My Deployed Demo\n\n\ny\nKEY\nvalue-88\n\nn\nn\nn\n"
    script = "from gradio.cli import cli; import sys; sys.argv = ['gradio', 'deploy']; cli()"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], cwd=folder, env=env, input=answers, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert "Space available at" in done.stdout, done.stdout + done.stderr
    assert api.wait_for_space("admin/My_Deployed_Demo", timeout=120).stage == "RUNNING"
    assert platform.app("admin-my-deployed-demo").status_code == 200
