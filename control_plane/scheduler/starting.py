"""Starting one replica: a place from the admission, everything the runtime has to know, and what its answer means."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta

from control_plane.domain.accounts import Account
from control_plane.domain.errors import Broken, NoCapacity, Rejected, StaleGeneration, Unavailable
from control_plane.domain.hardware import Flavor
from control_plane.domain.ids import RepoId, SpaceId
from control_plane.domain.reasons import Reason
from control_plane.domain.replicas import ReplicaSpec, ReplicaState
from control_plane.domain.sensitive import Sensitive
from control_plane.domain.spaces import Deployment, Replica, Repo, Setting
from control_plane.ports.volumes import Prepared
from control_plane.scheduler.admission import Admission
from control_plane.scheduler.answers import Placement, Waiting
from control_plane.scheduler.deps import SchedulerConfig, SchedulerDeps
from control_plane.scheduler.environment import replica_environment
from control_plane.scheduler.ledger import Ledger
from control_plane.scheduler.planning import Facts

log = logging.getLogger("vitrine.scheduler")

# A waiting replica is looked at again when it gets a place; this is only how often its position on the page is renewed.
_LOOK_AGAIN_LEAST_S, _LOOK_AGAIN_MOST_S = 3, 30


class Starter:
    """`again_at(space_id, when)` asks for another look; `make_room(space_id)` puts an idle Space to sleep."""

    def __init__(
        self, deps: SchedulerDeps, config: SchedulerConfig, admission: Admission, ledger: Ledger,
        again_at: Callable[[SpaceId, datetime], None], make_room: Callable[[SpaceId], Awaitable[None]],
    ) -> None:  # fmt: skip
        self._d, self._c, self._admission, self._ledger = deps, config, admission, ledger
        self._again_at, self._make_room = again_at, make_room

    async def apply(self, facts: Facts, replica: Replica, deployment: Deployment) -> bool:
        """Ask for a place and start it. True: facts changed, plan again at once."""
        flavor = self._d.catalog().find(replica.hardware)
        async with self._d.uow.read() as uow:
            repo, settings = await uow.repos.get(RepoId(replica.space_id)), await uow.spaces.settings(replica.space_id)
            owner = await uow.accounts.get(repo.owner_id) if repo else None
        if repo is None or owner is None:
            return False
        if flavor is None:
            words = f"hardware {replica.hardware} is not offered any more"
            await self._ledger.finish(replica, ReplicaState.FAILED, Reason.UNSUPPORTED_HERE, words)
            return True
        try:
            prepared = await self._d.repo_mounts.prepare(facts.space, deployment, replica.id) if self._d.repo_mounts else Prepared()
        except Rejected as error:
            await self._ledger.finish(replica, ReplicaState.FAILED, _reason_of(error), error.message)
            return True
        except (Broken, OSError) as error:  # a full disk, for example: ours, so it is tried again after a pause
            log.exception("replica.volumes", extra={"space_id": replica.space_id})
            words = f"What it mounts could not be made ready: {getattr(error, 'strerror', None) or 'the platform had a fault'}"
            await self._ledger.finish(replica, ReplicaState.FAILED, Reason.PLATFORM_ERROR, words)
            return True
        if prepared.waiting:
            await self._ledger.waits(replica, Reason.VOLUME_FETCHING, prepared.waiting)
            self._look_again(replica.space_id, None)
            return False
        replaces_served = facts.space.live_generation == deployment.generation and bool(facts.failures)
        place = await self._admission.ask(replica, flavor, repo.owner_name, is_urgent=replaces_served)
        if isinstance(place, Waiting):
            return await self._wait(facts, replica, flavor, repo, place)
        try:
            await self._d.runtime.apply(self._spec(facts, repo, owner, replica, deployment, flavor, settings, place, prepared))
        except NoCapacity as error:
            self._admission.release(replica.id)
            await self._ledger.waits(replica, Reason.NO_CAPACITY, error.message)
            self._look_again(replica.space_id, None)
            return False
        except Unavailable as error:  # nothing is known of the replica; the next pass asks again
            await self._ledger.waits(replica, Reason.BACK_OFF, error.message)
            raise
        except StaleGeneration as error:
            await self._ledger.finish(replica, ReplicaState.STOPPED, Reason.REPLACED, error.message)
        except Rejected as error:
            await self._ledger.finish(replica, ReplicaState.FAILED, _reason_of(error), error.message)
        except Exception as error:
            # Ours, not the app's: recorded with a reason and tried again after a pause.
            log.exception("replica.apply", extra={"space_id": replica.space_id})
            await self._ledger.finish(replica, ReplicaState.FAILED, Reason.PLATFORM_ERROR, str(error))
        return True

    async def _wait(self, facts: Facts, replica: Replica, flavor: Flavor, repo: Repo, place: Waiting) -> bool:
        await self._ledger.waits(replica, place.reason, place.message, place.position, place.eta_s)
        self._look_again(replica.space_id, place.position)
        for space_id in place.put_to_sleep:
            await self._make_room(space_id)
        if place.put_to_sleep:
            return False
        # On hardware that is full of its own older version, that one has to leave before the newer one can start.
        outdated = set(self._admission.make_own_room(replica, flavor, repo.owner_name))
        for old in facts.replicas:
            if old.id in outdated:
                self._d.prober.forget(old.id)
                await self._d.runtime.stop(old.id)
                await self._ledger.finish(old, ReplicaState.STOPPED, Reason.REPLACED, "It left so that its newer version has room.")
        if outdated:
            await self._admission.refresh()  # what left is counted until the runtime reports it gone
        return bool(outdated)

    def _look_again(self, space_id: SpaceId, position: int | None) -> None:
        pause = min(max(position or 0, _LOOK_AGAIN_LEAST_S), _LOOK_AGAIN_MOST_S)
        self._again_at(space_id, self._d.clock.now() + timedelta(seconds=pause))

    def _spec(
        self, facts: Facts, repo: Repo, owner: Account, replica: Replica, deployment: Deployment, flavor: Flavor,
        settings: tuple[Setting, ...], place: Placement | None, prepared: Prepared,
    ) -> ReplicaSpec:  # fmt: skip
        space = facts.space
        secrets: Mapping[str, Sensitive] = {s.key: self._d.open_secret(s) for s in settings if s.is_secret}
        env = replica_environment(
            repo, space, deployment, flavor, host=self._c.app_host_port(space.subdomain), hub_endpoint=self._c.hub_endpoint,
            creator_id=repo.created_by, variables={s.key: s.value for s in settings if not s.is_secret}, secrets=secrets,
            oauth=self._c.oauth_of(space.id),
        )  # fmt: skip
        return ReplicaSpec(
            replica_id=replica.id, space_id=space.id, space_name=repo.full_name, generation=deployment.generation,
            revision=deployment.revision, artifact=deployment.artifact, launch=deployment.launch, flavor=flavor, env=env,
            mounts=(*self._c.volume_of(space), *prepared.mounts), fetches=prepared.fetches,
            start_timeout_s=deployment.config.startup_timeout_s, trusted=self._c.trusted(owner),
            hub_upstream=self._c.hub_upstream, hub_host=self._c.hub_host,
            node=place.node if place else "", pool=place.pool if place else "", newest=space.generation,
        )  # fmt: skip


def _reason_of(error: Rejected) -> Reason:
    named = str(error.facts.get("reason", ""))
    return Reason(named) if named in set(Reason) else Reason.UNSUPPORTED_HERE
