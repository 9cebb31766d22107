"""git over HTTP: `info/refs`, `git-upload-pack`, `git-receive-pack`, for `/{spaces/|datasets/|}owner/name[.git]`.

Callbacks decide who may do what (`authorize`), whether a push is good (`check_push`) and what follows from it (`pushed`);
they are Protocols here and are wired to use cases by the composition root.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from control_plane.domain.accounts import Actor
from control_plane.domain.errors import Forbidden, NotFound, NotSignedIn, Rejected, RepoNotFound, TooLarge, Unavailable, VitrineError
from control_plane.domain.ids import RepoId
from control_plane.domain.spaces import RepoType
from control_plane.git import pktline
from control_plane.git.bodies import read_body
from control_plane.git.downloads import turns, until_gone
from control_plane.git.gitbin import GitBinary, end
from control_plane.git.policy import RefUpdate
from control_plane.git.receive import HookCall, Push, ReceiveLimits, write_hooks

log = logging.getLogger(__name__)

REALM = 'Basic realm="Vitrine", charset="UTF-8"'
_NO_CACHE = {"Cache-Control": "no-cache, max-age=0, must-revalidate", "Expires": "Fri, 01 Jan 1980 00:00:00 GMT", "Pragma": "no-cache"}
PREFIXES = {RepoType.MODEL: "", RepoType.DATASET: "datasets/", RepoType.SPACE: "spaces/"}
_ASK_BYTES = 32 << 20  # wants and haves of one fetch


class Service(StrEnum):
    UPLOAD_PACK = "git-upload-pack"  # read
    RECEIVE_PACK = "git-receive-pack"  # write
    LFS_DOWNLOAD = "lfs-download"
    LFS_UPLOAD = "lfs-upload"
    LFS_PROPOSE = "lfs-propose"  # bring the bytes of a pull request; the request itself is made by a commit

    @property
    def writes(self) -> bool:
        return self in (Service.RECEIVE_PACK, Service.LFS_UPLOAD)

    @property
    def reads(self) -> bool:
        """Hands out what is in the repository."""
        return self in (Service.UPLOAD_PACK, Service.LFS_DOWNLOAD)


@dataclass(frozen=True, slots=True)
class RepoPath:
    """As written in the address, without `.git`; any case, maybe an old name."""

    type: RepoType
    owner: str
    name: str


@dataclass(frozen=True, slots=True)
class RepoAccess:
    """Who came, and to which repository. `redirect` is the path of the present name when an old one was used."""

    repo_id: RepoId
    actor: Actor
    can_write: bool
    redirect: str = ""
    can_propose: bool = False  # may open a pull request

    @property
    def holder(self) -> str:
        """Who came, in ids, for what outlasts this request: `USER.TOKEN`; a visitor without an account is `.`."""
        return f"{self.actor.user.id if self.actor.user else ''}.{self.actor.token.id if self.actor.token else ''}"


@dataclass(frozen=True, slots=True)
class PushReceived:
    """`env` names git's quarantine while `check_push` runs, and is empty in `pushed`. `options` are those of `git push -o`.

    `began_at`: when the push's first byte was here, before anything was read, unpacked or checked.
    """

    repo_id: RepoId
    path: RepoPath
    actor: Actor
    updates: tuple[RefUpdate, ...]
    options: tuple[str, ...]
    base_url: str
    env: Mapping[str, str] = field(default_factory=dict)
    began_at: datetime | None = None


class Authorize(Protocol):
    """Raises NotSignedIn (none or wrong credentials), Forbidden (known, not allowed) or RepoNotFound (absent or hidden)."""

    async def __call__(self, path: RepoPath, service: Service, headers: Mapping[str, str], address: str) -> RepoAccess: ...


class StillAllowed(Protocol):
    """Raises Forbidden once whom a signed address or token was made for may do this no more: suspended, revoked, put out.

    `holder` is `RepoAccess.holder` of when it was made. Asked at every use, so that what was handed out ends with the right to it.
    """

    async def __call__(self, repo_id: RepoId, holder: str, service: Service) -> None: ...


class CheckPush(Protocol):
    """Yields lines for the person who pushes; raises Rejected to refuse. Nothing has changed yet."""

    def __call__(self, push: PushReceived) -> AsyncIterator[str]: ...


class Pushed(Protocol):
    """Called after the refs moved, once; yields lines, with `-o wait` until the Space is live.

    Always run to its end, also when nobody listens any more.
    """

    def __call__(self, push: PushReceived) -> AsyncIterator[str]: ...


@dataclass(frozen=True, slots=True)
class GitDeps:
    """`repo_dir` gives the bare repository of an id; `hooks_dir` is the platform's own (made on start, never in a repository)."""

    git: GitBinary
    repo_dir: RepoDir
    hooks_dir: Path
    authorize: Authorize
    check_push: CheckPush
    pushed: Pushed
    limits: ReceiveLimits = field(default_factory=ReceiveLimits)
    parallel: int = 32  # git processes at once; more wait up to `queue_s` seconds
    queue_s: float = 20.0


