"""The pages in Debian's Chromium: accessibility, keyboard, no script, phone, live updates. Memory backend, real browser."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

from tests.e2e.web.screenshots import ARGS, CHROMIUM, SPACE, places, problems_of, served
from tests.fakes.web_backend import MemoryWebBackend

pytestmark = [pytest.mark.browser, pytest.mark.skipif(not os.path.exists(CHROMIUM), reason="Chromium is not installed")]


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


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious_and_every_page_fits(browser: Browser, site: tuple[str, MemoryWebBackend], theme: str) -> None:
    found: list[str] = []
    for signed_in in (True, False):
        context = _context(browser, site, color_scheme=theme, viewport={"width": 360, "height": 740}, bypass_csp=True)
        if not signed_in:
            context.clear_cookies()
        for name, path, then in places(signed_in=signed_in):
            page = context.new_page()
            found += [f"{name}: {problem}" for problem in problems_of(page, site[0], path, then)]
            result = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa"], "iframes": False})
            for rule in result.response["violations"]:
                if rule["impact"] in ("serious", "critical"):
                    found.append(f"{name}: {rule['id']} {[n['html'][:120] for n in rule['nodes'][:3]]}")
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
    assert "q=whisper" in page.url
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
    assert ("sleep", 900) in site[1].calls
    page.goto(f"{site[0]}/new-space")
    page.fill("[name=name]", "no-script")
    page.get_by_role("button", name="Create Space").click()
    assert page.url.endswith("/spaces/alice/no-script")
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
