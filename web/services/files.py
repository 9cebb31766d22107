"""Files, history and commits of a repository, over the git store."""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import AsyncIterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from control_plane.accounts import gates, policy
from control_plane.community.discussions import Desk
from control_plane.domain.accounts import Action, Actor
from control_plane.domain.errors import EntryNotFound, Rejected, RevisionNotFound
from control_plane.domain.ids import Sha
from control_plane.domain.spaces import Repo, RepoType
from control_plane.ports.git import Commit, CommitRequest, FileChange, TreeEntry
from control_plane.spaces.versions import versions_of
from web.markup import without_front_matter
from web.services.deps import Base
from web.services.gates import access_rows
from web.views import BlobView, CommitRow, CommitsView, CommitView, FileRow, RepoPage, TreeView

SHOWN_BYTES = 512 << 10
README_BYTES = 1 << 20
COMMITS_PAGE = 30
CHUNK = 256 << 10
IMAGES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".avif", ".svg", ".bmp", ".ico")


class FilesFamily(Base):
    async def repo(self, actor: Actor, kind: RepoType, owner: str, name: str) -> RepoPage:
        async with self.d.uow.read() as uow:
            repo = await self.find(uow, actor, kind, owner, name)
            liked = actor.user is not None and any(u.id == actor.user.id for u in await uow.repos.likers(repo.id))
            asked = await gates.request_of(uow, actor, Action.READ_FILES, repo)
            requests = await access_rows(uow, repo) if policy.allowed(actor, Action.ADMIN, repo) else ()
        license_name = repo.card.get("license")
        return RepoPage(
            kind.value, repo.owner_name, repo.name, self.base(repo), repo.visibility.value, repo.likes, liked, repo.updated_at,
            repo.head or "", policy.allowed(actor, Action.WRITE, repo), policy.allowed(actor, Action.ADMIN, repo), self.git_url(repo),
            repo.tags, license_name if isinstance(license_name, str) else "", repo.storage_bytes,
            policy.allowed(actor, Action.READ_CODE, repo), policy.allowed(actor, Action.READ_FILES, repo, asked), repo.gate.value,
            asked.status.value if asked else "", requests,
        )  # fmt: skip

    async def _at(
        self, actor: Actor, kind: RepoType, owner: str, name: str, rev: str, action: Action = Action.READ_FILES
    ) -> tuple[Repo, Sha]:
        repo = await self.repo_for(actor, kind, owner, name, action)
        return repo, await self.d.git.resolve(repo.id, rev)

    async def tree(self, actor: Actor, kind: RepoType, owner: str, name: str, rev: str, path: str) -> TreeView:
        repo = await self.repo_for(actor, kind, owner, name, Action.READ_CODE)
        branches = tuple(r.name for r in await self.d.git.refs(repo.id) if r.ref.startswith("refs/heads/"))
        try:
            sha = await self.d.git.resolve(repo.id, rev)
        except RevisionNotFound:
            if rev == "main" and not branches:  # an empty repository has no revision yet, and still a page
                return TreeView(rev, "", "", (), True, ())
            raise
        entries = await self.d.git.tree(repo.id, sha, path)
        last = await self.d.git.last_commits(repo.id, sha, [e.path for e in entries[:200]])
        newest = await self.d.git.commits(repo.id, sha, limit=1, path=path or None)
        readme = next((e for e in entries if not e.is_dir and posixpath.basename(e.path).lower() == "readme.md"), None)
        text = ""
        if readme is not None and readme.lfs is None:
            body = await self.d.git.read(repo.id, sha, readme.path, max_bytes=README_BYTES)
            text = without_front_matter(body.decode("utf-8", "replace"))
        rows = sorted((_row(e, last.get(e.path)) for e in entries), key=lambda f: (not f.is_dir, f.name.lower()))
        return TreeView(
            rev, sha, path, tuple(rows), rev in branches, branches, text, _commit(newest[0]) if newest else None,
            await self.d.git.commit_count(repo.id, sha),
        )  # fmt: skip

    async def blob(self, actor: Actor, kind: RepoType, owner: str, name: str, rev: str, path: str) -> BlobView:
        repo, sha = await self._at(actor, kind, owner, name, rev)
        entry = await self._file(repo, sha, path)
        branches = {r.name for r in await self.d.git.refs(repo.id) if r.ref.startswith("refs/heads/")}
        text: str | None = None
        if entry.lfs is None and entry.size <= SHOWN_BYTES:
            body = await self.d.git.read(repo.id, sha, path, max_bytes=SHOWN_BYTES)
            text = _text(body)
        newest = await self.d.git.commits(repo.id, sha, limit=1, path=path)
        is_image = path.lower().endswith(IMAGES)
        return BlobView(
            rev, sha, path, entry.size, None if is_image and not path.lower().endswith(".svg") else text, rev in branches,
            entry.lfs is not None, entry.lfs.oid if entry.lfs else "", is_image, _commit(newest[0]) if newest else None,
        )  # fmt: skip

    async def _file(self, repo: Repo, sha: Sha, path: str) -> TreeEntry:
        entry = await self.d.git.entry(repo.id, sha, path)
        if entry.is_dir or entry.is_submodule:
            raise EntryNotFound(f"{path} is not a file", commit=sha)
        return entry

    async def raw(self, actor: Actor, kind: RepoType, owner: str, name: str, rev: str, path: str) -> AsyncIterator[bytes]:
        repo, sha = await self._at(actor, kind, owner, name, rev)
        entry = await self._file(repo, sha, path)
        if entry.lfs is None:
            yield await self.d.git.read(repo.id, sha, path)
            return
        stored = await self.d.lfs.file_path(repo.id, entry.lfs.oid)
        if stored is None:
            raise EntryNotFound("the content of this large file was never uploaded", commit=sha)
        with await asyncio.to_thread(Path(stored).open, "rb") as file:
            while chunk := await asyncio.to_thread(file.read, CHUNK):
                yield chunk

    async def commits(self, actor: Actor, kind: RepoType, owner: str, name: str, rev: str, page: int) -> CommitsView:
        repo, sha = await self._at(actor, kind, owner, name, rev, Action.READ_CODE)
        found = await self.d.git.commits(repo.id, sha, limit=COMMITS_PAGE + 1, offset=(page - 1) * COMMITS_PAGE)
        live, may = await self._live(actor, repo)
        rows = tuple(_commit(c, live, may) for c in found[:COMMITS_PAGE])
        return CommitsView(rev, rows, await self.d.git.commit_count(repo.id, sha), page, len(found) > COMMITS_PAGE)

    async def commit(self, actor: Actor, kind: RepoType, owner: str, name: str, sha: str) -> CommitView:
        repo, resolved = await self._at(actor, kind, owner, name, sha)
        found = await self.d.git.commits(repo.id, resolved, limit=1)
        live, may = await self._live(actor, repo)
        parent = found[0].parents[0] if found[0].parents else ""
        return CommitView(_commit(found[0], live, may), parent, await self.d.git.diff(repo.id, resolved))

    async def _live(self, actor: Actor, repo: Repo) -> tuple[str, bool]:
        """The revision that serves ("" = none), and whether the actor may deploy another."""
        if repo.type is not RepoType.SPACE:
            return "", False
        _, space = await self.space_for(actor, repo.owner_name, repo.name, Action.VIEW)
        view = await self.d.actions.runtime_view(space)
        return view.sha, policy.allowed(actor, Action.WRITE, repo)

    async def write_files(
        self, actor: Actor, kind: RepoType, owner: str, name: str, branch: str, changes: Mapping[str, bytes | None],
        message: str, parent: str | None,
    ) -> str:  # fmt: skip
        repo = await self.repo_for(actor, kind, owner, name, Action.WRITE)
        ref = f"refs/heads/{branch}"
        old = next((r.target for r in await self.d.git.refs(repo.id) if r.ref == ref), None)
        if old is None and branch != "main":
            raise RevisionNotFound(f"there is no branch '{branch[:80]}'")
        files = [FileChange(path=path, content=body) for path, body in changes.items()]
        return await self.commit_changes(actor, repo, ref, old, files, message, Sha(parent) if parent else None)

    async def propose_files(
        self, actor: Actor, kind: RepoType, owner: str, name: str, branch: str, changes: Mapping[str, bytes | None], message: str
    ) -> int:
        policy.require_user(actor, write=True)
        repo = await self.repo_for(actor, kind, owner, name, Action.DISCUSS)
        if repo.discussions_disabled:
            raise Rejected("Discussions are switched off for this repository.")
        head = await self.d.git.resolve(repo.id, branch)
        desk = Desk(self.d.uow, self.d.clock, self.d.git, self.d.signals)
        pull = await desk.open_pull(repo, actor, message.splitlines()[0][:200], "", head, with_commit=True)
        files = [FileChange(path=path, content=body) for path, body in changes.items()]
        try:
            new = await self.commit_changes(actor, repo, pull.ref, head, files, message, head)
        except BaseException:
            await desk.undo_pull(repo, pull.num)
            raise
        await desk.note_commit(repo, pull.num, actor, message.splitlines()[0], new)
        await self.d.discussed(repo, replace(pull, status="open"), "create", None)
        return pull.num

    async def commit_changes(
        self, actor: Actor, repo: Repo, ref: str, old: Sha | None, changes: list[FileChange], message: str, parent: Sha | None
    ) -> Sha:
        user = policy.require_user(actor, write=True)
        request = CommitRequest(
            ref=ref,
            message=message,
            author=user.name,
            author_email=user.email or f"{user.name}@users.noreply",
            changes=changes,
            parent=parent,
        )
        coming = sum(len(change.content) for change in changes if change.content is not None)
        async with self.d.actions.room(repo, coming) if coming else nullcontext():
            new = await self.d.git.commit(repo.id, request)
        if new != old:
            await self.d.actions.accept_commit(actor, repo, ref, old, new)
            await self.d.moved(repo, ref, old, new)
        return new

    async def deploy_revision(self, actor: Actor, owner: str, name: str, revision: str) -> None:
        """Serve an earlier revision: its kept artifact when there is one, else a commit that brings its files back."""
        repo, space = await self.space_for(actor, owner, name, Action.WRITE)
        sha = await self.d.git.resolve(repo.id, revision)
        async with self.d.uow.read() as uow:
            kept = (*await versions_of(uow, space), *await uow.deployments.of_space(space.id, 20))
        made = next((d for d in kept if d.revision == sha and d.failed_reason is None), None)
        if made is not None:
            await self.d.actions.rollback(actor, space, made.generation)
            return
        if sha == repo.head:
            await self.d.actions.restart(actor, space)
            return
        await self._bring_back(actor, repo, sha)

    async def _bring_back(self, actor: Actor, repo: Repo, sha: Sha) -> None:
        head = await self.d.git.resolve(repo.id, "main")
        now = {e.path: e for e in await self.d.git.tree(repo.id, head, recursive=True) if not e.is_dir}
        then = {e.path: e for e in await self.d.git.tree(repo.id, sha, recursive=True) if not e.is_dir}
        if any(e.is_submodule or e.is_symlink for e in then.values()):
            raise Rejected("That revision has links or submodules; bring it back with git: git revert.")
        changes = [FileChange(path=path) for path in now if path not in then]
        for path, entry in then.items():
            if path in now and now[path].oid == entry.oid:
                continue
            if entry.lfs is not None:
                changes.append(FileChange(path=path, lfs=entry.lfs))
            else:
                changes.append(FileChange(path=path, content=await self.d.git.read(repo.id, sha, path)))
        await self.commit_changes(actor, repo, "refs/heads/main", head, changes, f"Bring back {sha[:7]}", head)


def _row(entry: TreeEntry, commit: Commit | None) -> FileRow:
    note = "link" if entry.is_symlink else "submodule" if entry.is_submodule else ""
    return FileRow(
        posixpath.basename(entry.path), entry.path, entry.is_dir, entry.size, entry.lfs is not None, note,
        commit.sha if commit else "", commit.title if commit else "", commit.at if commit else None,
    )  # fmt: skip


def _commit(commit: Commit, live: str = "", may_deploy: bool = False) -> CommitRow:
    return CommitRow(commit.sha, commit.title, commit.message, commit.author, commit.at, bool(live) and commit.sha == live, may_deploy)


def _text(body: bytes) -> str | None:
    """The text of a file, None for bytes that are no text."""
    if b"\x00" in body[:8192]:
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None
