"""One record per Space for the proxies: made from what is stored, published whenever that changed."""

from __future__ import annotations

from dataclasses import replace

from control_plane.domain.ids import RepoId, SpaceId
from control_plane.domain.routes import RouteState
from control_plane.domain.stage import derive_stage
from control_plane.scheduler.deps import SchedulerConfig, SchedulerDeps
from control_plane.scheduler.routing import route_of


class RoutePublisher:
    def __init__(self, deps: SchedulerDeps, config: SchedulerConfig) -> None:
        self._d, self._c = deps, config
        self._hosts: dict[SpaceId, str] = {}

    async def publish(self, space_id: SpaceId) -> None:
        async with self._d.uow.read() as uow:
            space, repo = await uow.spaces.get(space_id), await uow.repos.get(RepoId(space_id))
            if space is None or repo is None:
                await self.withdraw(space_id)
                return
            newest = await uow.deployments.get(space_id, space.generation) if space.generation else None
            live = newest if space.live_generation == space.generation else await uow.deployments.get(space_id, space.live_generation)
            replicas, build = await uow.deployments.replicas(space_id), await uow.builds.latest(space_id)
        view = derive_stage(space, build, newest, live, replicas)
        host = f"{space.subdomain}.{self._c.apps_domain}"
        route = route_of(repo, space, live, replicas, view, host=host, static_site=self._c.static_site)
        old = self._hosts.get(space_id)
        if old is not None and old != host:
            await self._d.routes.publish(replace(route, host=old, state=RouteState.EMPTY, endpoints=(), redirect_to=host))
        self._hosts[space_id] = host
        await self._d.routes.publish(route)

    def knows(self, space_id: SpaceId) -> bool:
        """Whether it was published since the start."""
        return space_id in self._hosts

    async def withdraw(self, space_id: SpaceId) -> None:
        if host := self._hosts.pop(space_id, None):
            await self._d.routes.withdraw(host)
