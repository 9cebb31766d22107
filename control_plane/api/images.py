"""Spaces' images for people: `docker login HOST:PORT` with a token of this platform, `docker pull HOST:PORT/NS-NAME`.

The pulling half of the registry's own protocol (https://distribution.github.io/distribution/spec/api/), passed through from the platform's
registry, whatever that asks for. Names are NS/NAME, spaces/NS/NAME or the Space's subdomain, always in lower case as the protocol wants;
tags are `latest` and the first digits of a commit that can be rolled back to. Whoever may change a Space may pull its image, with a token
that reads it: what a Dockerfile did with build secrets is in there.

`/v2/token` is for nodes of a cluster: where the registry itself takes our tokens (VITRINE_REGISTRY_TOKENS), it sends clients here for one,
and nodes come with a password that is good for one Space's images. People get none, whoever they are: that registry asks nobody again, so
such a token would outlive a suspension by its own life, and a life that is short enough would end in the middle of docker's pulls.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import httpx
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from control_plane.accounts import policy
from control_plane.accounts.sign_in import authenticate
from control_plane.api.deps import find_repo
from control_plane.domain.accounts import Actor
from control_plane.domain.builds import ArtifactKind
from control_plane.domain.errors import NotSignedIn, Unavailable
from control_plane.domain.ids import RepoId, SpaceId
from control_plane.domain.spaces import Deployment, Repo, RepoType
from control_plane.http import addresses
from control_plane.net.registry import NODE, Sign, connect
from control_plane.ports.clock import Clock
from control_plane.ports.stores import UnitOfWork, UnitOfWorkFactory
from control_plane.spaces.versions import versions_of

_SPOKEN = {"Docker-Distribution-Api-Version": "registry/2.0"}
_ASK = {**_SPOKEN, "WWW-Authenticate": 'Basic realm="Vitrine", charset="UTF-8"'}
_PASSED_ON = ("content-type", "content-length", "docker-content-digest", "etag", "content-range", "accept-ranges")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_LIFE_S = 60  # of a node's token for the registry itself: clients take no less


class Services(Protocol):
    @property
    def settings(self) -> Any: ...  # settings.Settings: registry, resolved_public_url
    @property
    def uow(self) -> UnitOfWorkFactory: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def registry_auth(self) -> httpx.Auth | None: ...
    @property
    def registry_sign(self) -> Sign | None: ...
    def pulled_with(self, password: str) -> str: ...


class Refusal(Exception):
    """An answer in the protocol's own words. Codes: https://distribution.github.io/distribution/spec/api/#errors-2"""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code

    def answer(self) -> JSONResponse:
        body = {"errors": [{"code": self.code, "message": str(self)}]}
        return JSONResponse(body, self.status, headers=_ASK if self.status == 401 else _SPOKEN)


