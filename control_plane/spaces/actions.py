"""The one face of Space use cases for inbound rooms (`ports.space_actions.SpaceActions`), over the functions of this room."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from control_plane.domain.accounts import Account, Actor
from control_plane.domain.errors import RepoNotFound
from control_plane.domain.ids import RepoId, Sha, SpaceId
from control_plane.domain.replicas import ReplicaUsage
from control_plane.domain.sensitive import Sensitive
from control_plane.domain.spaces import Repo, RepoVolume, Space, Visibility
from control_plane.ports.space_actions import DuplicateOrder, NewRepo, RuntimeView, SettingInput
from control_plane.spaces import configure, lifecycle, push
from control_plane.spaces.deps import SpaceDeps
from control_plane.spaces.views import runtime_views


def _plain(settings: Sequence[SettingInput]) -> list[Mapping[str, Any]]:
    return [{"key": s.key, "value": s.value.reveal(), "description": s.description} for s in settings]


class Actions:
    """`usage_of` asks the runtime (through the scheduler) for live figures; `room` reserves storage of a repository's owner."""

    def __init__(
        self,
        deps: SpaceDeps,
        usage_of: Callable[[SpaceId], Awaitable[tuple[ReplicaUsage, ...]]],
        room: Callable[[RepoId, int], AbstractAsyncContextManager[None]],
    ) -> None:
        self._d = deps
        self._usage_of = usage_of
        self._room = room

    async def _repo(self, space: Space) -> Repo:
        async with self._d.uow.read() as uow:
            repo = await uow.repos.get(RepoId(space.id))
        if repo is None:
            raise RepoNotFound()
        return repo

    async def _fresh(self, space_id: SpaceId) -> Space:
        async with self._d.uow.read() as uow:
            space = await uow.spaces.get(space_id)
        if space is None:
            raise RepoNotFound()
        return space

    async def create_repo(self, actor: Actor, order: NewRepo) -> Repo:
        return await lifecycle.create_repo(
            self._d, actor, owner=order.owner, name=order.name, type=order.type, visibility=order.visibility,
            sdk=order.sdk.value if order.sdk else None, hardware=order.hardware, sleep_after_s=order.sleep_s,
            storage=order.storage, volumes=order.volumes,
            variables=_plain(order.variables), secrets=_plain(order.secrets), template=order.template.id if order.template else None,
            template_ref=order.template_ref, files=order.files, origin=order.origin,
            source=order.source,
        )  # fmt: skip

    async def delete_repo(self, actor: Actor, repo: Repo) -> None:
        await lifecycle.delete_repo(self._d, actor, repo)

    async def move_repo(self, actor: Actor, repo: Repo, owner: Account, name: str) -> Repo:
        return await lifecycle.move_repo(self._d, actor, repo, owner, name)

    async def set_visibility(self, actor: Actor, repo: Repo, visibility: Visibility) -> Repo:
        await lifecycle.set_visibility(self._d, actor, repo, visibility)
        async with self._d.uow.read() as uow:
            return await uow.repos.get(repo.id) or repo

    async def duplicate(self, actor: Actor, source: Repo, order: DuplicateOrder) -> Repo:
        return await lifecycle.duplicate_repo(
            self._d, actor, source, owner=order.owner, name=order.name, visibility=order.visibility, hardware=order.hardware,
            sleep_after_s=order.sleep_s, storage=order.storage, volumes=order.volumes, variables=_plain(order.variables),
            secrets=_plain(order.secrets),
        )  # fmt: skip

    async def request_hardware(self, actor: Actor, space: Space, flavor: str, sleep_s: int | None = None) -> Space:
        await configure.request_hardware(self._d, actor, await self._repo(space), flavor, sleep_s)
        return await self._fresh(space.id)

    async def set_sleep_time(self, actor: Actor, space: Space, seconds: int) -> Space:
        await configure.set_sleep(self._d, actor, await self._repo(space), seconds)
        return await self._fresh(space.id)

    async def pause(self, actor: Actor, space: Space) -> Space:
        await configure.pause(self._d, actor, await self._repo(space))
        return await self._fresh(space.id)

    async def restart(self, actor: Actor, space: Space, *, factory: bool = False) -> Space:
        await configure.restart(self._d, actor, await self._repo(space), factory=factory)
        return await self._fresh(space.id)

    async def rollback(self, actor: Actor, space: Space, generation: int) -> Space:
        await configure.rollback(self._d, actor, await self._repo(space), generation)
        return await self._fresh(space.id)

    async def set_replicas(self, actor: Actor, space: Space, replicas: int) -> Space:
        await configure.set_replicas(self._d, actor, await self._repo(space), replicas)
        return await self._fresh(space.id)

    async def request_storage(self, actor: Actor, space: Space, tier: str) -> Space:
        await configure.request_storage(self._d, actor, await self._repo(space), tier)
        return await self._fresh(space.id)

    async def delete_storage(self, actor: Actor, space: Space) -> Space:
        await configure.delete_storage(self._d, actor, await self._repo(space))
        return await self._fresh(space.id)

    async def set_volumes(self, actor: Actor, space: Space, volumes: Sequence[RepoVolume]) -> Space:
        await configure.set_volumes(self._d, actor, await self._repo(space), volumes)
        return await self._fresh(space.id)

    async def put_variable(self, actor: Actor, space: Space, setting: SettingInput) -> None:
        await configure.put_variable(self._d, actor, await self._repo(space), setting.key, setting.value.reveal(), setting.description)

    async def delete_variable(self, actor: Actor, space: Space, key: str) -> None:
        await configure.delete_setting(self._d, actor, await self._repo(space), key, is_secret=False)

    async def put_secret(self, actor: Actor, space: Space, setting: SettingInput) -> None:
        await configure.put_secret(
            self._d, actor, await self._repo(space), setting.key, Sensitive(setting.value.reveal()), setting.description
        )

    async def delete_secret(self, actor: Actor, space: Space, key: str) -> None:
        await configure.delete_setting(self._d, actor, await self._repo(space), key, is_secret=True)

    def room(self, repo: Repo, size: int) -> AbstractAsyncContextManager[None]:
        return self._room(repo.id, size)

    async def accept_commit(self, actor: Actor, repo: Repo, ref: str, old: Sha | None, new: Sha | None) -> None:
        await push.accept_push(self._d, repo.id, actor, ref, old, new)

    async def runtime_view(self, space: Space) -> RuntimeView:
        return (await self.runtime_views([space]))[str(space.id)]

    async def runtime_views(self, spaces: Sequence[Space]) -> dict[str, RuntimeView]:
        async with self._d.uow.read() as uow:
            return await runtime_views(uow, self._d.catalog(), spaces)

    async def usage(self, space_id: SpaceId) -> tuple[ReplicaUsage, ...]:
        return await self._usage_of(space_id)
