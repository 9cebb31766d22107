"""Making, removing, renaming and configuring repositories."""

from __future__ import annotations

import base64
import binascii
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from control_plane.accounts import gates, people, policy
from control_plane.accounts.audit import record
from control_plane.api.deps import Hub, find_repo, ok
from control_plane.api.space_volumes import VolumeBody, ordered
from control_plane.domain.accounts import Account, Action, Actor
from control_plane.domain.errors import NameTaken, Rejected, RepoNotFound
from control_plane.domain.ids import SpaceId
from control_plane.domain.repo_query import RepoQuery
from control_plane.domain.sensitive import Sensitive
from control_plane.domain.spaces import Repo, RepoType, Sdk, Space, Visibility
from control_plane.http.addresses import repo_type, repo_url
from control_plane.ports.space_actions import DuplicateOrder, NewRepo, SettingInput

_MAX_INITIAL_BYTES = 20 << 20


class SettingBody(BaseModel):
    key: str = Field(max_length=256)
    value: str = Field(default="", max_length=1 << 16)
    description: str | None = Field(default=None, max_length=1000)

    def order(self) -> SettingInput:
        return SettingInput(self.key, Sensitive(self.value), self.description or "")


class FileBody(BaseModel):
    path: str = Field(max_length=4096)
    content: str
    encoding: str = "utf-8"


class CreateBody(BaseModel):
    name: str = Field(max_length=256)
    organization: str | None = Field(default=None, max_length=96)
    type: str | None = None
    visibility: str | None = None
    private: bool | None = None
    sdk: str | None = None
    template: str | None = Field(default=None, max_length=256)
    hardware: str | None = Field(default=None, max_length=96)
    sleepTimeSeconds: int | None = Field(default=None, ge=-1, le=10**9)
    secrets: list[SettingBody] | None = Field(default=None, max_length=200)
    variables: list[SettingBody] | None = Field(default=None, max_length=200)
    volumes: list[VolumeBody] | None = Field(default=None, max_length=100)
    storageTier: str | None = Field(default=None, max_length=40)
    files: list[FileBody] | None = Field(default=None, max_length=200)
    license: str | None = Field(default=None, max_length=100)


class DeleteBody(BaseModel):
    name: str = Field(max_length=256)
    organization: str | None = Field(default=None, max_length=96)
    type: str | None = None


class MoveBody(BaseModel):
    fromRepo: str = Field(max_length=256)
    toRepo: str = Field(max_length=256)
    type: str | None = None


class SettingsBody(BaseModel):
    visibility: str | None = None
    private: bool | None = None
    discussionsDisabled: bool | None = None
    gated: bool | str | None = None


class DuplicateBody(BaseModel):
    repository: str = Field(max_length=256)
    visibility: str | None = None
    private: bool | None = None
    hardware: str | None = Field(default=None, max_length=96)
    sleepTimeSeconds: int | None = Field(default=None, ge=-1, le=10**9)
    secrets: list[SettingBody] | None = Field(default=None, max_length=200)
    variables: list[SettingBody] | None = Field(default=None, max_length=200)
    volumes: list[VolumeBody] | None = Field(default=None, max_length=100)
    storageTier: str | None = Field(default=None, max_length=40)


