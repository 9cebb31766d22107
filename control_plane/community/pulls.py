"""Pull requests: what a merge would change, and the merge itself. One place for the Hub API and the pages."""

from __future__ import annotations

from dataclasses import dataclass

from control_plane.community.discussions import Desk, Discussion, need
from control_plane.domain.accounts import Account, Actor
from control_plane.domain.errors import Conflict, EntryNotFound, NotFound, Rejected
from control_plane.domain.ids import Sha
from control_plane.domain.spaces import Repo
from control_plane.ports.git import CommitRequest, FileChange, TreeEntry
from control_plane.ports.space_actions import SpaceActions

MAIN = "refs/heads/main"
MAX_DIFF = 1 << 20  # bytes
_MAX_FILES = 25_000
_LOOKED_BACK = 2000  # commits


@dataclass(frozen=True, slots=True)
class Merged:
    """`before` is main as it was; equal to `commit` when nothing was left to change."""

    pull: Discussion
    before: Sha
    commit: Sha


@dataclass(frozen=True, slots=True)
class PullRequests:
    """`actions` is told about the commit that a merge makes on main, as after a push."""

    desk: Desk
    actions: SpaceActions

    async def diff(self, repo: Repo, pull: Discussion) -> str:
        """What the pull request changes since it left main, as a unified diff; "" when nothing."""
        git = self.desk.git
        head, start = await git.resolve(repo.id, pull.ref), await self.base(repo, pull)
        return await git.diff(repo.id, head, base=start, max_bytes=MAX_DIFF) if head != start else ""

    async def base(self, repo: Repo, pull: Discussion) -> Sha:
        """The newest commit that the pull request and main share; where it began when histories were rewritten."""
        git = self.desk.git
        main = {c.sha for c in await git.commits(repo.id, await git.resolve(repo.id, "main"), limit=_LOOKED_BACK)}
        for commit in await git.commits(repo.id, await git.resolve(repo.id, pull.ref), limit=_LOOKED_BACK):
            if commit.sha in main:
                return commit.sha
        return Sha(pull.base)

    async def _files(self, repo: Repo, sha: Sha) -> dict[str, TreeEntry]:
        return {e.path: e for e in await self.desk.git.tree(repo.id, sha, recursive=True) if not e.is_dir}

    async def plan(self, repo: Repo, pull: Discussion) -> tuple[list[tuple[str, TreeEntry | None]], list[str]]:
        """What a merge changes on main (None = deleted), and the paths that both sides changed in different ways."""
        git = self.desk.git
        head, main = await git.resolve(repo.id, pull.ref), await git.resolve(repo.id, "main")
        theirs, ours = await self._files(repo, head), await self._files(repo, main)
        before = await self._files(repo, await self.base(repo, pull))

        def oid(files: dict[str, TreeEntry], path: str) -> str | None:
            return files[path].oid if path in files else None

        changed = [p for p in sorted(theirs.keys() | before.keys()) if oid(theirs, p) != oid(before, p)]
        conflicts = [p for p in changed if oid(ours, p) not in (oid(before, p), oid(theirs, p))]
        return [(p, theirs.get(p)) for p in changed if oid(ours, p) != oid(theirs, p)], conflicts

    async def merge(self, actor: Actor, user: Account, repo: Repo, num: int, comment: str = "") -> Merged:
        """Brings the changes onto main as one commit. The caller has checked the right to write.

        Conflict when it is merged or closed already or both sides changed a file; Rejected for a plain discussion.
        """
        async with self.desk.uow.read() as uow:
            pull = await need(uow, repo.id, num)
        if not pull.is_pull:
            raise Rejected(f"#{num} is a discussion, not a pull request")
        if pull.status in ("merged", "closed"):
            raise Conflict(f"this pull request is {pull.status}")
        git = self.desk.git
        main, head = await git.resolve(repo.id, "main"), await git.resolve(repo.id, pull.ref)
        plan, conflicts = await self.plan(repo, pull)
        if conflicts:
            raise Conflict(f"both sides changed {', '.join(conflicts[:5])}; bring main into the pull request first")
        if len(plan) > _MAX_FILES:
            raise Rejected(f"this pull request changes more than {_MAX_FILES} files; merge it with git")
        new = main
        if plan:
            changes = [await self._change(repo, head, path, entry) for path, entry in plan]
            email = user.email or f"{user.name}@users.noreply.invalid"
            message = f"{pull.title} (#{num})"
            request = CommitRequest(ref=MAIN, message=message, author=user.name, author_email=email, changes=changes, parent=main)
            new = await git.commit(repo.id, request)
            await self.actions.accept_commit(actor, repo, MAIN, main, new)
        return Merged(await self.desk.mark_merged(repo, num, actor, new, comment, moved=new != main), main, new)

    async def _change(self, repo: Repo, head: Sha, path: str, entry: TreeEntry | None) -> FileChange:
        if entry is None:
            return FileChange(path)
        if entry.lfs is not None:
            return FileChange(path, lfs=entry.lfs)
        try:
            return FileChange(path, content=await self.desk.git.read(repo.id, head, path))
        except EntryNotFound:
            raise NotFound(f"'{path}' went away while merging; try again") from None