class RepoDir(Protocol):
    def __call__(self, repo_id: RepoId) -> str: ...


def base_url(request: Request) -> str:
    """Scheme and host that the caller used. Our proxy sets the forwarded headers and removes foreign ones."""
    scheme = request.headers.get("x-forwarded-proto", request.url.scheme).split(",")[0].strip()
    host = request.headers.get("x-forwarded-host", request.headers.get("host", "localhost")).split(",")[0].strip()
    if scheme not in ("http", "https") or not host or any(c in host for c in "/\\@?# \"'<>"):
        raise Rejected("the Host header is not valid")
    return f"{scheme}://{host}"


def error_response(error: VitrineError, *, anonymous: bool) -> Response:
    """Plain text, because git shows it to the person. A hidden repository looks to a stranger like one that needs a sign-in."""
    headers = {"X-Error-Code": error.code, "X-Error-Message": " ".join(error.message.split())[:500].encode("ascii", "replace").decode()}
    text = error.message + (f"\n{error.hint}" if error.hint else "") + "\n"
    if isinstance(error, NotSignedIn) or (anonymous and isinstance(error, (NotFound, Forbidden))):
        if not isinstance(error, NotSignedIn):
            text, headers = "Authentication required.\n", {"X-Error-Code": "Unauthorized", "X-Error-Message": "Authentication required."}
        headers |= {"WWW-Authenticate": REALM, "LFS-Authenticate": REALM}
        return PlainTextResponse(text, 401, headers)
    if isinstance(error, Unavailable):
        return PlainTextResponse(text, 503, {**headers, "Retry-After": str(error.retry_after_s)})
    status = 403 if isinstance(error, Forbidden) else 404 if isinstance(error, NotFound) else 413 if isinstance(error, TooLarge) else 400
    return PlainTextResponse(text, status if isinstance(error, Rejected) else 500, headers)


async def access_to(authorize: Authorize, request: Request, path: RepoPath, service: Service) -> RepoAccess:
    # Behind the proxy the peer is a Unix socket; the proxy replaces whatever a visitor put into this header.
    forwarded = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
    address = (forwarded or (request.client.host if request.client else ""))[:64]
    access = await authorize(path, service, request.headers, address)
    may = access.can_write or (access.can_propose and service is Service.LFS_PROPOSE)
    if (service.writes or service is Service.LFS_PROPOSE) and not may:
        if access.actor.is_anonymous:
            raise NotSignedIn("Sign in to write: use your user name and an access token with write rights as the password.")
        raise Forbidden(f"You are signed in as {access.actor.name}, who may not write to {path.owner}/{path.name}.")
    return access


