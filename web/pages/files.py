"""Files of a repository: tree, source, raw bytes, history, diffs, and commits made in the browser."""

from __future__ import annotations

import mimetypes
import posixpath
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from markupsafe import Markup

from control_plane.domain.errors import Conflict, NotFound, Rejected, TooLarge, VitrineError
from control_plane.domain.spaces import RepoType
from control_plane.http.error_map import status_of
from web import diffs, markup, security
from web.page import Pages, Visit, error_view, page_route
from web.pages.account import signed_in
from web.pages.gallery import page_number
from web.views import RepoPage

MAX_UPLOAD = 8 << 20
# Types that browsers show and that cannot run anything of ours; everything else is plain text or a download.
SHOWN_TYPES = {
    "image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/bmp", "image/svg+xml", "image/x-icon", "audio/mpeg",
    "audio/wav", "audio/x-wav", "audio/ogg", "audio/flac", "video/mp4", "video/webm", "application/pdf",
}  # fmt: skip


def raw_type(path: str) -> str:
    guessed = mimetypes.guess_type(path)[0] or "text/plain"
    if guessed in SHOWN_TYPES:
        return guessed
    is_text = guessed.startswith("text/") or guessed in (
        "application/json",
        "application/javascript",
        "application/xml",
        "application/x-sh",
    )
    return "text/plain; charset=utf-8" if is_text else "application/octet-stream"


def clean_path(text: str) -> str:
    """A path inside the repository, or Rejected."""
    path = posixpath.normpath(text.strip().strip("/"))
    parts = path.split("/")
    if (
        path in ("", ".")
        or any(p in ("..", ".git", "") for p in parts)
        or "\\" in path
        or any(ord(c) < 32 for c in path)
        or len(path) > 400
    ):
        raise Rejected(f"'{text[:80]}' is not a file name that can be used here")
    return path


