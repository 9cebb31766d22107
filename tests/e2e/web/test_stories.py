"""The four stories of the pages, end to end: a real platform, real apps, Debian's Chromium, nothing patched."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.e2e.conftest import Platform, Work
from tests.e2e.test_push_to_live import PLAIN
from tests.e2e.web.screenshots import ARGS, CHROMIUM

pytestmark = [pytest.mark.browser, pytest.mark.skipif(not os.path.exists(CHROMIUM), reason="Chromium is not installed")]
SLOW_MS = 90_000

HOUSE = """import gradio as gr

def rhyme(word: str) -> str:
    return f"{word}, said the marmalade cat"

gr.Interface(rhyme, gr.Textbox(label="Word"), gr.Textbox(label="Rhyme"), title="Rhymes").launch()
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGS))
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def owner(platform: Platform, browser: Browser) -> Iterator[BrowserContext]:
    """The administrator, signed in by the link that the start printed."""
    link = re.search(r"http\S+/sign-in/once\S+", "".join(platform.output))
    assert link is not None
    context = browser.new_context(locale="en-GB", reduced_motion="reduce")
    page = context.new_page()
    page.goto(link[0])
    page.locator("main button").click()
    expect(page.locator("summary[aria-label*=admin]")).to_be_visible()
    page.close()
    yield context
    context.close()


@pytest.fixture
def page(owner: BrowserContext) -> Iterator[Page]:
    """No story may log an error or break a policy of the page."""
    made = owner.new_page()
    wrong: list[str] = []
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.on("console", lambda m: wrong.append(m.text) if m.type == "error" and "Content Security Policy" in m.text else None)
    yield made
    made.close()
    assert wrong == []


def test_push_and_watch_it_go_live(platform: Platform, page: Page, tmp_path: Path) -> None:
    page.goto(f"{platform.url}/new-space")
    page.fill("[name=name]", "rhymes")
    page.get_by_role("button", name="Create Space").click()
    expect(page.get_by_text("Ready for your first push")).to_be_visible()
    work = Work(platform, "rhymes", tmp_path / "rhymes")
    readme = "---\ntitle: Rhymes\nemoji: 🍊\nsdk: gradio\nshort_description: A word and its rhyme\n---\n# Rhymes\n"
    work.write(**{"app.py": HOUSE, "README.md": readme})
    work.push("First rhyme", wait=False)
    # The page was opened before the push and is never loaded again.
    expect(page.get_by_text("First rhyme")).to_be_visible(timeout=SLOW_MS)
    expect(page.locator("[data-stage=RUNNING]").first).to_be_visible(timeout=SLOW_MS)
    expect(page.frame_locator("iframe[data-app]").get_by_label("Word")).to_be_visible(timeout=SLOW_MS)
    expect(page.locator(".tag.mono", has_text=work.commit_id()[:7]).first).to_be_visible()


def test_the_stream_of_a_page_goes_on_where_it_broke_off(platform: Platform) -> None:
    """What was missed is told at once; who missed nothing is told what comes next and nothing twice."""
    address = f"{platform.url}/-/spaces/admin/rhymes/events"

    def told(after: int, then: Callable[[], object]) -> int:
        """The number of the first event that tells news; `then` is done once the stream is open."""
        number = 0
        with httpx.stream("GET", address, headers={"Last-Event-ID": str(after)}, timeout=60) as answer:
            assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
            for line in answer.iter_lines():
                if line.startswith(":"):
                    then()
                    then = int
                elif line.startswith("id: "):
                    number = int(line[4:])
                elif line.startswith("data: ") and json.loads(line[6:])["kind"]:
                    return number
        raise AssertionError("the stream ended")

    missed = told(1, int)
    assert missed > 1
    sleep = {"seconds": 3600}
    assert told(missed, lambda: platform.api("POST", "/api/spaces/admin/rhymes/sleeptime", json=sleep).raise_for_status()) > missed