def router(hub: Hub) -> APIRouter:
    api = APIRouter(tags=["repositories"])
    services = hub.services

    @api.post("/api/repos/create")
    async def create(request: Request, body: CreateBody) -> JSONResponse:
        actor = await hub.actor(request)
        user = policy.require_user(actor)
        of_type = _type(body.type)
        namespace, name = _split(body.name, body.organization or user.name)
        owner = await _owner(actor, namespace)
        people.check_name(name, "repository name", reserved=False)
        async with services.uow.read() as uow:
            existing, _ = await find_repo(uow, of_type, owner.name, name)
            template = await _template(uow_find=find_repo, uow=uow, actor=actor, text=body.template)
            model = await uow.spaces.get(SpaceId(template.id)) if template is not None else None
        if existing is not None:
            raise _taken(request, existing, actor)
        sdk: Sdk | None = None
        if of_type is RepoType.SPACE:
            sdk = _sdk(body.sdk) if body.sdk else model.sdk if model is not None else None
            if sdk is None:
                raise Rejected(f"a Space needs an sdk: one of {', '.join(s.value for s in Sdk)}")
        if body.volumes and of_type is not RepoType.SPACE:
            raise Rejected(f"a {of_type.value} runs nothing, so nothing can be mounted in it")
        volumes = await ordered(hub, actor, body.volumes, is_static=sdk is Sdk.STATIC)
        order = NewRepo(
            type=of_type,
            owner=owner,
            name=name,
            visibility=_visibility(body.visibility, body.private, of_type) or Visibility.PUBLIC,
            sdk=sdk,
            hardware=body.hardware,
            sleep_s=body.sleepTimeSeconds,
            storage=body.storageTier,
            volumes=volumes,
            secrets=[s.order() for s in body.secrets or ()],
            variables=[s.order() for s in body.variables or ()],
            template=template,
            files=_files(body.files),
            license=body.license or "",
        )
        try:
            repo = await services.actions.create_repo(actor, order)
        except NameTaken:  # somebody was faster: the client needs the address of what exists
            async with services.uow.read() as uow:
                existing, _ = await find_repo(uow, of_type, owner.name, name)
            if existing is None:
                raise
            raise _taken(request, existing, actor) from None
        await hub.deliveries.fire(repo, "create", "repo")
        return ok({"url": repo_url(request, repo), "name": repo.full_name, "id": repo.id})

    @api.delete("/api/repos/delete")
    async def delete(request: Request, body: DeleteBody) -> JSONResponse:
        actor = await hub.actor(request)
        namespace, name = _split(body.name, body.organization or (actor.user.name if actor.user else ""))
        async with services.uow.read() as uow:
            found, _ = await find_repo(uow, _type(body.type), namespace, name)
        repo = policy.require(actor, Action.ADMIN, found)
        await services.actions.delete_repo(actor, repo)
        await hub.deliveries.fire(repo, "delete", "repo")
        return ok({})

    @api.post("/api/repos/move")
    async def move(request: Request, body: MoveBody) -> JSONResponse:
        actor = await hub.actor(request)
        of_type = _type(body.type)
        from_ns, from_name = _split(body.fromRepo, "")
        to_ns, to_name = _split(body.toRepo, "")
        async with services.uow.read() as uow:
            found, _ = await find_repo(uow, of_type, from_ns, from_name)
            taken, _ = await find_repo(uow, of_type, to_ns, to_name)
        repo = policy.require(actor, Action.ADMIN, found)
        owner = await _owner(actor, to_ns)
        people.check_name(to_name, "repository name", reserved=False)
        if taken is not None and taken.id != repo.id and (taken.owner_name.lower(), taken.name.lower()) == (to_ns.lower(), to_name.lower()):
            raise NameTaken(f"A repository of type {of_type.value} named {to_ns}/{to_name} already exists; choose another name.")
        moved = await services.actions.move_repo(actor, repo, owner, to_name)
        new_name = {"name": moved.full_name, "owner": {"id": moved.owner_id}}
        await hub.deliveries.fire(repo, "move", "repo", more={"movedTo": new_name})
        return ok({"url": repo_url(request, moved), "name": moved.full_name})

    @api.put("/api/{kind:kind}/{ns:seg}/{name:seg}/settings")
    async def settings(request: Request, kind: str, ns: str, name: str, body: SettingsBody) -> JSONResponse:
        actor, repo = await hub.repo(request, kind, ns, name, Action.ADMIN)
        gate = gates.gate_of(body.gated, repo.type) if body.gated is not None else repo.gate
        visibility = _visibility(body.visibility, body.private, repo.type)
        if visibility is not None and visibility is not repo.visibility:
            repo = await services.actions.set_visibility(actor, repo, visibility)
        if body.discussionsDisabled is not None and body.discussionsDisabled != repo.discussions_disabled:
            async with services.uow.write() as uow:
                fresh = await uow.repos.get(repo.id)
                if fresh is None:
                    raise RepoNotFound()
                await uow.repos.save(replace(fresh, discussions_disabled=body.discussionsDisabled))
                facts = {"before": not fresh.discussions_disabled, "after": not body.discussionsDisabled}
                await record(uow, actor, "repo.discussions", f"{repo.type.value}:{repo.full_name}", facts, services.clock.now())
        if gate is not repo.gate:
            async with services.uow.write() as uow:
                repo = await gates.set_gate(uow, services.clock, services.signals, actor, repo, gate)
        private = repo.visibility is Visibility.PRIVATE
        await hub.deliveries.fire(repo, "update", "repo.config", more={"updatedConfig": {"private": private}})
        return ok({"visibility": repo.visibility.value, "private": repo.visibility is Visibility.PRIVATE})

    @api.post("/api/{kind:kind}/{ns:seg}/{name:seg}/duplicate")
    async def duplicate(request: Request, kind: str, ns: str, name: str, body: DuplicateBody) -> JSONResponse:
        actor, source = await hub.repo(request, kind, ns, name, Action.READ_FILES)
        user = policy.require_user(actor)
        namespace, target = _split(body.repository, user.name)
        owner = await _owner(actor, namespace)
        people.check_name(target, "repository name", reserved=False)
        async with services.uow.read() as uow:
            existing, _ = await find_repo(uow, source.type, owner.name, target)
        if existing is not None:
            raise _taken(request, existing, actor)
        if body.volumes and source.type is not RepoType.SPACE:
            raise Rejected(f"a {source.type.value} runs nothing, so nothing can be mounted in it")
        order = DuplicateOrder(
            owner=owner,
            name=target,
            visibility=_visibility(body.visibility, body.private, source.type) or source.visibility,
            hardware=body.hardware,
            sleep_s=body.sleepTimeSeconds,
            storage=body.storageTier,
            volumes=await ordered(hub, actor, body.volumes),
            secrets=[s.order() for s in body.secrets or ()],
            variables=[s.order() for s in body.variables or ()],
        )
        repo = await services.actions.duplicate(actor, source, order)
        await hub.deliveries.fire(repo, "create", "repo")
        return ok({"url": repo_url(request, repo), "name": repo.full_name, "filesCopyPending": False})

    @api.get("/api/spaces/templates")
    async def templates(request: Request) -> JSONResponse:
        """Public Spaces whose front matter has the tag `template`; `create` takes their id."""
        await hub.actor(request)
        async with services.uow.read() as uow:
            repos = await uow.repos.list(RepoQuery(RepoType.SPACE, tags=("template",)), limit=100)
            spaces: dict[str, Space] = {s.id: s for s in await uow.spaces.get_many([r.id for r in repos])}
        rows = [
            {
                "name": str(r.card.get("title") or r.name),
                "repoId": r.full_name,
                "sdk": spaces[r.id].sdk.value,
                "preferredPrivate": False,
            }
            for r in repos
            if r.id in spaces and r.visibility is Visibility.PUBLIC
        ]
        return ok({"templates": rows})

    async def _owner(actor: Actor, namespace: str) -> Account:
        async with services.uow.read() as uow:
            account = await uow.accounts.by_name(namespace) if 0 < len(namespace) <= 96 else None
        return policy.require_create(actor, account, namespace)

    return api