def git_router(deps: GitDeps) -> APIRouter:
    write_hooks(deps.hooks_dir)
    router = APIRouter(include_in_schema=False)
    server = _Server(deps)
    for repo_type, prefix in PREFIXES.items():
        root = f"/{prefix}{{owner}}/{{name}}"
        for tail, method, handler in (
            ("info/refs", "GET", server.info_refs),
            ("git-upload-pack", "POST", server.upload_pack),
            ("git-receive-pack", "POST", server.receive_pack),
        ):
            router.add_api_route(
                f"{root}/{tail}", _bound(handler, repo_type), methods=[method], response_model=None, name=f"{tail}-{repo_type}"
            )
    return router


def repo_path(request: Request, repo_type: RepoType) -> RepoPath:
    owner, name = request.path_params["owner"], request.path_params["name"]
    name = name[:-4] if name.lower().endswith(".git") else name
    if len(owner) > 100 or len(name) > 100 or not name or not (owner + name).isprintable() or "\\" in owner + name:
        raise RepoNotFound()
    return RepoPath(repo_type, owner, name)


class _Handler(Protocol):
    async def __call__(self, request: Request, path: RepoPath) -> Response: ...


def _bound(handler: _Handler, repo_type: RepoType) -> Callable[[Request], Awaitable[Response]]:
    async def route(request: Request) -> Response:
        try:
            return await handler(request, repo_path(request, repo_type))
        except VitrineError as error:
            return error_response(error, anonymous="authorization" not in request.headers)

    return route


class _Server:
    def __init__(self, deps: GitDeps) -> None:
        self._deps = deps
        self._slots = asyncio.Semaphore(deps.parallel)
        self._pushes: set[asyncio.Task[None]] = set()

    async def info_refs(self, request: Request, path: RepoPath) -> Response:
        word = request.query_params.get("service", "")
        if word not in (Service.UPLOAD_PACK, Service.RECEIVE_PACK):
            raise Forbidden("Only the smart HTTP protocol is spoken here; please use a current git.")
        service = Service(word)
        access = await access_to(self._deps.authorize, request, path, service)
        if access.redirect:
            return Response(status_code=307, headers={"Location": f"{base_url(request)}/{access.redirect}/info/refs?service={word}"})
        env = _protocol(request)
        async with self._slot():
            repo = Path(self._deps.repo_dir(access.repo_id))
            out = await self._deps.git.run(
                repo, service.value.removeprefix("git-"), "--stateless-rpc", "--http-backend-info-refs", str(repo), env=env, timeout_s=60
            )
        # Version 2 answers without the service banner.
        banner = (
            b""
            if env.get("GIT_PROTOCOL") == "version=2" and service is Service.UPLOAD_PACK
            else pktline.line(f"# service={word}\n".encode()) + pktline.FLUSH
        )
        return Response(banner + out, headers={**_NO_CACHE, "Content-Type": f"application/x-{word}-advertisement"})

    async def upload_pack(self, request: Request, path: RepoPath) -> Response:
        access = await access_to(self._deps.authorize, request, path, Service.UPLOAD_PACK)
        _check_type(request, Service.UPLOAD_PACK)
        asked = b"".join([chunk async for chunk in read_body(request, _ASK_BYTES, self._deps.limits.idle_s)])
        return _UploadPack(self, Path(self._deps.repo_dir(access.repo_id)), asked, _protocol(request))

    async def receive_pack(self, request: Request, path: RepoPath) -> Response:
        began_at = datetime.now(UTC)
        access = await access_to(self._deps.authorize, request, path, Service.RECEIVE_PACK)
        _check_type(request, Service.RECEIVE_PACK)
        here = base_url(request)
        length = request.headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._deps.limits.body_bytes:
            raise TooLarge(
                f"This push has {length} bytes; at most {self._deps.limits.body_bytes} are allowed. Store large files with Git LFS."
            )

        def received(call: HookCall, env: Mapping[str, str]) -> PushReceived:
            return PushReceived(access.repo_id, path, access.actor, call.updates, call.options, here, env, began_at)

        push = Push(
            self._deps.git, Path(self._deps.repo_dir(access.repo_id)), self._deps.hooks_dir,
            lambda call: self._deps.check_push(received(call, call.env)),
            lambda call: self._deps.pushed(received(call, {})),
            self._deps.limits,
        )  # fmt: skip
        body = read_body(request, self._deps.limits.body_bytes, self._deps.limits.idle_s)
        slot = self._slot()
        await slot.__aenter__()  # refused with 503 here, before anything is read
        task = asyncio.create_task(self._run_push(push, body, slot))
        self._pushes.add(task)
        task.add_done_callback(self._pushes.discard)
        return _ReceivePack(push)

    async def _run_push(self, push: Push, body: AsyncIterator[bytes], slot: _Slot) -> None:
        """The slot is for the unpacking; remarks may take an hour and need none."""
        running = asyncio.create_task(push.run(body))
        try:
            await push.accepted.wait()
        finally:
            await slot.__aexit__()
        try:
            await running
        except Exception:
            log.exception("a push ended with an error")
        finally:
            running.cancel()

    def _slot(self) -> _Slot:
        return _Slot(self._slots, self._deps.queue_s)

    async def pack(self, repo: Path, asked: bytes, env: Mapping[str, str]) -> AsyncIterator[bytes]:
        async with self._slot():
            process = await self._deps.git.spawn(
                repo,
                "upload-pack",
                "--stateless-rpc",
                "--timeout=60",
                str(repo),
                env=env,
                stdin=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
            assert process.stdin is not None
            assert process.stdout is not None
            feeding = asyncio.create_task(_write(process.stdin, asked))
            try:
                while chunk := await process.stdout.read(1 << 17):
                    yield chunk
                await process.wait()
            finally:
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)
                await end(process)


