"""The file server of static Spaces: its own small app on its own socket; the proxy says which tree (`X-Vitrine-Site`).

It holds no cookie, no session and no route of the platform: what it serves is strangers' content on strangers' hosts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from urllib.parse import unquote_to_bytes

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from control_plane.net.site_names import opened_site

_SITE = re.compile(r"[0-9a-f]{24}/[0-9a-f]{24}\Z")
_INDEX_MAX = 2 << 20  # a larger page gets no variables put in


class SiteServer:
    """`root` holds `<space id>/<build id>/tree`. `page_of(space_id)`: the index file's name and the readable variables.

    With a `key`, sites are named by `signed_site`: for an address that others than the proxy may reach.
    """

    def __init__(self, root: Path, page_of: Callable[[str], Awaitable[tuple[str, Mapping[str, str]]]], key: bytes | None = None) -> None:
        self._root = root
        self._page_of = page_of
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            response = await self._answer(Request(scope, receive))
            await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        site = request.headers.get("x-vitrine-site", "")
        if self._key is not None:
            site = opened_site(self._key, site)
        if not _SITE.match(site):
            return PlainTextResponse("not found", 404)
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("a static Space answers GET and HEAD", 405, {"Allow": "GET, HEAD"})
        tree = (self._root / site / "tree").resolve()
        index, variables = await self._page_of(site.partition("/")[0])
        raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
        path = unquote_to_bytes(raw.partition(b"?")[0]).decode("utf-8", "replace")
        file = self._find(tree, path, index)
        if file is None:
            missing = self._find(tree, "/404.html", index)
            return FileResponse(missing, 404) if missing else PlainTextResponse("There is no such file in this Space.", 404)
        if file.is_dir():
            return RedirectResponse(f"{request.scope['path']}/", 307)
        if file.suffix in (".html", ".htm") and variables and file.stat().st_size < _INDEX_MAX:
            return HTMLResponse(_with_variables(file.read_text("utf-8", "replace"), variables), headers={"Cache-Control": "no-cache"})
        return FileResponse(file, headers={"Cache-Control": "no-cache"})

    @staticmethod
    def _find(tree: Path, path: str, index: str) -> Path | None:
        """A regular file inside the tree (links that leave it do not count), or a folder that wants a slash."""
        if "\x00" in path or "\\" in path:
            return None
        wanted = tree / path.lstrip("/")
        candidates = [wanted] if path.strip("/") else []
        if path.endswith("/") or not path.strip("/"):
            names = (index, "index.html") if not path.strip("/") else ("index.html",)
            candidates = [wanted / name for name in names]
        for candidate in candidates:
            real = candidate.resolve()
            inside = real.is_relative_to(tree) and ".git" not in real.relative_to(tree).parts
            if inside and (real.is_file() or (real.is_dir() and (real / "index.html").is_file())):
                return real
        return None


def _with_variables(page: str, variables: Mapping[str, str]) -> str:
    """Readable variables as `window.huggingface.variables`, the public service's place for them."""
    body = json.dumps(dict(variables)).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    script = f"<script>window.huggingface={{variables:{body}}};</script>"
    head = re.search(r"<head[^>]*>", page, re.IGNORECASE)
    return page[: head.end()] + script + page[head.end() :] if head else script + page
