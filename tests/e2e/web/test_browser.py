"""The pages in Debian's Chromium: accessibility, keyboard, no script, phone, live updates. Memory backend, real browser."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

from tests.e2e.web.screenshots import ARGS, CHROMIUM, SPACE, places, problems_of, served
from tests.fakes.web_backend import LONG, NEW, NOW, MemoryWebBackend

pytestmark = [pytest.mark.browser, pytest.mark.skipif(not os.path.exists(CHROMIUM), reason="Chromium is not installed")]

PARTS = 4  # of the pages: none of them runs into the time limit of a test on a busy machine


@pytest.fixture(scope="module")
def site() -> Iterator[tuple[str, MemoryWebBackend]]:
    with served() as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGS))
        yield launched
        launched.close()


def _context(browser: Browser, site: tuple[str, MemoryWebBackend], **options: object) -> BrowserContext:
    url, backend = site
    context = browser.new_context(reduced_motion="reduce", **options)  # type: ignore[arg-type]
    context.add_cookies([{"name": "vitrine", "value": backend.signed_in, "url": url}])
    return context


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("signed_in", [True, False])
def test_axe_finds_nothing_serious_and_every_page_fits(
    browser: Browser, site: tuple[str, MemoryWebBackend], signed_in: bool, part: int
) -> None:
    """Every rule in the light theme; the dark one differs in its colours alone."""
    found: list[str] = []
    context = _context(browser, site, viewport={"width": 360, "height": 740}, bypass_csp=True)
    if not signed_in:
        context.clear_cookies()
    for name, path, then in list(places(signed_in=signed_in))[part::PARTS]:
        page = context.new_page()
        found += [f"{name}: {problem}" for problem in problems_of(page, site[0], path, then)]
        page.evaluate(Axe().axe_script)
        for theme, rules in (("light", ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa"]), ("dark", ["color-contrast"])):
            page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
            # Every element that passes, described, is two thirds of the time: of those only that there are some.
            options = {"runOnly": rules, "iframes": False, "resultTypes": ["violations"]}
            result = page.evaluate("options => axe.run(document, options)", options)
            assert result["passes"], f"no rule was asked on {name}"
            for rule in result["violations"]:
                if rule["impact"] in ("serious", "critical"):
                    found.append(f"{name} {theme}: {rule['id']} {[n['html'][:120] for n in rule['nodes'][:3]]}")
        page.close()
    context.close()
    assert not found, "\n".join(found)


def test_targets_are_large_enough_on_a_phone(browser: Browser, site: tuple[str, MemoryWebBackend]) -> None:
    small: list[str] = []
    context = _context(browser, site, viewport={"width": 360, "height": 740})
    page = context.new_page()
    for path in ("/", SPACE, f"{SPACE}/settings", f"{SPACE}/tree/main", f"{SPACE}/logs", "/settings/tokens"):
        page.goto(site[0] + path)
        small += [
            f"{path}: {text}"
            for text in page.evaluate(
                """() => [...document.querySelectorAll('button, summary, .tabs a, .chip, .bar a, .files a, input, select')]
                .filter(e => !['hidden', 'radio', 'checkbox'].includes(e.type))
                .filter(e => e.offsetParent && !e.closest('.sr')).filter(e => e.getBoundingClientRect().height < 43.5)
                .map(e => `${e.tagName} ${e.textContent.trim().slice(0, 30)} ${e.getBoundingClientRect().height}`)"""
            )
        ]
    context.close()
    assert small == []


def test_search_as_you_type_keeps_the_address_true(browser: Browser, site: tuple[str, MemoryWebBackend]) -> None:
    context = _context(browser, site)
    page = context.new_page()
    page.goto(site[0] + "/")
    page.keyboard.press("/")
    page.keyboard.type("whisper")
    expect(page.locator(".case")).to_have_count(1)
    expect(page).to_have_url(re.compile("q=whisper$"))
    page.reload()
    expect(page.locator(".case")).to_have_count(1)
    context.close()


def test_hardware_by_keyboard_alone(browser: Browser, site: tuple[str, MemoryWebBackend]) -> None:
    context = _context(browser, site)
    page = context.new_page()
    page.goto(f"{site[0]}{SPACE}/settings")
    page.locator("input[name=flavor]:checked").focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator("[data-hardware]")).to_contain_text("CPU upgrade")
    page.keyboard.press("Enter")
    page.wait_for_url("**/settings?done=hardware**")
    assert ("hardware", "cpu-upgrade") in site[1].calls
    context.close()


def test_a_demo_is_found_liked_and_left_by_keyboard_alone(browser: Browser, site: tuple[str, MemoryWebBackend]) -> None:
    context = _context(browser, site)
    page = context.new_page()
    page.goto(site[0] + "/")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.keyboard.press("/")
    page.keyboard.type("book")
    expect(page.locator(".case")).to_have_count(1)
    for _ in range(40):  # the bar, the chips, then the one card
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('case')"):
            break
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{SPACE}")
    like = page.get_by_role("button", name="Like")
    like.focus()
    page.keyboard.press("Space")
    expect(like).to_have_attribute("aria-pressed", "true")
    menu = page.locator("summary[aria-label*=alice]")
    menu.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Sign out")).to_be_hidden()
    expect(menu).to_be_focused()
    context.close()
    site[1].liked = False


def test_everything_works_without_scripts(browser: Browser, site: tuple[str, MemoryWebBackend]) -> None:
    context = _context(browser, site, java_script_enabled=False)
    page = context.new_page()
    page.goto(site[0] + "/")
    page.fill("#find", "stems")
    page.goto(site[0] + "/?q=Stem")
    assert page.locator(".case").count() == 1
    page.goto(f"{site[0]}/spaces/alice/going-live/logs")
    assert "tokenizers" in page.content()
    page.goto(f"{site[0]}{SPACE}/settings")
    page.get_by_role("button", name="15 min").click()
    expect(page).to_have_url(re.compile("done=sleep"))
    assert ("sleep", 900) in site[1].calls
    page.goto(f"{site[0]}/new-space")
    page.fill("[name=name]", "no-script")
    page.get_by_role("button", name="Create Space").click()
    expect(page).to_have_url(re.compile("/spaces/alice/no-script$"))
    assert "git clone" in page.content()
    context.close()


def test_the_app_is_framed_in_a_sandbox_of_its_own_origin(browser: Browser, site: tuple[str, MemoryWebBackend]) -> None:
    context = _context(browser, site)
    page = context.new_page()
    page.goto(site[0] + SPACE)
    frame = page.frame_locator("iframe[data-app]")
    expect(frame.locator("h1")).to_have_text("Marginalia")
    element = page.locator("iframe[data-app]")
    assert "allow-top-navigation" not in (element.get_attribute("sandbox") or "")
    assert element.get_attribute("referrerpolicy") == "no-referrer"
    context.close()


def test_every_state_of_the_gallery_is_in_the_address_and_back_leads_back(browser: Browser, site: tuple[str, MemoryWebBackend]) -> None:
    url, backend = site
    context = _context(browser, site)
    page = context.new_page()
    shown = list(backend.cards)
    backend.cards += [replace(shown[0], name=f"more-{i}", title=f"More {i}") for i in range(30)]
    try:
        page.goto(url + "/")
        page.get_by_role("link", name="Next", exact=True).click()
        expect(page.get_by_text("Page 2")).to_be_visible()
        page.get_by_role("link", name="Most liked").click()  # another order begins at its first page
        expect(page.locator(".case").first).to_contain_text("Betriebs")
        page.get_by_role("link", name="Gradio", exact=True).click()
        expect(page).to_have_url(re.compile("sdk=gradio"))
        page.get_by_role("link", name="Running now").click()
        expect(page).to_have_url(re.compile("running=1"))
        page.locator("summary", has_text="Hardware").click()
        page.get_by_role("link", name="t4-small", exact=True).click()
        expect(page).to_have_url(re.compile("hardware=t4-small"))
        assert all(word in page.url for word in ("sort=likes", "sdk=gradio", "running=1"))
        page.locator("#find").fill("More 1")
        expect(page.locator(".case")).to_have_count(11)
        page.reload()
        expect(page.locator(".case")).to_have_count(11)
        assert page.locator("#find").input_value() == "More 1"
        page.go_back()
        expect(page).not_to_have_url(re.compile("hardware"))
        expect(page).to_have_url(re.compile("running=1"))
        page.go_back()
        expect(page).not_to_have_url(re.compile("running"))
        page.go_back()
        expect(page).to_have_url(re.compile(r"\?sort=likes$"))
        page.go_back()
        expect(page.get_by_text("Page 2")).to_be_visible()
    finally:
        backend.cards[:] = shown
        context.close()


def test_a_log_is_searched_paused_and_downloaded(browser: Browser, site: tuple[str, MemoryWebBackend]) -> None:
    context = _context(browser, site)
    page = context.new_page()
    page.goto(f"{site[0]}{SPACE}/logs?which=run")
    expect(page.locator("[data-state]")).to_have_text("ended")
    expect(page.locator("li .ag")).to_contain_text("Running on local URL:")  # a colour of the terminal
    page.get_by_role("searchbox", name="Search this log").fill("TOKENIZERS")
    expect(page.locator("li.hit")).to_have_count(1)
    pause = page.get_by_role("button", name="Pause")
    pause.click()
    expect(page.locator("[data-state]")).to_have_text("paused")
    expect(page.get_by_role("button", name="Go on")).to_have_attribute("aria-pressed", "true")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    text = Path(download.value.path()).read_text("utf-8")
    assert "tokenizers 0.23.1" in text and "\x1b" not in text
    context.close()


def test_history_deploys_a_revision_and_a_deletion_waits_for_the_name(browser: Browser, site: tuple[str, MemoryWebBackend]) -> None:
    url, backend = site
    context = _context(browser, site)
    page = context.new_page()
    page.goto(f"{url}{SPACE}/commits/main")
    page.get_by_role("button", name="Deploy revision 9b1c0de").click()
    expect(page.get_by_text("That revision is being brought live.")).to_be_visible()
    assert ("deploy", NEW) in backend.calls
    page.goto(f"{url}{SPACE}/settings")
    delete = page.get_by_role("button", name="Delete for good")
    expect(delete).to_be_disabled()
    page.locator("#confirm").fill("alice/marginali")
    expect(delete).to_be_disabled()
    page.locator("#confirm").fill("alice/marginalia")
    delete.click()
    page.wait_for_url("**/alice?done=deleted")
    assert ("delete",) in backend.calls
    context.close()


def test_the_hardware_picker_says_what_is_free_who_waits_and_what_is_allowed(browser: Browser, site: tuple[str, MemoryWebBackend]) -> None:
    context = _context(browser, site)
    page = context.new_page()
    page.goto(f"{site[0]}{SPACE}/settings")
    tier = page.locator("label.tier")
    expect(tier.filter(has_text="cpu-basic")).to_contain_text("10 of 16 free · starts in about 9 s")
    expect(tier.filter(has_text="a10g-small")).to_contain_text("none free · place 2 in line · about 4 min")
    expect(tier.filter(has_text="a100-large")).to_contain_text("not in your quota")
    expect(tier.filter(has_text="a100-large").locator("input")).to_be_disabled()
    expect(page.locator("#hardware")).to_contain_text("gpu-hours: 1.6 / 20")
    context.close()


def test_share_copies_what_it_shows_and_the_app_fills_the_screen(browser: Browser, site: tuple[str, MemoryWebBackend]) -> None:
    context = _context(browser, site, permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(f"{site[0]}{SPACE}/share")
    for heading, begins in (
        ("Link", "http://127.0.0.1:7860/spaces/alice/marginalia"), ("Embed", '<iframe src="'),
        ("Call it from Python", "pip install gradio_client"),
        ("MCP", '{"mcpServers": {"marginalia": {"url": "'), ("Git", "git clone http://127.0.0.1:7860/spaces/alice/marginalia"),
    ):  # fmt: skip
        part = page.locator("section", has=page.get_by_role("heading", name=heading, exact=True))
        part.get_by_role("button", name="Copy").click()
        expect(part.get_by_role("button")).to_have_text("Copied")
        assert str(page.evaluate("navigator.clipboard.readText()")).startswith(begins)
    page.goto(site[0] + SPACE)
    page.get_by_role("button", name="Full screen").click()
    page.wait_for_function("document.fullscreenElement?.id === 'stand'")
    context.close()


def test_analytics_has_its_figures_spans_and_table(browser: Browser, site: tuple[str, MemoryWebBackend]) -> None:
    context = _context(browser, site)
    page = context.new_page()
    page.goto(f"{site[0]}{SPACE}/analytics")
    for label in ("Requests", "Median answer", "99 of 100 within", "Server errors", "Processor now", "Memory now", "Wake-ups", "Cost"):
        expect(page.locator(".measures dt", has_text=label).first).to_be_visible()
    page.get_by_role("link", name="7 days").click()
    expect(page).to_have_url(re.compile("span=week"))
    page.locator("summary", has_text="As a table").click()
    expect(page.get_by_role("columnheader", name="Server errors")).to_be_visible()
    context.close()


def test_an_open_page_asks_nothing_while_nothing_happens(browser: Browser, site: tuple[str, MemoryWebBackend]) -> None:
    """Ten minutes of the page's clock, and no event: no page asks by the clock."""
    context = _context(browser, site)
    page = context.new_page()
    page.clock.install(time=NOW)
    # Streams that say at once that nothing more comes: what they would tell is no matter of the clock.
    page.route("**/*", lambda route: route.fulfill(status=204) if route.request.resource_type == "eventsource" else route.continue_())
    asked: list[str] = []
    page.on("request", lambda request: asked.append(f"{request.resource_type} {request.url}"))
    for path in ("/", SPACE, "/spaces/alice/going-live", f"{SPACE}/logs?which=run", f"{SPACE}/settings", "/notifications", "/admin"):
        page.goto(site[0] + path, wait_until="load")
        page.clock.run_for(2_000)  # what a page does once after it came
        asked.clear()
        page.clock.run_for(600_000)
        page.evaluate("new Promise(done => setTimeout(done, 0))")
        assert [line for line in asked if line.startswith(("fetch", "xhr", "document"))] == [], path
    context.close()


@pytest.mark.parametrize(
    ("locale", "words"), [("ru-RU", "Все машины с оборудованием «a10g-largex4» заняты."), ("zh-CN", "硬件“a10g-largex4”的机器全部在用。")]
)
def test_why_it_waits_is_said_in_the_readers_language(
    browser: Browser, site: tuple[str, MemoryWebBackend], locale: str, words: str
) -> None:
    context = _context(browser, site, locale=locale)
    page = context.new_page()
    page.goto(f"{site[0]}/spaces/alice/{LONG}")
    expect(page.locator("html")).to_have_attribute("lang", locale[:2])
    expect(page.locator(".say")).to_contain_text(words)
    page.goto(f"{site[0]}/spaces/mira/whisper-notes/settings")  # words that no catalogue has: by their code, and as they are
    expect(page.locator("[role=alert] [lang=en]")).to_have_text("alice is not allowed to change mira's Space.")
    context.close()