def test_find_and_use_a_demo(platform: Platform, browser: Browser) -> None:
    """A stranger, on a phone, knows one word of the source."""
    context = browser.new_context(viewport={"width": 390, "height": 800}, locale="en-GB", color_scheme="dark", reduced_motion="reduce")
    page = context.new_page()
    page.goto(platform.url)
    page.locator("#find").fill("marmalade")
    expect(page.locator(".case")).to_have_count(1)
    expect(page).to_have_url(re.compile("q=marmalade"))
    page.locator(".case").click()
    frame = page.frame_locator("iframe[data-app]")
    frame.get_by_label("Word").fill("orange", timeout=SLOW_MS)
    frame.get_by_role("button", name="Submit").click()
    expect(frame.get_by_label("Rhyme")).to_have_value("orange, said the marmalade cat", timeout=SLOW_MS)
    page.goto(f"{platform.url}/spaces/admin/rhymes/share")
    expect(page.locator("pre", has_text=f'<iframe src="http://admin-rhymes.localhost:{platform.port}')).to_be_visible()
    context.close()


def test_change_hardware_and_see_it_happen(platform: Platform, page: Page) -> None:
    page.goto(f"{platform.url}/spaces/admin/rhymes/settings")
    page.locator("label.tier", has_text="cpu-upgrade").click()
    page.locator("[data-hardware]").click()
    expect(page.get_by_text("Hardware requested.")).to_be_visible()
    status = page.locator("[data-fragment=status]")
    expect(status.locator(".tag.mono", has_text=re.compile(r"^\s*cpu-upgrade\s*$"))).to_be_visible(timeout=SLOW_MS)
    expect(status.locator("[data-stage=RUNNING]")).to_be_visible(timeout=SLOW_MS)
    hardware = platform.runtime("rhymes")["hardware"]
    assert isinstance(hardware, dict)
    assert (hardware["current"], hardware["requested"]) == ("cpu-upgrade", "cpu-upgrade")


def test_hit_a_quota_and_understand_it(platform: Platform, page: Page) -> None:
    page.goto(f"{platform.url}/admin/quotas?subject=admin")
    row = page.locator("tr", has=page.get_by_role("textbox", name="spaces", exact=True))
    row.get_by_role("textbox").fill("1")
    row.get_by_role("button").click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    try:
        page.goto(f"{platform.url}/new-space")
        page.fill("[name=name]", "one-too-many")
        page.get_by_role("button", name="Create Space").click()
        alert = page.locator("[role=alert]")
        expect(alert).to_contain_text("spaces")
        expect(alert.locator(".facts")).to_contain_text("1")
        assert page.locator("[name=name]").input_value() == "one-too-many"
    finally:
        page.goto(f"{platform.url}/admin/quotas?subject=admin")
        row = page.locator("tr", has=page.get_by_role("textbox", name="spaces", exact=True))
        row.get_by_role("textbox").fill("unlimited")
        row.get_by_role("button").click()
        expect(page.get_by_text("Saved.")).to_be_visible()


def test_a_pull_request_runs_before_it_is_merged(platform: Platform, page: Page) -> None:
    platform.create("paint")
    work_page = f"{platform.url}/spaces/admin/paint"
    page.goto(f"{work_page}/new/main")
    page.fill("[name=path]", "app.py")
    page.fill("[name=content]", PLAIN.format(text="wet paint"))
    page.get_by_role("button", name="Commit to main").click()
    platform.until("paint", "RUNNING", seconds=90)
    page.goto(f"{work_page}/edit/main/app.py")
    page.fill("[name=content]", PLAIN.format(text="dry paint"))
    page.fill("[name=message]", "Let it dry")
    page.get_by_role("button", name="Propose as a pull request").click()
    page.get_by_role("button", name="Start a preview app").click()
    platform.until("paint-pr-1", "RUNNING", seconds=90)
    assert platform.app("admin-paint-pr-1").text == "dry paint"
    assert platform.app("admin-paint").text == "wet paint"
    page.reload()
    page.get_by_role("button", name="Merge").click()
    expect(page.locator(".stage", has_text="merged").first).to_be_visible()
    merged = str(platform.api("GET", "/api/spaces/admin/paint").json()["sha"])
    end = time.monotonic() + SLOW_MS / 1000
    while platform.app("admin-paint").headers["x-vitrine-revision"] != merged:
        assert time.monotonic() < end
        time.sleep(0.2)
    page.goto(f"{work_page}/commits/main")
    expect(page.locator("li", has_text="Let it dry (#1)").locator(".stage", has_text="Live")).to_be_visible()
    assert platform.app("admin-paint").text == "dry paint"
    assert platform.api("GET", "/api/spaces/admin/paint-pr-1").status_code == 404