class _Slot:
    def __init__(self, slots: asyncio.Semaphore, patience_s: float) -> None:
        self._slots, self._patience_s = slots, patience_s

    async def __aenter__(self) -> None:
        try:
            async with asyncio.timeout(self._patience_s):
                await self._slots.acquire()
        except TimeoutError:
            raise Unavailable("Too many git requests at once; please try again in a moment.") from None

    async def __aexit__(self, *_: object) -> None:
        self._slots.release()


class _UploadPack(Response):
    """Streams a pack and stops git as soon as the client is gone."""

    def __init__(self, server: _Server, repo: Path, asked: bytes, env: Mapping[str, str]) -> None:
        super().__init__(headers={**_NO_CACHE, "Content-Type": "application/x-git-upload-pack-result"})
        del self.headers["content-length"]
        self._server, self._repo, self._asked, self._env = server, repo, asked, env

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def stream() -> None:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            mine = turns()
            async for chunk in self._server.pack(self._repo, self._asked, self._env):
                await mine.send(send, {"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await until_gone(stream, receive)


class _ReceivePack(Response):
    """Streams the remarks of a push. Sends nothing before the request was read: some clients and proxies cannot do both at once."""

    def __init__(self, push: Push) -> None:
        super().__init__(headers={**_NO_CACHE, "Content-Type": "application/x-git-receive-pack-result"})
        del self.headers["content-length"]
        self._push = push

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def stream() -> None:
            await send({"type": "http.response.start", "status": 200, "headers": [*self.raw_headers, (b"x-accel-buffering", b"no")]})
            async for chunk in self._push.output():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._push.body_complete.wait()
        try:
            await until_gone(stream, receive)
        finally:
            self._push.detach()


async def _write(stdin: asyncio.StreamWriter, data: bytes) -> None:
    try:
        stdin.write(data)
        await stdin.drain()
    except ConnectionError:
        pass
    finally:
        stdin.close()


def _protocol(request: Request) -> dict[str, str]:
    word = request.headers.get("git-protocol", "")
    return {"GIT_PROTOCOL": word} if word in ("version=1", "version=2") else {}


def _check_type(request: Request, service: Service) -> None:
    if request.headers.get("content-type", "") != f"application/x-{service}-request":
        raise Rejected(f"The content type must be application/x-{service}-request.")
