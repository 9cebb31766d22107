"""A real server on an ephemeral port, spoken to with the real git and git-lfs programs."""

from __future__ import annotations

import asyncio
import base64
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

from control_plane.domain.accounts import ANONYMOUS, Account, AccountId, AccountKind, Actor, Via
from control_plane.domain.errors import Forbidden, NotSignedIn, RepoNotFound
from control_plane.domain.ids import RepoId
from control_plane.domain.spaces import RepoType
from control_plane.git import policy
from control_plane.git.lfs import FileLfsStore
from control_plane.git.lfs_http import LfsDeps, lfs_router
from control_plane.git.receive import ReceiveLimits
from control_plane.git.smart_http import GitDeps, PushReceived, RepoAccess, RepoPath, Service, git_router
from control_plane.git.store import BareGitStore
from control_plane.git.xet_http import XetDeps, xet_router

SPACE = RepoId("a" * 24)
PRIVATE = RepoId("c" * 24)


class NoRepos:
    """Repositories that nobody entered: who notes something about one names it by its id."""

    async def get(self, repo_id: str) -> None:
        return None


class Audit:
    def __init__(self) -> None:
        self.actions: list[str] = []

    async def append(self, *, action: str, **_: object) -> None:
        self.actions.append(action)


class Documents:
    """The document store in memory, in the shape of a unit of work."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {}
        self.documents = self
        self.repos, self.audit = NoRepos(), Audit()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Any]:
        yield self

    write = read

    async def get(self, kind: str, key: str) -> dict[str, Any] | None:
        return self.rows.get((kind, key), ("", None))[1]

    async def put(self, kind: str, key: str, owner: str, body: Mapping[str, Any]) -> None:
        self.rows[kind, key] = (owner, dict(body))

    async def remove(self, kind: str, key: str) -> None:
        self.rows.pop((kind, key), None)

    async def list(self, kind: str, owner: str | None = None) -> tuple[dict[str, Any], ...]:
        return tuple(body for (k, _), (o, body) in self.rows.items() if k == kind and owner in (None, o))


@dataclass
class World:
    """The platform as far as git is concerned: two Spaces (one private), alice who writes and bob who reads."""

    store: BareGitStore
    lfs: FileLfsStore
    app: FastAPI
    url: str = ""
    pushes: list[PushReceived] = field(default_factory=list)
    checked: list[PushReceived] = field(default_factory=list)
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    gc: list[str] = field(default_factory=list)
    now: float = 1_000_000.0
    xet: XetDeps | None = None
    put_out: set[str] = field(default_factory=set)  # users whose rights have ended since
    documents: Documents = field(default_factory=lambda: Documents())
    limits: policy.PushLimits = field(default_factory=policy.PushLimits)

    def rebuild(self, limits: ReceiveLimits, parallel: int) -> None:
        """Serve git with other limits from now on."""
        routes = self.app.router.routes
        before = len(routes)
        hooks = Path(self.store.path(SPACE)).parent.parent / "hooks"
        deps = GitDeps(self.store.git, self.store.path, hooks, self.authorize, self.check_push, self.pushed, limits, parallel)
        self.app.include_router(git_router(deps))
        routes[:] = routes[before:] + routes[:before]

    def remote(self, user: str | None = "alice", path: str = "spaces/alice/demo") -> str:
        return f"{self.url.replace('://', f'://{user}:{user}-token@') if user else self.url}/{path}"

    async def authorize(self, path: RepoPath, service: Service, headers: Mapping[str, str], address: str) -> RepoAccess:
        actor = ANONYMOUS
        if word := headers.get("authorization"):
            text = word.removeprefix("Bearer ") if word.startswith("Bearer ") else base64.b64decode(word.removeprefix("Basic ")).decode()
            user, _, token = ("alice", "", text) if word.startswith("Bearer ") else text.partition(":")
            if token != f"{user}-token":
                raise NotSignedIn(bad_credentials=True)
            actor = Actor(via=Via.TOKEN, user=Account(AccountId(user), AccountKind.USER, user, user, None))  # type: ignore[arg-type]
        known = {"demo": SPACE, "private": PRIVATE, "oldname": SPACE}
        repo_id = known.get(path.name.lower())
        if repo_id is None or path.type is not RepoType.SPACE or (repo_id == PRIVATE and actor.name != "alice"):
            raise RepoNotFound()
        redirect = "spaces/alice/demo" if path.name == "oldname" else ""
        return RepoAccess(repo_id, actor, actor.name == "alice", redirect)

    async def still_allowed(self, repo_id: RepoId, holder: str, service: Service) -> None:
        if holder.partition(".")[0] in self.put_out:
            raise Forbidden("ended", code="RightEnded")

    async def check_push(self, push: PushReceived) -> AsyncIterator[str]:
        self.checked.append(push)
        policy.check_refs(push.updates, self.limits)
        repo = Path(self.store.path(push.repo_id))
        found = await policy.inspect(self.store.git, repo, push.repo_id, self.lfs, push.updates, push.env, self.limits)
        for remark in found.remarks:
            yield remark
        yield "Checked \x1b[31mall"

    async def pushed(self, push: PushReceived) -> AsyncIterator[str]:
        self.pushes.append(push)
        yield f"Building {push.base_url}"
        if "wait" in push.options:
            await self.gate.wait()
            yield "Live"
        self.finished.set()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    lfs = FileLfsStore(tmp_path / "lfs")
    store = BareGitStore(tmp_path / "repos", lfs)
    for repo_id in (SPACE, PRIVATE):
        await store.create(repo_id)
    app = FastAPI()
    made = World(store, lfs, app)
    app.include_router(
        git_router(
            GitDeps(
                store.git, store.path, tmp_path / "hooks", made.authorize, made.check_push, made.pushed, ReceiveLimits(body_bytes=64 << 20)
            )
        )
    )
    rights = (made.authorize, made.still_allowed)
    app.include_router(lfs_router(LfsDeps(lfs, *rights, b"k" * 32, uow=made.documents, part_bytes=1 << 20, now=lambda: made.now)))
    made.xet = XetDeps(tmp_path / "xet", lfs, b"x" * 32, *rights)
    app.include_router(xet_router(made.xet))
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as door:  # else each answer waits 40 ms
        door.bind(("127.0.0.1", 0))
        made.url = f"http://127.0.0.1:{door.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1))
        task = asyncio.create_task(server.serve([door]))
        while not server.started:
            await asyncio.sleep(0.005)
        yield made
        made.gate.set()
        server.should_exit = True
        await task


@dataclass
class Ran:
    code: int
    text: str


class Work:
    """A working copy and the git program, with a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder.parent / f"{folder.name}-home"
        self.home.mkdir(parents=True)
        folder.mkdir()

    async def git(self, *args: str, ok: bool = True, stdin: bytes | None = None) -> Ran:
        env = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.home),
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_CONFIG_NOSYSTEM": "1",
            "LC_ALL": "C.UTF-8",
        }
        words = ["git", "-c", "user.name=Alice", "-c", "user.email=alice@example.org", "-c", "core.fsync=none", *args]
        done = await asyncio.to_thread(
            subprocess.run,
            words,
            cwd=self.folder,
            env=env,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=60,
        )
        text = done.stdout.decode(errors="replace")
        assert not ok or done.returncode == 0, text
        return Ran(done.returncode, text)

    async def commit(self, **files: str | bytes) -> str:
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        await self.git("add", "-A")
        await self.git("commit", "-q", "--allow-empty", "-m", "Change")
        return (await self.git("rev-parse", "HEAD")).text.strip()


@pytest.fixture
async def work(tmp_path: Path) -> Work:
    made = Work(tmp_path / "work")
    await made.git("init", "-q", "-b", "main")
    return made


@pytest.fixture
def another(tmp_path: Path) -> Callable[[str], Work]:
    return lambda name: Work(tmp_path / name)