async def _template(*, uow_find: Any, uow: Any, actor: Actor, text: str | None) -> Repo | None:
    if not text:
        return None
    ns, name = _split(text, "")
    found, _ = await uow_find(uow, RepoType.SPACE, ns, name)
    if found is None or not policy.allowed(actor, Action.READ_CODE, found):
        raise Rejected(f"there is no template '{text}'; GET /api/spaces/templates lists them, and any Space you can read will do")
    return found if isinstance(found, Repo) else None


def _type(text: str | None) -> RepoType:
    plain = (text or "model").removesuffix("s")
    if plain not in set(RepoType):
        raise Rejected(f"type: '{plain[:40]}' is not one of {', '.join(t.value for t in RepoType)}")
    return repo_type(plain)


def _split(text: str, namespace: str) -> tuple[str, str]:
    """ "ns/name" or "name" → (namespace, name)."""
    head, slash, tail = text.partition("/")
    if slash and "/" in tail:
        raise Rejected(f"'{text[:100]}' is not a repository id; use NAMESPACE/NAME")
    return (head, tail) if slash else (namespace, head)


def _visibility(text: str | None, private: bool | None, type: RepoType) -> Visibility | None:
    if text is None:
        return None if private is None else (Visibility.PRIVATE if private else Visibility.PUBLIC)
    if text not in set(Visibility):
        raise Rejected(f"visibility: '{text[:40]}' is not one of {', '.join(v.value for v in Visibility)}")
    if text == Visibility.PROTECTED and type is not RepoType.SPACE:
        raise Rejected("visibility protected (private code, public app) is for Spaces only")
    return Visibility(text)


def _sdk(text: str) -> Sdk:
    if text not in set(Sdk):
        raise Rejected(f"sdk: '{text[:40]}' is not one of {', '.join(s.value for s in Sdk)}")
    return Sdk(text)


def _files(files: list[FileBody] | None) -> dict[str, bytes] | None:
    if not files:
        return None
    made: dict[str, bytes] = {}
    for file in files:
        try:
            content = base64.b64decode(file.content, validate=True) if file.encoding == "base64" else file.content.encode()
        except (binascii.Error, ValueError, UnicodeEncodeError):
            raise Rejected(f"files: the content of '{file.path[:100]}' is not {file.encoding[:20]}") from None
        made[file.path] = content
    if sum(map(len, made.values())) > _MAX_INITIAL_BYTES:
        raise Rejected(f"files: more than {_MAX_INITIAL_BYTES} bytes; commit big files afterwards")
    return made


def _taken(request: Request, existing: Repo, actor: Actor) -> NameTaken:
    yours = "You already created this" if actor.user and existing.created_by == actor.user.id else "There is already a"
    return NameTaken(f"{yours} {existing.type.value} repo", url=repo_url(request, existing))
