"""What the Hub API is given, and the few steps that nearly every route begins with."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from fastapi import Request
from starlette.responses import JSONResponse

from control_plane.accounts import gates, policy
from control_plane.accounts.sign_in import authenticate, csrf_matches
from control_plane.accounts.throttle import Throttle
from control_plane.api.webhook_delivery import Deliveries
from control_plane.domain.accounts import Account, Action, Actor
from control_plane.domain.errors import Forbidden, Rejected, RepoNotFound, TooLarge
from control_plane.domain.hardware import FlavorCatalog
from control_plane.domain.ids import RepoId, Sha, SpaceId
from control_plane.domain.spaces import Repo, RepoType, Space
from control_plane.http import addresses
from control_plane.http.error_map import Moved
from control_plane.http.raw_path import SLASH
from control_plane.ports.clock import Clock
from control_plane.ports.git import GitStore, LfsStore, TreeEntry
from control_plane.ports.log_store import LogStore
from control_plane.ports.secret_box import SecretBox
from control_plane.ports.signals import Signals
from control_plane.ports.space_actions import SpaceActions
from control_plane.ports.stores import UnitOfWork, UnitOfWorkFactory
from control_plane.ports.volumes import TreeKey

__all__ = ["Hub", "Services", "SpaceActions", "cookie_name"]


class Services(Protocol):
    """The slice of the platform's services that the Hub API uses; `bootstrap` builds the real one.

    `signing_key` signs short-lived links and app-access tokens; `internal_secret` guards `/internal/…`.
    """

    @property
    def uow(self) -> UnitOfWorkFactory: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def git(self) -> GitStore: ...
    @property
    def lfs(self) -> LfsStore: ...
    @property
    def logs(self) -> LogStore: ...
    @property
    def secret_box(self) -> SecretBox: ...
    @property
    def signals(self) -> Signals: ...
    @property
    def catalog(self) -> FlavorCatalog: ...
    @property
    def actions(self) -> SpaceActions: ...
    @property
    def throttle(self) -> Throttle: ...
    @property
    def apps_domain(self) -> str: ...
    @property
    def public_url(self) -> str: ...
    @property
    def signing_key(self) -> bytes: ...
    @property
    def internal_secret(self) -> str: ...
    @property
    def app_downloads(self) -> AppDownloads: ...
    @property
    def repo_trees(self) -> MountedTrees: ...


class MountedTrees(Protocol):
    """What Spaces mount of repositories (`git.repo_trees.RepoTrees`)."""

    def tar(self, repo_id: RepoId, commit: Sha, path: str) -> AsyncIterator[bytes]:
        """What a repository, or a part of it, holds at a commit, with its large files."""

    def unused(self, in_use: Collection[TreeKey], *, older_than_s: float) -> list[tuple[Path, int]]: ...  # copies and their bytes
    def remove(self, place: Path) -> None: ...


class AppDownloads(Protocol):
    """Told of each file of a public repository that an app downloads, so that the next one need not."""

    def note(self, repo: Repo, sha: Sha, entry: TreeEntry) -> None: ...


def cookie_name(public_url: str) -> str:
    """`__Host-` makes browsers refuse a cookie that a sibling host tries to set; it needs https."""
    return "__Host-vitrine" if public_url.startswith("https:") else "vitrine"


class Hub:
    """Services plus the first steps of a route: who calls, which repository, may they."""

    def __init__(self, services: Services, deliveries: Deliveries | None = None) -> None:
        self.services = services
        self.deliveries = deliveries or Deliveries(services)
        self._cookie = cookie_name(services.public_url)

    async def actor(self, request: Request) -> Actor:
        """Who calls. Changing requests of a browser session need its page token in `X-CSRF-Token`."""
        known: Actor | None = getattr(request.state, "actor", None)
        if known is not None:
            return known
        # A caller who sent credentials, even bad ones, is told 404 for hidden things only after they proved good.
        request.state.anonymous = True
        actor = await authenticate(
            self.services.uow,
            self.services.clock,
            authorization=request.headers.get("authorization"),
            cookie=request.cookies.get(self._cookie),
            address=addresses.caller_address(request),
        )
        if request.method not in ("GET", "HEAD", "OPTIONS") and not csrf_matches(actor, request.headers.get("x-csrf-token")):
            raise Forbidden("This page is too old or the request did not come from it; reload and try again.")
        request.state.actor = actor
        request.state.anonymous = actor.is_anonymous
        return actor

    async def user(self, request: Request, *, write: bool = False) -> tuple[Actor, Account]:
        actor = await self.actor(request)
        return actor, policy.require_user(actor, write=write)

    async def repo(self, request: Request, kind: str, ns: str, name: str, action: Action) -> tuple[Actor, Repo]:
        """The repository that the address names, with the right checked. Another spelling or an old name is a redirect."""
        actor, repo, _ = await self.found(request, kind, ns, name, action)
        return actor, repo

    async def found(self, request: Request, kind: str, ns: str, name: str, action: Action) -> tuple[Actor, Repo, Space | None]:
        """The same, and the Space where the repository is one."""
        actor = await self.actor(request)
        space: Space | None = None
        async with self.services.uow.read() as uow:
            found, moved = await find_repo(uow, addresses.repo_type(kind), ns, name)
            repo = policy.require(actor, action, found, await gates.request_of(uow, actor, action, found))
            if repo.type is RepoType.SPACE:  # asked for last: nothing is done for a hidden one that is not done for an absent one
                space = await uow.spaces.get(SpaceId(repo.id))
        if moved:
            raise Moved(_relocated(request, ns, name, repo))
        return actor, repo, space

    async def reads_files(self, actor: Actor, repo: Repo) -> bool:
        """Whether a caller who may see the repository was let in to what its files hold."""
        async with self.services.uow.read() as uow:
            asked = await gates.request_of(uow, actor, Action.READ_FILES, repo)
        return policy.allowed(actor, Action.READ_FILES, repo, asked)

    async def space(self, request: Request, ns: str, name: str, action: Action) -> tuple[Actor, Repo, Space]:
        actor, repo, space = await self.found(request, "spaces", ns, name, action)
        if space is None:
            raise RepoNotFound()
        return actor, repo, space

    def app_url(self, subdomain: str) -> str:
        return addresses.app_url(self.services.public_url, self.services.apps_domain, subdomain)

    async def resolve(self, repo: Repo, rev: str) -> Sha:
        return await self.services.git.resolve(repo.id, rev)


async def find_repo(uow: UnitOfWork, type: RepoType, ns: str, name: str) -> tuple[Repo | None, bool]:
    """The repository under this or an old name, in any case; and whether its name is written otherwise today."""
    name = name.removesuffix(".git")
    if not ns or not name or len(ns) > 96 or len(name) > 96:
        return None, False
    repo = await uow.repos.by_any_name(type, ns, name)
    return repo, repo is not None and (repo.owner_name, repo.name) != (ns, name)


def _relocated(request: Request, ns: str, name: str, repo: Repo) -> str:
    """The same address under the repository's name of today. Built from the decoded path: any spelling leads there."""
    path = request.scope["path"].replace(f"/{ns}/{name}", f"/{repo.full_name}", 1)
    query = f"?{request.url.query}" if request.url.query else ""
    return "%2F".join(quote(part) for part in path.split(SLASH)) + query


async def json_object(request: Request, *, most: int = 1 << 20) -> dict[str, Any]:
    """The JSON object in the body, at most `most` bytes, whatever the content type says; {} when there is no body."""
    raw = await read_body(request, most)
    if not raw.strip():
        return {}
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise Rejected("the body is not JSON") from None
    if not isinstance(body, dict):
        raise Rejected("the body must be a JSON object")
    return body


async def read_body(request: Request, most: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise TooLarge(f"the body is larger than {most} bytes")
        parts.append(chunk)
    return b"".join(parts)


def ok(body: Any, headers: Mapping[str, str] | None = None, status: int = 200) -> JSONResponse:
    return JSONResponse(body, status_code=status, headers=dict(headers or {}))


def texts(value: Sequence[str] | str | None) -> tuple[str, ...]:
    """A list field that clients may also send as one text."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)