def images_router(services: Services) -> APIRouter:
    api = APIRouter(include_in_schema=False)
    door = _Door(services)

    @api.get("/v2")
    @api.get("/v2/")
    async def spoken(request: Request) -> Response:
        return await door.answer(request, lambda _: door.hello())

    @api.get("/v2/token")
    async def token(request: Request) -> Response:
        scopes = " ".join(request.query_params.getlist("scope")).split()
        repository = door.repository_of_node(request.headers.get("authorization", ""))
        if repository:
            request.state.anonymous = False
            return await door.node_token(repository, scopes)
        return await door.answer(request, lambda _: door.no_token())

    @api.api_route("/v2/{rest:tail}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
    async def of_image(request: Request, rest: str) -> Response:
        return await door.answer(request, lambda actor: door.of_image(request, actor, rest))

    return api


class _Door:
    def __init__(self, services: Services) -> None:
        self._s = services

    async def answer(self, request: Request, handle: Callable[[Actor], Awaitable[Response]]) -> Response:
        try:
            try:
                actor = await authenticate(
                    self._s.uow,
                    self._s.clock,
                    authorization=request.headers.get("authorization"),
                    address=addresses.caller_address(request),
                )
            except NotSignedIn as error:
                raise Refusal(401, "UNAUTHORIZED", error.message) from error
            if actor.is_anonymous:
                raise Refusal(401, "UNAUTHORIZED", "sign in with your user name and a token of yours as the password")
            request.state.anonymous = False
            return await handle(actor)
        except Refusal as refusal:
            return refusal.answer()
        except Unavailable as error:
            return Refusal(503, "UNAVAILABLE", error.message).answer()

    async def hello(self) -> Response:
        return JSONResponse({}, headers=_SPOKEN)

    async def no_token(self) -> Response:
        if self._s.registry_sign is None:
            raise Refusal(404, "UNSUPPORTED", "the registry of this platform does not take its tokens")
        host = str(self._s.settings.resolved_public_url).partition("//")[2]
        raise Refusal(403, "DENIED", f"the registry itself has no tokens for people: docker login {host}, docker pull {host}/NS-NAME")

    def repository_of_node(self, authorization: str) -> str:
        """For a node of a cluster that pulls a Space's image: the repository its password is good for; "" = anybody else."""
        kind, _, said = authorization.partition(" ")
        try:
            name, _, password = base64.b64decode(said).decode().partition(":")
        except ValueError:
            return ""
        return self._s.pulled_with(password) if kind.lower() == "basic" and name == NODE else ""

    async def node_token(self, repository: str, scopes: Sequence[str]) -> Response:
        """The right to pull what the password is for, while that Space exists; nothing else, whatever is asked."""
        sign = self._s.registry_sign
        async with self._s.uow.read() as uow:
            repo = await uow.repos.get(RepoId(repository.removeprefix(self._prefix)))
        asked = any(scope.rpartition(":")[0] == f"repository:{repository}" for scope in scopes)
        if sign is None or repo is None:
            return Refusal(401, "UNAUTHORIZED", "there is no such Space any more").answer()
        text = sign({f"repository:{repository}": ("pull",)} if asked else {}, life_s=_LIFE_S)
        issued = f"{self._s.clock.now():%Y-%m-%dT%H:%M:%SZ}"
        body = {"token": text, "access_token": text, "expires_in": _LIFE_S, "issued_at": issued}
        return JSONResponse(body, headers={"Cache-Control": "no-store"})

    @property
    def _prefix(self) -> str:
        prefix = str(self._s.settings.registry).partition("/")[2].strip("/")
        return f"{prefix}/" if prefix else ""

    async def of_image(self, request: Request, actor: Actor, rest: str) -> Response:
        if request.method not in ("GET", "HEAD"):
            raise Refusal(405, "UNSUPPORTED", "images are made by pushing to a Space's repository; here they can only be pulled")
        parts = rest.split("/")
        if len(parts) < 3 or (parts[-2] not in ("manifests", "blobs") and parts[-2:] != ["tags", "list"]):
            raise Refusal(404, "UNSUPPORTED", "there is nothing at this address; images are pulled by NS-NAME")
        kind, reference = parts[-2], parts[-1]
        async with self._s.uow.read() as uow:
            repo = await _repo_of(uow, parts[:-2])
            if repo is None or not policy.may_pull_image(actor, repo):
                # Absent, hidden and not yours are one answer, as docker's users know it from other registries.
                raise Refusal(404, "NAME_UNKNOWN", "there is no such Space, or you may not change it")
            space = await uow.spaces.get(SpaceId(repo.id))
            versions = [one for one in (await versions_of(uow, space) if space else ()) if one.artifact.kind is ArtifactKind.IMAGE]
        if not versions or space is None:
            raise Refusal(404, "MANIFEST_UNKNOWN", "this Space has no image: it was not built yet, or it runs without one here")
        if kind == "tags":
            return JSONResponse(
                {"name": "/".join(parts[:-2]), "tags": ["latest", *(one.revision[:7] for one in versions)]}, headers=_SPOKEN
            )
        chosen = _chosen(versions, space.live_generation, reference)
        if chosen is None:
            have = ", ".join(("latest", *(one.revision[:7] for one in versions)))
            raise Refusal(404, "MANIFEST_UNKNOWN", f"this version is not kept; there are: {have}")
        repository, _, digest = chosen.artifact.ref.partition("/")[2].partition("@")
        asked = reference if _DIGEST.fullmatch(reference) else digest
        return await self._passed_on(request, f"/v2/{repository}/{kind}/{asked}")

    async def _passed_on(self, request: Request, path: str) -> Response:
        """The registry's answer, as it comes."""
        client = await connect(str(self._s.settings.registry).partition("/")[0], self._s.registry_auth)
        try:
            headers = {name: value for name in ("accept", "range") if (value := ", ".join(request.headers.getlist(name)))}
            upstream = await client.send(client.build_request(request.method, path, headers=headers), stream=True, follow_redirects=True)
        except httpx.HTTPError as error:
            await client.aclose()
            raise Unavailable("the platform's registry does not answer") from error
        passed = {name: value for name in _PASSED_ON if (value := upstream.headers.get(name))} | _SPOKEN
        if request.method == "HEAD" or upstream.status_code >= 400:
            await upstream.aread()
            await client.aclose()
            if upstream.status_code >= 500 or upstream.status_code in (401, 403):
                raise Unavailable(f"the platform's registry answered {upstream.status_code}")
            return Response(b"" if request.method == "HEAD" else upstream.content, upstream.status_code, headers=passed)
        return _Passed(client, upstream, passed)


class _Passed(StreamingResponse):
    """The registry's body; its connection ends with this answer, however that ends."""

    def __init__(self, client: httpx.AsyncClient, upstream: httpx.Response, headers: Mapping[str, str]) -> None:
        super().__init__(upstream.aiter_raw(), upstream.status_code, headers=headers)
        self._client, self._upstream = client, upstream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._upstream.aclose()
            await self._client.aclose()


async def _repo_of(uow: UnitOfWork, parts: Sequence[str]) -> Repo | None:
    if len(parts) == 3 and parts[0] == "spaces":
        parts = parts[1:]
    if len(parts) == 2:
        return (await find_repo(uow, RepoType.SPACE, *parts))[0]
    space = await uow.spaces.by_subdomain(parts[0]) if len(parts) == 1 else None
    return await uow.repos.get(RepoId(space.id)) if space else None


def _chosen(versions: Sequence[Deployment], live: int | None, reference: str) -> Deployment | None:
    """By digest any one will do: they share a repository, which holds nothing but this Space's images."""
    if reference == "latest":
        return next((one for one in versions if one.generation == live), versions[0])
    if _DIGEST.fullmatch(reference):
        return versions[0]
    return next((one for one in versions if _COMMIT.fullmatch(reference) and one.revision.startswith(reference)), None)
