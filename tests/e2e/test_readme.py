"""The README's first command, as a new user has it: a clean clone, an empty home, nothing prepared; then a real demo in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, Platform, Work, wait_gone
from tests.e2e.test_push_to_live import GRADIO

CHROMIUM = "/usr/bin/chromium"
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"


@pytest.mark.slow
@pytest.mark.browser
def test_make_up_in_a_clean_clone_then_push_then_look(tmp_path: Path) -> None:
    if not os.path.exists(CHROMIUM):
        if os.environ.get("CI") == "true":
            pytest.fail("chromium is missing")
        pytest.skip("chromium is missing")
    from playwright.sync_api import sync_playwright

    home, clone = tmp_path / "home", tmp_path / "vitrine"
    home.mkdir()
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{ROOT}", str(clone)], check=True, timeout=60)
    assert re.search(r"^make up\b", (clone / "README.md").read_text(), re.MULTILINE)
    wanted = ("PATH", "LANG", "PYTHON", "CURL_CA_BUNDLE")
    kept = {k: v for k, v in os.environ.items() if k in wanted or "CERT" in k or "PROXY" in k.upper()}
    process = subprocess.Popen(
        ["make", "up", "ARGS=--port 0"], cwd=clone, env={**kept, "HOME": str(home)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    said: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if "Ctrl-C stops" in line:
                break
        whole = "".join(said)
        assert "Installing" in whole, whole
        assert "Vitrine is ready at" in whole, whole
        link = re.search(r"http\S+/sign-in/once\?token=\S+", whole)
        assert link is not None, whole
        data = clone / ".vitrine"
        platform = Platform(data, process, json.loads((data / "ready.json").read_text()), said)
        platform.create("first")
        work = Work(platform, "first", tmp_path / "first")
        work.write(**{"app.py": GRADIO})
        assert "Live at" in work.push("First")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS.split(), "--disable-sync"])
            page = browser.new_page()
            page.goto(link[0])
            page.locator("main button").first.click()
            page.goto(f"{platform.url}/")
            assert page.get_by_text("first").count()
            page.goto(f"{platform.url}/spaces/admin/first")
            app = page.frame_locator("iframe")
            app.get_by_role("textbox").first.fill("seen")
            app.get_by_role("button", name="go", exact=True).click()
            values = app.locator("textarea, input")
            for _ in range(100):
                if "SEEN!" in [values.nth(i).input_value() for i in range(values.count()) if values.nth(i).get_attribute("type") != "file"]:
                    break
                page.wait_for_timeout(100)
            else:
                pytest.fail("the prediction never came")
            browser.close()
    finally:
        os.killpg(process.pid, signal.SIGINT)
        wait_gone(process)
        shutil.rmtree(tmp_path / "vitrine", ignore_errors=True)
    assert not (clone / ".vitrine" / "ready.json").exists()
