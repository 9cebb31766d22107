"""One record per Space for the proxies: made from what is stored, published whenever that changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from control_plane.domain.ids import RepoId, SpaceId
from control_plane.domain.routes import RouteState
from control_plane.domain.spaces import Sdk
from control_plane.domain.stage import derive_stage
from control_plane.scheduler.deps import SchedulerConfig, SchedulerDeps
from control_plane.scheduler.routing import route_of

_REFUSED = (RouteState.PAUSED, RouteState.FAILED, RouteState.EMPTY)


class RoutePublisher:
    def __init__(self, deps: SchedulerDeps, config: SchedulerConfig) -> None:
        self._d, self._c = deps, config
        self._hosts: dict[SpaceId, tuple[str, ...]] = {}  # what was published of each Space: its host, then its old ones
        self._holder: dict[str, SpaceId] = {}  # host → the Space that it was last published for
        self._refusing: set[SpaceId] = set()

    async def readmit(self, space_id: SpaceId) -> None:
        """Where visitors are refused (a paused or failed app) but need not be any more, they wait from now on.

        The look at the Space comes after: it may still be busy ending what was paused, and nobody is sent to that.
        """
        if space_id in self._refusing:
            await self.publish(space_id, to_wait=True)

    async def publish(self, space_id: SpaceId, *, to_wait: bool = False) -> None:
        async with self._d.uow.read() as uow:
            space, repo = await uow.spaces.get(space_id), await uow.repos.get(RepoId(space_id))
            if space is None or repo is None:
                await self.withdraw(space_id)
                return
            newest = await uow.deployments.get(space_id, space.generation) if space.generation else None
            live = newest if space.live_generation == space.generation else await uow.deployments.get(space_id, space.live_generation)
            old_subdomains = await uow.spaces.old_subdomains(space_id)
            replicas, build = await uow.deployments.replicas(space_id), await uow.builds.latest(space_id)
        view = derive_stage(space, build, newest, live, replicas)
        host = f"{space.subdomain}.{self._c.apps_domain}"
        route = route_of(repo, space, live, replicas, view, host=host, static_site=self._c.static_site)
        if to_wait and route.state is RouteState.READY and space.sdk is not Sdk.STATIC:
            route = replace(route, state=RouteState.STARTING, endpoints=())
        if route.state in _REFUSED:
            self._refusing.add(space_id)
        else:
            self._refusing.discard(space_id)
        hosts = (host, *(f"{subdomain}.{self._c.apps_domain}" for subdomain in old_subdomains))
        for old in hosts[1:]:
            await self._d.routes.publish(replace(route, host=old, state=RouteState.EMPTY, endpoints=(), redirect_to=host))
        await self._d.routes.publish(route)
        known, self._hosts[space_id] = self._hosts.get(space_id, ()), hosts
        self._holder.update(dict.fromkeys(hosts, space_id))
        await self._withdraw(space_id, set(known) - set(hosts))

    def knows(self, space_id: SpaceId) -> bool:
        """Whether it was published since the start."""
        return space_id in self._hosts

    async def withdraw(self, space_id: SpaceId) -> None:
        self._refusing.discard(space_id)
        await self._withdraw(space_id, self._hosts.pop(space_id, ()))

    async def _withdraw(self, space_id: SpaceId, hosts: Iterable[str]) -> None:
        """But for those that are another Space's by now."""
        for host in hosts:
            if self._holder.get(host) == space_id:
                del self._holder[host]
                await self._d.routes.withdraw(host)