def files_router(pages: Pages, kind: RepoType) -> APIRouter:
    router = APIRouter(route_class=page_route(pages), include_in_schema=False)
    backend = pages.backend
    base = f"/{kind.url_prefix}{{owner:seg}}/{{name:seg}}"

    async def head(visit: Visit, owner: str, name: str) -> dict[str, Any]:
        repo = await backend.repo(visit.actor, kind, owner, name)
        space = await backend.space(visit.actor, owner, name) if kind is RepoType.SPACE else None
        return {"repo": repo, "space": space}

    @router.get(f"{base}/tree/{{rev:seg}}")
    @router.get(f"{base}/tree/{{rev:seg}}/{{path:tail}}")
    async def tree(request: Request, owner: str, name: str, rev: str, path: str = "") -> Response:
        visit = await pages.visit(request)
        context = await head(visit, owner, name)
        view = await backend.tree(visit.actor, kind, owner, name, rev, path.strip("/"))
        return pages.page(visit, "tree.html", view=view, **context)

    @router.get(f"{base}/blob/{{rev:seg}}/{{path:tail}}")
    async def blob(request: Request, owner: str, name: str, rev: str, path: str) -> Response:
        visit = await pages.visit(request)
        context = await head(visit, owner, name)
        view = await backend.blob(visit.actor, kind, owner, name, rev, path)
        rendered = None
        lines: list[Markup] = []
        if view.text is not None:
            if path.lower().endswith((".md", ".markdown")) and "source" not in request.query_params:
                where = f"/{kind.url_prefix}{owner}/{name}"
                rendered = markup.markdown(
                    markup.without_front_matter(view.text), file_base=f"{where}/blob/{quote(rev, safe='')}",
                    raw_base=f"{where}/raw/{quote(rev, safe='')}", folder=posixpath.dirname(path),
                )  # fmt: skip
            else:
                lines = markup.highlight(view.text, path)
        return pages.page(visit, "blob.html", view=view, lines=lines, rendered=rendered, **context)

    @router.get(f"{base}/raw/{{rev:seg}}/{{path:tail}}")
    async def raw(request: Request, owner: str, name: str, rev: str, path: str) -> Response:
        visit = await pages.visit(request)
        stream = backend.raw(visit.actor, kind, owner, name, rev, path)
        first = await anext(stream, b"")  # errors of the first step still become a page

        async def body() -> AsyncIterator[bytes]:
            yield first
            async for chunk in stream:
                yield chunk

        headers = dict(security.RAW_HEADERS)
        media = raw_type(path)
        if "download" in request.query_params or media == "application/octet-stream":
            headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(posixpath.basename(path))}"
        return StreamingResponse(body(), media_type=media, headers=headers)

    @router.get(f"{base}/commits/{{rev:seg}}")
    async def commits(request: Request, owner: str, name: str, rev: str) -> Response:
        visit = await pages.visit(request)
        context = await head(visit, owner, name)
        view = await backend.commits(visit.actor, kind, owner, name, rev, page_number(request.query_params))
        return pages.page(visit, "commits.html", view=view, **context)

    @router.get(f"{base}/commit/{{sha:seg}}")
    async def commit(request: Request, owner: str, name: str, sha: str) -> Response:
        visit = await pages.visit(request)
        context = await head(visit, owner, name)
        view = await backend.commit(visit.actor, kind, owner, name, sha)
        files, cut = diffs.parse(view.diff)
        return pages.page(visit, "commit.html", view=view, files=files, cut=cut, **context)

    async def editor(visit: Visit, mode: str, owner: str, name: str, rev: str, file: str, error: VitrineError | None = None) -> Response:
        context = await head(visit, owner, name)
        repo = context["repo"]
        if not isinstance(repo, RepoPage) or not repo.can_read_code:
            raise NotFound("There is no page at this address.")
        content, parent = visit.form.get("content", ""), visit.text("parent")
        if not visit.form:
            if mode in ("edit", "delete"):
                view = await backend.blob(visit.actor, kind, owner, name, rev, file)
                if view.text is None and mode == "edit":
                    raise Rejected("This file is binary or large; change it with git.")
                content, parent = view.text or "", view.sha
            else:
                parent = repo.head
        message = visit.text("message") or {"new": "", "edit": f"Update {file}", "delete": f"Delete {file}", "upload": ""}[mode]
        return pages.page(
            visit, "edit.html", status=status_of(error, anonymous=False) if error else 200, mode=mode, rev=rev, file=file, content=content,
            parent=parent, message=message, new_path=visit.text("path"), error=error_view(error) if error else None, **context,
        )  # fmt: skip

    async def changes_of(visit: Visit, mode: str, file: str) -> dict[str, bytes | None]:
        if mode == "delete":
            return {clean_path(file): None}
        if mode == "upload":
            changes: dict[str, bytes | None] = {}
            for upload in visit.uploads("files"):
                body = await upload.read(MAX_UPLOAD + 1)
                if len(body) > MAX_UPLOAD:
                    raise TooLarge(f"{upload.filename} is over 8 MB; push it with git and LFS")
                changes[clean_path(posixpath.join(file, posixpath.basename(upload.filename or "")))] = body
            if not changes:
                raise Rejected("choose at least one file")
            return changes
        content = visit.form.get("content")
        # Browsers send CRLF for every line end of a text area.
        text = content.replace("\r\n", "\n") if isinstance(content, str) else ""
        return {clean_path(posixpath.join(file, visit.text("path")) if mode == "new" else file): text.encode()}

    def add_editor(mode: str) -> None:
        async def form(request: Request, owner: str, name: str, rev: str, file: str = "") -> Response:
            return await editor(signed_in(await pages.visit(request)), mode, owner, name, rev, file.strip("/"))

        async def save(request: Request, owner: str, name: str, rev: str, file: str = "") -> Response:
            visit = signed_in(await pages.submitted(request))
            file = file.strip("/")
            try:
                changes = await changes_of(visit, mode, file)
                first = next(iter(changes))
                message = visit.text("message") or (f"Add {first}" if mode == "new" else f"Upload {len(changes)} files")
                if visit.text("propose") == "1":
                    number = await backend.propose_files(visit.actor, kind, owner, name, rev, changes, message[:500])
                    return pages.go(f"/{kind.url_prefix}{owner}/{name}/discussions/{number}", "proposed")
                parent = visit.text("parent") or None
                await backend.write_files(visit.actor, kind, owner, name, rev, changes, message[:500], parent)
            except (Rejected, Conflict) as error:
                if isinstance(error, NotFound):
                    raise
                return await editor(visit, mode, owner, name, rev, file, error)
            where = f"/{kind.url_prefix}{owner}/{name}"
            if mode in ("new", "edit"):
                return pages.go(f"{where}/blob/{quote(rev, safe='')}/{quote(first)}", "committed")
            return pages.go(f"{where}/tree/{quote(rev, safe='')}", "committed")

        for address in (f"{base}/{mode}/{{rev:seg}}", f"{base}/{mode}/{{rev:seg}}/{{file:tail}}"):
            router.add_api_route(address, form, methods=["GET"])
            router.add_api_route(address, save, methods=["POST"])

    for mode in ("new", "edit", "upload", "delete"):
        add_editor(mode)
    return router


def repo_router(pages: Pages, kind: RepoType) -> APIRouter:
    """The card of a model or dataset."""
    router = APIRouter(route_class=page_route(pages), include_in_schema=False)
    backend = pages.backend
    base = f"/{kind.url_prefix}{{owner:seg}}/{{name:seg}}"

    @router.get(base)
    async def card(request: Request, owner: str, name: str) -> Response:
        visit = await pages.visit(request)
        repo = await backend.repo(visit.actor, kind, owner, name)
        readme = (await backend.tree(visit.actor, kind, owner, name, "main", "")).readme if repo.head else ""
        return pages.page(visit, "repo.html", repo=repo, readme=readme)

    @router.post(f"{base}/like")
    async def like(request: Request, owner: str, name: str) -> Response:
        visit = signed_in(await pages.submitted(request))
        await backend.like(visit.actor, kind, owner, name, visit.text("liked") == "1")
        return pages.go(f"/{kind.url_prefix}{owner}/{name}")

    return router
