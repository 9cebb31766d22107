"""Pictures of every page: `python -m tests.e2e.web.screenshots [URL [COOKIE]] OUT`.

Without URL the pages are served from the memory backend of the tests. With one, a running platform is shot (COOKIE is the
value of a session cookie for the pages of a signed-in person). Two themes, two widths; a page that scrolls sideways, logs
an error or shifts is named on the way and makes the command fail.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Response
from playwright.sync_api import Browser, Page, sync_playwright

from control_plane.http import context, error_map
from tests.fakes.clock import FixedClock
from tests.fakes.web_backend import NOW, MemoryWebBackend
from web.router import error_page, mount_static, web_pages, web_router

CHROMIUM = "/usr/bin/chromium"
ARGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
)  # fmt: skip
SPACE = "/spaces/alice/marginalia"
PAGES: dict[str, str] = {
    "gallery": "/", "search-empty": "/spaces?q=nothing-like-this", "app": SPACE, "going-live": "/spaces/alice/going-live",
    "first-push": "/spaces/alice/empty-room", "failed": "/spaces/alice/broken", "tree": f"{SPACE}/tree/main",
    "blob": f"{SPACE}/blob/main/app.py",
    "edit": f"{SPACE}/edit/main/app.py", "history": f"{SPACE}/commits/main", "commit": f"{SPACE}/commit/{'3f2a91c' + '0' * 33}",
    "community": f"{SPACE}/discussions", "discussion": f"{SPACE}/discussions/1", "logs": f"{SPACE}/logs?which=build",
    "analytics": f"{SPACE}/analytics",
    "settings": f"{SPACE}/settings", "share": f"{SPACE}/share", "new-space": "/new-space", "profile": "/alice",
    "collection": "/collections/alice/reading-room",
    "tokens": "/settings/tokens",
    "pull-request": f"{SPACE}/discussions/2", "duplicate": f"{SPACE}/duplicate", "admin-usage": "/admin/usage",
    "notifications": "/notifications",
    "organisation": "/organizations/lab-oslo/settings",
    "new-organisation": "/organizations/new",
    "account": "/settings/account", "admin": "/admin", "admin-users": "/admin/users", "admin-quotas": "/admin/quotas?subject=alice",
    "admin-audit": "/admin/audit", "datasets": "/datasets", "dataset": "/datasets/alice/books", "missing": "/spaces/alice/nowhere",
}  # fmt: skip
STRANGER: dict[str, str] = {"sign-in": "/sign-in", "sign-up": "/sign-up", "once": "/sign-in/once?token=x"}
WIDTHS = {"desktop": (1440, 900), "phone": (390, 844)}
SHIFT = """() => new Promise(done => { let sum = 0; new PerformanceObserver(l => { for (const e of l.getEntries()) sum += e.value; })
  .observe({type: 'layout-shift', buffered: true}); setTimeout(() => done(sum), 50); })"""


def memory_app() -> tuple[FastAPI, MemoryWebBackend]:
    """The pages over the memory backend, and a stand-in app to frame."""
    backend = MemoryWebBackend()
    app = FastAPI()
    mount_static(app)

    @app.get("/-/stand-in")
    def stand_in() -> Response:
        html = "<!doctype html><title>app</title><body style='font:16px system-ui;padding:2rem'><h1>Marginalia</h1><p>Ask a book.</p>"
        return Response(html, media_type="text/html")

    pages = web_pages(backend, FixedClock(NOW), secure=False)
    app.include_router(web_router(pages))
    error_map.install(app, html=error_page(pages))
    context.install_context(app)
    return app, backend


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
    backend.app_url = url.replace("localhost", "app.localhost") + "/-/stand-in"
    backend.frame_source = "http://*.localhost:*"
    try:
        yield url, backend
    finally:
        server.should_exit = True
        thread.join()


def problems_of(page: Page, url: str, path: str) -> list[str]:
    """What must not be: sideways scrolling, console errors, layout shift over 0.1."""
    found: list[str] = []
    page.on("console", lambda m: found.append(f"console: {m.text}") if m.type == "error" and "status of 404" not in m.text else None)
    page.on("pageerror", lambda e: found.append(f"script: {e}"))
    page.goto(url + path, wait_until="load")
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    if wide > 0:
        found.append(f"scrolls sideways by {wide} px")
    shift = page.evaluate(SHIFT)
    if shift > 0.1:
        found.append(f"layout shift {shift:.2f}")
    return found


def shoot(browser: Browser, url: str, out: Path, cookie: str, only: str = "") -> list[str]:
    failures: list[str] = []
    for theme in ("light", "dark"):
        for width, (w, h) in WIDTHS.items():
            for pages, signed_in in ((PAGES, True), (STRANGER, False)):
                view = browser.new_context(color_scheme=theme, viewport={"width": w, "height": h}, locale="en-GB", reduced_motion="reduce")  # type: ignore[arg-type]
                if signed_in and cookie:
                    view.add_cookies([{"name": "vitrine", "value": cookie, "url": url}])
                for name, path in pages.items():
                    if only and only not in f"{name}-{width}-{theme}":
                        continue
                    page = view.new_page()
                    failures += [f"{name} {width} {theme}: {p}" for p in problems_of(page, url, path)]
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
                failures = shoot(browser, url, out, backend.signed_in, arguments[0] if len(arguments) > 1 else "")
        browser.close()
    print("\n".join(failures) or f"every page is in {out}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