def test_storage_is_asked_for_and_given_up_by_form(platform: Platform, page: Page) -> None:
    page.goto(f"{platform.url}/spaces/admin/paint/settings")
    panel = page.locator("#storage")
    panel.locator("select[name=tier]").select_option("small")
    panel.get_by_role("button", name="Use this storage").click()
    expect(page.get_by_text("Storage is there; the app starts again")).to_be_visible()
    expect(panel.locator(".push .mono", has_text="/data")).to_be_visible()
    assert platform.runtime("paint")["storage"] == "small"
    remove = panel.get_by_role("button", name="Delete the storage")
    expect(remove).to_be_disabled()
    panel.locator("[name=confirm]").fill("admin/paint")
    remove.click()
    expect(page.get_by_text("Storage deleted; the app starts again without it.")).to_be_visible()
    assert platform.runtime("paint")["storage"] is None
    platform.until("paint", "RUNNING", seconds=90)


def test_a_repository_is_mounted_and_removed_by_form(platform: Platform, page: Page) -> None:
    """At the width of a phone; the page of the Space names it to those who may know it."""
    answer = platform.api("POST", "/api/repos/create", json={"name": "colours", "type": "model", "private": True})
    assert answer.status_code == 200, answer.text
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"{platform.url}/spaces/admin/paint/settings")
    panel = page.locator("#volumes")
    panel.locator("[name=source]").fill("admin/colours")
    panel.locator("[name=mount_path]").fill("/proc/1")
    panel.get_by_role("button", name="Mount").click()
    expect(page.get_by_text("nothing can be mounted at /proc/1")).to_be_visible()
    panel.locator("[name=source]").fill("admin/colours")
    panel.locator("[name=mount_path]").fill("/data/colours")
    panel.get_by_role("button", name="Mount").click()
    expect(page.get_by_text("Mounted; the app starts again with it.")).to_be_visible()
    expect(panel.get_by_role("link", name="admin/colours")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), "nothing is cut off"
    assert [v["mountPath"] for v in platform.runtime("paint")["volumes"]] == ["/data/colours"]  # type: ignore[attr-defined]
    page.goto(f"{platform.url}/spaces/admin/paint")
    expect(page.get_by_text("/data/colours", exact=True)).to_be_visible()  # not the words about its way there
    seen = httpx.get(f"{platform.url}/spaces/admin/paint").text
    assert "private repository" in seen
    assert "admin/colours" not in seen
    page.goto(f"{platform.url}/spaces/admin/paint/settings")
    page.locator("#volumes").get_by_role("button", name="Remove /data/colours").click()
    expect(page.get_by_text("Not mounted any more")).to_be_visible()
    assert platform.runtime("paint")["volumes"] == []
    platform.until("paint", "RUNNING", seconds=90)


def test_the_bell_rings_when_an_app_fails(platform: Platform, owner: BrowserContext, page: Page) -> None:
    """A page that is open hears of it without being loaded again; reading it leads to the log."""
    page.goto(f"{platform.url}/models")
    before = page.evaluate("Number(document.querySelector('[data-count]').textContent)")  # other tests' apps failed here too
    other = owner.new_page()
    other.goto(f"{platform.url}/spaces/admin/paint/edit/main/app.py")
    other.fill("[name=content]", "raise SystemExit('the paint is gone')\n")
    other.get_by_role("button", name="Commit to main").click()
    expect(other.get_by_text("Committed.")).to_be_visible()
    other.close()
    more = (
        "before => { const figure = document.querySelector('[data-count]'); return !figure.hidden && Number(figure.textContent) > before }"
    )
    page.wait_for_function(more, arg=before, timeout=SLOW_MS)
    page.locator("[data-bell]").click()
    notice = page.locator(".notices .new", has_text="App failed").filter(has_text="admin/paint")
    end = time.monotonic() + SLOW_MS / 1000
    while not notice.count():  # the first that was heard may have been another's
        assert time.monotonic() < end
        page.reload()
    notice.get_by_role("button").first.click()
    expect(page).to_have_url(re.compile("/spaces/admin/paint/logs"))
    expect(page.get_by_text("the paint is gone").first).to_be_visible()
