"""Files, commits, lists of repositories, profiles and gates."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import timedelta

from control_plane.domain.accounts import Actor
from control_plane.domain.errors import NotFound, RepoNotFound, StaleParent
from control_plane.domain.spaces import RepoType
from tests.fakes.web_backend.world import DIFF, NEW, SHA, World
from web.views import AccessRow, BlobView, CommitRow, CommitsView, CommitView, FileRow, Profile, RepoPage, RepoRow, TreeView

_ASKED = (("mira", "pending"), ("bob", "accepted"), ("someone-with-a-rather-long-name", "rejected"))


class Repositories(World):
    async def repo_list(self, actor: Actor, kind: RepoType, q: str, sort: str, page: int) -> tuple[tuple[RepoRow, ...], bool]:
        return tuple(
            RepoRow(kind.value, "alice", n, f"/{kind.url_prefix}alice/{n}", 3, self.now, "public", (self.any_text or "text",))
            for n in ("books", "index")
        ), False

    async def profile(self, actor: Actor, name: str) -> Profile:
        spaces = tuple(c for c in self.cards if c.owner == name)
        if not spaces:
            raise NotFound("nobody")
        rows, _ = await self.repo_list(actor, RepoType.DATASET, "", "", 1)
        return Profile(name, "Alice Liddell", "user", self.now - timedelta(days=300), spaces, rows, (("lab-oslo", "write"),), ())

    async def like(self, actor: Actor, kind: RepoType, owner: str, name: str, liked: bool) -> None:
        self.liked = liked

    async def repo(self, actor: Actor, kind: RepoType, owner: str, name: str) -> RepoPage:
        if kind is RepoType.SPACE:
            self._card(owner, name)
        elif owner != "alice" and (owner, name) != ("mira", "voices"):
            raise RepoNotFound
        own = actor.user is not None and owner == "alice"
        base = f"/{kind.url_prefix}{owner}/{name}"
        gate = "manual" if name in ("voices", "letters") else ""
        asked = tuple(AccessRow(f"r{i}", *row, self.now - timedelta(days=i)) for i, row in enumerate(_ASKED)) if gate and own else ()
        return RepoPage(
            kind.value, owner, name, base, "public", 3, False, self.now, SHA, own, own, f"http://127.0.0.1:7860{base}", ("text",), "mit",
            14_000, can_read_files=own or not gate, gate=gate, requests=asked,
        )  # fmt: skip

    def _commit(self, sha: str = SHA) -> CommitRow:
        return CommitRow(
            sha, self.commit_title, self.commit_title + "\n\nBecause readers ask.", "alice", self.now - timedelta(hours=2), sha == SHA, True
        )

    async def tree(self, actor: Actor, kind: RepoType, owner: str, name: str, rev: str, path: str) -> TreeView:
        prefix = f"{path}/" if path else ""
        rows: dict[str, FileRow] = {}
        for file, text in self.files.items():
            if file.startswith(prefix):
                head, slash, _ = file[len(prefix) :].partition("/")
                rows[head] = FileRow(
                    head, prefix + head, bool(slash), len(text), False, "", SHA, self.commit_title, self.now - timedelta(hours=2)
                )
        if path and not rows:
            raise NotFound("no such folder")
        return TreeView(
            rev,
            SHA,
            path,
            tuple(rows.values()),
            rev == "main",
            ("main",),
            self.files.get("README.md", "") if not path else "",
            self._commit(),
            12,
        )

    async def blob(self, actor: Actor, kind: RepoType, owner: str, name: str, rev: str, path: str) -> BlobView:
        if path not in self.files:
            raise NotFound("no such file")
        return BlobView(rev, SHA, path, len(self.files[path]), self.files[path], rev == "main", last=self._commit())

    async def raw(self, actor: Actor, kind: RepoType, owner: str, name: str, rev: str, path: str) -> AsyncIterator[bytes]:
        if path not in self.files:
            raise NotFound("no such file")
        yield self.files[path].encode()

    async def commits(self, actor: Actor, kind: RepoType, owner: str, name: str, rev: str, page: int) -> CommitsView:
        return CommitsView(rev, (self._commit(NEW), self._commit()), 12, page, page == 1)

    async def commit(self, actor: Actor, kind: RepoType, owner: str, name: str, sha: str) -> CommitView:
        return CommitView(self._commit(sha), SHA, DIFF)

    async def write_files(
        self,
        actor: Actor,
        kind: RepoType,
        owner: str,
        name: str,
        branch: str,
        changes: Mapping[str, bytes | None],
        message: str,
        parent: str | None,
    ) -> str:
        self._writer(actor, owner)
        if parent not in (None, "", SHA):
            raise StaleParent("main moved on since you opened this page.")
        for path, body in changes.items():
            if body is None:
                self.files.pop(path, None)
            else:
                self.files[path] = body.decode()
        return SHA

    async def propose_files(
        self, actor: Actor, kind: RepoType, owner: str, name: str, branch: str, changes: Mapping[str, bytes | None], message: str
    ) -> int:
        self.calls.append(("propose", tuple(changes), message))
        return 1

    async def ask_access(self, actor: Actor, kind: RepoType, owner: str, name: str) -> None:
        self.calls.append(("ask", owner, name))

    async def set_gate(self, actor: Actor, kind: RepoType, owner: str, name: str, gate: str) -> None:
        self.calls.append(("gate", owner, name, gate))

    async def decide_access(self, actor: Actor, kind: RepoType, owner: str, name: str, request_id: str, status: str) -> None:
        self.calls.append(("decide", request_id, status))
