"""Writing files: validate-yaml, preupload, and the commit itself."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from control_plane.accounts import policy
from control_plane.api.deps import Hub, ok
from control_plane.api.ndjson import Inline, Line, read_lines
from control_plane.api.patterns import (
    MAX_INLINE_BYTES,
    Rule,
    attribute_line,
    belongs_in_lfs,
    is_ignored,
    is_lfs,
    parse_attributes,
    parse_ignore,
)
from control_plane.api.refs import signature
from control_plane.community import discussions
from control_plane.domain.accounts import Account, Action, Actor
from control_plane.domain.errors import EntryNotFound, Forbidden, NotSignedIn, Rejected, RevisionNotFound, TooLarge
from control_plane.domain.ids import Sha
from control_plane.domain.spaces import Repo, RepoType
from control_plane.http.addresses import base_url, repo_url
from control_plane.http.error_map import one_line
from control_plane.http.pagination import flag
from control_plane.ports.git import CommitRequest, FileChange, LfsPointer
from control_plane.spaces.space_card import validate

_MAX_PREUPLOAD = 1000
_MAX_OPERATIONS = 25_000
_MAX_PLAIN_BYTES = 512 << 20  # of files that stay in git, held in memory while the tree is written
_MAX_NAMED = 5  # files in one sentence
_README_MAX = 5 << 20
ATTRIBUTES = ".gitattributes"


class ValidateBody(BaseModel):
    content: str = Field(max_length=_README_MAX)
    repoType: str = "model"


class PreuploadFile(BaseModel):
    path: str = Field(max_length=4096)
    sample: str = Field(default="", max_length=4096)
    size: int = Field(ge=0)


class PreuploadBody(BaseModel):
    files: list[PreuploadFile] = Field(max_length=_MAX_PREUPLOAD)
    gitIgnore: str | None = Field(default=None, max_length=1 << 20)


@dataclass(slots=True)
class Draft:
    """What the lines of a commit ask for, before it is made."""

    summary: str = ""
    description: str = ""
    parent: Sha | None = None
    changes: list[FileChange] = field(default_factory=list)
    inline: list[tuple[str, Inline]] = field(default_factory=list)
    readme: bytes | None = None
    lfs_paths: list[str] = field(default_factory=list)
    not_uploaded: list[tuple[str, str]] = field(default_factory=list)  # path and oid of large files whose bytes are not here
    attributes: bytes | None = None
    paths: set[str] = field(default_factory=set)


def router(hub: Hub) -> APIRouter:
    api = APIRouter(tags=["commits"])
    services = hub.services
    git = services.git
    desk = discussions.Desk(services.uow, services.clock, git, services.signals)

    @api.post("/api/validate-yaml")
    async def validate_yaml(request: Request, body: ValidateBody) -> JSONResponse:
        await hub.actor(request)
        if body.repoType not in set(RepoType):
            raise Rejected(f"repoType: '{body.repoType[:40]}' is not one of {', '.join(RepoType)}")
        errors, warnings = _card_problems(body.content.encode(errors="replace"), RepoType(body.repoType))
        answer = {"errors": [{"message": m} for m in errors], "warnings": [{"message": m} for m in warnings]}
        named = {"X-Error-Code": "InvalidMetadata", "X-Error-Message": one_line("; ".join(errors))} if errors else {}
        return ok(answer, named, status=400 if errors else 200)

    def _card_problems(readme: bytes, repo_type: RepoType) -> tuple[list[str], list[str]]:
        report = validate(readme, repo_type, flavors=services.catalog.names)
        return [str(e) for e in report.errors], [str(w) for w in report.warnings]

    async def _text(repo: Repo, sha: Sha, path: str) -> str:
        try:
            return (await git.read(repo.id, sha, path, max_bytes=1 << 20)).decode(errors="replace")
        except EntryNotFound:
            return ""

    async def _writable(request: Request, kind: str, ns: str, name: str, rev: str) -> tuple[Actor, Account, Repo, str]:
        """The caller, the repository and the full ref to write. Contributions as a pull request need less."""
        opens_pr = flag(request, "create_pr")
        actor, repo = await hub.repo(request, kind, ns, name, Action.VIEW)
        ref = rev if rev.startswith("refs/") else f"refs/heads/{rev}"
        if opens_pr:
            policy.require(actor, Action.DISCUSS, repo)
        elif ref.startswith("refs/pr/"):
            policy.require(actor, Action.DISCUSS, repo)
            if not policy.allowed(actor, Action.WRITE, repo):
                async with services.uow.read() as uow:
                    pull = await discussions.find(uow, repo.id, ref.rpartition("/")[2])
                if pull is None or actor.user is None or pull.author != actor.user.name:
                    raise Forbidden("only the author of a pull request and people with write rights may add commits to it")
        else:
            policy.require(actor, Action.WRITE, repo)
        if actor.user is None:
            raise NotSignedIn()
        if not ref.startswith(("refs/heads/", "refs/pr/")):
            raise RevisionNotFound(f"Invalid rev id: {rev[:200]} is not a branch")
        return actor, actor.user, repo, ref

    async def _head(repo: Repo, ref: str, rev: str) -> Sha:
        head = next((r.target for r in await git.refs(repo.id) if r.ref == ref), None)
        if head is None:
            raise RevisionNotFound(f"Invalid rev id: {rev[:200]}")
        return head

    @api.post("/api/{kind:kind}/{ns:seg}/{name:seg}/preupload/{rev:seg}")
    async def preupload(request: Request, kind: str, ns: str, name: str, rev: str, body: PreuploadBody) -> JSONResponse:
        _, _, repo, ref = await _writable(request, kind, ns, name, rev)
        head = await _head(repo, ref, rev)
        rules = parse_attributes(await _text(repo, head, ATTRIBUTES))
        ignore = parse_ignore(body.gitIgnore if body.gitIgnore is not None else await _text(repo, head, ".gitignore"))
        answers = []
        for file in body.files:
            try:
                sample = base64.b64decode(file.sample, validate=True)
            except (binascii.Error, ValueError):
                raise Rejected(f"the sample of '{file.path[:200]}' is not base64") from None
            mode = "lfs" if belongs_in_lfs(rules, file.path, sample, file.size) else "regular"
            answer = {"path": file.path, "uploadMode": mode, "shouldIgnore": is_ignored(ignore, file.path)}
            try:
                entry = await git.entry(repo.id, head, file.path)
            except (EntryNotFound, Rejected):
                entry = None
            # A large file whose bytes are gone is not there: the client would skip it as unchanged.
            if entry is not None and entry.lfs is not None:
                if await services.lfs.has(repo.id, entry.lfs.oid) is not None:
                    answer["oid"] = entry.lfs.oid
            elif entry is not None and not entry.is_dir:
                answer["oid"] = entry.oid
            answers.append(answer)
        return ok({"files": answers, "commitOid": head})

    @api.post("/api/{kind:kind}/{ns:seg}/{name:seg}/commit/{rev:seg}")
    async def commit(request: Request, kind: str, ns: str, name: str, rev: str) -> JSONResponse:
        actor, user, repo, ref = await _writable(request, kind, ns, name, rev)
        head = await _head(repo, ref, rev)
        rules = parse_attributes(await _text(repo, head, ATTRIBUTES))
        async with _draft(request.stream(), repo, rules) as draft:
            if draft.readme is not None:
                errors, _ = _card_problems(draft.readme, repo.type)
                if errors:
                    raise Rejected("Invalid metadata in README.md: " + "; ".join(errors), code="InvalidMetadata")
            await _keep_in_lfs(repo, head, draft, rules)
            pull_url = None
            opens_pr = flag(request, "create_pr")
            if opens_pr:
                base = repo_url(request, repo)
                pull = await desk.open_pull(repo, actor, draft.summary, draft.description, head, with_commit=True)
                ref, pull_url = f"refs/pr/{pull.num}", f"{base}/discussions/{pull.num}"
            author, email = signature(user)
            message = f"{draft.summary}\n\n{draft.description}".strip() or "Upload files"
            try:
                new = await git.commit(
                    repo.id,
                    CommitRequest(ref=ref, message=message, author=author, author_email=email, changes=draft.changes, parent=draft.parent),
                )
            except BaseException:
                if opens_pr:
                    await desk.undo_pull(repo, pull.num)
                raise
        made = (await git.commits(repo.id, new, limit=1))[0]
        if new != head:
            old = made.parents[0] if made.parents else None
            await services.actions.accept_commit(actor, repo, ref, old, new)
            await hub.deliveries.content(repo, ref, old, new)
            if ref.startswith("refs/pr/"):
                await desk.note_commit(repo, int(ref.rpartition("/")[2]), actor, made.title, new)
                if opens_pr:
                    await hub.deliveries.discussion(repo, replace(pull, status="open"), "create")
        answer: dict[str, object] = {
            "success": True,
            "commitOid": new,
            "commitUrl": f"{base_url(request)}/{repo.type.url_prefix}{repo.full_name}/commit/{new}",
            "hookOutput": "",
        }
        if pull_url:
            answer["pullRequestUrl"] = pull_url
        return ok(answer)

    @asynccontextmanager
    async def _draft(stream: AsyncIterator[bytes], repo: Repo, rules: tuple[Rule, ...]) -> AsyncIterator[Draft]:
        """Reads all lines; closes the temporary files at the end, whatever happens."""
        draft = Draft()
        seen_header = False
        opened: list[Inline] = []
        try:
            async for line in read_lines(stream):
                if line.inline is not None:
                    opened.append(line.inline)
                if not seen_header and line.key != "header":
                    raise Rejected("the first line of a commit must be its header")
                if line.key == "header":
                    if seen_header:
                        raise Rejected("a commit has one header only")
                    seen_header = True
                    _take_header(draft, line)
                else:
                    await _take_operation(draft, line, repo)
                    if len(draft.paths) > _MAX_OPERATIONS:
                        raise TooLarge(f"at most {_MAX_OPERATIONS} files a commit; split it")
            if not seen_header:
                raise Rejected("the body holds no commit; its first line must be a header")
            if draft.not_uploaded:
                raise _not_uploaded(draft.not_uploaded)
            coming = sum(inline.size for _, inline in draft.inline)
            async with services.actions.room(repo, coming) if coming else nullcontext():
                await _take_inline(draft, repo, rules)
                yield draft
        finally:
            for inline in opened:
                inline.close()

    async def _take_operation(draft: Draft, line: Line, repo: Repo) -> None:
        path = line.value.get("path")
        if not isinstance(path, str) or not path:
            raise Rejected(f"a {line.key[:40]} line needs a path")
        if path in draft.paths:
            raise Rejected(f"'{path[:200]}' is in this commit twice")
        draft.paths.add(path)
        match line.key:
            case "file":
                assert line.inline is not None
                draft.inline.append((path, line.inline))
            case "lfsFile":
                oid = line.value.get("oid")
                if not isinstance(oid, str) or line.value.get("algo", "sha256") != "sha256":
                    raise Rejected(f"lfsFile '{path[:200]}' needs a sha256 oid")
                size = await services.lfs.has(repo.id, oid)
                if size is None:
                    draft.not_uploaded.append((path, oid))
                else:
                    draft.changes.append(FileChange(path, lfs=LfsPointer(oid, size, 0)))
                    draft.lfs_paths.append(path)
            case "deletedFile":
                draft.changes.append(FileChange(path))
            case "deletedFolder":
                draft.changes.append(FileChange(path.rstrip("/"), is_folder=True))
            case _:
                raise Rejected(f"'{line.key[:40]}' is not an operation; use file, lfsFile, deletedFile, deletedFolder")

    async def _take_inline(draft: Draft, repo: Repo, rules: tuple[Rule, ...]) -> None:
        """Inline files become git content, or large-file objects by the same rule as preupload."""
        for path, inline in draft.inline:
            if path == ATTRIBUTES and inline.size <= 1 << 20:
                draft.attributes = inline.read()
                rules = parse_attributes(draft.attributes.decode(errors="replace"))
        total = 0
        for path, inline in draft.inline:
            if belongs_in_lfs(rules, path, inline.sample, inline.size) and path != ATTRIBUTES:
                await services.lfs.put(repo.id, inline.sha256, inline.size, inline.chunks())
                draft.changes.append(FileChange(path, lfs=LfsPointer(inline.sha256, inline.size, 0)))
                draft.lfs_paths.append(path)
                continue
            total += inline.size
            if inline.size > MAX_INLINE_BYTES or total > _MAX_PLAIN_BYTES:
                raise TooLarge(f"more than {_MAX_PLAIN_BYTES >> 20} MiB of plain files in one commit; split it")
            content = inline.read()
            if path == "README.md":
                draft.readme = content
            draft.changes.append(FileChange(path, content=content))

    async def _keep_in_lfs(repo: Repo, head: Sha, draft: Draft, rules: tuple[Rule, ...]) -> None:
        """Large files whose path no attribute covers get a line of their own, or a clone would see bare pointers."""
        text = draft.attributes.decode(errors="replace") if draft.attributes is not None else await _text(repo, head, ATTRIBUTES)
        rules = parse_attributes(text)
        missing = [p for p in draft.lfs_paths if not is_lfs(rules, p)]
        if not missing:
            return
        text = "\n".join([*text.splitlines(), *map(attribute_line, missing)]) + "\n"
        draft.changes = [c for c in draft.changes if c.path != ATTRIBUTES]
        draft.changes.append(FileChange(ATTRIBUTES, content=text.encode()))

    return api


def _not_uploaded(files: Sequence[tuple[str, str]]) -> Rejected:
    named = ", ".join(f"'{path[:200]}' ({oid[:64]})" for path, oid in files[:_MAX_NAMED])
    more = f" and {len(files) - _MAX_NAMED} more" if len(files) > _MAX_NAMED else ""
    return Rejected(
        f"the content of {named}{more} was not uploaded to this repository; upload it, then commit again",
        code="UnknownLfsObject",
        facts={"oids": [oid[:64] for _, oid in files[:1000]]},
    )


def _take_header(draft: Draft, line: Line) -> None:
    value = line.value
    summary, description, parent = value.get("summary"), value.get("description"), value.get("parentCommit")
    if not isinstance(summary, str | None) or not isinstance(description, str | None) or not isinstance(parent, str | None):
        raise Rejected("summary, description and parentCommit of a commit are texts")
    try:
        f"{summary}{description}{parent}".encode()
    except UnicodeEncodeError:
        raise Rejected("summary and description of a commit must be valid Unicode") from None
    draft.summary = (summary or "").strip()[:2000] or "Upload files"
    draft.description = (description or "").strip()[:65_000]
    draft.parent = Sha(parent) if parent else None
