"""Pictures of every page: `python -m tests.e2e.web.screenshots [URL [COOKIE]] OUT`.

Without URL the pages are served from the memory backend of the tests. With one, a running platform is shot (COOKIE is the
value of a session cookie for the pages of a signed-in person). Two themes, two widths; a page that scrolls sideways, logs
an error or shifts is named on the way and makes the command fail.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response
from playwright.sync_api import Browser, Page, sync_playwright

from control_plane.http import context, error_map
from control_plane.http.consent import EVERYTHING, ConsentPages, Question
from tests.fakes.clock import FixedClock
from tests.fakes.web_backend import LONG, NOW, SHA, MemoryWebBackend
from web.router import consent_pages, error_page, mount_static, web_pages, web_router

CHROMIUM = "/usr/bin/chromium"
ARGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
)  # fmt: skip
SPACE = "/spaces/alice/marginalia"
PAGES: dict[str, str] = {
    "gallery": "/", "search-empty": "/spaces?q=nothing-like-this", "search-filtered": "/spaces?sdk=gradio&running=1&hardware=t4-small",
    "app": SPACE, "asleep": "/spaces/lab-oslo/stitch-stable", "going-live": "/spaces/alice/going-live",
    "first-push": "/spaces/alice/empty-room", "failed": "/spaces/alice/broken", "long-names": f"/spaces/alice/{LONG}",
    "tree": f"{SPACE}/tree/main", "blob": f"{SPACE}/blob/main/app.py",
    "edit": f"{SPACE}/edit/main/app.py", "history": f"{SPACE}/commits/main", "commit": f"{SPACE}/commit/{SHA}",
    "community": f"{SPACE}/discussions", "discussion": f"{SPACE}/discussions/1", "discussion-new": f"{SPACE}/discussions/new",
    "pull-request": f"{SPACE}/discussions/2", "logs": f"{SPACE}/logs?which=build", "analytics": f"{SPACE}/analytics",
    "settings": f"{SPACE}/settings", "settings-said": f"{SPACE}/settings?done=hardware", "share": f"{SPACE}/share",
    "duplicate": f"{SPACE}/duplicate", "new-space": "/new-space", "profile": "/alice", "collection": "/collections/alice/reading-room",
    "tokens": "/settings/tokens", "account": "/settings/account", "notifications": "/notifications",
    "organisation": "/organizations/lab-oslo/settings", "new-organisation": "/organizations/new",
    "datasets": "/datasets", "dataset": "/datasets/alice/books", "gated": "/datasets/mira/voices",
    "gate": "/datasets/alice/letters/settings",
    "api": "/docs", "device-code": "/oauth/device", "device-asked": "/oauth/device?user_code=WDJBMJHT", "app-asked": "/oauth/authorize",
    "admin": "/admin", "admin-users": "/admin/users", "admin-quotas": "/admin/quotas?subject=alice", "admin-usage": "/admin/usage",
    "admin-audit": "/admin/audit", "missing": "/spaces/alice/nowhere", "forbidden": "/spaces/mira/whisper-notes/settings",
}  # fmt: skip
STRANGER: dict[str, str] = {
    "sign-in": "/sign-in", "sign-up": "/sign-up", "once": "/sign-in/once?token=x", "gallery-stranger": "/", "app-stranger": SPACE,
}  # fmt: skip


def _sent(page: Page, button: str, **fields: str) -> None:
    """A form of the page, filled and sent."""
    for name, text in fields.items():
        page.locator(f"main [name={name}]").fill(text)
    with page.expect_navigation(wait_until="load"):
        page.locator("main").get_by_role("button", name=button, exact=True).click()


# What stands there only after a form was sent: name → where it begins, and what is done there.
AFTER: dict[str, tuple[str, Callable[[Page], None]]] = {
    "quota-hit": ("/new-space", lambda page: _sent(page, "Create Space", name="one-too-many")),
    "name-taken": ("/new-space", lambda page: _sent(page, "Create Space", name="marginalia")),
    "import-failed": ("/new-space", lambda page: _sent(page, "Create Space", name="new", source="https://git.example.org/not-there.git")),
    "token-made": ("/settings/tokens", lambda page: _sent(page, "Create token", name="laptop")),
    "device-allowed": ("/oauth/device?user_code=WDJBMJHT", lambda page: _sent(page, "Allow")),
}
AFTER_STRANGER: dict[str, tuple[str, Callable[[Page], None]]] = {
    "sign-in-refused": ("/sign-in", lambda page: _sent(page, "Sign in", name="alice", password="wrong")),
}
WIDTHS = {"desktop": (1440, 900), "phone": (390, 844)}
# A picture of the whole page shows the cards below the fold too.
ALL_CARDS = "[...document.styleSheets].forEach(s => s.insertRule('.case { content-visibility: visible !important }', s.cssRules.length))"
SHIFT = """() => new Promise(done => { let sum = 0; new PerformanceObserver(l => { for (const e of l.getEntries()) sum += e.value; })
  .observe({type: 'layout-shift', buffered: true}); setTimeout(() => done(sum), 50); })"""


def memory_app() -> tuple[FastAPI, MemoryWebBackend]:
    """The pages over the memory backend, and a stand-in app to frame."""
    backend = MemoryWebBackend()
    app = FastAPI(docs_url=None, redoc_url=None)
    mount_static(app)

    @app.get("/-/stand-in/")
    def stand_in() -> Response:
        html = "<!doctype html><title>app</title><body style='font:16px system-ui;padding:2rem'><h1>Marginalia</h1><p>Ask a book.</p>"
        return Response(html, media_type="text/html")

    pages = web_pages(backend, FixedClock(NOW), secure=False)
    _consent(app, consent_pages(pages))
    app.include_router(web_router(pages))
    error_map.install(app, html=error_page(pages))
    context.install_context(app)
    return app, backend


def _consent(app: FastAPI, consent: ConsentPages) -> None:
    """What the OAuth provider draws."""
    scopes, app_of = ("openid", "profile", "email", "read-repos"), "https://mira-whisper-notes.example.org"
    device = Question("hf", "alice", (EVERYTHING,), "/oauth/device/decide", {"user_code": "WDJBMJHT"}, code="WDJB-MJHT")
    of_app = Question("Whisper Notes", "alice", scopes, "/oauth/device/decide", {"state": "x"}, leads_to=app_of)

    @app.get("/oauth/device")
    async def code(request: Request, user_code: str = "") -> Response:
        return await (consent.ask(request, device) if user_code else consent.ask_code(request))

    @app.post("/oauth/device/decide")
    async def decide(request: Request) -> Response:
        return await consent.decided(request, allowed=True)

    @app.get("/oauth/authorize")
    async def authorize(request: Request) -> Response:
        return await consent.ask(request, of_app)


@contextmanager
def served() -> Iterator[tuple[str, MemoryWebBackend]]:
    """The memory pages on a free port of the loopback."""
    app, backend = memory_app()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://localhost:{server.servers[0].sockets[0].getsockname()[1]}"
    backend.app_url = url.replace("localhost", "app.localhost") + "/-/stand-in/"
    backend.frame_source = "http://*.localhost:*"
    try:
        yield url, backend
    finally:
        server.should_exit = True
        thread.join()


def problems_of(page: Page, url: str, path: str, then: Callable[[Page], None] | None = None) -> list[str]:
    """What must not be: sideways scrolling, console errors, layout shift over 0.1."""
    found: list[str] = []
    # An answer that refuses is what some pages are here for; the browser logs its status.
    page.on("console", lambda m: found.append(f"console: {m.text}") if m.type == "error" and "status of 4" not in m.text else None)
    page.on("pageerror", lambda e: found.append(f"script: {e}"))
    page.goto(url + path, wait_until="load")
    if then is not None:
        then(page)
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    if wide > 0:
        found.append(f"scrolls sideways by {wide} px")
    shift = page.evaluate(SHIFT)
    if shift > 0.1:
        found.append(f"layout shift {shift:.2f}")
    return found


def places(*, signed_in: bool) -> Iterator[tuple[str, str, Callable[[Page], None] | None]]:
    """(name, path, what is done there) of every picture."""
    for name, path in (PAGES if signed_in else STRANGER).items():
        yield name, path, None
    for name, (path, then) in (AFTER if signed_in else AFTER_STRANGER).items():
        yield name, path, then


def shoot(browser: Browser, url: str, out: Path, cookie: str, only: str = "", at: datetime | None = None) -> list[str]:
    """`only`: part of a picture's name; `at`: what the pages' scripts take for now."""
    failures: list[str] = []
    for theme in ("light", "dark"):
        for width, (w, h) in WIDTHS.items():
            for signed_in in (True, False):
                view = browser.new_context(color_scheme=theme, viewport={"width": w, "height": h}, locale="en-GB", reduced_motion="reduce")  # type: ignore[arg-type]
                if signed_in and cookie:
                    view.add_cookies([{"name": "vitrine", "value": cookie, "url": url}])
                for name, path, then in places(signed_in=signed_in):
                    if only and only not in f"{name}-{width}-{theme}":
                        continue
                    page = view.new_page()
                    if at is not None:
                        page.clock.set_fixed_time(at)
                    failures += [f"{name} {width} {theme}: {p}" for p in problems_of(page, url, path, then)]
                    page.evaluate(ALL_CARDS)
                    page.screenshot(path=out / f"{name}-{width}-{theme}.png", full_page=True)
                    page.close()
                view.close()
    return failures


def main(arguments: list[str]) -> int:
    out = Path(arguments[-1] if arguments else "screenshots")
    out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGS))
        if len(arguments) > 1 and arguments[0].startswith("http"):
            failures = shoot(browser, arguments[0], out, arguments[1] if len(arguments) > 2 else "")
        else:
            with served() as (url, backend):
                failures = shoot(browser, url, out, backend.signed_in, arguments[0] if len(arguments) > 1 else "", NOW)
        browser.close()
    print("\n".join(failures) or f"every page is in {out}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
