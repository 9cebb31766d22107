"""Reading files by address: `resolve` (content, with large files) and `raw` (as git has them)."""

from __future__ import annotations

import asyncio
import mimetypes
import re
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.responses import Response

from control_plane.api.deps import Hub
from control_plane.domain.accounts import Action
from control_plane.domain.errors import EntryNotFound
from control_plane.domain.spaces import Repo, is_open
from control_plane.git.downloads import FileStream, byte_range
from control_plane.http.addresses import calls_from_app

_SHA = re.compile(r"[0-9a-f]{40}")
# Files of users on the platform's own host must never run there: no scripts, no sniffing, no frames.
_HARMLESS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src 'self'; sandbox",
    "Cross-Origin-Resource-Policy": "cross-origin",
}
_LOOKED_UP_AT_ONCE = 2  # of many downloads that begin together; all other requests take turns with these few, not with hundreds
_AS_TEXT = ("text/html", "application/xhtml", "application/javascript", "text/javascript", "application/xml", "text/xml")


def content_type(path: str) -> str:
    guess = mimetypes.guess_type(path)[0] or ("text/plain" if "." not in path.rpartition("/")[2] else "application/octet-stream")
    if guess.startswith(_AS_TEXT):
        guess = "text/plain"
    return f"{guess}; charset=utf-8" if guess.startswith("text/") else guess


def disposition(path: str, *, attachment: bool) -> str:
    name = path.rpartition("/")[2]
    plain = "".join(c if " " <= c <= "~" and c not in '"\\' else "_" for c in name)
    return f"{'attachment' if attachment else 'inline'}; filename*=UTF-8''{quote(name, safe='')}; filename=\"{plain}\""


def router(hub: Hub) -> APIRouter:
    api = APIRouter(tags=["files"])
    services = hub.services
    turns = asyncio.Semaphore(_LOOKED_UP_AT_ONCE)

    async def send(request: Request, kind: str, ns: str, name: str, rev: str, path: str, *, follow_lfs: bool) -> Response:
        async with turns:  # looking up only: the bytes themselves go out after it, as many at once as there are clients
            return await look_up(request, kind, ns, name, rev, path, follow_lfs=follow_lfs)

    async def look_up(request: Request, kind: str, ns: str, name: str, rev: str, path: str, *, follow_lfs: bool) -> Response:
        _, repo = await hub.repo(request, kind, ns, name, Action.READ_FILES)
        sha = await hub.resolve(repo, rev)
        entry = await services.git.entry(repo.id, sha, path)
        if entry.is_dir or entry.is_submodule:
            raise EntryNotFound(f"'{path}' is a folder, not a file", commit=sha)
        headers = {
            "X-Repo-Commit": sha,
            "Accept-Ranges": "bytes",
            "Content-Disposition": disposition(path, attachment=request.query_params.get("download") in ("true", "1")),
            "Cache-Control": _cache(repo, rev),
            "Content-Type": content_type(path),
            **_HARMLESS,
        }
        file: str | None = None
        data = b""
        if follow_lfs and entry.lfs is not None:
            file = await services.lfs.file_path(repo.id, entry.lfs.oid)
            if file is None:
                raise EntryNotFound(f"the content of '{path}' was never uploaded; push it with git lfs", commit=sha)
            etag, size = entry.lfs.oid, entry.lfs.size
            headers |= {"X-Linked-Size": str(size), "X-Linked-Etag": f'"{etag}"'}
        else:
            etag = entry.oid
            data = await services.git.read(repo.id, sha, path)
            size = len(data)
        headers["ETag"] = f'"{etag}"'
        if etag in _etags(request.headers.get("if-none-match")):
            return Response(status_code=304, headers=headers)
        asked = request.headers.get("range")
        if (condition := request.headers.get("if-range")) and etag not in _etags(condition):
            asked = None
        try:
            span = byte_range(asked, size)
        except ValueError:
            return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{size}"})
        first, last = span or (0, size - 1)
        headers["Content-Length"] = str(last - first + 1)
        status = 200
        if span is not None:
            status = 206
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        if request.method == "HEAD":
            return Response(status_code=status, headers=headers)
        if follow_lfs and first == 0 and is_open(repo) and calls_from_app(request):
            services.app_downloads.note(repo, sha, entry)
        if file is not None:
            del headers["Content-Length"]
            return FileStream(file, first, last - first + 1, status, headers)
        return Response(data[first : last + 1], status_code=status, headers=headers)

    def add(prefix: str, kind: str) -> None:
        async def resolve(request: Request, ns: str, name: str, rev: str, path: str) -> Response:
            return await send(request, kind, ns, name, rev, path, follow_lfs=True)

        async def raw(request: Request, ns: str, name: str, rev: str, path: str) -> Response:
            return await send(request, kind, ns, name, rev, path, follow_lfs=False)

        for word, handler in (("resolve", resolve), ("raw", raw)):
            for method in ("GET", "HEAD"):
                api.add_api_route(
                    f"{prefix}/{{ns:seg}}/{{name:seg}}/{word}/{{rev:seg}}/{{path:tail}}",
                    handler,
                    methods=[method],
                    operation_id=f"{kind}_{word}_{method.lower()}",
                    response_class=Response,
                )

    add("/spaces", "spaces")
    add("/datasets", "datasets")
    add("", "models")
    return api


def _etags(header: str | None) -> set[str]:
    return {part.strip().removeprefix("W/").strip('"') for part in (header or "").split(",")[:20] if part.strip()}


def _cache(repo: Repo, rev: str) -> str:
    if _SHA.fullmatch(rev) and is_open(repo):
        return "public, max-age=31536000, immutable"
    return "private, no-cache"
